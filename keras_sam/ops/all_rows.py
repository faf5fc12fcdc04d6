"""Attention with all query rows at once, where sequences are short.

Either weights are kept for the gradient, which is fastest where they are few, or nothing
is, and all is computed again.
"""

import functools

from keras import ops

from keras_sam.ops.any_score import operands_of
from keras_sam.ops.attention import attend
from keras_sam.ops.compiled import vjp
from keras_sam.ops.keep import keep

NAMES = ("query", "key", "value", "bias")


def keeping(tensors, compare, normalizer, options):
    """Attends with a gradient that the backend makes, from weights that it keeps."""
    return _attend(*_divide(tensors), compare, normalizer, options)


def passes(compare, normalizer, options):
    """The forward and the backward pass, which computes all again; see `blockwise.run`."""

    def forward(tensors):
        inputs, constants = _divide(tensors)
        output = _attend(inputs, constants, compare, normalizer, options)
        return output, ops.zeros_like(tensors["query"][..., :1])

    def backward(tensors):
        inputs, constants = _divide(tensors)
        static = {"compare": compare, "normalizer": normalizer, "options": options}
        fn = functools.partial(_attend, constants=constants, **static)
        return vjp(fn, inputs, tensors["upstream"])

    return forward, backward


def _divide(tensors):
    """Divides into what has a gradient and what has none."""
    inputs = {
        name: tensor
        for name, tensor in tensors.items()
        if tensor is not None and (name in NAMES or name.startswith("operand"))
    }
    return inputs, {n: x for n, x in tensors.items() if n not in inputs}


def _attend(inputs, constants, compare, normalizer, options):

    def drop(weights):
        batch, heads, rows, keys = map(ops.arange, ops.shape(weights))
        places = batch[:, None], heads, rows, keys
        kept = keep(constants["seed"], *places, options.dropout)
        return weights * ops.cast(kept, weights.dtype)

    output, _ = attend(
        inputs["query"],
        inputs["key"],
        inputs["value"],
        compare=functools.partial(compare, operands_of(inputs)),
        normalizer=normalizer,
        mask=constants["mask"],
        key_mask=constants["key_mask"],
        query_mask=constants.get("query_mask"),
        bias=inputs.get("bias"),
        causal=options.causal,
        sliding_window=options.sliding_window,
        selective=options.selective,
        dropout=drop if options.dropout else None,
    )
    return output
