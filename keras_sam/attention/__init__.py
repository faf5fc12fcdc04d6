"""One call of attention, from what is asked to the kernel that answers."""

import dataclasses
from collections.abc import Callable

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam import masks, normalizers, scores
from keras_sam.attention import (
    arguments,
    explanations,
    gradient,
    library,
    positions,
    recorded,
    reference,
)
from keras_sam.attention import plan as plans
from keras_sam.attention import policy as policies
from keras_sam.attention import request as requests
from keras_sam.attention.explanations import Explanation, explain
from keras_sam.backend import portable, precision
from keras_sam.normalizers import masking

__all__ = ["Explanation", "attend", "explain"]


def attend(
    query,
    key,
    value,
    *,
    score: str | scores.Score | list = "scaled_dot",
    normalizer: str | Callable = "softmax",
    mask=None,
    key_mask=None,
    query_mask=None,
    bias=None,
    pattern: str | masks.Mask | None = None,
    causal: bool = False,
    sliding_window: int | None = None,
    query_segment_ids=None,
    key_segment_ids=None,
    query_positions=None,
    key_positions=None,
    encoded: bool = False,
    selective: bool = False,
    dropout: float = 0.0,
    seed: int | keras.random.SeedGenerator | None = None,
    block_size: int | str | None = "auto",
    return_attention_scores: bool = False,
    policy: policies.Policy | None = None,
    on_call: Callable | None = None,
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
        score: A name, a `keras_sam.scores.Score`, or a list of one and steps. One with
            weights has to be an instance, so that you hold its weights; it is built on the
            first call.
        normalizer: A name or an instance; see `keras_sam.normalizers`.
        mask: Boolean tensor `(B, H, T, S)`, `(B, T, S)` or `(T, S)`, where sizes may be 1;
            True is "may attend".
        key_mask: Boolean tensor `(B, S)`; False is padding, which receives no weight.
        query_mask: Boolean tensor `(B, T)`; False is padding, whose output is zero.
        bias: Float tensor `(B or 1, H or 1, T or 1, S or 1)`, added to the scores. Where
            it is minus infinity, or -1e9, it masks.
        pattern: A `keras_sam.masks.Mask`, which is never made whole, or None.
        causal: True is short for the pattern `Causal()`, beside any other.
        sliding_window: A number is short for `Window(number)`, beside any other pattern.
        query_segment_ids: Integers `(B, T)`, for a pattern with `Segments()`.
        key_segment_ids: Integers `(B, S)`; None is those of the query.
        query_positions: Integers `(T,)` or `(B, T)`, the positions of the rows for the
            pattern and the score; None is 0, 1, ...
        key_positions: Integers `(S,)` or `(B, S)`, the same of the keys. No row sees a key
            whose position is negative, such as an empty slot of a cache.
        encoded: Whether queries and keys have been through `Score.encode` already, as
            those of a cache have.
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
    arguments.check_shapes(query, key, value)
    query = arguments.without_padding(query, query_mask)
    key, value = (arguments.without_padding(x, key_mask) for x in (key, value))
    score = arguments.own_score(score, query, key)
    at = arguments.positions_of(query, key, query_positions, key_positions)
    if score.encodes and not encoded:
        query, key = score.encode(query, key, *arguments.all_positions(query, key, at))
    scale = score.fixed_scale(query.shape[3])
    if scale is None:  # any other projection may have weights for each head
        key, value = (arguments.repeat_heads(x, query.shape[1]) for x in (key, value))
        (query, key), scale = score.project(query, key), 1
    compare, operands = score.as_function()
    modify, weights = score.as_modification(len(operands))
    sinks = arguments.sinks_of(score)
    window = check.window("sliding_window", sliding_window)
    mask, bias = arguments.four_axes("mask", mask), arguments.four_axes("bias", bias)
    where = positions.Positions.of(
        masks.get(pattern), check.boolean("causal", causal), window
    )
    segments = arguments.segments_of(where, query, key, query_segment_ids, key_segment_ids)
    if not isinstance(normalizer, str) and not callable(normalizer):
        expected = "a name or something to call"
        raise check.invalid("normalizer", expected, normalizer)
    asked = requests.Request(
        compare,
        normalizers.get(normalizer) if isinstance(normalizer, str) else normalizer,
        where,
        check.boolean("selective", selective),
        check.rate("dropout", dropout),
        modify,
        sinks is not None,
    )
    arguments.check_together(score, asked.normalizer, selective)
    if selective and not where.causal:
        expected = "False where the pattern is not causal"
        raise check.invalid("selective", expected, selective)
    constants = requests.Constants(
        mask=arguments.boolean(mask),
        key_mask=arguments.boolean(key_mask),
        query_mask=arguments.boolean(query_mask),
        seed=arguments.draw_seed(seed) if dropout else None,
        query_segments=segments[0],
        key_segments=segments[1],
        **at,
    )
    inputs = requests.Inputs(query, key, value, bias, (*operands, *weights), sinks)
    sizes = requests.Sizes.of(inputs)
    by_formula = block_size is None or return_attention_scores or portable.is_portable()
    if by_formula or on_call is not None:
        whole = inputs.scaled(scale).repeated()
    if on_call is not None:
        on_call(recorded.Call(whole, constants, asked))
    if by_formula:
        explanations.note("reference", "all rows at once are asked for", sizes)
        output, weights = reference.attend(whole, constants, asked)
        output = ops.cast(output, given)
        return (output, weights) if return_attention_scores else output
    asked, temperature = _without_temperature(asked)
    plan = _plan(inputs, constants, asked, sizes, policy or policies.DEFAULT, block_size)
    explanations.note(plan.kernel, plan.explained(), sizes)
    if plan.kernel == "library":
        asked = dataclasses.replace(asked, scale=scale)
    else:
        inputs = inputs.scaled(scale)
    if plan.kernel not in policies.FUSED:
        inputs = inputs.repeated()
    inputs = _fold_temperature(_widened(inputs, plan.narrow), temperature)
    output = gradient.run(inputs, constants, asked, plan)
    shape = (*ops.shape(query)[:3], ops.shape(value)[3])
    output = ops.cast(ops.reshape(output, shape), given)
    if query_mask is None:
        return output
    return arguments.without_padding(output, query_mask)


def _plan(inputs, constants, asked, sizes, policy, block_size):
    """Returns the plan of a call; where a library refuses it, the next best one."""
    device = plans.Device.current()
    traits = requests.Traits.of(inputs, constants)
    plan = policy.choose(asked, sizes, device, block_size, traits=traits)
    if plan.kernel != "library" or policy.kernel is not None:
        return plan
    refusal = library.refusal(inputs, constants, asked, device)
    if refusal is None:
        return plan
    without = dataclasses.replace(device, library=None)
    plan = policy.choose(asked, sizes, without, block_size, traits=traits)
    return dataclasses.replace(plan, reason=f"{device.library} refused: {refusal}")


def _widened(inputs, narrow):
    """Casts to float32, or float64, in which kernels compute that are not narrow."""
    if not narrow:
        return inputs.widened()
    bias = inputs.bias
    return inputs._replace(bias=None if bias is None else precision.widened(bias))


def _without_temperature(asked):
    """Returns a request for a softmax of temperature 1, and the temperature it had."""
    normalizer = asked.normalizer
    is_softmax = type(normalizer) is normalizers.Softmax and not asked.selective
    if not is_softmax or not asked.score.is_dot_product or normalizer.temperature == 1:
        return asked, 1
    if asked.modify is not None or asked.sinks:  # which see scores before they are divided
        return asked, 1
    return asked.with_normalizer(normalizers.Softmax()), normalizer.temperature


def _fold_temperature(inputs, temperature):
    """Divides the query by the temperature of a softmax."""
    if temperature == 1:
        return inputs
    bias = inputs.bias
    if bias is not None:  # what masks has to mask as well afterwards
        bias = ops.where(masking.unmasked(bias), bias / temperature, bias)
    return inputs._replace(query=inputs.query / temperature, bias=bias)
