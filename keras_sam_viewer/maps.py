"""The record of one map: the weights of one layer, one example and one step."""

import numpy as np

from keras_sam_viewer import codes
from keras_sam_viewer.pooling import MaximumPool
from keras_sam_viewer.records import RecordError, unpack

# A head with more pairs keeps chosen rows, the largest weights and an overview only.
LARGEST_WHOLE = 2**20
# So does a layer with more pairs in all heads: a record has to fit into memory.
LARGEST_LAYER = 2**26
CHOSEN_ROWS = 64
TOP_KEYS = 16
OVERVIEW = 512
_PIECE = 64


def code_of(heads, shape, fine=False):
    """Returns the code of a map of pairs: "sqrt8", "uint16" or "sparse"."""
    pairs = int(np.prod(shape))
    if pairs > LARGEST_WHOLE or heads * pairs > LARGEST_LAYER:
        return "sparse"
    return "uint16" if fine else "sqrt8"


class WholeMap:
    """All weights of pairs of one example, from blocks of rows.

    Args:
        shape: The sizes `(H, T, S)`.
        code: "sqrt8" or "uint16".
        levels: The largest code of "sqrt8".
    """

    def __init__(self, shape, code, levels=codes.LEVELS):
        self._shape, self._code, self._levels = shape, code, levels
        self._largest, self._codes, self._keys, self._bits = [], [], [], []
        self._masks = False

    def add(self, rows):
        """Takes the next block of `Rows`."""
        if self._code == "sqrt8":
            largest, coded = codes.encode_roots(rows.weights, self._levels)
            self._largest.append(largest)
            self._codes.append(coded)
        else:
            self._codes.append(rows.weights)
        self._keys.append(rows.keys.astype(np.uint32))
        allowed = rows.allowed
        if allowed is None:
            allowed = np.ones((1, *rows.weights.shape[1:]), bool)
        self._masks |= rows.allowed is not None
        self._bits.append(codes.pack_bits(allowed))

    def result(self, query_length, key_length):
        """Returns attributes and arrays of the record."""
        arrays = {"codes": np.concatenate(self._codes, 1)}
        attributes = {"code": self._code}
        if self._code == "sqrt8":
            attributes["levels"] = self._levels
            arrays = {"largest": np.concatenate(self._largest, 1), **arrays}
        else:
            arrays["range"], arrays["codes"] = codes.encode_range(arrays["codes"])
        arrays["keys"] = keys = _joined(self._keys)
        inside = query_length, key_length
        if self._masks and (keys[:, : inside[0]] != inside[1]).any():
            arrays["allowed"] = _joined(self._bits)
        return attributes, arrays


def _joined(parts):
    """Joins blocks of rows, some of which may be the same for all heads."""
    heads = max(len(part) for part in parts)
    return np.concatenate(
        [np.broadcast_to(part, (heads, *part.shape[1:])) for part in parts], 1
    )


