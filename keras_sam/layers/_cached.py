"""What all layers with a cache share: the arguments of their calls, checked."""

import contextlib
import contextvars

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.attention import cache as caches
from keras_sam.attention.positions import Positions
from keras_sam.attention.slots import CachedAttention
from keras_sam.layers._axes import Axes, Pairs
from keras_sam.layers._calls import named
from keras_sam.layers._composite import CompositeLayer

_running = contextvars.ContextVar("keras_sam_decoding", default=None)


@contextlib.contextmanager
def running(decoding):
    """Lets the layers that are called inside, in this context, decode.

    Args:
        decoding: An object with `cache_of(layer, has_mask, use_causal_mask)`, which
            returns None, or a cache, the index and a mask or None; `keep(cache)`, which is
            called next; and `positions_of(layer, query, value)`, which returns None, or
            the positions of the query rows of a `CrossAttention`.
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
    """Base of the layers whose calls take `cache` and `cache_update_index`."""

    def __call__(self, *args, cache=None, **kwargs):
        if cache is not None:
            kwargs["cache"] = cache if _is_symbolic(cache) else Held(cache)
        return super().__call__(*args, **kwargs)

    @property
    def _where(self):
        return named(self)

    def _asked(self, use_causal_mask=False, selective=False):
        """Returns what attention over the cache computes."""
        causal = self.causal or bool(use_causal_mask)
        where = Positions.of(self.mask, causal, self.sliding_window)
        return CachedAttention(
            self.score, self.normalizer, where, selective, self.block_size
        )

    def _check_depths(self):
        """Refuses a layer that can have no cache, whatever it attends to."""
        if not self.built:
            raise ValueError(
                f"{self._where} must be built before it has a cache: call it, or its "
                "`build`, first. Received: built=False"
            )
        _, depth, value_depth = self._head_sizes
        if depth != value_depth:
            raise ValueError(
                "`value_dim` must be `key_dim` where there is a cache, which is one tensor "
                f"of keys and values, in {self._where}. Received: key_dim={depth}, "
                f"value_dim={value_depth}"
            )

    def _specs(self, batch, slots, padding, budget=False):
        """Returns the shapes and dtypes of a cache; None is any size."""
        heads, depth, _ = self._head_sizes
        segments = self.mask is not None and self.mask.needs_segments
        selective = getattr(self, "selective", False)
        kinds = padding, segments, selective, budget
        return caches.specs(batch, slots, heads, depth, self.compute_dtype, *kinds)

    def _cached_specs(self, inputs, cache, return_attention_scores):
        """The symbolic results of a call with a cache."""
        cache = cache.cache if isinstance(cache, Held) else cache
        specs = keras.tree.map_structure(
            lambda x: keras.KerasTensor(x.shape, dtype=x.dtype), cache
        )
        output = self._output_specs(inputs, inputs, False)
        if not return_attention_scores:
            return output, specs
        tensor = specs["keys_values"] if isinstance(specs, dict) else specs
        shape = (inputs.shape[0], self.num_heads, inputs.shape[1], tensor.shape[2])
        return output, keras.KerasTensor(shape, dtype=self.compute_dtype), specs

    def _taken(self, cache, batch, padding):
        """Returns the argument `cache` as a `caches.Cache` of tensors, or raises.

        Args:
            cache: The argument.
            batch: The number of examples, or None.
            padding: Whether it has to remember which slots are empty.
        """
        cache = cache.cache if isinstance(cache, Held) else cache
        cache = cache if isinstance(cache, dict) else {"keys_values": cache}
        where = f"what `make_cache` of {self._where} returns"
        if not cache.keys() <= set(caches.NAMES) or "keys_values" not in cache:
            found = f"a dictionary with {', '.join(map(repr, cache))}"
            raise ValueError(f"`cache` must be {where}. Received: cache={found}")
        cache = caches.Cache.of({n: ops.convert_to_tensor(x) for n, x in cache.items()})
        padding = padding or cache.positions is not None
        budget = cache.kept is not None
        wanted = self._specs(batch, None, padding, budget)
        if padding and not budget and cache.positions is None:
            where = f"{where} with `padding=True`, because there is a mask"
        for name, tensor, spec in zip(caches.NAMES, cache, wanted, strict=True):
            found = "None" if tensor is None else _described(tensor)
            if (tensor is None) != (spec is None):
                raise ValueError(f"`cache` must be {where}. Received: {name}={found}")
            if tensor is not None and not _is_like(tensor, *spec):
                raise ValueError(
                    f"`cache` must be {where}: {name} of shape {spec[0]} and dtype "
                    f"{spec[1]}. Received: {name}={found}"
                )
        if cache.keys_values.shape[2] is None:
            found = tuple(cache.keys_values.shape)
            raise ValueError(
                f"`cache` must have a known number of slots, in {self._where}. "
                f"Received: cache.shape={found}"
            )
        return cache

    def _checked_index(self, index, batch):
        """Returns an integer, or an integer tensor of shape `()` or `(B,)`, or raises."""
        expected = "an integer, or an integer tensor of shape () or (batch,)"
        expected = f"{expected}, in {self._where}"
        if check.is_integer(index):
            return int(index)
        if index is None or isinstance(index, bool | float | str):
            raise check.invalid("cache_update_index", expected, index)
        index = ops.convert_to_tensor(index)
        shape = tuple(index.shape)
        is_integer = "int" in keras.backend.standardize_dtype(index.dtype)
        if not is_integer or (shape != () and not check.fits(shape, (batch,))):
            raise ValueError(
                f"`cache_update_index` must be {expected}. "
                f"Received: cache_update_index={_described(index)}"
            )
        return index

    def _check_step(self, name, inputs, training):
        """Refuses a call with a cache that is none of decoding."""
        if len(inputs.shape) != 3:
            raise ValueError(
                f"`{name}` must have the shape (batch, length, channels) where there is a "
                f"cache, in {self._where}. Received: {name}.shape={tuple(inputs.shape)}"
            )
        if training:
            expected = f"False where there is a cache, in {self._where}"
            raise check.invalid("training", expected, training)

    def _over_slots(self, inputs, slots, **given):
        """Returns a mask and a bias over rows and slots, with four axes, or Nones."""
        if all(x is None for x in given.values()):
            return None, None
        lengths = inputs.shape[1], slots
        axes = (Axes.of((None, n, None), None, self._where) for n in lengths)
        pairs = Pairs(*axes, self.num_heads)
        for name, x in given.items():
            pairs.check(name, x, self._where)
        keys = ops.zeros((1, slots, 1))
        mask, bias = (pairs.flatten(x, inputs, keys) for x in given.values())
        return None if mask is None else ops.cast(mask, "bool"), bias

    def _finish(self, output, gate):
        """Returns the layer's output from that of the heads, `(B, H, T, Dv)`."""
        output = ops.swapaxes(output, 1, 2)
        if gate is not None:
            output = ops.multiply(output, gate)
        return self.output_dense(output)


def _is_symbolic(cache):
    return any(isinstance(x, keras.KerasTensor) for x in keras.tree.flatten(cache))


def _is_like(tensor, shape, dtype):
    found = keras.backend.standardize_dtype(tensor.dtype)
    return found == dtype and check.fits(tensor.shape, shape)


def _described(tensor):
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    return f"a tensor of shape {tuple(tensor.shape)} and dtype {dtype}"
