"""What was recorded, as the viewer takes it: layers, tokens and pictures."""

import base64
import io

import keras
import numpy as np

from keras_sam import _validation as check
from keras_sam._rows import RowsOnDemand
from keras_sam._version import __version__
from keras_sam_viewer.layers import GATES, Extent, Layer

LIBRARY = f"keras_sam {__version__}"
# Weights above this are recorded as rows on demand: a few layers fit into memory then.
MAX_ENTRIES = 2**24
_LARGEST_PICTURE = 1024


class FirstExamples:
    """The first examples of `RowsOnDemand`."""

    def __init__(self, rows, examples):
        self._rows = rows
        count = min(examples, rows.shape[0])
        self.shape = (count, *rows.shape[1:])

    def rows(self, start, stop):
        return self._rows.rows(start, stop)[: self.shape[0]]


def layer_of(maps, path, examples):
    """Returns the `keras_sam_viewer.layers.Layer` of a path, of its first examples."""
    details = maps.details[path]
    weights = _first(maps[path], examples)
    if details.kind not in GATES and not 3 <= len(weights.shape) <= 4:
        raise ValueError(
            "weights must have the axes (batch, heads, queries, keys). "
            f"Received: shape={tuple(weights.shape)}"
        )
    return Layer(
        path,
        details.kind,
        weights,
        None if details.kind in GATES else _first(maps.allowed.get(path), examples),
        _grid(details.query_grid),
        _grid(details.key_grid),
        details.are_features,
    )


def _first(values, examples):
    if values is None:
        return None
    if isinstance(values, RowsOnDemand):
        return FirstExamples(values, examples)
    return np.asarray(keras.ops.convert_to_numpy(values[:examples]))


def _grid(grid):
    return None if grid is None else tuple(int(size) for size in grid)


class Description:
    """What `meta` says of a run beside its layers: tokens and pictures, each once.

    Args:
        layers: The `Layer`s.
        tokens_of: A function `(path, kind, key_grid) -> (lists of queries, lists of
            keys)`, or None for a layer without tokens.
        pictures: PNG pictures as dictionaries, one for each example, or None.
    """

    def __init__(self, layers, tokens_of, pictures):
        self._lists, self._indices = [], {}
        self._labels = [self._labels_of(layer, tokens_of(layer.path)) for layer in layers]
        self._pictures = list(pictures or ())
        self._shown = [self._shown_of(layer) for layer in layers]

    def arguments(self):
        """Returns keyword arguments of `keras_sam_viewer.steps.encode_meta`."""
        return {
            "library": LIBRARY,
            "label_lists": self._lists,
            "labels": self._labels,
            "pictures": self._pictures,
            "shown": self._shown,
        }

    def _labels_of(self, layer, pair):
        queries, keys = pair or (None, None)
        return [
            (self._index(queries, example), self._index(keys, example))
            for example in range(layer.examples)
        ]

    def _index(self, lists, example):
        if lists is None or example >= len(lists):
            return None
        words = tuple(str(word) for word in lists[example])
        if words not in self._indices:
            self._indices[words] = len(self._lists)
            self._lists.append(list(words))
        return self._indices[words]

    def _shown_of(self, layer):
        grid = layer.query_grid if layer.kind in GATES else layer.key_grid
        has_picture = layer.kind != "channel" and grid is not None and len(grid) == 2
        return [
            example if has_picture and example < len(self._pictures) else None
            for example in range(layer.examples)
        ]


def extents_of(layers):
    """Returns the `Extent` of each layer."""
    return [Extent.of(layer) for layer in layers]


def pictures_of(inputs, examples):
    """Returns the pictures among the inputs of a model as PNG, or None.

    They are the first input of four axes with one, three or four channels, last or first.
    """
    for leaf in keras.tree.flatten(inputs):
        shape = tuple(getattr(leaf, "shape", ()))
        for axis in (-1, 1):
            if len(shape) == 4 and shape[axis] in (1, 3, 4):
                values = np.asarray(keras.ops.convert_to_numpy(leaf[:examples]))
                return [encode_picture(p) for p in np.moveaxis(values, axis, -1)]
    return None


def encode_picture(values):
    """Returns a picture `(H, W)` or `(H, W, C)` as a PNG in a data URL, with its sizes.

    What is neither bytes nor from 0 to 1 is scaled from its smallest to its largest value,
    so that any preprocessing will do.
    """
    from PIL import Image

    values = np.asarray(values)
    if values.ndim == 3 and values.shape[2] not in (1, 3, 4):
        expected = "of the shape (H, W) or (H, W, 1, 3 or 4)"
        raise check.invalid("picture", expected, values.shape)
    if values.ndim == 3:
        values = values[..., 0] if values.shape[2] == 1 else values[..., :3]
    if values.dtype != np.uint8:
        values = np.nan_to_num(values.astype(np.float32))
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
        elif low >= 0 and 1 < high <= 255:
            low, high = 0.0, 255.0
        values = (values - low) * (255 / (high - low or 1))
        values = np.rint(values).astype(np.uint8)
    image = Image.fromarray(values)
    image.thumbnail((_LARGEST_PICTURE, _LARGEST_PICTURE))
    file = io.BytesIO()
    image.save(file, "png")
    url = "data:image/png;base64," + base64.b64encode(file.getvalue()).decode()
    return {"url": url, "height": image.height, "width": image.width}
