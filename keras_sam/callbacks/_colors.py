"""Colors of attention maps: from weights to codes of one palette.

A map is a 2-D array of one-byte codes. The first `LEVELS` codes are a ramp from nearly
white over blue to nearly black, whose lightness falls evenly. The others are the colors
of the page around it.
"""

import dataclasses

import numpy as np

LEVELS = 224
# Shades from paper to ink, for letters with smooth edges.
_SHADES = 16
PAPER = LEVELS
INK = LEVELS + _SHADES - 1
MASKED, HATCH, NOT_A_NUMBER, FRAME = range(INK + 1, INK + 5)
# Uniform attention is here on the ramp, so that what is above it has most of the colors.
_UNIFORM = 0.16
_OCTAVES_BELOW = 3
_LARGEST_OCTAVE = 8

_STOPS = (0, 0.16, 0.34, 0.52, 0.70, 0.86, 1)
_COLORS = ("ffffff", "e9eef6", "b5d0ee", "6ea5e0", "3a6fc4", "37338f", "190b3d")
# From linear sRGB to the cone responses of OKLab, and from their roots to OKLab.
_TO_CONES = np.array(
    [
        [0.4122214708, 0.5363325363, 0.0514459929],
        [0.2119034982, 0.6806995451, 0.1073969566],
        [0.0883024619, 0.2817188376, 0.6299787005],
    ]
)
_TO_LAB = np.array(
    [
        [0.2104542553, 0.7936177850, -0.0040720468],
        [1.9779984951, -2.4285922050, 0.4505937099],
        [0.0259040371, 0.7827717662, -0.8086757660],
    ]
)


def _ramp(levels):
    """Returns the colors of the ramp, `(levels, 3)` bytes, interpolated in OKLab."""
    colors = np.array([list(bytes.fromhex(color)) for color in _COLORS]) / 255
    linear = np.where(colors <= 0.04045, colors / 12.92, ((colors + 0.055) / 1.055) ** 2.4)
    lab = np.cbrt(linear @ _TO_CONES.T) @ _TO_LAB.T
    at = np.linspace(0, 1, levels)
    lab = np.stack([np.interp(at, _STOPS, axis) for axis in lab.T], axis=-1)
    linear = (lab @ np.linalg.inv(_TO_LAB).T) ** 3 @ np.linalg.inv(_TO_CONES).T
    linear = np.clip(linear, 0, 1)
    colors = np.where(
        linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055
    )
    return np.rint(255 * np.clip(colors, 0, 1))


PALETTE = np.concatenate(
    [
        _ramp(LEVELS),
        np.linspace([255, 255, 255], [32, 36, 44], _SHADES),
        [[246, 246, 247], [205, 207, 211], [210, 40, 40], [200, 204, 211]],
    ]
).astype(np.uint8)


def shades(mask):
    """Turns the coverage of letters, 0 to 255, into codes from paper to ink."""
    return (PAPER + np.rint(mask / (255 / (_SHADES - 1)))).astype(np.uint8)


@dataclasses.dataclass(frozen=True)
class Multiples:
    """The scale of weights as multiples of uniform attention, in octaves.

    Args:
        keys: The largest number of keys that a row may attend to. The ramp goes from
            1/8 to the power of two that is not smaller than it, at most 256.
    """

    keys: int

    @property
    def octaves(self):
        return int(min(_LARGEST_OCTAVE, max(1, np.ceil(np.log2(max(2, self.keys))))))

    def positions(self, values):
        """Returns where on the ramp multiples of uniform are, from 0 to 1."""
        octaves = np.log2(np.maximum(values, np.float32(2.0**-20)))
        below = _UNIFORM * (octaves + _OCTAVES_BELOW) / _OCTAVES_BELOW
        above = _UNIFORM + (1 - _UNIFORM) * octaves / self.octaves
        return np.clip(np.where(octaves < 0, below, above), 0, 1)

    def ticks(self):
        """Returns the marks of the legend, `[(position, text)]`."""
        exponents = [-_OCTAVES_BELOW, 0, *range(2, self.octaves - 1, 2), self.octaves]
        texts = [f"1/{2**-n}x" if n < 0 else f"{2**n}x" for n in exponents]
        if self.keys > 2**self.octaves:
            texts[-1] += "+"
        places = self.positions(np.exp2(np.array(exponents, np.float32)))
        return list(zip(places.tolist(), texts, strict=True))


@dataclasses.dataclass(frozen=True)
class Range:
    """The scale of gates: from one number to another, evenly."""

    low: float = 0.0
    high: float = 1.0

    def positions(self, values):
        """Returns where on the ramp values are, from 0 to 1."""
        size = self.high - self.low
        if not size > 0:
            return np.full(np.shape(values), 0.5)
        return np.clip((np.asarray(values, np.float64) - self.low) / size, 0, 1)

    def ticks(self):
        """Returns the marks of the legend, `[(position, text)]`."""
        return [(0.0, number(self.low)), (1.0, number(self.high))]


def number(value):
    """Writes a number in at most three digits, without an exponent if it is not tiny."""
    return f"{value:.3f}" if 0.0995 <= abs(value) < 1 else f"{value:.3g}"


def codes(values, allowed, scale):
    """Returns the codes of values on a scale: not numbers and masked ones have their own.

    Args:
        values: Float array `(rows, columns)`.
        allowed: Boolean array like it, or None when nothing is masked.
        scale: A `Multiples` or a `Range`.
    """
    known = np.isfinite(values)
    found = np.rint(scale.positions(np.where(known, values, 0)) * (LEVELS - 1))
    found = found.astype(np.uint8)
    found[~known] = NOT_A_NUMBER
    if allowed is not None:
        found[~allowed] = MASKED
    return found


def hatch(image):
    """Draws thin diagonal lines through all pixels that are masked, in place."""
    rows, columns = np.indices(image.shape, sparse=True)
    image[((rows + columns) % 6 == 0) & (image == MASKED)] = HATCH
    return image
