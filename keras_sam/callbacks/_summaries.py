"""TensorBoard summaries, built by hand, and the one event file of a run.

`tf.summary.scalar` takes most of a millisecond a call, which for twelve layers of eight
heads adds up to more than drawing them. It would also follow the `record_if` that
`keras.callbacks.TensorBoard` sets between batches.
"""

import os
import time
import unicodedata
import weakref
from typing import ClassVar

import numpy as np
from tensorboard.compat.proto.event_pb2 import Event
from tensorboard.compat.proto.summary_pb2 import (
    DATA_CLASS_BLOB_SEQUENCE,
    DATA_CLASS_SCALAR,
    DATA_CLASS_TENSOR,
    Summary,
)
from tensorboard.compat.proto.tensor_pb2 import TensorProto
from tensorboard.compat.proto.tensor_shape_pb2 import TensorShapeProto
from tensorboard.compat.proto.types_pb2 import DT_FLOAT, DT_STRING
from tensorboard.plugins.histogram import metadata as histograms
from tensorboard.plugins.image import metadata as images
from tensorboard.plugins.scalar import metadata as scalars
from tensorboard.plugins.text import metadata as texts
from tensorboard.summary.writer.event_file_writer import EventFileWriter
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
    counts, edges = np.histogram(values, bins)
    buckets = np.stack([edges[:-1], edges[1:], counts], axis=1)
    return _value(tag, make_tensor_proto(buckets), metadata, DATA_CLASS_TENSOR)


def table(tag, rows, description=""):
    """Rows of Markdown cells, for the Text dashboard."""
    metadata = texts.create_summary_metadata(None, description)
    cells = [cell.encode("utf-8", "replace") for row in rows for cell in row]
    tensor = _strings(cells, (len(rows), len(rows[0])))
    return _value(tag, tensor, metadata, DATA_CLASS_TENSOR)


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


class EventFile:
    """The open event file of a run directory, shared by all who write there.

    TensorBoard reads one growing file of a run; what a second one gets at the same time
    may never be seen. So within a process there is one for each directory.
    """

    _open: ClassVar = weakref.WeakValueDictionary()

    @classmethod
    def open(cls, directory, user):
        """Returns the file of `directory`, opened if nobody has; `user` may write."""
        key = directory if "://" in directory else os.path.realpath(directory)
        file = cls._open.get(key)
        if file is None:
            file = cls._open[key] = cls(directory)
        file._users.add(user)
        return file

    def __init__(self, directory):
        self._writer = EventFileWriter(directory)
        self._users = weakref.WeakSet()
        self._described = set()

    def write(self, values, step):
        """Writes summary values as one event, to the disk before it returns."""
        for value in values:
            # The first description of a tag is the one that counts.
            if value.tag in self._described:
                value.metadata.ClearField("summary_description")
            self._described.add(value.tag)
        summary = Summary(value=values)
        event = Event(step=step, wall_time=time.time(), summary=summary)
        try:
            self._writer.add_event(event)
            self._writer.flush()
        except Exception:
            self._forget()  # its thread is dead; the next step gets a new file
            raise

    def close(self, user):
        """Ends the writing of `user`; the last one closes the file."""
        self._users.discard(user)
        if not self._users:
            self._forget()
            self._writer.close()

    def _forget(self):
        for key in [key for key, file in self._open.items() if file is self]:
            del self._open[key]
