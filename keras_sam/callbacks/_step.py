"""What one step writes: the scalars, pictures and tables of all layers."""

import math

import keras
import numpy as np

from keras_sam.callbacks import (
    _pages,
    _panels,
    _pictures,
    _scalars,
    _summaries,
    _tables,
)
from keras_sam.callbacks._heatmaps import LARGEST_SIDE
from keras_sam.callbacks._survey import survey
from keras_sam.callbacks._tokens import labels_of, tokens_for
from keras_sam_viewer.layers import Layer

_ABOUT_IMAGE = (
    "One picture for each example. Colors of pairs and parts are multiples of uniform "
    "attention (weight times the number of allowed keys), on a logarithmic scale: 1x is "
    "what a key gets when all are alike. Gates are drawn from 0 to 1, and once more "
    "between their smallest and largest value. A maximum leaves out rows with one allowed "
    "key, whose weight is always 1. Over the input, a veil is clear where weight is. "
    "Letters that no font of the machine has are boxes; Text has the words."
)
_ABOUT_TABLE = (
    "The keys with the largest weights, with their positions: {}. At most "
    f"{_tables.MOST_ROWS} queries, those that stand out most from uniform attention."
)
_ABOUT_PARTS = "The tokens with the largest weights, and the weights of all."


class Step:
    """The attention of a model at one step, ready to be written.

    Args:
        callback: The `AttentionTensorBoard`, for its options.
        maps: The `AttentionMaps`.
        failed: A function of what was skipped and of the error.

    Attributes:
        statistics: Those of each layer, `{tag: {name: (of layer, of heads)}}`.
    """

    def __init__(self, callback, maps, failed):
        self._options, self._failed = callback, failed
        self._layers = {}
        self.statistics = {}
        for path, tag in _summaries.tags_for(maps).items():
            self._guard(path, self._read, path, tag, maps)
        for path in set(callback.tokens) - {None} - set(maps):
            listed = ", ".join(map(repr, maps)) or "none"
            error = ValueError(f"the model calls no such layer, but {listed}")
            failed(f"the tokens of the layer {path!r}", error)

    def _guard(self, path, function, *arguments):
        """Calls a function; what fails of one layer leaves the others as they are."""
        try:
            return function(*arguments)
        except Exception as error:
            self._failed(f"part of the layer {path!r}", error)

    def _read(self, path, tag, maps):
        layer = layer_of(maps, path)
        found = survey(layer, self._options.max_examples, LARGEST_SIDE)
        self.statistics[tag] = _scalars.of_layer(found, layer.is_gate)
        pair = tokens_for(self._options.tokens, path, maps.details[path])
        self._layers[tag] = layer, found, pair
        if not found.is_finite:
            error = ValueError("some weights are not finite numbers")
            self._failed(f"rows without numbers of the layer {path!r}", error)

    def scalars(self):
        """Returns the scalars and histograms of all layers, by run."""
        runs = {}
        for tag, found in self.statistics.items():
            for run, values in _scalars.summaries(
                self._options._prefix, tag, found
            ).items():
                runs.setdefault(run, []).extend(values)
        if self._options.write_histograms:
            for tag, (layer, _, _) in self._layers.items():
                value = self._guard(layer.path, _histogram, tag, layer)
                if value is not None:
                    runs.setdefault("", []).append(value)
        return runs

    def layout(self):
        """Returns the categories and charts of the Custom Scalars dashboard."""
        return _scalars.categories(self._options._prefix, self.statistics)

    def examples(self):
        """Returns the pictures and tables of all layers."""
        values = []
        pictures = None
        if self._options.write_images:
            pictures = self._guard("pictures", _pictures.find, self._options.inputs)
        for tag, (layer, found, pair) in self._layers.items():
            if self._options.write_images:
                drawn = self._guard(
                    layer.path, self._image, tag, layer, found, pair, pictures
                )
                values += [drawn] if drawn is not None else []
            if pair is not None:
                values += (
                    self._guard(layer.path, self._tables, tag, layer, found, pair) or []
                )
        return values

    def _examples_of(self, layer):
        return range(min(self._options.max_examples, layer.examples))

    def _image(self, tag, layer, found, pair, pictures):
        # Of another number when a layer is called inside `TimeDistributed`.
        if pictures is not None and len(pictures) != layer.examples:
            pictures = None
        pngs, sizes = [], []
        for example in self._examples_of(layer):
            picture = None if pictures is None else pictures[example]
            labels = labels_of(pair, example)
            page = _panels.page(layer, found, example, labels, picture)
            pixels, _ = _pages.draw(page)
            pngs.append(_pages.encode_png(pixels))
            sizes.append(pixels.shape[:2])
        name = f"{tag}/attention/image"
        return _summaries.image(name, pngs, sizes[0], _ABOUT_IMAGE)

    def _tables(self, tag, layer, found, pair):
        name = f"{tag}/attention/tokens"
        lengths = layer.shape if layer.is_pairs else (math.inf, layer.shape[0])
        labels = [labels_of(pair, n, lengths) for n in self._examples_of(layer)]
        if not layer.is_pairs:
            parts = [layer.parts(n)[0] for n in self._examples_of(layer)]
            rows = _tables.of_parts(parts, [keys for _, keys in labels])
            return [_summaries.table(name, rows, _ABOUT_PARTS)]
        about = _ABOUT_TABLE.format("the mean over the heads")
        tables = [_summaries.table(name, _tables.attended(found.maps, labels), about)]
        if self._options.per_head and layer.heads > 1:
            for head in range(layer.heads):
                rows = _tables.attended(found.maps, labels, head)
                about = _ABOUT_TABLE.format(f"head {head}")
                tables.append(_summaries.table(f"{name}/head_{head}", rows, about))
        return tables


def layer_of(maps, path):
    """Returns the recorded attention of a layer as the viewer takes it."""
    weights, details = maps[path], maps.details[path]
    if not hasattr(weights, "rows"):
        weights = np.asarray(keras.ops.convert_to_numpy(weights), np.float32)
    allowed = maps.allowed.get(path)
    if allowed is not None and not hasattr(allowed, "rows"):
        allowed = np.asarray(keras.ops.convert_to_numpy(allowed), bool)
    return Layer(
        path,
        details.kind,
        weights,
        allowed,
        details.query_grid,
        details.key_grid,
        details.are_features,
        only_numbers=False,  # what is not finite is drawn, and said
    )


def _histogram(tag, layer):
    """Returns the histogram of the weights that are not masked."""
    if layer.is_pairs:
        values = [
            rows.weights[np.broadcast_to(rows.multiples >= 0, rows.weights.shape)]
            for blocks in layer.rows()
            for rows in blocks
        ]
    elif layer.is_gate:
        values = [np.asarray(layer.weights).ravel()]
    else:
        parts = [layer.parts(example) for example in range(layer.examples)]
        values = [w if m is None else w[np.broadcast_to(m, w.shape)] for w, m in parts]
    about = "The weights that are not masked."
    values = np.concatenate([np.ravel(each) for each in values])
    return _summaries.histogram(f"{tag}/attention/histogram", values, about)
