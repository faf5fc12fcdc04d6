"""What of a call is recorded: its weights and its mask, whole or by rows on demand."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_sam._rows import RowsOnDemand
from keras_sam.attention import reference
from keras_sam.attention.request import Constants, Inputs, Request, Sizes
from keras_sam.normalizers.masking import attention_weights, both, unmasked, wide_scores


@dataclasses.dataclass(frozen=True)
class Call:
    """The tensors and the request of one call, from which any rows can be computed.

    Args:
        inputs: `Inputs`.
        constants: `Constants`.
        request: `Request`.
    """

    inputs: Inputs
    constants: Constants
    request: Request

    def allowed(self):
        """Returns the pairs that count, a boolean `(B or 1, H or 1, T or 1, S or 1)`.

        None when all do.
        """
        mask = reference.pair_mask(self.constants, self.request, Sizes.of(self.inputs))
        return _four_axes(both(mask, unmasked(self.inputs.bias)))

    def on_demand(self):
        """Returns two `RowsOnDemand`: the weights, and the mask.

        The mask is None where every pair counts. A `selective` request has no weights by
        rows, and is not for this.
        """
        query, key = self.inputs.query, self.inputs.key
        shape = (*query.shape[:3], key.shape[2])
        dtype = keras.backend.standardize_dtype(self.inputs.value.dtype)
        weights = RowsOnDemand(shape, dtype, self._weights_of)
        probe = self._allowed_of(0, 1)
        if probe is None:
            return weights, None
        leading = tuple(probe.shape[:2])
        return weights, RowsOnDemand((*leading, *shape[2:]), "bool", self._allowed_of)

    def _weights_of(self, start, stop):
        query, key, _, bias, operands, sinks = self.inputs
        scores = self.request.score(operands, query[:, :, start:stop], key)
        if self.request.modify is not None:
            pairs = self._pairs_of(start, stop)
            scores = self.request.modify(operands, wide_scores(scores), pairs)
        mask = self._mask_of(start, stop)
        bias = _rows(bias, start, stop)
        normalizer = self.request.normalizer
        return attention_weights(scores, normalizer, mask, bias, sinks=sinks)

    def _allowed_of(self, start, stop):
        bias = _rows(self.inputs.bias, start, stop)
        return _four_axes(both(self._mask_of(start, stop), unmasked(bias)))

    def _mask_of(self, start, stop):
        mask = _rows(self.constants.mask, start, stop)
        if self.constants.key_mask is not None:
            mask = both(mask, ops.expand_dims(self.constants.key_mask, (1, 2)))
        if self.constants.query_mask is not None:
            rows = ops.expand_dims(self.constants.query_mask[:, start:stop], (1, 3))
            mask = both(mask, rows)
        return both(mask, self.request.positions.allowed(self._pairs_of(start, stop)))

    def _pairs_of(self, start, stop):
        """Returns the `keras_sam.masks.Pairs` of some rows."""
        pairs = self.constants.pairs(Sizes.of(self.inputs))
        names = "query", "query_segments"
        rows = {name: getattr(pairs, name) for name in names}
        rows = {n: None if x is None else x[:, :, start:stop] for n, x in rows.items()}
        return dataclasses.replace(pairs, **rows)


def to_record(weights, call, batch=None):
    """Returns what a layer records of a call: its weights and what is allowed.

    Args:
        weights: Tensor `(B', H, T, S)`, or None for rows on demand.
        call: The `Call`.
        batch: None, or the number of examples where `B'` is a multiple of it: all maps of
            an example are side by side then, as heads.

    Returns:
        The weights, as a tensor or `RowsOnDemand`, and booleans that broadcast to them, as
        a tensor, `RowsOnDemand` or None.
    """
    if weights is None:
        found = call.on_demand()
        if batch is None:
            return found
        return tuple(_side_by_side(rows, batch, found[0].shape[1]) for rows in found)
    allowed = call.allowed()
    if batch is None:
        return weights, allowed
    if allowed is not None and allowed.shape[0] != 1:
        heads = ops.shape(weights)[:2]
        allowed = ops.broadcast_to(allowed, (*heads, *ops.shape(allowed)[2:]))
        allowed = _as_heads(allowed, batch)
    return _as_heads(weights, batch), allowed


def _as_heads(tensor, batch):
    return ops.reshape(tensor, (batch, -1, *ops.shape(tensor)[2:]))


def _side_by_side(rows, batch, heads):
    if rows is None or rows.shape[0] == 1:
        return rows
    flat, _, queries, keys = rows.shape
    shape = batch, flat // batch * heads, queries, keys

    def compute(start, stop):
        sizes = flat, heads, stop - start, keys
        found = np.broadcast_to(rows.rows(start, stop), sizes)
        return found.reshape(batch, -1, stop - start, keys)

    return RowsOnDemand(shape, rows.dtype, compute)


def _rows(pairs, start, stop):
    """The rows of a tensor over pairs, or None."""
    return pairs if pairs is None or pairs.shape[2] == 1 else pairs[:, :, start:stop]


def _four_axes(mask):
    if mask is None or len(mask.shape) == 4:
        return mask
    return ops.expand_dims(mask, tuple(range(4 - len(mask.shape))))
