"""Gates over feature maps: the mathematics, written once.

::

    pooled = [max over C; mean over C]                         (B, *spatial, n)
    weights = mask * normalizer(convolution(mask * pooled))    (B, *spatial, 1)
    output = features * weights

The features, the only large tensor, are read once for each pooling and once for the
product. Everything between works on maps of one channel, which is where a convolution as
it stands wastes most of the time: see `convolve`.
"""

import functools
import math

import keras
import numpy as np
from keras import ops

from keras_sam.ops.attention import attention_weights
from keras_sam.ops.compiled import compiled, vjp

POOLINGS = {"max": ops.max, "mean": ops.mean}

# How many neighbors in the last spatial axis become channels in `convolve`. Measured for
# 7 x 7 taps on CPUs with 256-bit vectors: 4 and 16 are within a tenth of it.
BLOCK = 8


def gate_places(
    features,
    kernel,
    bias=None,
    mask=None,
    *,
    pooling,
    normalizer,
    dilation_rate,
    channel_axis=-1,
    finish=None,
):
    """Weighs every place of `features` by what its channels say, pooled.

    Args:
        features: Tensor `(B, *spatial, C)`, or with the channels at axis 1.
        kernel: Tensor `(*kernel_size, n, 1)`, for `n` poolings.
        bias: Tensor `(1,)`, or None.
        mask: Boolean `(B, *spatial)`, or None; False is padding, which enters the
            convolution as zeros and has a weight of zero.
        pooling: Names from `POOLINGS`, in the order of the kernel's channels.
        normalizer: A function of float scores that works on the last axis.
        dilation_rate: One integer for each spatial axis.
        channel_axis: -1 or 1.
        finish: What comes between convolution and normalizer, or None.

    Returns:
        The output, like `features`, and the weights `(B, *spatial, 1)`.
    """
    maps = pool_channels(features, pooling, channel_axis)
    weights = place_weights(maps, kernel, bias, mask, normalizer, dilation_rate, finish)
    return ops.multiply(features, ops.moveaxis(weights, -1, channel_axis)), weights


def gate_places_in_training(features, kernel, bias=None, mask=None, **options):
    """`gate_places` with a gradient that goes through the features twice, on TensorFlow.

    Differentiated step by step, it makes some ten tensors of their size. Here XLA fuses
    the steps of the gradient; all that is kept for it is the features and the pooled
    maps. The price is compiling, once for each size of the features.

    `options` are those of `gate_places`, but for `finish`. On JAX and PyTorch compiling
    is up to the caller, and the steps are differentiated.
    """
    if keras.backend.backend() != "tensorflow":
        return gate_places(features, kernel, bias, mask, **options)
    forward, backward = _passes(**options)

    @ops.custom_gradient
    def run(features, *parameters):
        # Or an eager TensorFlow differentiates the compiled functions all the same.
        features, *parameters = map(ops.stop_gradient, (features, *parameters))
        output, weights, maps = forward(features, parameters, mask)

        def gradient(*upstream):
            return backward(features, maps, parameters, mask, upstream)

        return (output, weights), gradient

    return run(features, kernel) if bias is None else run(features, kernel, bias)


@functools.lru_cache(maxsize=64)
def _passes(**options):
    """The forward and the backward pass, compiled once for all layers."""
    return (
        compiled(functools.partial(_forward, **options)),
        compiled(functools.partial(_backward, **options)),
    )


def _forward(
    features, parameters, mask, *, pooling, normalizer, dilation_rate, channel_axis
):
    maps = pool_channels(features, pooling, channel_axis)
    weights = place_weights(maps, *_pair(parameters), mask, normalizer, dilation_rate)
    output = ops.multiply(features, ops.moveaxis(weights, -1, channel_axis))
    return output, weights, maps


