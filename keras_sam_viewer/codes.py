"""How weights become integers, and back: roots of shares, ranges and octaves."""

import numpy as np

LEVELS = 255
# An octave of a multiple of uniform has so many codes; code 1 is 1/16x or less.
_CODES_AN_OCTAVE = 16
_OCTAVES_BELOW = 4


def encode_roots(weights, levels=LEVELS):
    """Returns the largest weight of each row and codes of the roots of its shares.

    `weight = largest * (code / levels)^2`

    Args:
        weights: Non-negative float32 array `(..., S)`.
        levels: The largest code, at most 255.

    Returns:
        Arrays float32 `(...)` and uint8 `(..., S)`.
    """
    largest = weights.max(-1, initial=0).astype(np.float32)
    scale = np.where(largest > 0, largest, 1)
    scale = np.float32(levels) ** 2 / scale
    codes = weights * scale[..., None]
    np.sqrt(codes, out=codes)
    codes += np.float32(0.5)
    return largest, codes.astype(np.uint8)


def decode_roots(largest, codes, levels=LEVELS):
    """Returns the weights, float32, that `encode_roots` made codes of."""
    shares = np.square(codes.astype(np.float32) / np.float32(levels))
    return largest[..., None] * shares


def encode_range(weights, largest_code=65535, dtype=np.uint16, first=0):
    """Returns the range of each head and codes between its ends.

    `weight = low + (high - low) * (code - first) / largest_code`

    Args:
        weights: Float32 array `(H, ...)`.
        largest_code: The code of the largest weight, less `first`.
        dtype: The type of the codes.
        first: The code of the smallest weight.

    Returns:
        Arrays float32 `(H, 2)`, of the smallest and the largest weight, and codes.
    """
    flat = weights.reshape(len(weights), -1)
    if not flat.shape[1]:
        return np.zeros((len(weights), 2), np.float32), weights.astype(dtype)
    low, high = flat.min(1), flat.max(1)
    span = np.where(high > low, high - low, 1)
    shares = (flat - low[:, None]) / span[:, None]
    codes = first + np.rint(shares * np.float32(largest_code))
    return (
        np.stack([low, high], 1).astype(np.float32),
        codes.astype(dtype).reshape(weights.shape),
    )


def decode_range(ranges, codes, largest_code=65535, first=0):
    """Returns the weights, float32, that `encode_range` made codes of."""
    ranges = ranges.reshape(*ranges.shape, *(1,) * (codes.ndim - 1))
    low, high = ranges[:, 0], ranges[:, 1]
    shares = (codes.astype(np.float32) - first) / np.float32(largest_code)
    return low + (high - low) * shares


def encode_octaves(multiples):
    """Returns codes of multiples of uniform: 0 is masked, 16 more are an octave.

    `code = 1 + clip(round(16 * (log2(multiple) + 4)), 0, 254)`

    Args:
        multiples: Float32 array; negative where masked.
    """
    tiny = np.finfo(np.float32).tiny
    octaves = np.log2(np.maximum(multiples, tiny)) + _OCTAVES_BELOW
    codes = 1 + np.clip(np.rint(_CODES_AN_OCTAVE * octaves), 0, 254)
    return np.where(multiples < 0, 0, codes).astype(np.uint8)


def decode_octaves(codes):
    """Returns the multiples of uniform, float32, with -1 where masked."""
    octaves = (codes.astype(np.float32) - 1) / _CODES_AN_OCTAVE - _OCTAVES_BELOW
    return np.where(codes == 0, -1, np.exp2(octaves)).astype(np.float32)


def pack_bits(allowed):
    """Returns booleans `(..., S)` as bytes `(..., ceil(S / 8))`, the first bit highest."""
    return np.packbits(allowed, axis=-1)


def unpack_bits(packed, length):
    """Returns the booleans `(..., length)` that `pack_bits` packed."""
    return np.unpackbits(packed, axis=-1, count=length).astype(bool)
