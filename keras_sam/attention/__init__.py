"""One call of attention, from what is asked to the kernel that answers."""

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam import normalizers, scores
from keras_sam.attention import gradient, positions, recorded, reference, request
from keras_sam.attention import policy as policies
from keras_sam.backend import portable, precision
from keras_sam.normalizers import masking

__all__ = ["attend"]


def attend(
    query,
    key,
    value,
    *,
    score="scaled_dot",
    normalizer="softmax",
    mask=None,
    key_mask=None,
    query_mask=None,
    bias=None,
    causal=False,
    sliding_window=None,
    selective=False,
    dropout=0.0,
    seed=None,
    block_size="auto",
    return_attention_scores=False,
    policy=None,
    on_call=None,
):
    """Attends with queries, keys and values that are projected already.

    ::

        weights = mask * normalizer(where(mask, score(query, key) + bias, very negative))
        output  = dropout(weights) @ value

    This is what `SelfAttention` and `CrossAttention` do between their projections, with
    the same kernels. Whole matrices of weights are kept only where they are small.

    Args:
        query: Float tensor `(B, H, T, D)`.
        key: Float tensor `(B, H, S, D)`. The heads may be a divisor of those of `query`:
            each is then shared by a group of query heads.
        value: Float tensor `(B, as key, S, Dv)`.
        score: A name or a `keras_sam.scores.Score`. One with weights has to be an
            instance, so that you hold its weights; it is built on the first call.
        normalizer: A name or an instance; see `keras_sam.normalizers`.
        mask: Boolean tensor `(B, H, T, S)`, `(B, T, S)` or `(T, S)`, where sizes may be 1;
            True is "may attend".
        key_mask: Boolean tensor `(B, S)`; False is padding, which receives no weight.
        query_mask: Boolean tensor `(B, T)`; False is padding, whose output is zero.
        bias: Float tensor `(B or 1, H or 1, T or 1, S or 1)`, added to the scores. Where
            it is minus infinity, or -1e9, it masks.
        causal: Whether a row attends only to keys at or before its own position.
        sliding_window: None, or attend only to keys less than this many positions away.
        selective: Whether the first head takes weight off positions for later ones; see
            `keras_sam.SelfAttention`. Only with `causal=True`.
        dropout: The share of weights to drop, in [0, 1).
        seed: An integer, a `keras.random.SeedGenerator`, or None for Keras's global one.
            The mask of dropout does not depend on `block_size`.
        block_size: The number of query rows that are computed at a time. `"auto"` chooses
            by the sizes and the device; None is all at once.
        return_attention_scores: Whether to return the weights as well, which are computed
            whole then.
        policy: A `keras_sam.attention.policy.Policy`, which chooses the kernel; None is
            the default one.
        on_call: None, or a function that is handed the `recorded.Call`, from which
            weights can be had by rows.

    Returns:
        The output `(B, H, T, Dv)`, in the dtype of `query`; with
        `return_attention_scores=True` also the weights before dropout, `(B, H, T, S)`.
        A row with nothing to attend to is zero, in every dtype.

    Raises:
        ValueError: For an argument out of range, and shapes that do not fit.

    Derivatives of every order are exact. Those of second and higher order keep whole
    matrices of weights.

    Example:

    >>> import keras, keras_sam
    >>> query = keras.random.normal((2, 4, 7, 16))
    >>> key = value = keras.random.normal((2, 2, 9, 16))
    >>> keras_sam.attend(query, key, value, causal=True).shape
    TensorShape([2, 4, 7, 16])

    Reference:
        Vaswani et al., 2017, "Attention Is All You Need"
        (https://arxiv.org/abs/1706.03762), eq. 1.
    """
    query, key, value = map(ops.convert_to_tensor, (query, key, value))
    given = query.dtype
    _check_shapes(query, key, value)
    query = _without_padding(query, query_mask)
    key, value = (_without_padding(x, key_mask) for x in (key, value))
    key, value = (_repeat_heads(x, query.shape[1]) for x in (key, value))
    score = _own_score(score, query, key)
    query, key = score.project(query, key)
    compare, operands = score.as_function()
    window = check.window("sliding_window", sliding_window)
    mask, bias = _four_axes("mask", mask), _four_axes("bias", bias)
    if not isinstance(normalizer, str) and not callable(normalizer):
        expected = "a name or something to call"
        raise check.invalid("normalizer", expected, normalizer)
    asked = request.Request(
        compare,
        normalizers.get(normalizer) if isinstance(normalizer, str) else normalizer,
        positions.Positions(check.boolean("causal", causal), window),
        check.boolean("selective", selective),
        check.rate("dropout", dropout),
    )
    if selective and not causal:
        expected = "False where `causal` is"
        raise check.invalid("selective", expected, selective)
    constants = request.Constants(
        mask=_boolean(mask),
        key_mask=_boolean(key_mask),
        query_mask=_boolean(query_mask),
        seed=_draw(seed) if dropout else None,
    )
    inputs = request.Inputs(query, key, value, bias, operands)
    if on_call is not None:
        on_call(recorded.Call(inputs, constants, asked))
    if block_size is None or return_attention_scores or portable.is_portable():
        output, weights = reference.attend(inputs, constants, asked)
        output = ops.cast(output, given)
        return (output, weights) if return_attention_scores else output
    inputs, asked = _fold_temperature(_widen(inputs), asked)
    sizes, device = request.Sizes.of(inputs), policies.Device.current()
    plan = (policy or policies.DEFAULT).choose(asked, sizes, device, block_size)
    output = gradient.run(inputs, constants, asked, plan)
    shape = (*ops.shape(query)[:3], ops.shape(value)[3])
    output = ops.cast(ops.reshape(output, shape), given)
    if query_mask is None:
        return output
    return _without_padding(output, query_mask)


