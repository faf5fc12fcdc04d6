"""What is read of the weights of a layer, in one pass over blocks of their rows."""

import dataclasses

import numpy as np

from keras_sam_viewer.layers import Extent
from keras_sam_viewer.pooling import MaximumPool
from keras_sam_viewer.statistics import (
    PairStatistics,
    gate_statistics,
    part_statistics,
)

# So many keys are listed of each query.
_LISTED = 3


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a step shows of one layer.

    Args:
        extent: The `Extent` of the layer.
        statistics: Float arrays `(B, H)` by the names of the viewer's statistics.
        maps: For each drawn example of pairs, its `PairMaps`; otherwise empty.
        is_finite: Whether all weights are finite numbers.
    """

    extent: Extent
    statistics: dict
    maps: list
    is_finite: bool


class PairMaps:
    """What is drawn and listed of the pairs of one example, from blocks of rows.

    Args:
        heads: The number of heads.
        queries: The number of rows without padding.
        keys: The number of keys without padding.
        largest: The number of cells that a side of the map may have.
    """

    def __init__(self, heads, queries, keys, largest):
        self.shape = queries, keys
        self.steps = tuple(max(1, -(-n // largest)) for n in self.shape)
        self._pool = MaximumPool(heads, queries, keys, *self.steps)
        self.largest = np.zeros(heads)  # the largest weight, of rows with a choice
        self.largest_multiple = np.zeros(heads)
        self.keys = np.zeros(queries, int)  # that each row may attend to
        self._received, self._seen = np.zeros((heads, keys)), np.zeros((heads, keys), int)
        listed = min(_LISTED, keys)
        # The strongest keys of each query: of the mean over the heads, then of each head.
        self.best = np.zeros((heads + 1, queries, listed), int)
        self.best_weights = np.zeros((heads + 1, queries, listed), np.float32)

    @property
    def multiples(self):
        """The map in multiples of uniform, negative where masked, `(H, rows, columns)`."""
        return self._pool.values

    def received(self):
        """Returns the mean multiple of uniform that a key has, `(H, S)`, -1 if masked."""
        seen = np.maximum(self._seen, 1)
        return np.where(self._seen > 0, self._received / seen, -1).astype(np.float32)

    def add(self, rows):
        """Takes the next block of `Rows`."""
        self._pool.add(rows)
        queries, keys = self.shape
        count = min(rows.weights.shape[1], queries - rows.start)
        if count <= 0 or not keys:
            return
        weights = rows.weights[:, :count, :keys]
        multiples = rows.multiples[:, :count, :keys]
        choice = np.broadcast_to(rows.keys[:, :count, None] > 1, weights.shape)
        self._raise(self.largest, np.where(choice & np.isfinite(weights), weights, 0))
        known = choice & np.isfinite(multiples)
        self._raise(self.largest_multiple, np.where(known, multiples, 0))
        counted = known & (multiples >= 0) & rows.counted[:, :count, None]
        self._received += np.where(counted, multiples, 0).sum(1)
        self._seen += counted.sum(1)
        into = slice(rows.start, rows.start + count)
        self.keys[into] = rows.keys[:, :count].max(0)
        both = np.concatenate([weights.mean(0, keepdims=True), weights])
        listed = self.best.shape[-1]
        best = np.argsort(-both, axis=-1, kind="stable")[..., :listed]
        self.best[:, into] = best
        self.best_weights[:, into] = np.take_along_axis(both, best, -1)

    @staticmethod
    def _raise(largest, values):
        np.maximum(largest, values.max((1, 2)), out=largest)


@np.errstate(invalid="ignore", over="ignore")
def survey(layer, examples, largest):
    """Reads the weights of a `keras_sam_viewer.layers.Layer` once.

    Args:
        layer: The layer.
        examples: How many examples to draw.
        largest: The number of cells that a side of a map may have.
    """
    extent = Extent.of(layer)
    if not layer.is_pairs:
        if layer.is_gate:
            is_map = layer.kind != "channel"
            each = [gate_statistics(layer.gate(n), is_map) for n in range(layer.examples)]
        else:
            each = [part_statistics(*layer.parts(n)) for n in range(layer.examples)]
        is_finite = bool(np.isfinite(layer.weights).all())
        return Survey(extent, _stack(each), [], is_finite)
    shape = layer.heads, *layer.shape
    measured = [
        PairStatistics(shape, layer.kind == "self", layer.query_grid, layer.key_grid)
        for _ in range(layer.examples)
    ]
    maps = [
        PairMaps(layer.heads, max(1, queries), max(1, keys), largest)
        for queries, keys in zip(extent.query_lengths, extent.key_lengths, strict=True)
    ][:examples]
    is_finite = True
    for blocks in layer.rows():
        for example, rows in enumerate(blocks):
            is_finite &= bool(np.isfinite(rows.weights).all())
            measured[example].add(rows)
            if example < len(maps):
                maps[example].add(rows)
    statistics = _stack([each.result() for each in measured])
    return Survey(extent, statistics, maps, is_finite)


def _stack(each):
    """Stacks the statistics of examples."""
    return {name: np.stack([found[name] for found in each]) for name in each[0]}
