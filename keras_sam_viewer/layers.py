"""The attention of one layer, as NumPy arrays or as rows on demand, and its size."""

import dataclasses
from typing import Any

import numpy as np

from keras_sam_viewer.statistics import Rows

PAIRS = "self", "cross"
GATES = "spatial", "pointwise_spatial", "channel"
KINDS = (*PAIRS, "selective", *GATES)

# About so many weights of all examples are in memory at a time where rows come on demand.
_BLOCK = 2**22


@dataclasses.dataclass(frozen=True)
class Layer:
    """The attention weights of one layer for a few examples.

    Args:
        path: The path of the layer, as shown.
        kind: One of `KINDS`.
        weights: An array: `(B, H, T, S)` of pairs, `(B, H, T)` of selective attention,
            `(B, *spatial, C)` of gates. For pairs also an object with such a `shape` and
            `rows(start, stop)`, which returns the array of these query rows.
        allowed: None when everything may be attended to; otherwise booleans that
            broadcast to `weights` of pairs and of selective attention, with all axes of
            these, or an object with `rows(start, stop)`.
        query_grid: The sizes behind the query axis, or None for a plain sequence.
        key_grid: The same for the key axis.
        are_features: Whether what has weight are channels.
        only_numbers: Whether zeros stand for what is no weight: NaN, infinite or negative.
    """

    path: str
    kind: str
    weights: Any
    allowed: Any = None
    query_grid: tuple | None = None
    key_grid: tuple | None = None
    are_features: bool = False
    only_numbers: bool = True

    @property
    def is_pairs(self):
        return self.kind in PAIRS

    @property
    def is_gate(self):
        return self.kind in GATES

    @property
    def heads(self):
        return 1 if self.is_gate else int(self.weights.shape[1])

    @property
    def examples(self):
        return int(self.weights.shape[0])

    @property
    def shape(self):
        """The sizes of one head: `(T, S)`, `(T,)`, the spatial ones or `(C,)`."""
        shape = tuple(int(size) for size in self.weights.shape)
        if self.kind == "channel":
            return (shape[-1],)
        return shape[1:-1] if self.is_gate else shape[2:]

    def rows(self):
        """Yields, for blocks of rows of pairs, a list with the `Rows` of each example."""
        _, heads, queries, keys = (int(size) for size in self.weights.shape)
        size = max(1, self.examples * heads * keys)
        whole = not hasattr(self.weights, "rows")
        # What is in memory anyway is cut finer, to stay in the caches.
        step = max(1, (_BLOCK // 4 if whole else _BLOCK) // size)
        for start in range(0, queries, step):
            stop = min(queries, start + step)
            weights = rows_of(self.weights, start, stop)
            allowed = rows_of(self.allowed, start, stop)
            if allowed is not None:
                sizes = (*allowed.shape[:2], stop - start, keys)
                allowed = np.broadcast_to(allowed, sizes)
            weights = self._numbers(weights)
            yield [
                Rows(start, weights[i], None if allowed is None else _at(allowed, i))
                for i in range(self.examples)
            ]

    def gate(self, example):
        """Returns the gates of one example without channels, or the channels only."""
        gate = np.asarray(self.weights[example], np.float32)
        gate = np.nan_to_num(gate) if self.only_numbers else gate
        if self.kind == "channel":
            return gate.reshape(-1, gate.shape[-1]).mean(0)
        return gate.mean(-1)

    def parts(self, example):
        """Returns weights and allowed parts of selective attention, `(H, T)` each."""
        weights = self._numbers(self.weights[example])
        if self.allowed is None:
            return weights, None
        allowed = _at(np.asarray(self.allowed), example)
        return weights, np.broadcast_to(allowed, (len(allowed), weights.shape[1]))

    def _numbers(self, weights):
        weights = np.asarray(weights, np.float32)
        fine = not weights.size or (weights.min() >= 0 and weights.max() < np.inf)
        if fine or not self.only_numbers:
            return weights
        return np.where((weights >= 0) & (weights < np.inf), weights, np.float32(0))


def rows_of(values, start, stop):
    """Returns query rows `start` to `stop` of an array, of rows on demand, or of None."""
    if values is None:
        return None
    if hasattr(values, "rows"):
        return np.asarray(values.rows(start, stop))
    values = np.asarray(values)
    return values if values.shape[2] == 1 else values[:, :, start:stop]


def _at(values, example):
    return values[example if len(values) > 1 else 0]


@dataclasses.dataclass(frozen=True)
class Extent:
    """How much of a layer's weights is not padding.

    Args:
        query_lengths: For each example, the query rows up to the last one that may
            attend to something.
        key_lengths: For each example, the keys up to the last one that a row may see.
        causal: Whether no row may attend to what comes after it, and some rows might.
    """

    query_lengths: tuple
    key_lengths: tuple
    causal: bool = False

    @classmethod
    def of(cls, layer):
        """Measures a `Layer`."""
        if layer.is_gate:
            count = int(np.prod(layer.shape))
            return cls((count,) * layer.examples, (count,) * layer.examples)
        if layer.kind == "selective":
            masks = [layer.parts(i)[1] for i in range(layer.examples)]
            lengths = [_length(mask, layer.shape[0]) for mask in masks]
            return cls((1,) * layer.examples, tuple(lengths))
        queries, keys = layer.shape
        if layer.allowed is None:
            return cls((queries,) * layer.examples, (keys,) * layer.examples)
        attending = np.zeros((layer.examples, queries), bool)
        seen = np.zeros((layer.examples, keys), bool)
        later = False
        step = max(1, _BLOCK // max(1, keys))
        for start in range(0, queries, step):
            stop = min(queries, start + step)
            allowed = rows_of(layer.allowed, start, stop).any(1)  # (1 or B, R or 1, S or 1)
            allowed = np.broadcast_to(allowed, (len(allowed), stop - start, keys))
            attending[:, start:stop] = allowed.any(2)
            seen |= allowed.any(1)
            later = later or bool(np.triu(allowed, start + 1).any())
        causal = layer.kind == "self" and queries > 1 and seen.any() and not later
        return cls(
            tuple(_length(row, queries) for row in attending),
            tuple(_length(row, keys) for row in seen),
            bool(causal),
        )


def _length(some, length):
    """Returns where the last True of booleans `(..., length)` ends."""
    if some is None:
        return length
    (where,) = np.nonzero(np.reshape(some, (-1, length)).any(0))
    return int(where[-1]) + 1 if len(where) else 0
