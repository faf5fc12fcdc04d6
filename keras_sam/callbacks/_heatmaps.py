"""From attention weights to a PNG, with NumPy and zlib alone.

A picture is a 2-D array of one-byte codes into one palette: the color map first, then
the few colors of the page around it. Palette pictures are a third of the size of RGB
ones and compress several times faster.
"""

import dataclasses
import math
import struct
import textwrap
import zlib

import numpy as np

from keras_sam.callbacks import _font
from keras_sam.callbacks._viridis import VIRIDIS

# Codes 0 to LEVELS - 1 are viridis; the rest of the palette is the page.
LEVELS = 252
PAPER, INK, MASKED, NOT_A_NUMBER = range(LEVELS, 256)
PALETTE = np.concatenate(
    [
        VIRIDIS[np.rint(np.linspace(0, 255, LEVELS)).astype(int)],
        np.array([[255, 255, 255], [45, 45, 45], [190, 190, 190], [214, 39, 40]]),
    ]
).astype(np.uint8)

# A map is enlarged or pooled until its longer side has about so many pixels.
_SIDE = 160
_LARGEST_SIDE = 256
_LARGEST_CELL = 32
_GAP = 10


@dataclasses.dataclass(frozen=True)
class HeatMap:
    """One map to draw.

    Args:
        values: Float array `(rows, columns)`.
        title: The words above it.
        allowed: Boolean array like `values`; False is drawn gray. None: all.
    """

    values: np.ndarray
    title: str = ""
    allowed: np.ndarray | None = None


def pooling(shape):
    """How many rows and columns of a map of this shape share one pixel."""
    return max(1, math.ceil(max(shape) / _LARGEST_SIDE))


def cell_side(shape):
    """How many pixels one cell of a map of this shape has on each side."""
    return min(_LARGEST_CELL, max(1, int(_SIDE / max(shape) + 0.5)))


def draw(heat_map, cell=None):
    """Turns a map into codes, scaled by its own maximum and enlarged.

    The cell `(i, j)` fills `cell x cell` equal pixels, without interpolation. Maps of
    more than 256 rows or columns are pooled by their maximum, so that a single bright
    cell stays visible.

    Args:
        heat_map: A `HeatMap`.
        cell: Pixels on each side of a cell; None for what suits its size.

    Returns:
        The codes, `(height, width)`, and the maximum that has the last color.
    """
    values = np.asarray(heat_map.values, np.float32)
    allowed = heat_map.allowed
    step = pooling(values.shape)
    if step > 1:
        values = _pool(np.maximum, values, step)
        allowed = None if allowed is None else _pool(np.logical_or, allowed, step)
    visible = values if allowed is None else values[allowed]
    finite = visible[np.isfinite(visible)]
    top = float(finite.max()) if finite.size else 0.0
    codes = np.zeros(values.shape, np.uint8)
    with np.errstate(invalid="ignore", over="ignore"):
        shares = np.clip(values / top, 0, 1) if top > 0 else np.zeros_like(values)
    known = np.isfinite(values)
    codes[known] = np.rint(shares[known] * (LEVELS - 1))
    codes[~known] = NOT_A_NUMBER
    if allowed is not None:
        codes[~allowed] = MASKED
    return enlarge(codes, cell or cell_side(codes.shape)), top


def _pool(function, values, step):
    for axis in (0, 1):
        starts = np.arange(0, values.shape[axis], step)
        values = function.reduceat(values, starts, axis=axis)
    return values


def enlarge(codes, factor):
    """Repeats every pixel `factor` times in both directions."""
    return np.repeat(np.repeat(codes, factor, axis=0), factor, axis=1)


def text(words, scale):
    """The codes of a line of dark text on the page."""
    return np.where(_font.render(words, scale), INK, PAPER).astype(np.uint8)


def columns_for(count):
    """How many panels stand beside each other: about a square, few empty places."""
    least = math.ceil(math.sqrt(count))
    return min(range(least, 2 * least + 1), key=lambda n: (-count % n, n))


