"""One map of attention weights, with its axes, as codes of the palette of `_colors`."""

import dataclasses
import math

import numpy as np

from keras_sam.callbacks import _colors, _fonts
from keras_sam.callbacks._colors import PAPER

# A map is pooled until it has at most so many cells on each side.
LARGEST_SIDE = 256
# And enlarged until each side has about so many pixels.
_SIDE = 176
_LARGEST_CELL = 40
# Cells of this size carry a label each; so many of them at most, or maps get too large.
_LABELLED_CELL = 14
_MOST_LABELS = 26
_LABEL_WIDTH = 84
_LETTERS = 11


@dataclasses.dataclass(frozen=True)
class Axis:
    """The words or numbers beside the cells of one axis.

    Args:
        labels: A label for each cell, or None for numbers at some of them.
    """

    labels: tuple | None = None


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """One map to draw.

    Args:
        values: Float array `(rows, columns)`, at most `LARGEST_SIDE` of each.
        scale: What its colors mean: `_colors.Multiples` or `_colors.Range`.
        title: The words above it.
        caption: The smaller words below the title.
        allowed: Boolean array like `values`; False is hatched. None: all.
        rows: The `Axis` of the rows; None for a map without numbers beside it.
        columns: The `Axis` of the columns.
        square: Whether cells are squares, as positions of a picture are.
        steps: How many rows and columns of the weights share a cell.
        size: How many rows and columns of the weights there are; None: a cell each.
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
    steps: tuple = (1, 1)
    size: tuple | None = None
    picture: np.ndarray | None = None


def cells(heat_map):
    """Returns the height and the width of one cell of a map, in pixels."""
    drawn = heat_map.values.shape
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

    The cell `(i, j)` fills equal pixels, without interpolation.
    """
    codes = _colors.codes(heat_map.values, heat_map.allowed, heat_map.scale)
    height, width = cells(heat_map)
    return _colors.hatch(np.repeat(np.repeat(codes, height, axis=0), width, axis=1))


def draw(heat_map):
    """Draws a map with a frame and its axes.

    Returns:
        The codes `(height, width)`, and the `(top, left)` corner of its cells in them.
    """
    inner = draw_cells(heat_map)
    sizes, steps, shape = cells(heat_map), heat_map.steps, heat_map.values.shape
    gutters = [
        _gutter(axis, shape[n] * steps[n], sizes[n] / steps[n], along=n)
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
    turned = along == 1 and any(mask.shape[1] > room for _, mask, room in marks)
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
    return [
        ((position + 0.5) * cell, _fonts.draw(str(position), _LETTERS), math.inf)
        for position in range(0, length, step)
    ]


def visible(token):
    """Returns a token with its white space made visible."""
    shown = token.replace("\n", "\\n").replace("\t", "\\t")
    return f"'{shown}'" if shown != shown.strip() or not shown else shown
