"""The container of the viewer's records: named arrays and attributes in a gzip blob.

`docs/viewer_records.md` describes the format; `static/records.js` reads the same bytes.
"""

import json
import struct
import zlib

import numpy as np

VERSION = 1
MAGIC = b"KSAM"
LARGEST = 256 * 2**20  # bytes of a record after inflating
DTYPES = {"f4": "<f4", "u4": "<u4", "u2": "<u2", "u1": "|u1"}

_GZIP = 31  # window bits of zlib, for a stream with a header of gzip
_MEMORY = 9  # the level that is fastest
_SMALLEST_GZIP = 18
_CHUNK = 2**20
_MAX_ARRAYS = 100_000
_MAX_AXES = 8


class RecordError(Exception):
    """A record that cannot be read. Its text is one sentence for the reader."""


def deflate(data, strategy=zlib.Z_DEFAULT_STRATEGY):
    """Returns bytes as a gzip blob; equal bytes give equal blobs."""
    compressor = zlib.compressobj(1, zlib.DEFLATED, _GZIP, _MEMORY, strategy)
    return compressor.compress(data) + compressor.flush()


def inflate(blob, largest=LARGEST):
    """Returns the bytes in a gzip blob of one member.

    Args:
        blob: Bytes.
        largest: More bytes than this are refused before they take any memory.

    Raises:
        RecordError: For anything else.
    """
    return b"".join(_inflated(blob, largest))


def check_blob(blob, largest=LARGEST):
    """Refuses, with a `RecordError`, what `inflate` refuses, and keeps nothing of it."""
    for _ in _inflated(blob, largest):
        pass


def _inflated(blob, largest):
    blob = bytes(blob)
    if len(blob) < _SMALLEST_GZIP:
        raise RecordError("This record is cut short.")
    if blob[:2] != b"\x1f\x8b":
        raise RecordError("This record is not compressed with gzip.")
    (claimed,) = struct.unpack("<I", blob[-4:])
    # No byte of deflate becomes more than 1032.
    if claimed > min(largest, 1032 * len(blob)):
        raise RecordError("This record is too large, or cut short.")
    inflater = zlib.decompressobj(_GZIP)
    rest, total = blob, 0
    try:
        while not inflater.eof:
            part = inflater.decompress(rest, _CHUNK)
            rest = inflater.unconsumed_tail
            total += len(part)
            if total > claimed:
                raise RecordError("This record is larger than it says.")
            if not part and not rest and not inflater.eof:
                raise RecordError("This record is cut short.")
            yield part
    except zlib.error:
        raise RecordError("This record is damaged.") from None
    if inflater.unused_data or total != claimed:
        raise RecordError("This record is damaged.")


def pack_json(value):
    """Returns a JSON value as a blob."""
    return deflate(_json(value))


def unpack_json(blob):
    """Returns the JSON object in a blob, or raises `RecordError`."""
    return _parse(inflate(blob))


def pack(attributes, arrays):
    """Returns attributes and arrays as a blob.

    Args:
        attributes: A dictionary of JSON values; `"v"` and `"arrays"` are taken.
        arrays: Arrays by name, of type float32, uint32, uint16 or uint8.
    """
    described, parts = [], []
    for name, array in arrays.items():
        array = np.asarray(array)
        code = f"{array.dtype.kind}{array.dtype.itemsize}"
        if code not in DTYPES:
            expected = "float32, uint32, uint16 or uint8"
            raise TypeError(f"`{name}` must be of type {expected}. Received: {array.dtype}")
        described.append({"name": name, "dtype": code, "shape": list(array.shape)})
        data = np.ascontiguousarray(array, DTYPES[code]).tobytes()
        parts.append(data)
        parts.append(bytes(-len(data) % 4))
    header = _json({"v": VERSION, "arrays": described, **attributes})
    header += b" " * (-len(header) % 4)
    data = b"".join([MAGIC, struct.pack("<I", len(header)), header, *parts])
    # Weights hold no words to find again: runs of one code (masks, and what is far below
    # uniform) are all. This is 10 to 20 % smaller than a search, and faster.
    return deflate(data, zlib.Z_RLE)


def unpack(blob):
    """Returns the attributes and the arrays of a blob, or raises `RecordError`."""
    data = inflate(blob)
    if len(data) < 8:
        raise RecordError("This record is cut short.")
    if data[:4] != MAGIC:
        raise RecordError("This record is not one of keras_sam.")
    (length,) = struct.unpack("<I", data[4:8])
    if length % 4 or 8 + length > len(data):
        raise RecordError("This record is cut short.")
    header = _parse(data[8 : 8 + length])
    described = header.pop("arrays", None)
    if not isinstance(described, list) or len(described) > _MAX_ARRAYS:
        raise RecordError("This record does not list its arrays.")
    arrays, offset = {}, 8 + length
    for each in described:
        name, dtype, shape = _described(each)
        count = 1
        for size in shape:
            count *= size
        size = count * dtype.itemsize
        if name in arrays:
            raise RecordError("This record has two arrays of one name.")
        if offset + size > len(data):
            raise RecordError("This record is cut short.")
        arrays[name] = np.frombuffer(data, dtype, count, offset).reshape(shape)
        offset += size + -size % 4
    if offset != len(data):
        raise RecordError("This record has another length than it says.")
    return header, arrays


def _described(each):
    """Returns the name, dtype and shape of an array, from its entry in the header."""
    if not isinstance(each, dict):
        raise RecordError("This record does not describe its arrays.")
    name, dtype, shape = each.get("name"), each.get("dtype"), each.get("shape")
    fits = (
        isinstance(name, str)
        and isinstance(dtype, str)
        and dtype in DTYPES
        and isinstance(shape, list)
        and len(shape) <= _MAX_AXES
        and all(is_count(size) for size in shape)
    )
    if not fits:
        raise RecordError("This record does not describe its arrays.")
    return name, np.dtype(DTYPES[dtype]), tuple(shape)


def is_count(value):
    """Returns whether a JSON value is an integer from 0 to 2^31 - 1."""
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31


def _json(value):
    # Characters of other scripts as they are; a half of a surrogate pair cannot be.
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _parse(data):
    try:
        value = json.loads(data.decode("utf-8"))
    except (ValueError, RecursionError):
        raise RecordError("This record is damaged.") from None
    if not isinstance(value, dict):
        raise RecordError("This record is damaged.")
    if value.pop("v", None) != VERSION:
        raise RecordError("This record is of another version of keras_sam.")
    return value
