"""Gates: features, multiplied by weights that are made of them, written once.

::

    maps = [max over axes; mean over axes]        (B, kept axes, n)
    weights = weigh(maps)                         (B, kept axes)
    output = features * weights                   what the next gate gets, if any

Over the channels that is spatial attention, over the places channel attention, and one
after the other CBAM. The features are the only large tensor: they are read once for each
pooling and once for the product.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import keras
from keras import ops

from keras_sam.backend.derivatives import vjp, with_gradient
from keras_sam.backend.precision import wide
from keras_sam.backend.reductions import fused_max, fused_sum, largest
from keras_sam.backend.xla import compiled
from keras_sam.normalizers.masking import both

POOLINGS = ("max", "mean")


@dataclasses.dataclass(frozen=True)
class Rule:
    """How a gate weighs, which is compiled in.

    Args:
        weigh: A function `(maps, parameters, mask)` that makes weights `(B, kept axes)` of
            maps `(B, kept axes, n)`, for `n` poolings. Gates of equal ones are compiled
            once.
        pooling: A tuple of names from `POOLINGS`.
        axes: The axes to pool over, a tuple of positive integers.
    """

    weigh: Callable
    pooling: tuple
    axes: tuple


@dataclasses.dataclass(frozen=True)
class PooledGate:
    """A gate with its tensors.

    Args:
        rule: `Rule`.
        parameters: Tuple of tensors for `weigh`.
        mask: For `weigh`.
        pool_mask: Boolean tensor that broadcasts to the features, or None; False is not
            pooled. Where all is False, the pooled value is zero.
    """

    rule: Rule
    parameters: tuple = ()
    mask: Any = None
    pool_mask: Any = None

    @property
    def masks(self):
        return self.mask, self.pool_mask


def weigh(features, gates):
    """Weighs features by what they say, pooled, by one gate after the other.

    Args:
        features: Tensor `(B, ...)`.
        gates: A list of `PooledGate`.

    Returns:
        The output, like `features`, and a list of the weights of each gate, `(B, kept
        axes)`.
    """
    return _forward(features, *_divide(gates))[:2]


def weigh_compiled(features, gates):
    """`weigh`, compiled and with a gradient of its own, on TensorFlow.

    Differentiated step by step, a gate makes some ten tensors as large as the features.
    Here XLA fuses the steps, and the features are the only large tensor that is kept for
    the gradient, however many gates there are. The price is compiling, once for each size
    of the features; all layers of equal rules, which have to be hashable, share what is
    compiled. Derivatives of second and higher order are those of `weigh`.

    On JAX and PyTorch compiling is up to the caller, and the steps are differentiated.
    """
    if keras.backend.backend() != "tensorflow":
        return weigh(features, gates)
    parameters, masks, rules = _divide(gates)
    run_forward, run_backward = _passes(rules)

    def forward(inputs, masks):
        output, weights, maps = run_forward(*inputs, masks)
        return [output, *weights], maps

    def backward(inputs, masks, outputs, maps, upstream):
        features, parameters = inputs
        kept = features, outputs[1:], maps, parameters, masks
        return run_backward(*kept, upstream[0], upstream[1:])

    def again(inputs, masks, upstream):
        def steps(inputs):
            output, weights, _ = _forward(*inputs, masks, rules)
            return [output, *weights]

        return vjp(steps, inputs, upstream)

    run = with_gradient(forward, backward, again)
    output, *weights = run((features, parameters), masks)
    return output, weights


def _divide(gates):
    """Their parameters, their masks, and their rules."""
    parameters = [tuple(gate.parameters) for gate in gates]
    return parameters, [gate.masks for gate in gates], tuple(gate.rule for gate in gates)


@functools.lru_cache(maxsize=64)
def _passes(rules):
    """The forward and the backward pass of gates with these rules."""
    return (
        compiled(functools.partial(_forward, rules=rules, fused=True)),
        compiled(functools.partial(_backward, rules=rules)),
    )


def _forward(features, parameters, masks, rules, fused=False):
    """The output, and the weights and the maps of each gate.

    If all is compiled together, what the first gate makes is never written: it is `fused`.
    """
    weights, maps = [], []
    for rule, given, (mask, pool_mask) in zip(rules, parameters, masks, strict=True):
        joined = fused and bool(maps)
        maps.append(pool(features, rule.pooling, rule.axes, pool_mask, joined))
        weights.append(rule.weigh(maps[-1], given, mask))
        features = _multiply(features, weights[-1], rule)
    return features, weights, maps


def _backward(features, weights, maps, parameters, masks, upstream, of_weights, rules):
    """The gradients of the features and of the parameters of each gate."""
    inputs = [features]
    for rule, of_gate in zip(rules[:-1], weights[:-1], strict=True):
        # Not from the maps once more: the last digit decides which maxima are equal.
        inputs.append(_multiply(inputs[-1], of_gate, rule))
    of_each = inputs, rules, weights, maps, parameters, masks, of_weights
    gates = list(zip(*of_each, strict=True))
    gradients = []
    for gate in reversed(gates):
        upstream, of_parameters = _one_backward(*gate, upstream)
        gradients.append(tuple(of_parameters))
    return upstream, gradients[::-1]


def _one_backward(features, rule, weights, maps, parameters, masks, of_weights, upstream):
    """The gradients of the features that one gate is given, and of its parameters."""
    mask, pool_mask = masks
    axes = rule.axes

    def weigh_all(inputs):
        maps, *parameters = inputs
        return rule.weigh(maps, parameters, mask)

    products = ops.cast(ops.multiply(upstream, features), wide(features.dtype))
    total = ops.cast(fused_sum(products, axes), of_weights.dtype)
    # `+`, because `ops.add` takes what an empty batch has for a bias.
    of_weights = of_weights + total
    of_maps, *of_parameters = vjp(weigh_all, (maps, *parameters), of_weights)
    of_features = _multiply(upstream, weights, rule)
    for i, name in enumerate(rule.pooling):
        share = ops.expand_dims(of_maps[..., i], axes)
        feeds = pool_mask
        if name == "max":
            # Equal maxima share its gradient, as they do where Keras differentiates.
            is_largest = ops.equal(features, ops.expand_dims(maps[..., i], axes))
            feeds = both(is_largest, pool_mask)
        if feeds is None:
            share = ops.divide(share, math.prod(features.shape[axis] for axis in axes))
        else:
            shares = _shares(feeds, axes, share.dtype, fused_sum)
            shares = ops.expand_dims(shares, axes)
            share = ops.where(feeds, ops.multiply(share, shares), 0.0)
        of_features = of_features + ops.cast(share, features.dtype)
    return of_features, of_parameters


def _multiply(features, weights, rule):
    return ops.multiply(features, ops.expand_dims(weights, rule.axes))


def pool(features, pooling, axes, mask=None, fused=False):
    """Pools `axes` of features `(B, ...)` into maps `(B, kept axes, n)`.

    Where features are `fused`, they are only being computed when they are pooled.
    """
    pools = {"max": largest, "mean": ops.mean}
    if mask is not None:
        pools = {
            "max": functools.partial(_masked_max, mask=mask),
            "mean": functools.partial(_masked_mean, mask=mask),
        }
    elif fused:
        pools = {"max": fused_max, "mean": _fused_mean}
    return ops.stack([pools[name](features, axes) for name in pooling], axis=-1)


def _fused_mean(features, axes):
    total = fused_sum(ops.cast(features, wide(features.dtype)), axes)
    count = math.prod(features.shape[axis] for axis in axes)
    return ops.cast(ops.divide(total, count), features.dtype)


def _masked_max(features, axis, mask):
    lowest = float("-inf")
    found = largest(ops.where(mask, features, lowest), axis)
    return ops.where(ops.any(mask, axis=axis), found, ops.zeros_like(found))


def _masked_mean(features, axis, mask):
    # In float32, as in `ops.mean`: the sum of many halves may be larger than any of them.
    kept = ops.cast(ops.where(mask, features, 0.0), wide(features.dtype))
    total = ops.sum(kept, axis=axis)
    shares = _shares(mask, axis, total.dtype)
    return ops.cast(ops.multiply(total, shares), features.dtype)


def _shares(mask, axes, dtype, total=ops.sum):
    """One by the number of True values, in float32 at least: a half cannot count far."""
    count = total(ops.cast(mask, wide(dtype)), axes)
    return ops.divide(1.0, ops.maximum(count, 1.0))
