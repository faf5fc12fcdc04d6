"""The header of a weight file. No Keras here."""

import dataclasses
import struct

from keras_sam.darknet.errors import DarknetError

_VERSION = struct.Struct("<3i")
_TRANSPOSED = 1000  # versions above store the matrices of [connected] transposed


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
    def transposed(self):
        """Whether matrices of `[connected]` are stored input by input."""
        return self.major > _TRANSPOSED or self.minor > _TRANSPOSED

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
        largest = 2 * _TRANSPOSED
        if not (0 <= header.major <= largest and 0 <= header.minor <= largest):
            raise DarknetError(
                f"is no weight file of Darknet's{_kind(data)}: its version would be "
                f"{version}.",
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


def _kind(data):
    """Returns what a file is that is no weight file, as far as its begin tells."""
    begin = bytes(data).lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if begin.startswith((b"<!doctype", b"<html", b"<?xml", b"<head")):
        return " but text, an HTML page: the download went wrong"
    if begin.startswith(b"version https://"):
        return " but text, a pointer of Git LFS: the file itself was not fetched"
    if begin and all(byte < 127 and (byte > 31 or byte in b"\t\r\n") for byte in begin):
        return " but text"
    return ""
