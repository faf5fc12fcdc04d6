"""Attention as one offline HTML page, which a notebook shows in a cell."""

import os
import tempfile

import numpy as np

from keras_sam import _validation as check
from keras_sam import _viewed
from keras_sam.recording import AttentionMaps, record_attention
from keras_sam_viewer import html, runs, steps
from keras_sam_viewer.layers import GATES

_EXAMPLES = 8
_FINE = 2**18  # weights of pairs; more have 8 bits each
_TOKENS = (
    "a list of strings, a list with one list of strings for each example, a dictionary "
    "with such lists as 'query' and 'key', or a dictionary of either by layer path"
)


def show(
    model, inputs=None, tokens=None, picture=None, path: str | os.PathLike | None = None
) -> html.Page:
    """Writes what attention layers look at as one HTML page, and shows it in a notebook.

    The page needs no server and no network: send it, or open it by a double click. In
    Jupyter and Colab, the result shows itself where it is the last value of a cell.

    Args:
        model: A model, which is called with `inputs`; or what
            `keras_sam.record_attention` recorded.
        inputs: With a model, one batch as it takes it. The page has the first eight
            examples.
        tokens: None, or the words behind the positions: a list of strings for one example,
            a list with one such list for each example; a dictionary
            `{"query": lists, "key": lists}` for cross-attention; or a dictionary of either
            by layer path. Lists may be shorter than the padded input, but not longer.
        picture: None, or what layers over a feature map look at: an array `(H, W)` or
            `(H, W, channels)`, or one for each example. With a model, `inputs` that are
            pictures are shown by themselves.
        path: The file to write; None is a new temporary one.

    Returns:
        A `keras_sam_viewer.html.Page`, with the page's `text` and `path`.

    Raises:
        ValueError: For an argument of another form, and if no attention was recorded.

    Example:

    >>> import keras, numpy as np, keras_sam
    >>> inputs = keras.Input((5, 8))
    >>> attend = keras_sam.SelfAttention(num_heads=2, causal=True)
    >>> model = keras.Model(inputs, attend(inputs))
    >>> page = keras_sam.show(
    ...     model, np.ones((1, 5, 8)), tokens="the cat sat down .".split()
    ... )
    >>> "<!doctype html>" in page.text
    True
    """
    recorded = _recorded(model, inputs)
    empty = [path for path in recorded if 0 in recorded[path].shape]
    if empty:
        found = {path: tuple(recorded[path].shape) for path in empty}
        raise ValueError(f"Weights must have an example and a position. Received: {found}")
    layers = [_viewed.layer_of(recorded, each, _EXAMPLES) for each in recorded]
    examples = max(layer.examples for layer in layers)
    words = _Words(tokens)
    missing = sorted(set(words.by_path) - set(recorded))
    if missing:
        expected = f"those of recorded layers ({', '.join(map(repr, recorded))})"
        raise ValueError(f"`tokens` must have as paths {expected}. Received: {missing}")
    words.check(recorded, layers)
    pictures = _pictures(picture, inputs, examples)
    description = _viewed.Description(
        layers, lambda each: words.of(recorded, each), pictures
    ).arguments()
    extents = _viewed.extents_of(layers)
    count = sum(layer.heads * int(np.prod(layer.shape)) for layer in layers)
    options = steps.Options(fine=count * examples <= _FINE)
    names = [f"example {i}" for i in range(examples)]
    run = _encode(layers, extents, options, {**description, "examples": names})
    text = html.make_page([run])
    if path is None:
        handle, path = tempfile.mkstemp(".html", "attention_")
        os.close(handle)
    os.makedirs(os.path.dirname(os.fspath(path)) or ".", exist_ok=True)
    with open(path, "w", encoding="utf-8") as file:
        file.write(text)
    return html.Page(text, os.fspath(path))


def _encode(layers, extents, options, description):
    """Returns the one run of a page, of the one step 0."""
    found = [
        steps.encode_layer(layer, extent, options)
        for layer, extent in zip(layers, extents, strict=True)
    ]
    blobs = {
        "meta": steps.encode_meta(layers, extents, options, **description),
        "stats/0": steps.encode_stats(found, 0),
    }
    for i, of_layer in enumerate(found):
        for j in range(len(of_layer.maps)):
            blobs[f"map/0/{i}/{j}"] = steps.encode_map(of_layer, i, j, 0)
    return runs.Run("attention", blobs)