def page(panels, note):
    """Draws panels into one picture above a color scale and a note.

    Args:
        panels: A list with one list of `HeatMap`s for each panel: those that belong
            side by side, such as the two of a head.
        note: A line of text, such as what rows and columns are.

    Returns:
        The codes of the picture, and the `(top, left)` corner of every map, in order.
    """
    columns = columns_for(len(panels))
    drawn = [[(m.title, *draw(m)) for m in heat_maps] for heat_maps in panels]
    widths = [sum(codes.shape[1] + _GAP for _, codes, _ in maps) for maps in drawn]
    # TensorBoard shows pictures in cards of 340 pixels: wide ones need larger letters.
    scale = min(4, max(2, round(columns * max(widths) / 260)))
    blocks = [_panel(maps, scale) for maps in drawn]
    height = max(codes.shape[0] for codes, _ in blocks) + 2 * _GAP
    width = max(codes.shape[1] for codes, _ in blocks) + 2 * _GAP
    masked = any((codes == MASKED).any() for codes, _ in blocks)
    footer = _footer(note, masked, columns * width, scale)
    grid_height = math.ceil(len(panels) / columns) * height
    size = (
        _GAP + grid_height + footer.shape[0] + _GAP,
        _GAP + max(columns * width, footer.shape[1] + _GAP),
    )
    canvas = np.full(size, PAPER, np.uint8)
    corners = []
    for index, (codes, inner) in enumerate(blocks):
        top = _GAP + index // columns * height
        left = _GAP + index % columns * width
        canvas[top : top + codes.shape[0], left : left + codes.shape[1]] = codes
        corners += [(top + y, left + x) for y, x in inner]
    canvas[_GAP + grid_height : -_GAP, _GAP : _GAP + footer.shape[1]] = footer
    return canvas, corners


def _panel(maps, scale):
    """Puts the maps of a panel side by side, each below its title and maximum."""
    height = max(codes.shape[0] for _, codes, _ in maps)
    pieces, corners, left = [], [], 0
    for title, codes, maximum in maps:
        caption = _lines([title, f"max {maximum:<5.3g}"], scale)
        # A strip or a small map beside a tall one sits in the middle.
        top = caption.shape[0] + 2 * scale + (height - codes.shape[0]) // 2
        width = max(codes.shape[1], caption.shape[1])
        size = caption.shape[0] + 2 * scale + height, width + _GAP
        piece = np.full(size, PAPER, np.uint8)
        piece[: caption.shape[0], : caption.shape[1]] = caption
        piece[top : top + codes.shape[0], : codes.shape[1]] = codes
        corners.append((top, left))
        pieces.append(piece)
        left += size[1]
    return np.hstack(pieces)[:, :-_GAP], corners


def _footer(note, masked, width, scale):
    """The color scale, the gray of cells without weight if any, and the note."""
    height = _font.HEIGHT * scale
    bar = np.tile(np.arange(0, LEVELS, 2, np.uint8), (height, 1))
    gap = np.full((height, 3 * scale), PAPER, np.uint8)
    legend = [text("0", scale), gap, bar, gap, text("max", scale)]
    if masked:
        gray = np.full((height, height), MASKED, np.uint8)
        legend += [gap, gap, gray, gap, text("no weight", scale)]
    letters = max(12, width // ((_font.WIDTH + 1) * scale))
    return _stack([np.hstack(legend), _lines(textwrap.wrap(note, letters), scale)])


def _lines(lines, scale):
    return _stack([text(line, scale) for line in lines if line])


def _stack(blocks):
    """Puts blocks below each other, aligned to the left."""
    blocks = [block for block in blocks if block.size]
    width = max((block.shape[1] for block in blocks), default=0)
    rows = [
        np.pad(b, ((0, 6), (0, width - b.shape[1])), constant_values=PAPER) for b in blocks
    ]
    return np.vstack(rows)[:-6] if rows else np.zeros((0, 0), np.uint8)


def encode_png(codes):
    """Encodes codes as a PNG with the module's palette, or colors as one without.

    Args:
        codes: Bytes `(height, width)`, or red, green and blue, `(height, width, 3)`.

    Reference: RFC 2083.
    """
    height, width = codes.shape[:2]
    kind = 3 if codes.ndim == 2 else 2
    header = struct.pack(">IIBBBBB", width, height, 8, kind, 0, 0, 0)
    # Every line begins with its filter; none suits palettes best.
    lines = np.pad(codes.reshape(height, -1), ((0, 0), (1, 0)))
    chunks = [
        (b"IHDR", header),
        (b"PLTE", PALETTE.tobytes()),  # without a palette, a suggestion
        (b"IDAT", zlib.compress(lines.tobytes(), 3)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + _checksum(kind + data)
        for kind, data in chunks
    )


def _checksum(data):
    return struct.pack(">I", zlib.crc32(data))
