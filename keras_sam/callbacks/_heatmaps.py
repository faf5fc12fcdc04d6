"""One map of attention weights, with its axes, as codes of the palette of `_colors`."""

import dataclasses
import math

import numpy as np

from keras_sam.callbacks import _colors, _fonts
from keras_sam.callbacks._colors import PAPER

# A map is enlarged or pooled until each of its sides has about so many pixels.
_SIDE = 176
_LARGEST_SIDE = 256
_LARGEST_CELL = 40
# Cells of this size carry a label each; so many of them at most, or maps get too large.
_LABELLED_CELL = 14
_MOST_LABELS = 26
_LABEL_WIDTH = 84
_LETTERS = 11


@dataclasses.dataclass(frozen=True)
class Axis:
    """What stands beside the cells of one axis.

    Args:
        start: The position of the first cell, of those that are left after cropping.
        labels: A label for each cell, or None.
    """

    start: int = 0
    labels: tuple | None = None


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """One map to draw.

    Args:
        values: Float array `(rows, columns)`.
        scale: What its colors mean: `_colors.Multiples` or `_colors.Range`.
        title: The words above it.
        caption: The smaller words below the title.
        allowed: Boolean array like `values`; False is hatched. None: all.
        rows: The `Axis` of the rows; None for a map without numbers beside it.
        columns: The `Axis` of the columns.
        square: Whether cells are squares, as positions of a picture are.
        picture: The picture that the map lies over, `(H, W, 3)` from 0 to 1, or None.
    """

    values: np.ndarray
    scale: object
    title: str = ""
    caption: str = ""
    allowed: np.ndarray | None = None
    rows: Axis | None = None
    columns: Axis | None = None
    square: bool = False
    picture: np.ndarray | None = None


def pooling(shape):
    """Returns how many rows, and how many columns, of such a map share one pixel."""
    return tuple(max(1, math.ceil(size / _LARGEST_SIDE)) for size in shape)


def cells(heat_map):
    """Returns the height and the width of one cell of a map, in pixels."""
    shape = heat_map.values.shape
    drawn = [math.ceil(n / step) for n, step in zip(shape, pooling(shape), strict=True)]
    sizes = [min(_LARGEST_CELL, max(1, round(_SIDE / n))) for n in drawn]
    if heat_map.square:
        return min(sizes), min(sizes)
    for index, axis in enumerate((heat_map.rows, heat_map.columns)):
        if _has_labels(axis, drawn[index]):
            sizes[index] = max(sizes[index], _LABELLED_CELL)
    return tuple(sizes)


def _has_labels(axis, length):
    return axis is not None and axis.labels is not None and length <= _MOST_LABELS


def draw_cells(heat_map):
    """Turns a map into codes, enlarged, without what stands beside it.

    The cell `(i, j)` fills equal pixels, without interpolation. Maps of more than 256
    rows or columns are pooled by their maximum, so that a single strong cell stays
    visible.
    """
    values = np.asarray(heat_map.values, np.float32)
    allowed = heat_map.allowed
    for axis, step in enumerate(pooling(values.shape)):
        if step > 1:
            starts = np.arange(0, values.shape[axis], step)
            if allowed is not None:
                values = np.where(allowed, values, -np.inf)
                allowed = np.logical_or.reduceat(allowed, starts, axis=axis)
            values = np.maximum.reduceat(values, starts, axis=axis)
    codes = _colors.codes(values, allowed, heat_map.scale)
    height, width = cells(heat_map)
    return _colors.hatch(np.repeat(np.repeat(codes, height, axis=0), width, axis=1))


def draw(heat_map):
    """Draws a map with a frame and its axes.

    Returns:
        The codes `(height, width)`, and the `(top, left)` corner of its cells in them.
    """
    inner = draw_cells(heat_map)
    shape = heat_map.values.shape
    sizes = [
        size / step
        for size, step in zip(cells(heat_map), pooling(shape), strict=True)
    ]
    gutters = [
        _gutter(axis, shape[n], sizes[n], along=n)
        for n, axis in enumerate((heat_map.rows, heat_map.columns))
    ]
    left = gutters[0].shape[1] + 1
    top = gutters[1].shape[0] + 1
    # Labels of narrow columns may reach beyond the last one.
    beyond = max(0, gutters[1].shape[1] - inner.shape[1] - 1)
    size = top + inner.shape[0] + 1, left + inner.shape[1] + 1 + beyond
    image = np.full(size, PAPER, np.uint8)
    frame = image[top - 1 :, left - 1 : left + inner.shape[1] + 1]
    frame[:] = _colors.FRAME
    image[top : top + inner.shape[0], left : left + inner.shape[1]] = inner
    rows = gutters[0][: image.shape[0] - top + 1]
    image[top - 1 : top - 1 + rows.shape[0], : left - 1] = rows
    image[: top - 1, left - 1 : left - 1 + gutters[1].shape[1]] = gutters[1]
    return image, (top, left)


def _gutter(axis, length, cell, along):
    """Draws the labels or numbers of an axis, `along` 0 for rows and 1 for columns."""
    if axis is None:
        return np.full((0, 0), PAPER, np.uint8)
    marks = _marks(axis, length, cell, along)
    turned = along == 1 and any(
        mask.shape[1] > room for _, mask, room in marks
    )
    if turned:
        marks = [(center, np.rot90(mask), room) for center, mask, room in marks]
    depth = max((mask.shape[1 - along] for _, mask, _ in marks), default=0) + 4
    size = int(length * cell) + 24
    canvas = np.zeros((depth, size) if along else (size, depth), np.uint8)
    reach = 0
    for center, mask, _ in marks:
        start = max(0, int(center - mask.shape[along] / 2) + 1)
        stop = min(size, start + mask.shape[along])
        reach = max(reach, stop)
        if along:  # labels of columns end above their column
            part = canvas[depth - 3 - mask.shape[0] : depth - 3, start:stop]
            np.maximum(part, mask[:, : stop - start], out=part)
        else:
            part = canvas[start:stop, depth - 3 - mask.shape[1] : depth - 3]
            np.maximum(part, mask[: stop - start], out=part)
    whole = max(reach, int(length * cell) + 2)
    return _colors.shades(canvas[:, :whole] if along else canvas[:whole])


def _marks(axis, length, cell, along):
    """Returns what is written beside an axis: `[(center, mask, room)]`."""
    if _has_labels(axis, length):
        return [
            (
                (index + 0.5) * cell,
                _fonts.draw(visible(label), _LETTERS, _LABEL_WIDTH),
                cell,
            )
            for index, label in enumerate(axis.labels)
        ]
    # Positions, as many as there is room for, at round numbers.
    least = (30 if along else 16) / cell
    step = next(
        size * 10**power
        for power in range(9)
        for size in (1, 2, 5)
        if size * 10**power >= least
    )
    first = math.ceil(axis.start / step) * step
    return [
        (
            (position - axis.start + 0.5) * cell,
            _fonts.draw(str(position), _LETTERS),
            math.inf,
        )
        for position in range(first, axis.start + length, step)
    ]


def visible(token):
    """Returns a token with its white space made visible."""
    shown = token.replace("\n", "\\n").replace("\t", "\\t")
    return f"'{shown}'" if shown != shown.strip() or not shown else shown
