"""Gates: features, multiplied by weights that are made of them, written once.

::

    maps = [max over axes; mean over axes]        (B, kept axes, n)
    weights = weigh(maps)                         (B, kept axes)
    output = features * weights

Over the channels that is spatial attention, over the places channel attention. The
features are the only large tensor: they are read once for each pooling and once for the
product.
"""

import functools
import math

import keras
from keras import ops

from keras_sam.ops.attention import both
from keras_sam.ops.compiled import compiled, vjp
from keras_sam.ops.precision import wide
from keras_sam.ops.sums import fused_sum

POOLINGS = ("max", "mean")


def gate(features, parameters, mask=None, pool_mask=None, **options):
    """Weighs `features` by what they say, pooled.

    Args:
        features: Tensor `(B, ...)`.
        parameters: Tuple of tensors for `weigh`.
        mask: For `weigh`.
        pool_mask: Boolean tensor that broadcasts to `features`, or None; False is not
            pooled. Where all is False, the pooled value is zero.
        **options: `weigh(maps, parameters, mask, **options)`, a function that makes
            weights `(B, kept axes)` of maps `(B, kept axes, n)`, for `n` poolings;
            `pooling`, names from `POOLINGS`; `axes`, the axes to pool over, a tuple of
            positive integers; and what `weigh` wants beside.

    Returns:
        The output, like `features`, and the weights `(B, kept axes)`.
    """
    return _forward(features, parameters, mask, pool_mask, **options)[:2]


def gate_in_training(features, parameters, mask=None, pool_mask=None, **options):
    """`gate` with a gradient of its own, on TensorFlow.

    Differentiated step by step, a gate makes some ten tensors as large as the features.
    Here XLA fuses the steps, and the features and the maps are all that is kept for the
    gradient. The price is compiling, once for each size of the features; all layers of
    the same `options`, which have to be hashable, share what is compiled.

    On JAX and PyTorch compiling is up to the caller, and the steps are differentiated.
    """
    if keras.backend.backend() != "tensorflow":
        return gate(features, parameters, mask, pool_mask, **options)
    forward, backward = _passes(**options)

    @ops.custom_gradient
    def run(*tensors):
        # Or an eager TensorFlow differentiates the compiled functions all the same.
        features, *parameters = map(ops.stop_gradient, tensors)
        output, weights, maps = forward(features, parameters, mask, pool_mask)

        def gradient(*upstream):
            return backward(features, maps, parameters, mask, pool_mask, upstream)

        return (output, weights), gradient

    return run(features, *parameters)


@functools.lru_cache(maxsize=64)
def _passes(**options):
    """The forward and the backward pass with these options."""
    return (
        compiled(functools.partial(_forward, **options)),
        compiled(functools.partial(_backward, **options)),
    )


def _forward(features, parameters, mask, pool_mask, *, weigh, pooling, axes, **options):
    maps = pool(features, pooling, axes, pool_mask)
    weights = weigh(maps, parameters, mask, **options)
    return ops.multiply(features, ops.expand_dims(weights, axes)), weights, maps


def _backward(
    features,
    maps,
    parameters,
    mask,
    pool_mask,
    upstream,
    *,
    weigh,
    pooling,
    axes,
    **options,
):
    """The gradients of the features and of the parameters."""

    def weigh_all(inputs):
        maps, *parameters = inputs
        return weigh(maps, parameters, mask, **options)

    upstream, of_weights = upstream
    products = ops.cast(ops.multiply(upstream, features), wide(features.dtype))
    total = ops.cast(fused_sum(products, axes), of_weights.dtype)
    of_weights = ops.add(of_weights, total)
    of_maps, *of_parameters = vjp(weigh_all, (maps, *parameters), of_weights)
    weights = ops.expand_dims(weigh_all((maps, *parameters)), axes)
    of_features = ops.multiply(upstream, weights)
    for i, name in enumerate(pooling):
        share = ops.expand_dims(of_maps[..., i], axes)
        feeds = pool_mask
        if name == "max":
            # Equal maxima share its gradient, as they do where Keras differentiates.
            largest = ops.equal(features, ops.expand_dims(maps[..., i], axes))
            feeds = both(largest, pool_mask)
        if feeds is None:
            share = ops.divide(share, math.prod(features.shape[axis] for axis in axes))
        else:
            shares = _shares(feeds, axes, fused_sum)
            share = ops.where(feeds, ops.multiply(share, shares), 0.0)
        of_features = ops.add(of_features, ops.cast(share, features.dtype))
    return of_features, *of_parameters


def pool(features, pooling, axes, mask=None):
    """Pools `axes` of features `(B, ...)` into maps `(B, kept axes, n)`."""
    # Of no places at all, as of an empty batch, Keras wants to know the maximum.
    largest = functools.partial(ops.max, initial=float("-inf"))
    pools = {"max": largest, "mean": ops.mean}
    if mask is not None:
        pools = {
            "max": functools.partial(_masked_max, mask=mask),
            "mean": functools.partial(_masked_mean, mask=mask),
        }
    return ops.stack([pools[name](features, axis=axes) for name in pooling], axis=-1)


def _masked_max(features, axis, mask):
    lowest = float("-inf")
    found = ops.max(ops.where(mask, features, lowest), axis=axis, initial=lowest)
    return ops.where(ops.any(mask, axis=axis), found, ops.zeros_like(found))


def _masked_mean(features, axis, mask):
    # In float32, as in `ops.mean`: the sum of many halves may be larger than any of them.
    kept = ops.cast(ops.where(mask, features, 0.0), wide(features.dtype))
    total = ops.sum(kept, axis=axis)
    share = ops.squeeze(_shares(mask, axis), axis)
    return ops.cast(ops.multiply(total, ops.cast(share, total.dtype)), features.dtype)


def _shares(mask, axes, total=ops.sum):
    """One by the number of True values, in float32 because a half cannot count far."""
    count = ops.expand_dims(total(ops.cast(mask, "float32"), axes), axes)
    return ops.divide(1.0, ops.maximum(count, 1.0))
