"""Darknet's weight files: bytes to arrays and back. No Keras here.

A file is a header (three int32 version numbers and the count of images seen) and then
nothing but float32, little-endian, layer after layer in the order of the cfg.
"""

import contextlib
import dataclasses
import math
import os

import numpy as np

from keras_sam._validation import boolean, integer
from keras_sam.darknet import partial_weights, specs
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.header import Header
from keras_sam.darknet.plan import plan_network

_FLOAT = np.dtype("<f4")


@dataclasses.dataclass(frozen=True)
class Weights:
    """A weight file: its header, and the arrays of each layer that has some.

    Args:
        header: A `Header`.
        layers: By layer index, a dictionary of arrays, shaped as Darknet stores them:
            `biases`, `scales`, `mean`, `variance` and `weights`, which for a
            convolution is (filters, channels, size, size).
        parts: What a file that was cut off holds of an array: layer index, name and the
            first numbers.
        notices: What was not read, one line each.
    """

    header: Header
    layers: dict[int, dict[str, np.ndarray]]
    parts: tuple[tuple[int, str, np.ndarray], ...] = ()
    notices: tuple[str, ...] = ()

    @property
    def count(self):
        """How many floats there are."""
        arrays = [array for own in self.layers.values() for array in own.values()]
        return sum(np.size(array) for array in arrays + [part[2] for part in self.parts])


def read_weights(weights, cfg, input_shape=None, partial=False, cutoff=None):
    """Reads a weight file for a configuration.

    Args:
        weights: A path, or the bytes of a file.
        cfg: A path, text, or what `parse_cfg` returned.
        input_shape: As in `build_model`.
        partial: As in `build_model`.
        cutoff: As in `build_model`.

    Returns:
        A `Weights` with `header` and `layers`.

    Raises:
        DarknetError: If the file is not exactly as long as the configuration needs and
            `partial` is not given: the message has the number of floats that were
            expected, and the layer that they end in.

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
    plan = plan_network(cfg, input_shape)
    return read_planned_weights(weights, plan, partial, cutoff)


def read_planned_weights(weights, plan, partial=False, cutoff=None):
    """Does what `read_weights` does, for a configuration already checked."""
    cutoff = integer("cutoff", cutoff, optional=True)
    if cutoff is not None and cutoff < 0:
        raise DarknetError(f"`cutoff` must be at least 0. Received: cutoff={cutoff}")
    partial = boolean("partial", partial) or cutoff is not None
    if isinstance(weights, Weights):
        if cutoff is not None:
            weights = _before(weights, cutoff)
        _check_blocks(weights, plan, partial)
        return weights
    if isinstance(weights, (bytes, bytearray, memoryview)):
        file = _Bytes(memoryview(weights).cast("B"))
    elif isinstance(weights, (str, os.PathLike)):
        file = _File(os.fsdecode(weights))
    else:
        raise DarknetError(
            "weights are a path, bytes, or what `read_weights` returned. Received: "
            f"{type(weights).__name__}"
        )
    if not partial:
        # Before a large file is read, its size must be right.
        partial_weights.check_size(file.size, plan, file.source)
    blocks = [block for block in plan.blocks() if cutoff is None or block[0].index < cutoff]
    count = sum(math.prod(shape) for _, _, shape in blocks)
    values = file.read(min(count, file.size // _FLOAT.itemsize))
    layers, parts = _split(values.astype(np.float32, copy=False), blocks, file.header)
    weights = Weights(file.header, layers, tuple(parts))
    if partial:
        notices = partial_weights.notices(weights, plan, file.size, cutoff)
        weights = dataclasses.replace(weights, notices=tuple(notices))
    return weights


def suspect_weights(weights, plan):
    """Returns a notice for each array that can only give NaN, as damaged files do.

    Darknet loads such a file, too, so it is no error.
    """
    notices = []
    for layer in plan.layers:
        for name, array in weights.layers.get(layer.index, {}).items():
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
                if is_transposed(layer, name, weights.header):
                    block = block.T
                file.write(np.ascontiguousarray(block, _FLOAT).data)


class _Bytes:
    """The header and the floats of a file in memory; `size` is in bytes, after it."""

    source = None

    def __init__(self, data):
        self._data = data
        self.header = Header.from_bytes(data[:64])
        self.size = len(data) - self.header.size

    def read(self, count):
        return np.frombuffer(self._data, _FLOAT, count, self.header.size)


class _File:
    """The same for a file on disk."""

    def __init__(self, source):
        if not os.path.isfile(source):
            raise DarknetError("there is no such weight file.", source)
        self.source = source
        with self._open() as file:
            self.header = Header.from_bytes(file.read(64), source)
            self.size = os.fstat(file.fileno()).st_size - self.header.size

    def read(self, count):
        with self._open() as file:
            file.seek(self.header.size)
            return np.fromfile(file, _FLOAT, count)

    @contextlib.contextmanager
    def _open(self):
        try:
            with open(self.source, "rb") as file:
                yield file
        except OSError as error:
            raise DarknetError(f"cannot be read: {error}", self.source) from error


def _before(weights, cutoff):
    """Returns the arrays of the layers before one."""
    layers = {index: own for index, own in weights.layers.items() if index < cutoff}
    parts = tuple(part for part in weights.parts if part[0] < cutoff)
    return dataclasses.replace(weights, layers=layers, parts=parts)


def _check_blocks(weights, plan, partial):
    """Raises unless arrays that were read before fit this plan."""
    blocks = {(layer.index, name): shape for layer, name, shape in plan.blocks()}
    for index in weights.layers:
        if not any(index == own for own, _ in blocks):
            raise DarknetError(
                f"holds weights of layer {index}, which has none in this network.",
                plan.sections.source,
            )
    for index, name, values in weights.parts:
        if len(values) > math.prod(blocks.get((index, name), (0,))):
            raise DarknetError(
                f"holds {len(values)} numbers of `{name}` of layer {index}: more than "
                "this network has.",
                plan.sections.source,
            )
    for layer in plan.layers:
        arrays = weights.layers.get(layer.index, {})
        found = {name: np.shape(array) for name, array in arrays.items()}
        needed = layer.loaded_blocks
        if partial:
            needed = {name: needed[name] for name in found if name in needed}
        if found != needed:
            raise layer.section.error(
                f"needs weights of the shapes {needed}. Received: {found}"
            )


def is_transposed(layer, name, header):
    """Returns whether the file holds an array transposed: see `Header.transposed`."""
    return header.transposed and name == "weights" and isinstance(layer, specs.Connected)


def _split(values, blocks, header):
    """Returns the arrays of each layer, as views, and the part of a last one."""
    layers = {}
    end = 0
    for layer, name, shape in blocks:
        start, end = end, end + math.prod(shape)
        if end > len(values):
            part = (layer.index, name, values[start:])
            return layers, [part] if start < len(values) else []
        array = values[start:end]
        if is_transposed(layer, name, header):
            array = array.reshape(shape[::-1]).T
        layers.setdefault(layer.index, {})[name] = array.reshape(shape)
    return layers, []


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
