"""Maps of places, drawn over the pictures that a model was given.

A map has a cell for each place of a feature map, and covers the whole picture, whatever
the sizes of both are: the cell `(i, j)` of an `(h, w)` map lies over the rows `i H / h` to
`(i + 1) H / h` of a picture of `H` rows, and over the columns likewise. Every pixel that is
drawn shows the pixel of the picture under its center.
"""

import dataclasses

import keras
import numpy as np

from keras_sam.callbacks import _heatmaps

TITLE = "over the input"


def gray_pictures(inputs):
    """The pictures among the inputs of a model, as `(N, H, W)` from 0 to 1, or None.

    They are the first input of four axes with one, three or four channels, last or first.
    Each picture is scaled from its darkest to its lightest pixel, so that any
    preprocessing will do; of several channels it is their mean (without a fourth, which
    is transparency).
    """
    for leaf in keras.tree.flatten(inputs):
        shape = tuple(leaf.shape)
        axis = next(
            (axis for axis in (-1, 1) if len(shape) == 4 and shape[axis] in (1, 3, 4)), None
        )
        if axis is None:
            continue
        values = np.moveaxis(
            np.asarray(keras.ops.convert_to_numpy(leaf), "float32"), axis, -1
        )
        gray = values[..., :3].mean(-1)
        low, high = (f(gray, axis=(1, 2), keepdims=True) for f in (np.min, np.max))
        return np.nan_to_num((gray - low) / np.where(high > low, high - low, 1))
    return None


def beside(panels):
    """Adds to each map the same once more, to become its overlay."""
    replace = dataclasses.replace
    return [
        [replace(m, title=m.title or "map"), replace(m, title=TITLE)] for (m,) in panels
    ]


def blend(codes, corners, panels, picture):
    """Turns a page of maps and their repetitions into colors, with the overlays.

    An overlay is half the color of the map and half the gray of the picture.

    Args:
        codes: The page, as `_heatmaps.page` draws it.
        corners: Of all maps on it.
        panels: What was drawn, from `beside`.
        picture: Array `(H, W)` from 0 to 1.

    Returns:
        The page as `(height, width, 3)` bytes.
    """
    page = _heatmaps.PALETTE[codes]
    for (top, left), (_, heat_map) in zip(corners[1::2], panels, strict=True):
        below = 255 * under(picture, heat_map.values.shape)[..., None]
        area = page[top : top + below.shape[0], left : left + below.shape[1]]
        area[:] = np.rint((area + below) / 2)
    return page


def under(picture, shape):
    """The picture under a map of this shape, pixel by pixel as the map is drawn."""
    step = _heatmaps.pooling(shape)
    drawn = [-(-size // step) for size in shape]
    cell = _heatmaps.cell_side(drawn)
    rows, columns = (
        np.minimum(
            ((np.arange(cells * cell) + 0.5) * step / cell * pixels / size), pixels - 1
        )
        for cells, size, pixels in zip(drawn, shape, picture.shape, strict=True)
    )
    return picture[np.ix_(rows.astype(int), columns.astype(int))]
