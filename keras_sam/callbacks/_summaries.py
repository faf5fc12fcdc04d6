"""TensorBoard summaries, built by hand.

`tf.summary.scalar` takes most of a millisecond a call, which for twelve layers of eight
heads adds up to more than drawing them. It would also follow the `record_if` that
`keras.callbacks.TensorBoard` sets between batches.
"""

import re
import unicodedata

import numpy as np
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.custom_scalar import metadata as layouts
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.scalar import metadata as scalars
from tensorboard.plugins.text import metadata as texts
from tensorboard.util.tensor_util import make_tensor_proto

_MARKDOWN = {ord(c): "\\" + c for c in "\\`*_{}[]()#+-.!|~"}
_MARKDOWN |= {ord("&"): "&amp;", ord("<"): "&lt;", ord(">"): "&gt;"}


def scalar(tag, value, description=""):
    """A number for the Scalars dashboard."""
    metadata = scalars.create_summary_metadata(None, description)
    tensor = TensorProto(dtype=DT_FLOAT, float_val=[value])
    return _value(tag, tensor, metadata, DATA_CLASS_SCALAR)


def image(tag, pictures, size, description=""):
    """PNG pictures of one size, `(height, width)`, for the Images dashboard."""
    metadata = images.create_summary_metadata(None, description)
    height, width = size
    tensor = _strings([str(width).encode(), str(height).encode(), *pictures])
    return _value(tag, tensor, metadata, DATA_CLASS_BLOB_SEQUENCE)


def histogram(tag, values, description="", bins=30):
    """The distribution of values, for the Histograms and Distributions dashboards."""
    metadata = histograms.create_summary_metadata(None, description)
    counts, edges = np.histogram(values[np.isfinite(values)], bins)
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    return _value(tag, make_tensor_proto(buckets), metadata, DATA_CLASS_TENSOR)


def table(tag, rows, description=""):
    """Rows of Markdown cells, for the Text dashboard."""
    metadata = texts.create_summary_metadata(None, description)
    cells = [cell.encode("utf-8", "replace") for row in rows for cell in row]
    tensor = _strings(cells, (len(rows), len(rows[0])))
    return _value(tag, tensor, metadata, DATA_CLASS_TENSOR)


def layout(categories):
    """The layout of the Custom Scalars dashboard.

    Args:
        categories: `{title: {title of a chart: tag of its lines}}`. A chart has a line
            for each run with this tag. All categories but the first are closed.
    """
    found = layout_pb2.Layout()
    for title, charts in categories.items():
        category = found.category.add(title=title, closed=bool(found.category))
        for name, tag in charts.items():
            chart = category.chart.add(title=name)
            chart.multiline.tag.append(f"^{re.escape(tag)}$")
    metadata = layouts.create_summary_metadata()
    tensor = TensorProto(dtype=DT_STRING, string_val=[found.SerializeToString()])
    tensor.tensor_shape.SetInParent()
    return _value(layouts.CONFIG_SUMMARY_TAG, tensor, metadata, DATA_CLASS_TENSOR)


def _strings(values, shape=None):
    dims = [TensorShapeProto.Dim(size=size) for size in shape or (len(values),)]
    tensor_shape = TensorShapeProto(dim=dims)
    return TensorProto(dtype=DT_STRING, tensor_shape=tensor_shape, string_val=values)


def _value(tag, tensor, metadata, data_class):
    metadata.data_class = data_class
    return Summary.Value(tag=tag, tensor=tensor, metadata=metadata)


def escape_markdown(text):
    """Makes a token look like itself in a Markdown cell."""
    visible = "".join("\N{REPLACEMENT CHARACTER}" if _is_odd(c) else c for c in text)
    return visible.translate(_MARKDOWN)


def tags_for(paths):
    """Gives every layer path a tag of its own that all of TensorBoard can read.

    Quotes, backslashes and control characters break reading through its data server.

    Args:
        paths: Layer paths, each once.

    Returns:
        A dictionary from path to tag.
    """
    tags = {}
    # Names that need no cleaning keep their tag, whoever comes first.
    cleaned = {path: _clean(path) for path in paths}
    taken = {path for path, tag in cleaned.items() if path == tag}
    for path, tag in cleaned.items():
        unique, number = tag, 1
        while unique != path and unique in taken:
            unique, number = f"{tag}_{number}", number + 1
        tags[path] = unique
        taken.add(unique)
    return tags


def _clean(path):
    return "".join("_" if c in '"\\' or _is_odd(c) else c for c in path)


def _is_odd(character):
    """Says whether a character is a control or format one, or half of a pair."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs")
