"""The calls of `SelfAttention` with a cache, and while a `Decoder` runs."""

from keras import ops

from keras_sam import _validation as check
from keras_sam.attention import cache as caches
from keras_sam.attention.cached import attend_cached
from keras_sam.attention.pruned import attend_pruned
from keras_sam.layers._cached import CachedLayer
from keras_sam.layers._masks import without_padding
from keras_sam.normalizers.masking import both
from keras_sam.recording import AttentionDetails, is_recording, record


class CachedSelfAttention(CachedLayer):
    """What `SelfAttention` does with a cache."""

    def make_cache(self, batch, length, padding=False, memory_budget=None):
        """Returns an empty cache for decoding with this layer.

        Args:
            batch: The number of examples, `B`.
            length: The number of positions that are to be decoded.
            padding: Whether calls have a `mask`: the cache then remembers which slots are
                empty.
            memory_budget: With `selective=True`, how many positions it remembers at most,
                at least 2. Each position then takes the slot of the one of which most was
                taken off (the largest `F`; of equal ones the oldest). The first one stays.

        Returns:
            A tensor `(B, 2, S, key heads, D)` of the layer's compute dtype, for keys and
            values, as those of KerasHub are. `S` is `length`; where a mask lets a row see
            a fixed number of positions back, `S` is at most one more than that, because
            later positions take the slots of earlier ones.

            With `padding=True`, with a mask with `Segments()` and with `selective=True` it
            is a dictionary of tensors, of which that one is `"keys_values"`. The first
            axis of all of them is the batch.

        Raises:
            ValueError: If the layer is not built, if a row sees what comes after it, or
                if values are not as wide as keys.
        """
        return self.make_cache_for(False, batch, length, padding, memory_budget)

    def make_cache_for(self, use_causal_mask, batch, length, padding, memory_budget=None):
        """Returns what `make_cache` does, for calls with or without `use_causal_mask`."""
        asked = self._asked(use_causal_mask)
        self._check_cacheable(asked)
        if not hasattr(batch, "dtype"):  # a tensor in a graph
            batch = check.positive_integer("batch", batch)
        length = check.positive_integer("length", length, most=check.LARGEST_INT32)
        padding = check.boolean("padding", padding)
        back = asked.positions.reach()[0]
        slots = length if back is None else min(length, back + 1)
        budget = memory_budget is not None
        if budget:
            slots = min(slots, self._checked_budget(memory_budget))
        return caches.empty(self._specs(batch, slots, padding, budget)).given()

    def _checked_budget(self, memory_budget):
        if not self.selective:
            expected = f"None where `selective` is False, in {self._where}"
            raise check.invalid("memory_budget", expected, memory_budget)
        if not check.is_integer(memory_budget) or memory_budget < 2:
            expected = f"an integer of at least 2, or None, in {self._where}"
            raise check.invalid("memory_budget", expected, memory_budget)
        return int(memory_budget)

    def is_ring(self, slots, use_causal_mask=False):
        """Returns whether positions take the slots of earlier ones in a cache."""
        back = self._asked(use_causal_mask).positions.reach()[0]
        return back is not None and slots == back + 1

    def _check_cacheable(self, asked):
        self._check_depths()
        if asked.positions.reach()[1] != 0:
            raise ValueError(
                "`mask` must not let a row see what comes after it where there is a cache: "
                f"{self._where} needs `causal=True`. Received: mask={self.mask!r}, "
                f"causal={self.causal}, sliding_window={self.sliding_window}"
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
        surely_fits=False,
    ):
        """Attends to a cache and to the inputs; returns what `call` does, as a tuple.

        Args:
            surely_fits: Whether an index that is a tensor leads to slots that there are.
        """
        asked = self._asked(use_causal_mask, self.selective)
        self._check_cacheable(asked)
        self._check_step("inputs", inputs, training)
        batch, rows, _ = inputs.shape
        cache = self._taken(cache, batch, mask is not None)
        index, slots = self._checked_index(index, batch), cache.keys_values.shape[2]
        # Within a budget there is room for any number of positions, too.
        budget = cache.kept is not None
        ring = budget or self.is_ring(slots, use_causal_mask)
        caches.check_room(index, rows, slots, ring, self._where)
        pairs = {"attention_mask": attention_mask, "attention_bias": attention_bias}
        for name, x in pairs.items():
            if ring and x is not None:
                expected = "None where later positions take the slots of earlier ones"
                raise check.invalid(name, f"{expected}, in {self._where}", x)
        allowed, bias = self._over_slots(inputs, slots, **pairs)
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
        if not (surely_fits or step.surely_fits):
            nothing = ops.full_like(output, float("nan"))
            output = ops.where(step.fits()[:, :, None], output, nothing)
        if return_attention_scores:
            return output, weights, cache.given()
        return output, cache.given()

    def _decode(self, decoding, inputs, mask, segment_ids, options):
        """Returns what `call` does while a `Decoder` runs, or None without a cache."""
        pairs, bias = options["attention_mask"], options["attention_bias"]
        has_mask = mask is not None or pairs is not None
        held = decoding.cache_of(self, has_mask, options["use_causal_mask"])
        if held is None:
            return None
        if bias is not None:
            expected = f"None while a `Decoder` runs, in {self._where}"
            raise check.invalid("attention_bias", expected, bias)
        cache, index, of_run = held
        mask = both(mask, of_run)
        if pairs is not None:
            mask = both(mask, self._padding_of(pairs))
        given = {"mask": mask, "segment_ids": segment_ids, **options}
        given["attention_mask"] = None
        *found, cache = self._attend_cached(inputs, cache, index, surely_fits=True, **given)
        decoding.keep(cache)
        return tuple(found) if len(found) > 1 else found[0]

    def _padding_of(self, attention_mask):
        """Returns which of the inputs an `attention_mask` hides from all rows, `(B, T)`.

        While a `Decoder` runs, a model that makes one knows its new tokens only: what it
        hides from some of them would be about other pairs than those with the cache.
        """
        shape = tuple(attention_mask.shape)
        if shape[-2] != 1 or (len(shape) == 4 and shape[1] != 1):
            raise ValueError(
                "`attention_mask` must be the same for all rows while a `Decoder` runs: "
                f"`mask` of {self._where} decides between pairs. "
                f"Received: attention_mask.shape={shape}"
            )
        mask = ops.cast(attention_mask, "bool")
        return ops.reshape(mask, (1, shape[-1]) if len(shape) == 2 else (-1, shape[-1]))
