"""Softmax of dot products with all pairs at once, whose gradient is written by hand.

Where the weights are few, they are kept for the gradient, as a framework keeps them. By
hand there are fewer tensors as large, which makes it faster than automatic
differentiation::

    w = softmax(q @ k^T)                   dv = w^T @ do
    o = w @ v                              ds = w * (do @ v^T - sum(do * o))
                                           dq = ds @ k          dk = ds^T @ q

Two steps cost nothing in float32, where they become one more channel of a product: a mask
of the keys is added to the scores, and `sum(do * o)` is taken off `do @ v^T`::

    [q, 1] @ [k, mask] ^ T[do, -sum(do * o)] @ [v, 1] ^ T
"""

import functools

from keras import ops

from keras_sam.attention.blocks import sum_to_shape
from keras_sam.attention.reference import all_dropout_factors, pair_mask
from keras_sam.attention.request import Inputs, Sizes
from keras_sam.backend.precision import is_wide, maximum, product, widened
from keras_sam.normalizers.masking import MASKED, both, unmasked
from keras_sam.normalizers.softmax import softmax


@functools.lru_cache(maxsize=64)
def passes(request, plan):
    """Returns the forward and the backward pass, which are not compiled."""
    options = {"request": request}
    return functools.partial(forward, **options), functools.partial(backward, **options)


def forward(inputs, constants, *, request):
    """Returns the output `(B, H, T, Dv)` and the weights before dropout, to be kept."""
    weights = _weights(inputs, constants, request)
    factors = _factors(weights, constants, request)
    dropped = weights if factors is None else weights * factors
    return ops.cast(product(dropped, inputs.value), inputs.query.dtype), weights


def backward(inputs, constants, output, weights, upstream, *, request):
    """Returns the gradients as `Inputs`."""
    query, key, value, bias = inputs[:4]
    factors = _factors(weights, constants, request)
    d_scores = gradients_of_scores(weights, factors, turn(value), output, upstream)
    dropped = weights if factors is None else weights * factors
    return Inputs(
        query=ops.cast(product(d_scores, key), query.dtype),
        key=ops.cast(turn(product(turn(query), d_scores)), key.dtype),
        value=ops.cast(turn(product(turn(upstream), dropped)), value.dtype),
        bias=None if bias is None else sum_to_shape(d_scores, bias.shape),
    )


def softmax_weights(query, turned_key, bias, key_mask, mask):
    """Returns the weights `(B, H, T, S)`; a row with nothing to attend to is zero.

    Args:
        query: `(B, H, T, D)`.
        turned_key: `(B, H, D, S)`.
        bias: A tensor that broadcasts to the weights, or None.
        key_mask: Boolean `(B, 1, 1, S)`, or None. Ignored where there is a `mask`.
        mask: Boolean that broadcasts to the weights and includes `key_mask`, or None.
    """
    if mask is None and key_mask is not None and is_wide(query):
        offsets = ops.where(key_mask, ops.zeros_like(turned_key[:, :, :1]), MASKED)
        turned_key = ops.concatenate([turned_key, offsets], axis=2)
        query = ops.concatenate([query, ops.ones_like(query[..., :1])], axis=-1)
    elif mask is None:
        mask = key_mask
    scores = product(query, turned_key)
    if bias is not None:
        scores = scores + maximum(bias, MASKED)
    if mask is not None:
        scores = ops.where(mask, scores, ops.cast(MASKED, scores.dtype))
    allowed = both(key_mask if mask is None else mask, unmasked(bias))
    weights = softmax(scores)
    if allowed is None:
        return weights
    return ops.where(ops.any(allowed, axis=-1, keepdims=True), weights, 0.0)


def gradients_of_scores(weights, factors, turned_value, output, upstream):
    """Returns the gradients of the scores, `(B, H, T, S)`.

    Args:
        weights: The weights before dropout.
        factors: The factors of dropout, or None.
        turned_value: `(B, H, Dv, S)`.
        output: `(B, H, T, Dv)`.
        upstream: The gradient of the output.
    """
    delta = ops.sum(widened(upstream) * widened(output), axis=-1, keepdims=True)
    if factors is not None:
        return weights * (factors * product(upstream, turned_value) - delta)
    if not is_wide(upstream):  # which would round `delta`
        return weights * (product(upstream, turned_value) - delta)
    ones = ops.ones_like(turned_value[:, :, :1])
    upstream = ops.concatenate([upstream, -delta], axis=-1)
    return weights * product(upstream, ops.concatenate([turned_value, ones], axis=2))


def turn(tensor):
    """Swaps the last two axes."""
    return ops.swapaxes(tensor, -1, -2)


def _weights(inputs, constants, request):
    query, key = inputs.query, inputs.key
    key_mask, mask = constants.key_mask, None
    if key_mask is not None:
        key_mask = key_mask[:, None, None, :]
    by_position = not request.positions.allow_all or not constants.in_a_row
    if constants.mask is not None or by_position:
        constants = constants._replace(query_mask=None)
        mask = pair_mask(constants, request, Sizes.of(inputs))
    return softmax_weights(query, turn(key), inputs.bias, key_mask, mask)


def _factors(weights, constants, request):
    """Returns the factors of dropout, or None."""
    if not request.dropout:
        return None
    factors = all_dropout_factors(constants, request, ops.shape(weights))
    return ops.cast(factors, weights.dtype)
