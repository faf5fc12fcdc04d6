"""The calls of an attention layer with a cache, and of one that a `Decoder` runs."""

import contextlib
import contextvars

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.attention import cache as caches
from keras_sam.attention.cached import CachedAttention, attend_cached
from keras_sam.attention.positions import Positions
from keras_sam.attention.pruned import attend_pruned
from keras_sam.layers._axes import Axes, Pairs
from keras_sam.layers._composite import CompositeLayer
from keras_sam.layers._masks import without_padding
from keras_sam.recording import AttentionDetails, is_recording, record

_running = contextvars.ContextVar("keras_sam_decoding", default=None)


@contextlib.contextmanager
def running(decoding):
    """Lets the layers that are called inside, in this context, decode.

    Args:
        decoding: An object with `cache_of(layer, inputs, mask, use_causal_mask)`, which
            returns None, or a cache, the index and a mask; `keep(cache)`, which is called
            next; and `positions_of(layer, query, value)`, which returns None, or the
            positions of the query rows of a `CrossAttention`.
    """
    token = _running.set(decoding)
    try:
        yield
    finally:
        _running.reset(token)


def current():
    """Returns what `running` was given, or None."""
    return _running.get()


class Held:
    """A cache on its way through `Layer.__call__`, which would cast its tensors."""

    def __init__(self, cache):
        self.cache = cache


