"""Attention with all query rows at once: the mathematics, and the specification.

::

    weights = mask * normalizer(where(mask, score(query, key) + bias, MASKED))
    output = dropout(weights) @ value

Every kernel computes this, and is tested against it. All its operations can be
differentiated any number of times, so that derivatives of second order go through it.
Nothing here knows layers, and heads are just one more leading axis. The law that makes
blocks possible: row `i` of every step depends on row `i` of the query only.
"""

from keras import ops

from keras_sam.attention.dropout import dropout_mask
from keras_sam.attention.penalty import (
    accumulate,
    add_bias,
    first_head,
    select,
    selectable_keys,
)
from keras_sam.attention.request import Inputs, Sizes
from keras_sam.backend.derivatives import vjp
from keras_sam.backend.indices import indices
from keras_sam.backend.precision import matmul
from keras_sam.normalizers.masking import attention_weights, both, wide_scores


def passes(request, plan):
    """Returns the forward and the backward pass, which computes all again."""

    def forward(inputs, constants):
        output = attend(inputs.widened(), constants, request)[0]
        return ops.cast(output, inputs.query.dtype), ()

    def backward(inputs, constants, output, residuals, upstream):
        def attend_again(present):
            return forward(Inputs(**present), constants)[0]

        present = {name: x for name, x in inputs._asdict().items() if x is not None}
        return Inputs(**vjp(attend_again, present, upstream))

    return forward, backward


def attend(inputs, constants, request):
    """Attends with all query rows at once, and returns the weights too.

    Args:
        inputs: `Inputs`.
        constants: `Constants`.
        request: `Request`.

    Returns:
        The output `(B, H, T, Dv)` and the weights before dropout, `(B, H, T, S)`.
    """
    # Scores may have a dtype of their own.
    weights = ops.cast(weigh(inputs, constants, request), inputs.value.dtype)
    dropped = weights
    if request.dropout:
        factors = all_dropout_factors(constants, request, ops.shape(weights))
        dropped = weights * ops.cast(factors, weights.dtype)
    return matmul(dropped, inputs.value), weights


def weigh(inputs, constants, request):
    """Returns all weights `(B, H, T, S)`."""
    query, key, _, bias, operands, sinks = inputs
    sizes = Sizes.of(inputs)
    mask = pair_mask(constants, request, sizes)
    scores = request.score(operands, query, key)
    if request.modify is not None:
        scores = request.modify(operands, wide_scores(scores), constants.pairs(sizes))
    if request.selective:
        rows, keys = ops.shape(query)[-2], ops.shape(key)[-2]
        positions = indices(rows), indices(keys)
        logits = wide_scores(scores[:, :1], first_head(bias))
        selectable = selectable_keys(ops.shape(key)[-2], constants.key_mask)
        selected = select(logits, mask, selectable, *positions)
        bias = add_bias(bias, -accumulate(selected))
    return attention_weights(scores, request.normalizer, mask, bias, sinks=sinks)


def pair_mask(constants, request, sizes):
    """Returns which pairs count, as a boolean that broadcasts to `(B, H, T, S)`.

    None allows all of them.
    """
    mask = constants.mask
    if constants.key_mask is not None:
        mask = both(mask, ops.expand_dims(constants.key_mask, (1, 2)))
    if constants.query_mask is not None:
        mask = both(mask, ops.expand_dims(constants.query_mask, (1, 3)))
    return both(mask, request.positions.allowed(constants.pairs(sizes)))


def all_dropout_factors(constants, request, shape):
    """Returns the factors of dropout for all weights."""
    example, head, rows, keys = map(ops.arange, shape)
    example = constants.example_offset + example[:, None]
    at = example, constants.head_offset + head, rows, keys
    return dropout_mask(constants.seed, *at, request.dropout)
