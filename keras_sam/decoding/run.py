"""One call of a model by a `Decoder`: who gets which cache, and what comes back."""

from keras import ops

from keras_sam import _validation as check
from keras_sam.attention.cache import Step
from keras_sam.decoding.survey import Keys


class Run:
    """One call of the model: hands out caches, and takes them back.

    Args:
        remembered: The layers that have one.
        cache: The dictionary of all caches.
        tokens: The tokens of this call.
        index: The position of the first of them.
        mask: Boolean `(B, T)`, or None.
    """

    def __init__(self, remembered, cache, tokens, index, mask):
        self._layers = {found.key: found for found in remembered}
        self._given, self.caches = cache, {}
        self._keys, self._key = Keys(), None
        self.index, self.mask = index, None if mask is None else ops.cast(mask, "bool")
        self._tokens = tokens
        if not isinstance(cache, dict):
            expected = "a dictionary from `make_cache` of the decoder"
            raise check.invalid("cache", expected, type(cache).__name__)
        if not check.is_integer(index):
            self.index = ops.convert_to_tensor(index)
        self._room = None

    def cache_of(self, layer, has_mask, use_causal_mask):
        key = self._keys.next(layer)
        if key not in self._layers:
            return None
        names = {key: None} | {
            name: name.removeprefix(f"{key}/")
            for name in self._given
            if name.startswith(f"{key}/")
        }
        if key not in self._given:
            raise ValueError(
                "`cache` must be what `make_cache` of the same decoder returns. "
                f"Received: a dictionary without {key!r}"
            )
        found = {short or "keys_values": self._given[name] for name, short in names.items()}
        cache = found if len(found) > 1 else found["keys_values"]
        slots = self._given[key].shape[2]
        if "kept" not in found and not layer.is_ring(slots, use_causal_mask):
            self._room = slots if self._room is None else min(self._room, slots)
        self._key = key
        return cache, self.index, self.mask

    def keep(self, cache):
        self.caches.update(flat_names(self._key, cache))

    def positions_of(self, layer, query, value):
        if query.shape[1] != self._tokens.shape[1]:
            return None
        return self._step().query_positions

    def shifted(self, layer, names, args, kwargs):
        """Returns the keyword arguments of a layer that counts positions."""
        index = self.index
        if isinstance(index, int) or len(index.shape) == 0:
            return {**kwargs, "start_index": index}
        if "positions" not in names:
            raise ValueError(
                "`index` must be one number for all examples, because the call of "
                f"{layer.path!r} does not take `positions`. "
                f"Received: index.shape={tuple(index.shape)}"
            )
        return {**kwargs, "positions": ops.maximum(self._step().query_positions, 0)}

    def finish(self):
        missing = [key for key in self._layers if key not in self.caches]
        if missing:
            raise ValueError(
                "`model` must call the same layers whatever the number of tokens is. "
                f"Received: a call without {', '.join(missing)}"
            )

    def poisoned(self, output):
        """Returns an output, not a number where there was no slot for a token."""
        if self._room is None or isinstance(self.index, int):
            return output
        fits = self._step(self._room).fits()
        fits = ops.reshape(fits, (*ops.shape(fits), *(1,) * (len(output.shape) - 2)))
        return ops.where(fits, output, ops.full_like(output, float("nan")))

    def _step(self, slots=1):
        rows = self._tokens.shape[1]
        rows = ops.shape(self._tokens)[1] if rows is None else rows
        return Step(self.index, rows, slots, False, self.mask)


def flat_names(key, cache):
    """Returns the tensors of a layer's cache by names that no other layer has."""
    if not isinstance(cache, dict):
        return {key: cache}
    return {key if n == "keys_values" else f"{key}/{n}": x for n, x in cache.items()}