class SparseMap:
    """What is kept of the pairs of one long example, from blocks of rows.

    Exact rows of evenly spaced queries, the largest weights of every row, the weight
    that each key receives, and an overview by maxima.

    Args:
        shape: The sizes `(H, T, S)`.
        query_length: The query rows that are not padding.
        key_length: The keys that are not padding.
        levels: The largest code of the exact rows.
    """

    def __init__(self, shape, query_length, key_length, levels=codes.LEVELS):
        heads, _, keys = shape
        self._levels = levels
        count = min(CHOSEN_ROWS, query_length)
        chosen = np.linspace(0, max(0, query_length - 1), count)
        self._chosen = np.unique(np.rint(chosen)).astype(int)
        self._top = min(TOP_KEYS, keys)
        self._stride = max(1, -(-max(query_length, key_length) // OVERVIEW))
        self._overview = MaximumPool(
            heads, query_length, key_length, self._stride, self._stride
        )
        self._received = np.zeros((heads, keys))
        self._largest, self._codes, self._keys = [], [], []
        self._top_keys, self._top_weights = [], []

    def add(self, rows):
        """Takes the next block of `Rows`."""
        weights = rows.weights
        stop = rows.start + weights.shape[1]
        here = self._chosen[(self._chosen >= rows.start) & (self._chosen < stop)]
        largest, coded = codes.encode_roots(weights[:, here - rows.start], self._levels)
        self._largest.append(largest)
        self._codes.append(coded)
        self._keys.append(rows.keys.astype(np.uint32))
        top, values = _largest(weights, self._top)
        self._top_keys.append(top.astype(np.uint32))
        self._top_weights.append(values)
        self._received += weights.sum(1, dtype=np.float64)
        self._overview.add(rows)

    def result(self, query_length, key_length):
        """Returns attributes and arrays of the record."""
        attributes = {"code": "sparse", "levels": self._levels, "stride": self._stride}
        return attributes, {
            "rows": self._chosen.astype(np.uint32),
            "row_largest": np.concatenate(self._largest, 1),
            "row_codes": np.concatenate(self._codes, 1),
            "top_keys": np.concatenate(self._top_keys, 1),
            "top_weights": np.concatenate(self._top_weights, 1),
            "overview": codes.encode_octaves(self._overview.values),
            "received": self._received.astype(np.float32),
            "keys": _joined(self._keys),
        }


def _largest(weights, count):
    """Returns the indices and values of the largest weights of each row, descending.

    The rows are cut into pieces. The largest weights are in those pieces that have the
    largest maxima, which is much less to look through.
    """
    *leading, keys = weights.shape
    pieces = -(-keys // _PIECE)
    padded = weights
    if keys % _PIECE:
        width = [(0, 0)] * len(leading) + [(0, pieces * _PIECE - keys)]
        padded = np.pad(weights, width, constant_values=-1)
    padded = padded.reshape(*leading, pieces, _PIECE)
    chosen = min(count, pieces)
    best = np.argpartition(padded.max(-1), pieces - chosen, axis=-1)[..., -chosen:]
    found = np.take_along_axis(padded, best[..., None], -2)
    where = best[..., None] * _PIECE + np.arange(_PIECE)
    found, where = (x.reshape(*leading, chosen * _PIECE) for x in (found, where))
    top = np.argpartition(found, chosen * _PIECE - count, axis=-1)[..., -count:]
    values = np.take_along_axis(found, top, -1)
    order = np.argsort(-values, axis=-1, kind="stable")
    top = np.take_along_axis(top, order, -1)
    return np.take_along_axis(where, top, -1), np.take_along_axis(values, order, -1)


def part_map(weights, allowed):
    """Returns attributes and arrays of selective attention `(H, T)`."""
    ranges, coded = codes.encode_range(weights)
    arrays = {"range": ranges, "codes": coded}
    if allowed is None:
        arrays["keys"] = np.full((1, 1), weights.shape[1], np.uint32)
    else:
        arrays["keys"] = allowed.sum(1, keepdims=True).astype(np.uint32)
        if not allowed[:, : arrays["keys"].max()].all():
            arrays["allowed"] = codes.pack_bits(allowed)[:, None]
    return {"code": "uint16"}, arrays


def gate_map(gate):
    """Returns attributes and arrays of the gates of one example."""
    ranges, coded = codes.encode_range(gate[None])
    return {"code": "uint16"}, {"range": ranges, "codes": coded}


def read_map(blob):
    """Returns the weights and the allowed pairs of the record of a whole map.

    Returns:
        The attributes, the weights `(H, ...)` as float32, and booleans that broadcast to
        them, or None where the record has none.

    Raises:
        RecordError: For a record that cannot be read, or that has no whole map.
    """
    attributes, arrays = unpack(blob)
    coded = _array(arrays, "codes", None)
    if not coded.ndim:
        raise RecordError("This record has no map of a known shape.")
    if attributes.get("code") == "sqrt8":
        levels = attributes.get("levels")
        if not isinstance(levels, int) or not 1 <= levels <= 255:
            raise RecordError("This record does not tell the levels of its codes.")
        largest = _array(arrays, "largest", coded.shape[:-1])
        weights = codes.decode_roots(largest, coded, levels)
    elif attributes.get("code") == "uint16":
        weights = codes.decode_range(_array(arrays, "range", (len(coded), 2)), coded)
    else:
        raise RecordError("This record has no whole map.")
    allowed = None
    if "allowed" in arrays:
        length = coded.shape[-1]
        bits = arrays["allowed"]
        if bits.dtype != np.uint8 or bits.ndim < 2 or bits.shape[-1] != -(-length // 8):
            raise RecordError("This record has a mask that does not fit its map.")
        allowed = codes.unpack_bits(bits, length)
    return attributes, weights, allowed


def _array(arrays, name, shape):
    if name not in arrays or (shape is not None and arrays[name].shape != shape):
        raise RecordError(f"This record has no array {name!r} of the expected shape.")
    return arrays[name]