class CachedLayer(CompositeLayer):
    """Base of the layers whose call takes `cache` and `cache_update_index`."""

    def __call__(self, *args, cache=None, **kwargs):
        if cache is not None:
            symbolic = any(
                isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(cache)
            )
            kwargs["cache"] = cache if symbolic else Held(cache)
        return super().__call__(*args, **kwargs)

    @property
    def _where(self):
        return f"{self.__class__.__name__} {self.name!r}"

    def _taken(self, cache):
        """Returns the argument `cache` as a `caches.Cache` of tensors."""
        cache = cache.cache if isinstance(cache, Held) else cache
        given = cache if isinstance(cache, dict) else {"keys_values": cache}
        if not given.keys() <= set(caches.NAMES) or "keys_values" not in given:
            found = ", ".join(map(repr, given))
            raise ValueError(
                f"`cache` must be what `make_cache` of {self._where} returns. "
                f"Received: cache=a dictionary with {found}"
            )
        return caches.Cache.of({n: ops.convert_to_tensor(x) for n, x in given.items()})

    def _check_cache(self, cache, wanted):
        """Refuses a cache that is not what `make_cache` returns.

        Args:
            cache: `caches.Cache` of tensors.
            wanted: `caches.Cache` of shapes and dtypes, where None is any size.
        """
        for name, tensor, expected in zip(caches.NAMES, cache, wanted, strict=True):
            if tensor is None and expected is None:
                continue
            if tensor is None or expected is None:
                advice = "with" if tensor is None else "without"
                why = {
                    "positions": "`make_cache(..., padding=True)` makes one where there is "
                    "padding",
                    "first": "`make_cache(..., padding=True)` makes one where there is "
                    "padding",
                }
                raise ValueError(
                    f"`cache` must be one {advice} {name!r}, in {self._where}; "
                    f"{why.get(name, '`make_cache` makes one')}. Received: cache with "
                    + ", ".join(n for n, x in cache._asdict().items() if x is not None)
                )
            shape, dtype = expected
            found = keras.backend.standardize_dtype(tensor.dtype)
            if not check.fits(tensor.shape, shape) or found != dtype:
                raise ValueError(
                    f"`cache` must have {name!r} of shape {shape} and dtype {dtype}, in "
                    f"{self._where}. Received: a tensor of shape {tuple(tensor.shape)} and "
                    f"dtype {found}"
                )

    def _asked(self, use_causal_mask=False, selective=False):
        """Returns what attention over the cache computes."""
        causal = self.causal or bool(use_causal_mask)
        where = Positions.of(self.mask, causal, self.sliding_window)
        return CachedAttention(
            self.score, self.normalizer, where, selective, self.block_size
        )

    def _specs(self, batch, slots, padding, budget=False):
        _, heads, depth = self.key_dense.kernel.shape
        segments = self.mask is not None and self.mask.needs_segments
        return caches.specs(
            batch,
            slots,
            heads,
            depth,
            self.compute_dtype,
            check.boolean("padding", padding),
            segments,
            getattr(self, "selective", False),
            budget,
        )

    def _checked_index(self, index):
        """Returns an integer, or an integer tensor of shape `()` or `(B,)`."""
        expected = (
            f"an integer, or an integer tensor of shape () or (batch,), in {self._where}"
        )
        if check.is_integer(index):
            return int(index)
        if index is None or isinstance(index, bool | float | str):
            raise check.invalid("cache_update_index", expected, index)
        index = ops.convert_to_tensor(index)
        dtype = keras.backend.standardize_dtype(index.dtype)
        if len(index.shape) > 1 or "int" not in dtype:
            found = f"a tensor of dtype {dtype} and shape {tuple(index.shape)}"
            raise ValueError(
                f"`cache_update_index` must be {expected}. "
                f"Received: cache_update_index={found}"
            )
        return index

    def _check_cached_call(self, name, inputs, cache, index, training, padding=False):
        """Refuses what does not fit; returns the number of slots."""
        if len(inputs.shape) != 3:
            raise ValueError(
                f"`{name}` must have the shape (batch, length, channels) where there is a "
                f"cache, in {self._where}. Received: {name}.shape={tuple(inputs.shape)}"
            )
        if training:
            expected = f"None in training, in {self._where}"
            raise ValueError(f"`cache` must be {expected}. Received: training={training}")
        slots = cache.keys_values.shape[2] if len(cache.keys_values.shape) == 5 else None
        padding = padding or cache.positions is not None
        budget = cache.kept is not None
        self._check_cache(cache, self._specs(inputs.shape[0], slots, padding, budget))
        if slots is None:
            raise ValueError(
                f"`cache` must have a known number of slots, in {self._where}. Received: "
                f"cache.shape={tuple(cache.keys_values.shape)}"
            )
        if (
            not isinstance(index, int)
            and len(index.shape) == 1
            and not check.fits(index.shape, inputs.shape[:1])
        ):
            raise ValueError(
                "`cache_update_index` must have one number for each example, in "
                f"{self._where}. Received: cache_update_index.shape="
                f"{tuple(index.shape)}, {name}.shape={tuple(inputs.shape)}"
            )
        return slots

    def _over_slots(self, inputs, slots, attention_mask, attention_bias):
        """Returns the mask and the bias over rows and slots, with four axes, or Nones."""
        given = {"attention_mask": attention_mask, "attention_bias": attention_bias}
        if all(x is None for x in given.values()):
            return None, None
        axes = [
            Axes.of((None, n, None), None, self._where) for n in (inputs.shape[1], slots)
        ]
        pairs = Pairs(*axes, self.num_heads)
        for name, x in given.items():
            pairs.check(name, x, self._where)
        keys = ops.zeros((1, slots, 1))
        mask, bias = (pairs.flatten(x, inputs, keys) for x in given.values())
        return None if mask is None else ops.cast(mask, "bool"), bias

    def _cached_specs(self, inputs, cache, return_attention_scores):
        """The symbolic results of a call with a cache."""
        cache = cache.cache if isinstance(cache, Held) else cache
        specs = keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), cache
        )
        output = self._output_specs(inputs, inputs, False)
        if not return_attention_scores:
            return output, specs
        keys = self._taken(cache).keys_values.shape[2]
        shape = (inputs.shape[0], self.num_heads, inputs.shape[1], keys)
        return output, keras.KerasTensor(shape, dtype=self.compute_dtype), specs

    def _check_depths(self):
        """Refuses a layer that has no cache whatever it attends to."""
        if not self.built:
            raise ValueError(
                f"`make_cache` needs a layer that is built: call {self._where} first. "
                "Received: built=False"
            )
        depths = self.key_dense.kernel.shape[-1], self.value_dense.kernel.shape[-1]
        if depths[0] != depths[1]:
            raise ValueError(
                "`value_dim` must be `key_dim` where there is a cache, which is one tensor "
                f"of both, in {self._where}. Received: key_dim={depths[0]}, "
                f"value_dim={depths[1]}"
            )

    def _finish(self, output, gate):
        """Returns the layer's output from that of the heads, `(B, H, T, Dv)`."""
        output = ops.swapaxes(output, 1, 2)
        if gate is not None:
            output = ops.multiply(output, gate)
        return self.output_dense(output)