def _recorded(model, inputs):
    """Returns the `AttentionMaps`, recorded now where a model is given."""
    if isinstance(model, AttentionMaps):
        recorded = model
    elif callable(model):
        if inputs is None:
            raise check.invalid("inputs", "one batch for the model", inputs)
        with record_attention(max_entries=_viewed.MAX_ENTRIES) as recorded:
            model(inputs, training=False)
    else:
        expected = "a model, or what `record_attention` recorded"
        raise check.invalid("model", expected, model)
    if not recorded:
        raise ValueError(
            "`model` must have at least one attention layer, and be called outside of "
            f"compiled functions. Received: model={model!r}"
        )
    return recorded


def _pictures(picture, inputs, examples):
    if picture is None:
        return None if inputs is None else _viewed.pictures_of(inputs, examples)
    if isinstance(picture, list | tuple):
        given = [np.asarray(each) for each in picture]
    else:
        array = np.atleast_1d(picture)
        is_one = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
        given = [array] if is_one else list(array)
    if not given or any(each.ndim not in (2, 3) or not each.size for each in given):
        expected = "an array (H, W) or (H, W, channels), or one for each example"
        shapes = [each.shape for each in given]
        raise check.invalid("picture", expected, shapes)
    return [_viewed.encode_picture(each) for each in given[:examples]]


class _Words:
    """Tokens as given, by layer path or for all layers of a kind."""

    def __init__(self, tokens):
        is_pair = isinstance(tokens, dict) and set(tokens) == {"query", "key"}
        self._all, self.by_path = None, {}
        if isinstance(tokens, dict) and not is_pair:
            self.by_path = {path: _pair(each) for path, each in tokens.items()}
        elif tokens is not None:
            self._all = _pair(tokens)

    def of(self, recorded, path):
        """Returns lists of the queries and of the keys of a layer, or None."""
        if path in self.by_path:
            return self.by_path[path]
        details = recorded.details[path]
        if self._all is None or details.kind not in ("self", "cross", "selective"):
            return None
        same = self._all[0] is self._all[1]
        if details.are_features or details.key_grid is not None:
            return None
        return self._all if same == (details.kind != "cross") else None

    def check(self, recorded, layers):
        """Raises where words have no position, or no layer."""
        found = [(layer, self.of(recorded, layer.path)) for layer in layers]
        if self._all is not None and all(pair is None for _, pair in found):
            kinds = {layer.path: layer.kind for layer in layers}
            expected = (
                "those of a recorded layer: lists are for self-attention over one axis, a "
                "dictionary with 'query' and 'key' is for cross-attention. Layers are "
                f"{kinds}"
            )
            raise check.invalid("tokens", expected, self._all)
        for layer, pair in found:
            if pair is None or layer.kind in GATES:
                continue
            sizes = layer.shape if layer.is_pairs else (layer.shape[-1],) * 2
            for side, lists, size in zip(("query", "key"), pair, sizes, strict=True):
                longest = max(map(len, lists))
                if longest > size:
                    raise ValueError(
                        f"`tokens` must be at most as many as the positions of the layer "
                        f"{layer.path!r}, {size} on the {side} side (give tokens by layer "
                        f"path for layers that differ). Received: {longest}"
                    )


def _pair(tokens):
    if isinstance(tokens, dict):
        if set(tokens) != {"query", "key"}:
            raise check.invalid("tokens", _TOKENS, tokens)
        return _lists(tokens["query"]), _lists(tokens["key"])
    lists = _lists(tokens)
    return lists, lists


def _lists(tokens):
    sequence = list | tuple | np.ndarray
    if isinstance(tokens, sequence) and len(tokens):
        if all(isinstance(token, str) for token in tokens):
            return [list(tokens)]
        if all(
            isinstance(each, sequence) and all(isinstance(token, str) for token in each)
            for each in tokens
        ):
            return [list(each) for each in tokens]
    raise check.invalid("tokens", _TOKENS, tokens)
