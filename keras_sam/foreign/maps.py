"""One softmax, read as an attention map: axes in order, masked pairs, grids."""

import dataclasses
import math

from keras import ops

# A score that is so much smaller than the largest of its row is masked: layers put or add
# -1e4 to -1e9 there. Such a weight is zero in every dtype.
_MASKED_BELOW = 9e3
_LARGE_NEGATIVE = -1e9


@dataclasses.dataclass(frozen=True)
class ForeignMap:
    """The attention weights of one call of a foreign layer.

    Args:
        weights: Tensor `(B, H, T, S)`; layers without heads have `H = 1`.
        allowed: Boolean tensor like `weights`: False where a pair is masked.
        query_grid: The sizes behind `T` where attention goes over several axes, or None.
        key_grid: The same for `S`.
    """

    weights: object
    allowed: object
    query_grid: tuple | None = None
    key_grid: tuple | None = None


def read_softmax(weights, scores, axis, mask=None):
    """Reads the result of a softmax as an attention map.

    Args:
        weights: What the softmax returned: examples first, then heads, queries and keys.
        scores: What it was given, of the same shape.
        axis: The normalized axis, or a list of axes: the keys.
        mask: A mask that broadcasts to `scores`, where what counts is True or above 0.5.

    Returns:
        A `ForeignMap`, or None if there are no axes of examples and queries.
    """
    rank = len(weights.shape)
    if axis is None:
        return None
    axes = sorted(a % rank for a in (axis if isinstance(axis, list | tuple) else [axis]))
    if rank < 1 + 2 * len(axes):
        return None
    allowed = _allowed(scores, axes, None if mask is None else _as_boolean(mask))
    order = [a for a in range(rank) if a not in axes] + axes
    if order != list(range(rank)):
        weights, allowed = (ops.transpose(x, order) for x in (weights, allowed))
    count = len(axes)
    queries, keys = weights.shape[-2 * count : -count], weights.shape[-count:]
    weights, allowed = _four_axes(weights, count), _four_axes(allowed, count)
    return ForeignMap(weights, allowed, _grid(queries), _grid(keys))


def read_dot_products(
    query,
    key,
    bias=None,
    mask=None,
    scale=None,
    is_causal=False,
    attn_logits_soft_cap=None,
    **_,
):
    """Computes the map of `keras.ops.dot_product_attention`, in float32 or wider.

    Args:
        query: Tensor `(B, T, H, D)`.
        key: Tensor `(B, S, K, D)`, where `K` divides `H`.
        bias: See `keras.ops.dot_product_attention`; so are the other arguments.

    Returns:
        A `ForeignMap`. A row without an allowed key has zeros, as Keras's layers return
        it with `return_attention_scores=True`.
    """
    query, key = (ops.convert_to_tensor(x) for x in (query, key))
    wide = "float64" if "float64" in f"{query.dtype} {key.dtype}" else "float32"
    query, key = ops.cast(query, wide), ops.cast(key, wide)
    if key.shape[2] != query.shape[2]:
        key = ops.repeat(key, query.shape[2] // key.shape[2], axis=2)
    scale = 1 / math.sqrt(key.shape[-1]) if scale is None else scale
    scores = ops.einsum("bthd,bshd->bhts", query, key)
    scores = ops.multiply(scores, ops.convert_to_tensor(scale, wide))
    if bias is not None:
        scores = scores + ops.cast(bias, wide)
    if attn_logits_soft_cap is not None:  # TPUs only
        scores = attn_logits_soft_cap * ops.tanh(scores / attn_logits_soft_cap)
    mask = None if mask is None else ops.cast(mask, "bool")
    if is_causal:
        rows, columns = ops.arange(ops.shape(query)[1]), ops.arange(ops.shape(key)[1])
        seen = rows[:, None] >= columns
        mask = seen if mask is None else ops.logical_and(mask, seen)
    allowed = _allowed(scores, [3], mask)
    scores = ops.where(allowed, scores, _LARGE_NEGATIVE)
    shares = ops.exp(ops.subtract(scores, ops.max(scores, axis=-1, keepdims=True)))
    shares = ops.where(allowed, shares, 0.0)
    total = ops.sum(shares, axis=-1, keepdims=True)
    return ForeignMap(ops.divide(shares, ops.where(total == 0, 1.0, total)), allowed)


def without_last_key(seen):
    """Drops the last column: a sink, which takes weight but is no key."""
    weights, allowed = seen.weights[..., :-1], seen.allowed[..., :-1]
    return dataclasses.replace(seen, weights=weights, allowed=allowed)


def with_heads_of_batch(seen, heads):
    """Splits the axis of examples `(B * H)` of a map without an axis of heads."""
    _, _, *sizes = ops.shape(seen.weights)
    shape = (-1, heads, *sizes)
    weights, allowed = (ops.reshape(x, shape) for x in (seen.weights, seen.allowed))
    return dataclasses.replace(seen, weights=weights, allowed=allowed)


def _as_boolean(mask):
    """Returns a mask as booleans, as `keras.layers.Softmax` understands it."""
    mask = ops.convert_to_tensor(mask)
    return mask if "bool" in str(mask.dtype) else ops.greater(mask, 0.5)


def _allowed(scores, axes, mask):
    """Returns where the mask is True and scores are not very negative.

    NaN counts as allowed, so that it is seen.
    """
    scores = ops.cast(scores, "float32")
    if mask is not None:  # what is behind the mask may be as large as it likes
        scores = ops.where(mask, scores, _LARGE_NEGATIVE)
    largest = ops.max(scores, axis=axes, keepdims=True)
    allowed = ops.logical_not(ops.less_equal(scores, largest - _MASKED_BELOW))
    return allowed if mask is None else ops.logical_and(allowed, mask)


def _four_axes(tensor, count):
    """Reshapes `(B, ..., queries, keys)` with `count` axes each to `(B, H, T, S)`."""
    rank = len(tensor.shape)
    if count == 1 and rank == 4:
        return tensor
    sizes = ops.shape(tensor)
    parts = sizes[1 : rank - 2 * count], sizes[-2 * count : -count], sizes[-count:]
    return ops.reshape(tensor, (sizes[0], *map(math.prod, parts)))


def _grid(sizes):
    known = len(sizes) > 1 and all(size is not None for size in sizes)
    return tuple(int(size) for size in sizes) if known else None