def _backward(
    features,
    maps,
    parameters,
    mask,
    upstream,
    *,
    pooling,
    normalizer,
    dilation_rate,
    channel_axis,
):
    """The gradients of the features and of the parameters."""

    def weigh(inputs):
        maps, *parameters = inputs
        return place_weights(maps, *_pair(parameters), mask, normalizer, dilation_rate)

    upstream, of_weights = upstream
    product = ops.sum(ops.multiply(upstream, features), axis=channel_axis)
    of_weights = ops.add(of_weights, ops.expand_dims(product, -1))
    inputs = (maps, *parameters)
    of_maps, *of_parameters = vjp(weigh, inputs, of_weights)
    weights = ops.moveaxis(weigh(inputs), -1, channel_axis)
    of_features = ops.multiply(upstream, weights)
    for i, name in enumerate(pooling):
        share = ops.expand_dims(of_maps[..., i], channel_axis)
        if name == "max":
            # As everywhere, channels that share the maximum share its gradient.
            largest = ops.equal(features, ops.expand_dims(maps[..., i], channel_axis))
            largest = ops.cast(largest, features.dtype)
            count = ops.sum(largest, axis=channel_axis, keepdims=True)
            share = ops.multiply(largest, ops.divide(share, count))
        else:
            share = ops.divide(share, features.shape[channel_axis])
        of_features = ops.add(of_features, share)
    return of_features, *of_parameters


def _pair(parameters):
    """Kernel and bias, where there may be a kernel alone."""
    return (*parameters, None)[:2]


def pool_channels(features, pooling, channel_axis=-1):
    """Pools the channels of each place into maps `(B, *spatial, n)`."""
    pooled = [POOLINGS[name](features, axis=channel_axis) for name in pooling]
    return ops.stack(pooled, axis=-1)


def place_weights(maps, kernel, bias, mask, normalizer, dilation_rate, finish=None):
    """Turns pooled maps `(B, *spatial, n)` into weights `(B, *spatial, 1)`."""
    scores = convolve(masked(maps, mask), kernel, dilation_rate)
    if bias is not None:
        scores = ops.add(scores, bias)
    if finish is not None:
        scores = finish(scores)
    return normalize_places(scores, normalizer, mask)


def masked(maps, mask):
    """Sets the places of `maps`, `(B, *spatial, n)`, that are padding to zero."""
    if mask is None:
        return maps
    return ops.where(ops.expand_dims(mask, -1), maps, ops.zeros_like(maps))


def normalize_places(scores, normalizer, mask=None):
    """Normalizes scores `(B, *spatial, 1)` over all places of an example."""
    shape = ops.shape(scores)
    flat = ops.reshape(scores, (shape[0], -1))
    mask = None if mask is None else ops.reshape(mask, (shape[0], -1))
    return ops.reshape(attention_weights(flat, normalizer, mask), shape)


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

    Args:
        maps: Tensor `(B, *spatial, n)`.
        kernel: Tensor `(*kernel_size, n, 1)`.
        dilation_rate: One integer for each spatial axis.

    Returns:
        A tensor `(B, *spatial, 1)`.
    """
    *rest, taps, channels, _ = kernel.shape
    width = maps.shape[-2]
    block = BLOCK if width is None else min(BLOCK, width)
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


def pool_places(features, mask, pooling, channel_axis):
    """Pools all places of each channel that are not padding.

    Args:
        features: Tensor `(B, *spatial, C)`, or with the channels at axis 1.
        mask: Boolean `(B, *spatial)`, or None. Without any place the result is zero.
        pooling: Names from `POOLINGS`.
        channel_axis: -1 or 1.

    Returns:
        A tensor `(B, n, C)`, for `n` poolings.
    """
    shape = ops.shape(features)
    places = 1 if channel_axis == -1 else 2
    flat = (shape[0], -1, shape[-1]) if places == 1 else (shape[0], shape[1], -1)
    features = ops.reshape(features, flat)
    if mask is None:
        pooled = [POOLINGS[name](features, axis=places) for name in pooling]
        return ops.stack(pooled, axis=1)
    mask = ops.expand_dims(ops.reshape(mask, (shape[0], -1)), 3 - places)
    pooled = {
        "max": lambda: _masked_max(features, mask, places),
        "mean": lambda: _masked_mean(features, mask, places),
    }
    return ops.stack([pooled[name]() for name in pooling], axis=1)


def _masked_max(features, mask, axis):
    found = ops.max(ops.where(mask, features, float("-inf")), axis=axis)
    return ops.where(ops.any(mask, axis=axis), found, ops.zeros_like(found))


def _masked_mean(features, mask, axis):
    count = ops.sum(ops.cast(mask, "float32"), axis=axis)
    share = ops.cast(1 / ops.maximum(count, 1.0), features.dtype)
    return ops.sum(ops.where(mask, features, 0.0), axis=axis) * share
