"""Spatial attention: from pooled maps to one weight for each place.

::

    weights = mask * normalizer(convolution(mask * maps))
"""

import dataclasses
import functools
import itertools
import math
from collections.abc import Callable

import keras
import numpy as np
from keras import ops

from keras_sam.backend.portable import is_portable
from keras_sam.backend.precision import matmul
from keras_sam.backend.xla import on_cpu
from keras_sam.normalizers.masking import attention_weights

# How many neighbors in the last spatial axis become channels in `convolve`. Measured for
# 7 x 7 taps on CPUs with 256-bit vectors: 4 and 16 are within a tenth of it.
BLOCK = 8
# So many slices still compile quickly.
MOST_TAPS = 150


@dataclasses.dataclass(frozen=True)
class PositionWeights:
    """Weighs places by pooled maps of them: `weigh` of `pooled`.

    Args:
        normalizer: A function of float scores that works on the last axis. It gets all
            places of an example.
        dilation_rate: One integer for each spatial axis.
        finish: What comes between convolution and normalizer, or None.
    """

    normalizer: Callable
    dilation_rate: tuple
    finish: Callable | None = None

    def __call__(self, maps, parameters, mask):
        """Returns the weights, `(B, *spatial)`.

        Args:
            maps: Tensor `(B, *spatial, n)`.
            parameters: The kernel `(*kernel_size, n, 1)` of the convolution, and its bias
                `(1,)`, if it has one.
            mask: Boolean `(B, *spatial)`, or None; False is padding, which enters the
                convolution as zeros and has a weight of zero.
        """
        kernel, *bias = parameters
        scores = convolve(masked(maps, mask), kernel, self.dilation_rate)
        for offset in bias:
            scores = scores + offset
        if self.finish is not None:
            scores = self.finish(scores)
        shape = ops.shape(scores)[:-1]
        row = (shape[0], math.prod(shape[1:]))  # no -1: a batch may be empty
        flat = ops.reshape(scores, row)
        mask = None if mask is None else ops.reshape(mask, row)
        return ops.reshape(attention_weights(flat, self.normalizer, mask), shape)


def masked(maps, mask):
    """Sets the places of `maps`, `(B, *spatial, n)`, that are padding to zero."""
    if mask is None:
        return maps
    return ops.where(ops.expand_dims(mask, -1), maps, ops.zeros_like(maps))


def convolve(maps, kernel, dilation_rate):
    """Convolves a few maps into one, padded with zeros to the same size.

    What a convolution costs on a CPU is moving patches into a matrix, and with two
    channels in and one out there is little arithmetic to show for it. So `BLOCK`
    neighbors in the last spatial axis become channels, which in memory is no change at
    all, and the taps become a matrix from blocks to blocks::

        taps a b c, blocks of 4:       before        same          after
        x -> y, y_v = a x_(v-1)        0 0 0 a       b c 0 0       0 0 0 0
               + b x_v + c x_(v+1)     0 0 0 0       a b c 0       0 0 0 0
                                       0 0 0 0       0 a b c       0 0 0 0
                                       0 0 0 0       0 0 a b       c 0 0 0

    Most of it is zeros, and it still takes a fifth of the time of the plain convolution.

    An accelerator has its own reasons; see `convolve_on_accelerator`.

    Args:
        maps: Tensor `(B, *spatial, n)`.
        kernel: Tensor `(*kernel_size, n, 1)`.
        dilation_rate: One integer for each spatial axis.

    Returns:
        A tensor `(B, *spatial, 1)`.
    """
    # Exporters on PyTorch and JAX know no sizes to lay blocks out by.
    is_exported = keras.backend.backend() != "tensorflow" and is_portable()
    if is_exported or not on_cpu():
        return convolve_on_accelerator(maps, kernel, dilation_rate)
    *rest, taps, channels, _ = kernel.shape
    width = maps.shape[-2]
    block = BLOCK if width is None else max(min(BLOCK, width), 1)
    places = _tap_places(block, taps, dilation_rate[-1])
    flat = ops.reshape(kernel, (math.prod(rest), taps, channels))
    flat = ops.einsum("rtc,juvt->rjucv", flat, ops.cast(places, maps.dtype))
    kernel = ops.reshape(flat, (*rest, len(places), block * channels, block))

    *outer, length, _ = ops.shape(maps)
    blocks = (length + block - 1) // block
    if width is None or width % block:
        # The most that may be missing, cut to what is: a size may be unknown yet.
        margin = [[0, 0]] * len(outer) + [[0, block - 1], [0, 0]]
        maps = ops.pad(maps, margin)[..., : blocks * block, :]
    packed = ops.conv(
        ops.reshape(maps, (*outer, blocks, block * channels)),
        kernel,
        padding="same",
        data_format="channels_last",
        dilation_rate=(*dilation_rate[:-1], 1),
    )
    return ops.reshape(packed, (*outer, blocks * block, 1))[..., :length, :]


def convolve_on_accelerator(maps, kernel, dilation_rate):
    """`convolve`, as a product of the taps with what each place sees through them.

    cuDNN's convolutions are tuned for many channels. With one output channel, cuDNN pads
    the channels to eight, and few cores take part in the kernel's gradient, a sum over all
    positions. XLA makes one loop of the slices here, and the gradient
    of the kernel is a product of a matrix and a vector. (Not measured on a GPU yet.)
    PyTorch, which runs each slice by itself, convolves, and so do exported models.
    """
    *sizes, channels, _ = kernel.shape
    is_plain = keras.backend.backend() == "torch" or is_portable()
    if is_plain or math.prod(sizes) > MOST_TAPS:
        return ops.conv(
            maps,
            kernel,
            padding="same",
            data_format="channels_last",
            dilation_rate=dilation_rate,
        )
    shape = ops.shape(maps)
    reaches = [rate * (n - 1) for rate, n in zip(dilation_rate, sizes, strict=True)]
    margin = [(reach // 2, reach - reach // 2) for reach in reaches]
    padded = ops.pad(maps, [(0, 0), *margin, (0, 0)])
    seen = []
    for tap in itertools.product(*map(range, sizes)):
        start = (0, *(n * rate for n, rate in zip(tap, dilation_rate, strict=True)), 0)
        seen.append(ops.slice(padded, start, shape))
    seen = ops.concatenate(seen, axis=-1)  # (B, *spatial, taps * n)
    return matmul(seen, ops.reshape(kernel, (math.prod(sizes) * channels, 1)))


@functools.cache
def _tap_places(block, taps, rate):
    """Which tap leads from where in which block to where in this block.

    Returns:
        Zeros and ones, `(blocks, from, to, taps)`, for an odd number of blocks around
        the one that is written to.
    """
    reach = rate * (taps - 1)
    left = reach // 2  # of an even number of taps, one more looks to the right
    halo = -(-(reach - left) // block)
    blocks = np.arange(-halo, halo + 1).reshape(-1, 1, 1, 1) * block
    source = np.arange(block).reshape(-1, 1, 1)
    target = np.arange(block).reshape(-1, 1)
    offsets = np.arange(taps) * rate - left
    return (blocks + source - target == offsets).astype("float32")
