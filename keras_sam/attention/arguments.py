"""The arguments of `attend`, checked and brought into the form that kernels take."""

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam import masks, scores
from keras_sam.backend.indices import indices


def check_shapes(query, key, value):
    for name, tensor in (("query", query), ("key", key), ("value", value)):
        if len(tensor.shape) != 4 or tensor.shape[1] is None or tensor.shape[3] is None:
            expected = "(batch, heads, length, channels) with known heads and channels"
            raise _shape_error(name, expected, tensor)
    batch, heads, _, _ = query.shape
    if not key.shape[1] or heads % key.shape[1]:
        expected = f"(batch, heads, length, channels) with a divisor of {heads} heads"
        raise _shape_error("key", expected, key)
    if not check.fits(key.shape[:1], (batch,)):
        raise _shape_error("key", f"({batch}, heads, length, channels)", key)
    if not check.fits(value.shape[:3], key.shape[:3]):
        raise _shape_error("value", f"{(*key.shape[:3], 'channels')}", value)


def four_axes(name, pairs):
    """Returns a mask or a bias as `(B or 1, H or 1, T or 1, S or 1)`, or None."""
    if pairs is None:
        return None
    if isinstance(pairs, masks.Mask):
        raise check.invalid(name, "a boolean tensor; a mask is a `pattern`", pairs)
    pairs = ops.convert_to_tensor(pairs)
    rank = len(pairs.shape)
    if not 2 <= rank <= 4:
        expected = "(batch, heads, T, S), (batch, T, S) or (T, S)"
        raise _shape_error(name, expected, pairs)
    axes = {2: (0, 1), 3: (1,), 4: ()}[rank]
    return ops.expand_dims(pairs, axes) if axes else pairs


def segments_of(where, query, key, query_segments, key_segments):
    """Returns the segments of rows and keys, or Nones where no mask asks for them."""
    if key_segments is None:
        key_segments = query_segments
    if not where.needs_segments and query_segments is not None:
        expected = "None where no mask has `Segments()`"
        raise check.invalid("query_segment_ids", expected, query_segments)
    if not where.needs_segments:
        return None, None
    if query_segments is None:
        expected = "integers (batch, length) where a mask has `Segments()`"
        raise check.invalid("query_segment_ids", expected, query_segments)
    return (
        _integers("query_segment_ids", query_segments, (query.shape[0], query.shape[2])),
        _integers("key_segment_ids", key_segments, (key.shape[0], key.shape[2])),
    )


def positions_of(query, key, query_positions, key_positions):
    """Returns the positions of rows and keys as `Constants` have them."""
    if query_positions is None and key_positions is None:
        return {}
    found = {}
    given = {"query": (query, query_positions), "key": (key, key_positions)}
    for kind, (tensor, at) in given.items():
        name, length = f"{kind}_positions", tensor.shape[2]
        at = indices(ops.shape(tensor)[2]) if at is None else at
        at = ops.convert_to_tensor(at)
        at = at[None] if len(at.shape) == 1 else at
        batch = 1 if at.shape[0] == 1 else tensor.shape[0]
        found[name] = _integers(name, at, (batch, length))
    return found


def all_positions(query, key, at):
    """Returns the positions of rows and keys, `(B or 1, T)` and `(B or 1, S)`.

    Args:
        query: `(B, H, T, D)`.
        key: `(B, heads, S, D)`.
        at: What `positions_of` returns.
    """
    if at:
        return at["query_positions"], at["key_positions"]
    return tuple(indices(ops.shape(x)[2])[None] for x in (query, key))


def sinks_of(score):
    """Returns the sinks of a built score, `(1, H, 1, 1)`, or None."""
    if not score.has_sinks:
        return None
    return ops.reshape(ops.convert_to_tensor(score.sinks()), (1, -1, 1, 1))


def check_together(score, normalizer, selective):
    """Refuses steps of a score that do not go together with what normalizes it.

    Args:
        score: A `keras_sam.scores.Score`.
        normalizer: A normalizer.
        selective: Whether attention is selective.
    """
    if score.has_sinks and not getattr(normalizer, "shares_a_sum", True):
        raise ValueError(
            "`normalizer` must be one whose weights share a sum where `score` has sinks, "
            f"because they take a part of it. Received: normalizer={normalizer!r}"
        )
    if selective and (score.has_sinks or score.modifiers()):
        raise ValueError(
            "`selective` must be False where a step of `score` changes scores or has "
            f"sinks. Received: selective=True, score={score!r}"
        )


def _integers(name, tensor, shape):
    """Returns a tensor of int32, or raises."""
    tensor = ops.convert_to_tensor(tensor)
    dtype = keras.backend.standardize_dtype(tensor.dtype)
    if "int" not in dtype or not check.fits(tensor.shape, shape):
        raise ValueError(
            f"`{name}` must be integers of the shape {shape}. "
            f"Received: {name} of dtype {dtype} and shape {tuple(tensor.shape)}"
        )
    return ops.cast(tensor, "int32")


def _shape_error(name, expected, tensor):
    return ValueError(
        f"`{name}` must have the shape {expected}. "
        f"Received: {name}.shape={tuple(tensor.shape)}"
    )


def own_score(score, query, key):
    """Returns a built score, from the argument."""
    is_name = isinstance(score, str)
    dtype = keras.backend.standardize_dtype(query.dtype)
    if is_name or isinstance(score, list | tuple):
        score = scores.get(score, dtype=dtype)
        if score.value_activation is not None:
            raise check.invalid(
                "score", "one without `ValueNorm`, for values as given", score
            )
    if not isinstance(score, scores.Score):
        raise check.invalid("score", "a name or a keras_sam.scores.Score", score)
    if not score.built:
        heads = query.shape[1]  # those of keys are repeated
        score.build(query.shape, (key.shape[0], heads, *key.shape[2:]))
    if is_name and score.weights:
        name = type(score).__name__
        expected = f"an instance, such as keras_sam.scores.{name}(), which holds weights"
        raise check.invalid("score", expected, name)
    return score


def repeat_heads(tensor, heads):
    """Repeats heads that a group of query heads shares."""
    groups = heads // tensor.shape[1]
    return tensor if groups == 1 else ops.repeat(tensor, groups, axis=1)


def without_padding(tensor, mask):
    """Returns `(B, H, T, D)` with zeros for padding, which may be no number at all."""
    if mask is None:
        return tensor
    mask = ops.expand_dims(boolean(mask), (1, 3))
    return ops.where(mask, tensor, ops.zeros_like(tensor))


def boolean(mask):
    return None if mask is None else ops.cast(mask, "bool")


def draw_seed(seed):
    """Returns a seed of two integers."""
    if isinstance(seed, keras.random.SeedGenerator):
        return seed.next()
    if seed is None:
        return keras.random.randint((2,), 0, 2**31 - 1)
    return ops.convert_to_tensor([check.integer("seed", seed), 0], "int32")
