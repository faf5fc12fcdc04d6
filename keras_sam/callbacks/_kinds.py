"""How each kind of attention is measured and drawn: one row of a table for each.

A new kind of weights needs a function that makes maps of them, a function that measures
them (or one that is there already) and a row in `KINDS`.
"""

import dataclasses
from collections.abc import Callable

import numpy as np

from keras_sam.callbacks import _statistics
from keras_sam.callbacks._heatmaps import HeatMap


@dataclasses.dataclass(frozen=True)
class Kind:
    """How one kind of attention is measured and drawn.

    Args:
        statistics: `(weights, allowed, details) -> {name: (values, counted)}`, with
            `allowed` a boolean array like the weights.
        panels: `(weights, allowed, details) -> panels` for the weights of one example,
            without the batch axis; each panel is a list of `HeatMap`s.
        axes: What rows and columns of the maps are.
        over_input: Whether a map is of places, to be drawn over a picture if there is one.
        zeros_are_masked: Whether what no head gives weight to counts as masked.
    """

    statistics: Callable
    panels: Callable
    axes: str
    over_input: bool = False
    zeros_are_masked: bool = False

    def allowed(self, weights):
        """Which weights are not masked, as a boolean array of the same shape.

        Pairs without weight in every head count as masked. That is exact for softmax
        and sigmoid; of sparse normalizers it also holds what all heads leave out.
        """
        if self.zeros_are_masked:
            some = np.any(weights != 0, axis=1, keepdims=True)
            return np.broadcast_to(some, weights.shape)
        return np.ones(weights.shape, bool)


def matrix_panels(weights, allowed, details):
    """A panel for each head: its matrix, and for grids what each place receives."""
    attending = weights.sum(-1) != 0
    allowed = allowed & attending[..., None]
    panels = []
    for head, (matrix, visible) in enumerate(zip(weights, allowed, strict=True)):
        panel = [HeatMap(matrix, f"head {head}", visible)]
        if _is_picture(details.key_grid, matrix.shape[-1]):
            received = matrix.sum(0) / max(1, attending[head].sum())
            places = plane(received, details.key_grid)
            seen = plane(visible.any(0), details.key_grid)
            panel.append(HeatMap(places, "mean", seen))
        panels.append(panel)
    return panels


def strip_panels(weights, allowed, details):
    """The weights of parts `(H, T)`: strips, or a picture for each head."""
    grid = details.key_grid
    if not _is_picture(grid, weights.shape[-1]):
        return [[HeatMap(weights, "heads", allowed)]]
    heads = enumerate(zip(weights, allowed, strict=True))
    return [
        [HeatMap(plane(row, grid), f"head {head}", plane(visible, grid))]
        for head, (row, visible) in heads
    ]


def place_panels(weights, allowed, details):
    """One panel: the map `(*spatial, C)`, of several channels their mean."""
    *spatial, channels = weights.shape
    title = "" if channels == 1 else "channel mean"
    return [[HeatMap(plane(weights.mean(-1), spatial), title)]]


def channel_panels(weights, allowed, details):
    """One panel: the gates of all channels, in one row."""
    return [[HeatMap(weights.reshape(1, -1), "channels")]]


def plane(values, grid):
    """Lays values out as the places of a grid, on a plane: slices beside each other."""
    grid = tuple(grid)
    if len(grid) < 2:
        return values.reshape(1, -1)
    slices = values.reshape(-1, *grid[-2:])
    return np.hstack(list(slices))


def _is_picture(grid, length):
    return grid is not None and len(grid) > 1 and np.prod(grid) == length


_PAIRS = Kind(
    _statistics.pair_statistics,
    matrix_panels,
    "rows: queries, columns: keys",
    zeros_are_masked=True,
)

KINDS = {
    "self": _PAIRS,
    "cross": _PAIRS,
    "selective": Kind(
        _statistics.part_statistics,
        strip_panels,
        "columns: parts",
        over_input=True,
        zeros_are_masked=True,
    ),
    "spatial": Kind(
        _statistics.place_statistics, place_panels, "places of the input", over_input=True
    ),
    "pointwise_spatial": Kind(
        _statistics.place_statistics, place_panels, "places of the input", over_input=True
    ),
    "channel": Kind(_statistics.gate_statistics, channel_panels, "columns: channels"),
}