def _check_shapes(query, key, value):
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


def _four_axes(name, pairs):
    """Returns a mask or a bias as `(B or 1, H or 1, T or 1, S or 1)`, or None."""
    if pairs is None:
        return None
    pairs = ops.convert_to_tensor(pairs)
    rank = len(pairs.shape)
    if not 2 <= rank <= 4:
        expected = "(batch, heads, T, S), (batch, T, S) or (T, S)"
        raise _shape_error(name, expected, pairs)
    axes = {2: (0, 1), 3: (1,), 4: ()}[rank]
    return ops.expand_dims(pairs, axes) if axes else pairs


def _shape_error(name, expected, tensor):
    return ValueError(
        f"`{name}` must have the shape {expected}. "
        f"Received: {name}.shape={tuple(tensor.shape)}"
    )


def _own_score(score, query, key):
    """Returns a built score, from the argument."""
    is_name = isinstance(score, str)
    if is_name:
        score = scores.get(score, dtype=keras.backend.standardize_dtype(query.dtype))
    if not isinstance(score, scores.Score):
        raise check.invalid("score", "a name or a keras_sam.scores.Score", score)
    if not score.built:
        score.build(query.shape, key.shape)
    if is_name and score.weights:
        name = type(score).__name__
        expected = f"an instance, such as keras_sam.scores.{name}(), which holds weights"
        raise check.invalid("score", expected, name)
    return score


def _repeat_heads(tensor, heads):
    """Repeats heads that a group of query heads shares."""
    groups = heads // tensor.shape[1]
    return tensor if groups == 1 else ops.repeat(tensor, groups, axis=1)


def _without_padding(tensor, mask):
    """Returns `(B, H, T, D)` with zeros for padding, which may be no number at all."""
    if mask is None:
        return tensor
    mask = ops.expand_dims(_boolean(mask), (1, 3))
    return ops.where(mask, tensor, ops.zeros_like(tensor))


def _boolean(mask):
    return None if mask is None else ops.cast(mask, "bool")


def _draw(seed):
    """Returns a seed of two integers."""
    if isinstance(seed, keras.random.SeedGenerator):
        return seed.next()
    if seed is None:
        return keras.random.randint((2,), 0, 2**31 - 1)
    return ops.convert_to_tensor([check.integer("seed", seed), 0], "int32")


def _widen(inputs):
    """Casts to float32, or float64, in which kernels compute."""
    dtype = precision.wide(inputs.query.dtype)
    tensors = (None if x is None else ops.cast(x, dtype) for x in inputs[:4])
    return request.Inputs(*tensors, tuple(ops.cast(x, dtype) for x in inputs.operands))


def _fold_temperature(inputs, asked):
    """Divides the query by the temperature of a softmax, which is 1 afterwards."""
    normalizer = asked.normalizer
    is_softmax = type(normalizer) is normalizers.Softmax and not asked.selective
    if not is_softmax or not asked.score.is_dot_product or normalizer.temperature == 1:
        return inputs, asked
    temperature = normalizer.temperature
    bias = inputs.bias
    if bias is not None:  # what masks has to mask as well afterwards
        bias = ops.where(masking.unmasked(bias), bias / temperature, bias)
    inputs = inputs._replace(query=inputs.query / temperature, bias=bias)
    return inputs, asked.with_normalizer(normalizers.Softmax())
