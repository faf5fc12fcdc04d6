"""Letters for pictures, drawn with Pillow.

Pillow brings a font of its own that has the letters of English only. Words with other
letters are drawn with the first font of the machine that has them all. Where there is
none, each missing letter is a box; the tables of the Text dashboard show the word.
"""

import functools

import numpy as np
from PIL import Image, ImageDraw, ImageFont

# Found by name in the font folders of Linux, macOS and Windows.
_OTHERS = (
    "DejaVuSans.ttf",
    "NotoSans-Regular.ttf",
    "Arial Unicode.ttf",
    "arial.ttf",
    "NotoSansCJK-Regular.ttc",
    "Hiragino Sans GB.ttc",
    "msyh.ttc",
    "malgun.ttf",
)
_MISSING = "\U0010fffe"  # no font has it


@functools.cache
def _font(name, size):
    """Returns a font, Pillow's own for None; None where there is no such font."""
    if name is None:
        return ImageFont.load_default(size)
    try:
        return ImageFont.truetype(name, size)
    except OSError:
        return None


@functools.cache
def _has(name, letter):
    """Returns whether a font has a letter, or draws the box for missing ones."""
    font = _font(name, 16)
    if font is None:
        return False
    boxes = [font.getmask(each) for each in (letter, _MISSING)]
    return boxes[0].size != boxes[1].size or bytes(boxes[0]) != bytes(boxes[1])


@functools.lru_cache(4096)
def _font_for(text):
    letters = {letter for letter in text if not letter.isspace()}
    names = (None, *_OTHERS)
    found = (name for name in names if all(_has(name, letter) for letter in letters))
    most = max(names, key=lambda name: sum(_has(name, letter) for letter in letters))
    return next(found, most)


@functools.lru_cache(4096)
def draw(text, size, width=None):
    """Draws a line of text.

    Args:
        text: The letters, of any script.
        size: The height of the letters in pixels, about.
        width: The largest width in pixels; longer texts end with dots. None: any.

    Returns:
        How much of each pixel is covered, bytes `(height, width)`. All texts of one
        font and size are equally high.
    """
    font = _font(_font_for(text), size)
    if width is not None and font.getlength(text) > width:
        while text and font.getlength(text + "…") > width:
            text = text[:-1]
        text += "…"
    ascent, descent = _font(None, size).getmetrics()
    columns = max(1, int(np.ceil(font.getlength(text))) + 1)
    image = Image.new("L", (columns, ascent + descent))
    ImageDraw.Draw(image).text((0, ascent), text, fill=255, font=font, anchor="ls")
    return np.asarray(image)