class CachedSelfAttention(CachedLayer):
    """What `SelfAttention` does with a cache."""

    def make_cache(self, batch, length, padding=False, memory_budget=None):
        """Returns an empty cache for decoding with this layer.

        Args:
            batch: The number of examples, `B`.
            length: The number of positions that are to be decoded.
            padding: Whether calls have a `mask`, or their own index for each example with
                negative ones: the cache then remembers which slots are empty.
            memory_budget: With `selective=True`, how many positions it remembers at most,
                at least 2. A position then takes the slot of the one that most was taken
                off (the largest `F`; of equal ones the oldest). The first one stays.

        Returns:
            A tensor `(B, 2, S, key heads, D)` of the layer's compute dtype, keys and
            values. `S` is `length`; if a mask lets a row see a fixed number of positions
            back, `S` is at most one more than that, because later positions take the
            slots of earlier ones.

            With `padding=True`, `Segments()` or `selective=True` it is a dictionary of
            tensors, with that tensor under `"keys_values"`.

        Raises:
            ValueError: If the layer is not built, sees what comes after a position, or
                has another width of values than of keys.
        """
        return self._empty_cache(self._asked(), batch, length, padding, memory_budget)

    def _empty_cache(self, asked, batch, length, padding, memory_budget=None):
        self._check_cacheable(asked)
        batch = self._size("batch", batch)
        length = check.positive_integer("length", length, most=check.LARGEST_INT32)
        back = asked.positions.reach()[0]
        slots = length if back is None else min(length, back + 1)
        budget = memory_budget is not None
        if budget:
            expected = f"an integer of at least 2, or None, in {self._where}"
            if not check.is_integer(memory_budget) or memory_budget < 2:
                raise check.invalid("memory_budget", expected, memory_budget)
            if not self.selective:
                expected = f"None where `selective` is False, in {self._where}"
                raise check.invalid("memory_budget", expected, memory_budget)
            slots = min(slots, memory_budget)
        return caches.empty(self._specs(batch, slots, padding, budget)).given()

    def _size(self, name, size):
        is_tensor = hasattr(size, "dtype") and not check.is_integer(size)
        return size if is_tensor else check.positive_integer(name, size)

    def _check_cacheable(self, asked):
        self._check_depths()
        if asked.positions.reach()[1] != 0:
            raise ValueError(
                "`mask` must not let a position see what comes after it, where there is "
                f"a cache: {self._where} needs `causal=True`. Received: "
                f"mask={self.mask!r}, causal={self.causal}, "
                f"sliding_window={self.sliding_window}"
            )

    def _attend_cached(
        self,
        inputs,
        cache,
        index,
        *,
        mask,
        attention_mask,
        attention_bias,
        return_attention_scores,
        training,
        use_causal_mask,
        segment_ids,
        poison=True,
    ):
        """Attends to a cache; returns what `call` does, as a tuple."""
        asked = self._asked(use_causal_mask, self.selective)
        self._check_cacheable(asked)
        cache, index = self._taken(cache), self._checked_index(index)
        rows = inputs.shape[1]
        slots = self._check_cached_call(
            "inputs", inputs, cache, index, training, mask is not None
        )
        back = asked.positions.reach()[0]
        budget = cache.kept is not None
        # Where slots are taken again, there is room for any number of positions.
        ring = budget or (back is not None and slots == back + 1)
        caches.check_room(index, rows, slots, ring, self._where)
        if ring:
            self._refuse_pairs(attention_mask=attention_mask, attention_bias=attention_bias)
        allowed, bias = self._over_slots(inputs, slots, attention_mask, attention_bias)
        rows = ops.shape(inputs)[1] if rows is None else rows
        step = caches.Step(index, rows, slots, ring, mask)
        inputs = without_padding(inputs, mask)
        gate = None if self.gate_dense is None else self.gate_dense(inputs)
        recording = is_recording()
        given = {"segments": segment_ids, "whole": return_attention_scores or recording}
        if not budget:
            given |= {"mask": allowed, "bias": bias}
        attend = attend_pruned if budget else attend_cached
        output, weights, allowed, cache = attend(
            asked,
            ops.swapaxes(self.query_dense(inputs), 1, 2),
            self.key_dense(inputs),
            self.value_dense(inputs),
            cache,
            step,
            **given,
        )
        if recording:
            record(self, weights, AttentionDetails(self.kind), allowed)
        output = self._finish(output, gate)
        if poison and not step.surely_fits:
            nothing = ops.full_like(output, float("nan"))
            output = ops.where(step.fits()[:, :, None], output, nothing)
        if return_attention_scores:
            return output, weights, cache.given()
        return output, cache.given()

    def _decode(self, decoding, inputs, mask, segment_ids, options):
        """Returns what `call` does while a `Decoder` runs, or None without a cache."""
        held = decoding.cache_of(self, inputs, mask, options["use_causal_mask"])
        if held is None:
            return None
        cache, index, mask = held
        given = {"mask": mask, "segment_ids": segment_ids, **options}
        *found, cache = self._attend_cached(inputs, cache, index, poison=False, **given)
        decoding.keep(cache)
        return tuple(found) if len(found) > 1 else found[0]

    def _refuse_pairs(self, **given):
        for name, x in given.items():
            if x is not None:
                raise ValueError(
                    f"`{name}` must be None where later positions take the slots of "
                    f"earlier ones, in {self._where}. Received: {name}.shape="
                    f"{tuple(x.shape)}"
                )
