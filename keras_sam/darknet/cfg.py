"""Darknet's configuration format: text to sections. No Keras here.

The rules are Darknet's own: white space is removed everywhere in a line; a line that
begins with `#` or `;` is a comment; `[name]` opens a section; everything else is an
option, `key=value`.
"""

import dataclasses
import functools
import os

from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.geometry import MAX_LAYERS

MAX_BYTES = 2**20  # ten times the largest published configuration

_ALIASES = {
    "conv": "convolutional",
    "max": "maxpool",
    "avg": "avgpool",
    "local_avg": "local_avgpool",
    "network": "net",
    "conn": "connected",
    "soft": "softmax",
}
_REMOVE_WHITE_SPACE = str.maketrans("", "", " \t\r\n")


@dataclasses.dataclass(frozen=True)
class Option:
    """One line of a section; `value` is None where the line gives none."""

    key: str
    value: str | None
    line: int


@dataclasses.dataclass(frozen=True)
class Section:
    """One section: its name (aliases written out), its line and its options.

    `index` counts layers from 0; it is None for `[net]`.
    """

    name: str
    index: int | None
    line: int
    options: tuple[Option, ...]
    source: str

    def error(self, message, option=None):
        """Returns a `DarknetError` that names this section, and an option of it."""
        line = self.line
        for given in self.options:
            if given.key == option:
                line = given.line
                break
        return DarknetError(message, self.source, line, self.name, self.index, option)


@dataclasses.dataclass(frozen=True)
class Sections:
    """A parsed configuration: a sequence of sections, `[net]` first.

    Args:
        text: The configuration as it was written.
        source: The file that it came from, or `"<cfg>"`.
        sections: The sections in order.
    """

    text: str
    source: str
    sections: tuple[Section, ...] = dataclasses.field(repr=False)

    def __len__(self):
        return len(self.sections)

    def __iter__(self):
        return iter(self.sections)

    def __getitem__(self, index):
        return self.sections[index]


def parse_cfg(cfg):
    r"""Parses a Darknet configuration.

    Args:
        cfg: A path, or the text itself: a string that holds a line break or begins
            with `[` is text. Bytes are text, too.

    Returns:
        The sections, in order, `[net]` first: a sequence of objects with `name`,
        `index`, `line` and `options`.

    Example:

    >>> from keras_sam import darknet
    >>> net, gate = darknet.parse_cfg("[net]\n width = 8 # pixels\n[sam]\nfrom=-2")
    >>> net.options
    (Option(key='width', value='8#pixels', line=2),)
    >>> gate.name, gate.index, gate.line
    ('sam', 0, 3)

    Raises:
        DarknetError: If there is nothing to read, if it is no text, or if its first
            section is not `[net]`.
    """
    if isinstance(cfg, Sections):
        return cfg
    return parse_text(*_read(cfg))


def parse_text(text, source):
    """Does what `parse_cfg` does, for text already read from `source`."""
    fail = functools.partial(DarknetError, source=source)
    if len(text) > MAX_BYTES:
        raise fail(f"is larger than a configuration can be: over {MAX_BYTES} bytes.")
    if "\0" in text:
        line = text[: text.index("\0")].count("\n") + 1
        raise fail(
            "is not text: it holds a zero byte. UTF-16 must be saved as UTF-8.", line=line
        )
    sections = []
    for number, line in enumerate(text.removeprefix("\ufeff").split("\n"), start=1):
        line = line.translate(_REMOVE_WHITE_SPACE)
        if not line or line[0] in "#;":
            continue
        if line[0] == "[":
            sections.append((_section_name(line, number, fail), number, []))
            if len(sections) > MAX_LAYERS + 1:
                raise fail(f"has more than {MAX_LAYERS} layers.", line=number)
        elif not sections:
            raise fail(
                f"stands before the first section, which must be [net]: {line[:40]!r}.",
                line=number,
            )
        else:
            key, _, value = line.partition("=")
            sections[-1][2].append(Option(key, value or None, number))
    if not sections:
        raise fail("holds no section; the first must be [net].")
    if sections[0][0] != "net":
        raise fail(
            f"must begin with [net]. Received: [{sections[0][0]}]", line=sections[0][1]
        )
    return Sections(
        text,
        source,
        tuple(
            Section(name, index - 1 if index else None, line, tuple(options), source)
            for index, (name, line, options) in enumerate(sections)
        ),
    )


def _section_name(line, number, fail):
    if not line.endswith("]"):
        raise fail(
            f"a section is `[name]` alone on its line. Received: {line[:40]!r}",
            line=number,
        )
    name = line[1:-1]
    return _ALIASES.get(name, name)


def _read(cfg):
    """Returns text and its source, from a path, text or bytes."""
    if isinstance(cfg, (bytes, bytearray)):
        return _decode(bytes(cfg)), "<cfg>"
    if isinstance(cfg, str) and ("\n" in cfg or cfg.lstrip().startswith("[")):
        return cfg, "<cfg>"
    if not isinstance(cfg, (str, os.PathLike)):
        raise DarknetError(
            "a configuration is a path, text, bytes, or what `parse_cfg` returned. "
            f"Received: {type(cfg).__name__}"
        )
    source = os.fsdecode(cfg)
    if not os.path.isfile(source):
        raise DarknetError(f"there is no such file, and it is no cfg text: {cfg!r}.")
    try:
        with open(source, "rb") as file:
            data = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise DarknetError(f"cannot be read: {error}", source) from error
    return _decode(data), source


def _decode(data):
    """Returns text of any encoding that keeps ASCII: only comments need another."""
    try:
        # A cut in the middle of a character must not hide that the file is too large.
        return data.decode("utf-8", "ignore" if len(data) > MAX_BYTES else "strict")
    except UnicodeDecodeError:
        return data.decode("latin-1")  # byte by byte, as Darknet reads
