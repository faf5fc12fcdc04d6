"""Darknet's weight files: bytes to arrays and back. No Keras here.

A file is a header (three int32 version numbers and the count of images seen) and then
nothing but float32, little-endian, layer after layer in the order of the cfg.
"""

import contextlib
import dataclasses
import math
import os
import struct

import numpy as np

from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.plan import plan_network

_VERSION = struct.Struct("<3i")
_FLOAT = np.dtype("<f4")


@dataclasses.dataclass(frozen=True)
class Header:
    """The beginning of a weight file; the default is what Darknet itself writes."""

    major: int = 0
    minor: int = 2
    revision: int = 5
    seen: int = 0

    @property
    def _seen(self):
        """From version 0.2 on, the images seen are counted in 64 bits."""
        return struct.Struct("<Q" if self.major * 10 + self.minor >= 2 else "<I")

    @property
    def size(self):
        """The number of bytes."""
        return _VERSION.size + self._seen.size

    def to_bytes(self):
        """Returns the header as Darknet writes it."""
        version = _VERSION.pack(self.major, self.minor, self.revision)
        return version + self._seen.pack(self.seen)

    @classmethod
    def from_bytes(cls, data, source=None):
        """Reads the header that `data` begins with."""
        if len(data) < _VERSION.size:
            raise DarknetError(f"ends inside the header, after {len(data)} bytes.", source)
        header = cls(*_VERSION.unpack_from(data))
        version = f"{header.major}.{header.minor}.{header.revision}"
        if not (0 <= header.major <= 1000 and 0 <= header.minor <= 1000):
            raise DarknetError(
                f"is no weight file of Darknet's: its version would be {version}.",
                source,
            )
        if len(data) < header.size:
            raise DarknetError(
                f"ends inside the header, after {len(data)} bytes; a header of version "
                f"{version} has {header.size}.",
                source,
            )
        (seen,) = header._seen.unpack_from(data, _VERSION.size)
        return dataclasses.replace(header, seen=seen)


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weight file: its header, and the arrays of each layer that has some.

    Args:
        header: A `Header`.
        layers: By layer index, a dictionary of arrays, shaped as Darknet stores them:
            `biases`, `scales`, `mean`, `variance` and `weights`, which for a
            convolution is (filters, channels, size, size).
    """

    header: Header
    layers: dict[int, dict[str, np.ndarray]]


def read_weights(weights, cfg, input_shape=None):
    """Reads a weight file for a configuration.

    Args:
        weights: A path, or the bytes of a file.
        cfg: A path, text, or what `parse_cfg` returned.
        input_shape: As in `build_model`.

    Returns:
        A `Weights` with `header` and `layers`.

    Raises:
        DarknetError: If the file is not exactly as long as the configuration needs:
            it says how many floats were expected, and which layer they end in.

    Example:

    >>> import numpy as np
    >>> from keras_sam import darknet
    >>> cfg = "[net]\\nwidth=4\\nheight=4\\nchannels=3\\n[conv]\\nfilters=2\\n"
    >>> data = darknet.Header(seen=64).to_bytes() + np.arange(8, dtype="<f4").tobytes()
    >>> weights = darknet.read_weights(data, cfg)
    >>> weights.header
    Header(major=0, minor=2, revision=5, seen=64)
    >>> weights.layers[0]["biases"], weights.layers[0]["weights"].shape
    (array([0., 1.], dtype=float32), (2, 3, 1, 1))
    """
    return read_planned_weights(weights, plan_network(cfg, input_shape))


def read_planned_weights(weights, plan):
    """Does what `read_weights` does, for a configuration already checked."""
    if isinstance(weights, Weights):
        _check_blocks(weights, plan)
        return weights
    if isinstance(weights, (bytes, bytearray, memoryview)):
        data = memoryview(weights).cast("B")
        header = Header.from_bytes(data[:20])
        _check_size(len(data) - header.size, plan, None)
        values = np.frombuffer(data, _FLOAT, plan.weight_count, header.size)
    elif isinstance(weights, (str, os.PathLike)):
        header, values = _read_file(os.fsdecode(weights), plan)
    else:
        raise DarknetError(
            "weights are a path, bytes, or what `read_weights` returned. Received: "
            f"{type(weights).__name__}"
        )
    return Weights(header, _split(values.astype(np.float32, copy=False), plan))


def suspect_weights(weights, plan):
    """Returns a notice for each array that can only give NaN, as damaged files do.

    Darknet loads such a file, too, so it is no error.
    """
    notices = []
    for layer in plan.layers:
        for name in layer.blocks:
            array = weights.layers[layer.index][name]
            wrong = np.count_nonzero(~np.isfinite(array))
            what = "are not finite"
            if not wrong and name == "variance":
                wrong, what = np.count_nonzero(array < 0), "are negative"
            if wrong:
                notices.append(f"{layer.name}: {wrong} of {array.size} `{name}` {what}")
    return notices


def write_planned_weights(path, weights, plan):
    """Writes a weight file; a failure leaves what was there before."""
    with _replacing(path) as file:
        file.write(weights.header.to_bytes())
        for layer in plan.layers:
            for name in layer.blocks:
                block = weights.layers[layer.index][name]
                file.write(np.ascontiguousarray(block, _FLOAT).data)


def _read_file(source, plan):
    if not os.path.isfile(source):
        raise DarknetError("there is no such weight file.", source)
    try:
        with open(source, "rb") as file:
            header = Header.from_bytes(file.read(20), source)
            # Before a large file is read, its size must be right.
            _check_size(os.fstat(file.fileno()).st_size - header.size, plan, source)
            file.seek(header.size)
            return header, np.fromfile(file, _FLOAT, plan.weight_count)
    except OSError as error:
        raise DarknetError(f"cannot be read: {error}", source) from error


def _check_size(size, plan, source):
    """Raises unless `size` bytes are exactly the floats that the plan needs."""
    expected = plan.weight_count
    found, rest = divmod(size, _FLOAT.itemsize)
    if size == expected * _FLOAT.itemsize:
        return
    total = (
        f"{plan.sections.source} needs {expected} floats after the header, and there "
        f"are {found}" + (f" and {rest} bytes" if rest else "")
    )
    if found >= expected:
        left = size - expected * _FLOAT.itemsize
        raise DarknetError(f"the file is too long by {left} bytes: {total}.", source)
    end = 0
    for layer in plan.layers:
        for name, shape in layer.blocks.items():
            start, end = end, end + math.prod(shape)
            if end > found:
                raise DarknetError(
                    f"the file is too short: {total}. They end in `{name}` of "
                    f"{layer.name}, {found - start} of {end - start} floats into it.",
                    source,
                    section=layer.section.name,
                    index=layer.index,
                )


def _check_blocks(weights, plan):
    """Raises unless arrays that were read before fit this plan."""
    for layer in plan.layers:
        arrays = weights.layers.get(layer.index, {})
        found = {name: np.shape(array) for name, array in arrays.items()}
        if found != layer.blocks:
            raise layer.section.error(
                f"needs weights of the shapes {layer.blocks}. Received: {found}"
            )


def _split(values, plan):
    """Returns the arrays of each layer, as views."""
    layers = {}
    start = 0
    for layer in plan.layers:
        for name, shape in layer.blocks.items():
            end = start + math.prod(shape)
            layers.setdefault(layer.index, {})[name] = values[start:end].reshape(shape)
            start = end
    return layers


@contextlib.contextmanager
def _replacing(path):
    """Opens a file beside `path` that takes its place when all went well."""
    path = os.fsdecode(path)
    temporary = f"{path}.{os.getpid()}.part"
    try:
        with open(temporary, "wb") as file:
            yield file
        os.replace(temporary, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise
