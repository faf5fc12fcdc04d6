"""Pages: the maps of all heads of a layer in one picture, with a legend and a note."""

import dataclasses
import io
import math

import numpy as np
from PIL import Image

from keras_sam.callbacks import _colors, _fonts, _heatmaps
from keras_sam.callbacks._colors import PAPER

_GAP = 14
_LEGEND_WIDTH = 200


@dataclasses.dataclass(frozen=True)
class Page:
    """What is drawn into one picture.

    Args:
        panels: A list with one list of `HeatMap`s for each panel: those that belong
            side by side, such as the two of a head.
        note: A line of text, such as what rows and columns are.
        legends: A list of `(words, scale)`, one for each scale of the maps.
    """

    panels: list
    note: str
    legends: list


def columns_for(count, width=1):
    """Returns how many panels stand beside each other: about a square, few gaps.

    Args:
        count: The number of panels.
        width: How much wider than high a panel is.
    """
    least = min(count, max(1, math.ceil(math.sqrt(count / width))))
    return min(range(least, min(count, 2 * least) + 1), key=lambda n: (-count % n, n))


def draw(page):
    """Draws a page.

    Returns:
        The picture as bytes: codes `(height, width)`, or colors `(height, width, 3)` if
        a map lies over a picture. And the `(top, left)` corner of the cells of every
        map, in order.
    """
    bodies = [[_heatmaps.draw(heat_map) for heat_map in maps] for maps in page.panels]
    body = bodies[0]
    wide = sum(codes.shape[1] + _GAP for codes, _ in body)
    columns = columns_for(len(bodies), wide / max(c.shape[0] + 40 for c, _ in body))
    # TensorBoard shrinks pictures to its cards: wide ones need larger letters.
    letters = min(30, max(13, round(columns * wide / 36)))
    blocks = [
        _panel(maps, drawn, letters)
        for maps, drawn in zip(page.panels, bodies, strict=True)
    ]
    height = max(codes.shape[0] for codes, _ in blocks) + _GAP
    width = max(codes.shape[1] for codes, _ in blocks) + 2 * _GAP
    masked = any((codes == _colors.HATCH).any() for codes, _ in blocks)
    odd = any((codes == _colors.NOT_A_NUMBER).any() for codes, _ in blocks)
    footer = _footer(page, masked, odd, max(columns * width - _GAP, 340), letters)
    grid_height = math.ceil(len(blocks) / columns) * height
    size = (
        _GAP + grid_height + footer.shape[0] + _GAP,
        _GAP + max(columns * width - _GAP, footer.shape[1] + _GAP),
    )
    canvas = np.full(size, PAPER, np.uint8)
    corners = []
    for index, (codes, inner) in enumerate(blocks):
        top, left = _GAP + index // columns * height, _GAP + index % columns * width
        canvas[top : top + codes.shape[0], left : left + codes.shape[1]] = codes
        corners += [(top + y, left + x) for y, x in inner]
    top = _GAP + grid_height
    canvas[top : top + footer.shape[0], _GAP : _GAP + footer.shape[1]] = footer
    return _with_pictures(canvas, corners, page), corners


def _with_pictures(codes, corners, page):
    """Turns a page into colors where maps lie over pictures: a veil, clear at weights."""
    maps = [heat_map for maps in page.panels for heat_map in maps]
    if all(heat_map.picture is None for heat_map in maps):
        return codes
    colors = _colors.PALETTE[codes]
    for heat_map, (top, left) in zip(maps, corners, strict=True):
        if heat_map.picture is None:
            continue
        drawn = _heatmaps.draw_cells(heat_map)
        area = slice(top, top + drawn.shape[0]), slice(left, left + drawn.shape[1])
        below = under(heat_map, drawn.shape)
        is_level = drawn < _colors.LEVELS
        clear = 0.25 + 0.75 * np.where(is_level, drawn, 0) / (_colors.LEVELS - 1)
        clear[~is_level] = 0.1
        veiled = 255 * (1 - clear[..., None] * (1 - below))
        odd = (drawn == _colors.NOT_A_NUMBER)[..., None]
        colors[area] = np.rint(np.where(odd, colors[area], veiled)).astype(np.uint8)
    return colors


def under(heat_map, size):
    """Returns the picture under a map, pixel by pixel as the map is drawn.

    Every pixel shows the pixel of the picture under its center. The map covers the whole
    picture, whatever the sizes of both are; a last cell may hold fewer positions than
    the others, and covers as much less of the picture.

    Args:
        heat_map: A `HeatMap` with a picture.
        size: The sizes of the map as it is drawn, in pixels.
    """
    picture, indices = heat_map.picture, []
    for axis, pixels in enumerate(size):
        positions = heat_map.size[axis] if heat_map.size else heat_map.values.shape[axis]
        cell = pixels / heat_map.values.shape[axis]
        center = (np.arange(pixels) + 0.5) / cell * heat_map.steps[axis]
        at = center * picture.shape[axis] / positions
        indices.append(np.minimum(at, picture.shape[axis] - 1).astype(int))
    return picture[np.ix_(*indices)]


def _panel(maps, drawn, letters):
    """Puts the maps of a panel side by side, each below its title and caption."""
    captions = [
        _stack([_text(m.title, letters), _text(m.caption, max(11, letters * 4 // 5))])
        for m in maps
    ]
    head = max(caption.shape[0] for caption in captions) + 3
    height = max(codes.shape[0] for codes, _ in drawn)
    pieces, corners, left = [], [], 0
    for caption, (codes, (y, x)) in zip(captions, drawn, strict=True):
        # A small map beside a tall one sits in the middle.
        top = head + (height - codes.shape[0]) // 2
        width = max(codes.shape[1], caption.shape[1] + x)
        piece = np.full((head + height, width + _GAP), PAPER, np.uint8)
        piece[: caption.shape[0], x : x + caption.shape[1]] = caption
        piece[top : top + codes.shape[0], : codes.shape[1]] = codes
        corners.append((top + y, left + x))
        pieces.append(piece)
        left += width + _GAP
    return np.hstack(pieces)[:, :-_GAP], corners


def _footer(page, masked, odd, width, letters):
    """The color scales, the hatching of masked cells if any, and the note."""
    words = [_text(page.note, letters, width)]
    legends = [_legend(words, scale, letters) for words, scale in page.legends]
    keys = []
    for shown, code, name in (
        (masked, _colors.MASKED, "masked"),
        (odd, _colors.NOT_A_NUMBER, "not a finite number"),
    ):
        if shown:
            keys.append(_swatch(code, name, letters))
    return _stack([*legends, *keys, *words], gap=6)


def _swatch(code, name, letters):
    box = np.full((letters, 2 * letters), code, np.uint8)
    return _beside([_colors.hatch(box), _text(name, letters)], gap=letters // 2)


def _legend(words, scale, letters):
    """A color scale with its marks below it, and what it is of beside it."""
    width = max(_LEGEND_WIDTH, 16 * letters)
    bar = np.tile(np.linspace(0, _colors.LEVELS - 1, width).astype(np.uint8), (letters, 1))
    bar = np.pad(bar, 1, constant_values=_colors.FRAME)
    marks = np.full((letters * 5 // 4 + 6, width + letters * 3 // 2), PAPER, np.uint8)
    for position, text in scale.ticks():
        at = round(position * (width - 1)) + 1
        is_uniform = text == "1x"
        # The mark of uniform attention cuts the bar.
        if is_uniform:
            bar[:, at - 1 : at + 1] = _colors.INK
        marks[: 8 if is_uniform else 5, at] = _colors.INK
        label = _text(text, letters * 4 // 5 + 1)
        left = min(max(0, at - label.shape[1] // 2), marks.shape[1] - label.shape[1])
        part = marks[7 : 7 + label.shape[0], left : left + label.shape[1]]
        part[:] = label[: part.shape[0]]
    scale_bar = _stack([bar, marks], gap=0)
    return _beside([scale_bar, _text(words, letters)], gap=letters // 2)


def _text(words, letters, width=None):
    """Lines of text, broken where they are wider than `width`."""
    lines = [""]
    for word in words.split(" "):
        longer = f"{lines[-1]} {word}".strip()
        if width and lines[-1] and _fonts.draw(longer, letters).shape[1] > width:
            lines.append(word)
        else:
            lines[-1] = longer
    drawn = [_colors.shades(_fonts.draw(line, letters)) for line in lines if line]
    return _stack(drawn, gap=0)


def _stack(blocks, gap=0):
    """Puts blocks below each other, aligned to the left."""
    return _join(blocks, gap, axis=0)


def _beside(blocks, gap=0):
    """Puts blocks beside each other, aligned to the top."""
    return _join(blocks, gap, axis=1)


def _join(blocks, gap, axis):
    blocks = [block for block in blocks if block.size]
    if not blocks:
        return np.zeros((0, 0), np.uint8)
    size = max(block.shape[1 - axis] for block in blocks)
    padded = []
    for block in blocks:
        missing = [(0, gap), (0, size - block.shape[1 - axis])]
        padded.append(np.pad(block, missing[:: 1 - 2 * axis], constant_values=PAPER))
    return np.concatenate(padded, axis).take(
        range(sum(b.shape[axis] for b in padded) - gap), axis
    )


def encode_png(pixels):
    """Encodes codes `(height, width)` or colors `(height, width, 3)` as a PNG."""
    image = Image.fromarray(pixels)
    if pixels.ndim == 2:
        image.putpalette(_colors.PALETTE.tobytes())
    buffer = io.BytesIO()
    image.save(buffer, "PNG", compress_level=4)
    return buffer.getvalue()
