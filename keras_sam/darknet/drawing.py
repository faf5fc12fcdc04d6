"""Boxes on a picture, and gates beside it, with Pillow."""

import colorsys
import dataclasses
import os

import numpy as np
from PIL import Image, ImageDraw

from keras_sam.darknet.letterbox import content_size

_LEAST, _MOST = 240, 1600  # pixels of the shorter and the longer side that is drawn
_GAP = 8
_CAPTION = 16


@dataclasses.dataclass(frozen=True)
class FoundObject:
    """One detection; `box` is top, left, bottom, right as shares of the picture."""

    label: str
    number: int
    score: float
    box: tuple[float, ...]

    def describe(self, size):
        """Returns a line: label, score and the box in pixels."""
        top, left, bottom, right = self.box
        height, width = size
        pixels = (left * width, top * height, right * width, bottom * height)
        numbers = ", ".join(f"{value:.0f}" for value in pixels)
        return f"{self.label}: {self.score:.3f}  left, top, right, bottom: {numbers}"


def objects(detections, names=None):
    """Returns a `FoundObject` for each detection in the first picture."""
    boxes, scores, classes = (np.asarray(part[0]) for part in detections[:3])
    return [
        FoundObject(
            f"class {number}" if names is None else names[number],
            int(number),
            float(score),
            tuple(float(side) for side in box),
        )
        for box, score, number in zip(boxes, scores, classes, strict=True)
        if number >= 0
    ]


def draw(path, picture, found, gates, network_size, letterbox):
    """Writes a PNG: the picture with boxes, and one panel for each gate.

    Args:
        path: The file to write. A failure leaves an older one as it was.
        picture: `(H, W, C)`, from 0 to 1.
        found: A list of `FoundObject`.
        gates: By layer name, arrays `(h, w)`. Each panel goes from its least number,
            black, to its largest, white; the caption shows both.
        network_size: (height, width) of the network's input.
        letterbox: Whether the gates see grey margins, which are cut off.
    """
    height, width = picture.shape[:2]
    zoom = max(1, -(-_LEAST // min(height, width)))
    zoom = min(zoom, _MOST / max(height, width))
    size = (max(1, round(width * zoom)), max(1, round(height * zoom)))
    panels = [("", _with_boxes(_image(picture).resize(size), found))]
    for name, gate in gates.items():
        least, most = float(gate.min()), float(gate.max())
        caption = f"{name}: {least:.2f} to {most:.2f}"
        panels.append((caption, _gate_image(gate, size, picture, network_size, letterbox)))
    columns = len(panels) * (size[0] + _GAP) - _GAP
    canvas = Image.new("RGB", (columns, size[1] + _CAPTION), "white")
    for position, (caption, panel) in enumerate(panels):
        left = position * (size[0] + _GAP)
        canvas.paste(panel, (left, _CAPTION))
        ImageDraw.Draw(canvas).text((left + 2, 2), caption, fill="black")
    temporary = f"{path}.{os.getpid()}.part"
    try:
        canvas.save(temporary, "png")
        os.replace(temporary, path)
    finally:
        if os.path.exists(temporary):
            os.unlink(temporary)


def _image(picture):
    """Returns an RGB image of numbers from 0 to 1; of other channels their mean."""
    picture = np.asarray(picture)
    if picture.shape[-1] == 4:
        picture = picture[..., :3]
    elif picture.shape[-1] != 3:
        picture = picture.mean(axis=-1, keepdims=True).repeat(3, axis=-1)
    return Image.fromarray((picture * 255).round().clip(0, 255).astype("uint8"))


def _with_boxes(image, found):
    pen = ImageDraw.Draw(image)
    for one in reversed(found):  # the best ones on top
        top, left, bottom, right = one.box
        # Boxes may reach beyond the picture; the nearest pixels are drawn then.
        left, right = (_pixel(side, image.width) for side in (left, right))
        top, bottom = (_pixel(side, image.height) for side in (top, bottom))
        color = _color(one.number)
        pen.rectangle(
            (left, top, max(left, right), max(top, bottom)), outline=color, width=2
        )
        text = f"{one.label} {one.score:.2f}".encode("latin-1", "replace").decode("latin-1")
        extent = pen.textbbox((left + 2, max(0, top - 12)), text)
        pen.rectangle(extent, fill=color)
        pen.text(extent[:2], text, fill="black")
    return image


def _pixel(share, length):
    share = share if np.isfinite(share) else 0.0
    return int(min(max(share * length, 0), length - 1))


def _color(number):
    red, green, blue = colorsys.hsv_to_rgb(number * 0.381966 % 1, 0.6, 1)
    return tuple(round(255 * part) for part in (red, green, blue))


def _gate_image(gate, size, picture, network_size, letterbox):
    """Returns the part of a gate that sees the picture, from black to white."""
    gate = np.where(np.isfinite(gate), gate, 0)  # NaN has no color
    span = max(float(gate.max() - gate.min()), 1e-12)
    image = _image(((gate - gate.min()) / span)[..., None])
    height, width = network_size
    inner = content_size(picture.shape[:2], network_size) if letterbox else network_size
    top, left = ((own - part) / 2 for own, part in zip(network_size, inner, strict=True))
    box = (left, top, left + inner[1], top + inner[0])
    scale = (image.width / width, image.height / height) * 2
    box = tuple(side * factor for side, factor in zip(box, scale, strict=True))
    return image.resize(size, Image.Resampling.NEAREST, box=box)
