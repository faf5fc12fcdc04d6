"""Attention slab by slab, for any score and any normalizer.

Nothing is kept for the backward pass: each slab is computed again there, and only then
differentiated. Where there is a function that compares, all heads go through a slab
together, because the weights of a score may belong to one head each. Dot products go
head by head, as in `dot_softmax`.
"""

import functools

from keras import ops

from keras_sam.ops.attention import attention_weights
from keras_sam.ops.compiled import compiled, graph, vjp
from keras_sam.ops.precision import matmul
from keras_sam.ops.shared import share_out
from keras_sam.ops.slabs import Slabs

NAMES = ("query", "key", "value", "bias")


@functools.lru_cache(maxsize=64)
def passes(compare, normalizer, options, options_backward):
    """The forward and the backward pass, compiled once for all layers.

    See `blockwise.run`. Nothing is kept of a row.
    """
    static = {"compare": compare, "normalizer": normalizer}
    forward = functools.partial(_forward, options=options, **static)
    backward = functools.partial(_backward, options=options_backward, **static)
    if compare is None:
        return share_out(forward, backward)
    return graph(compiled(forward)), graph(compiled(backward))


def operands_of(tensors):
    """The weights of the score."""
    return tuple(x for name, x in tensors.items() if name.startswith("operand"))


def _forward(tensors, compare, normalizer, options):
    problem = Slabs({"first_head": 0, **tensors}, options, compare is not None)

    def one_slab(slab, key, value, carry):
        inputs = inputs_of(problem, slab, key, value, operands_of(tensors))
        output = _attend_slab(inputs, problem, slab, compare, normalizer)
        return {"output": slab.put_rows(carry["output"], output)}, {}

    carry = {"output": problem.empty(tensors["value"])}
    output = problem.cut(problem.for_each_slab(one_slab, carry)["output"])
    return output, ops.zeros_like(tensors["query"][..., :1])


def _backward(tensors, compare, normalizer, options):
    problem = Slabs({"first_head": 0, **tensors}, options, compare is not None)
    upstream = problem.pad(tensors["upstream"])
    operands = operands_of(tensors)

    def one_slab(slab, key, value, carry):
        def attend_slab(inputs):
            return _attend_slab(inputs, problem, slab, compare, normalizer)

        inputs = inputs_of(problem, slab, key, value, operands)
        parts = vjp(attend_slab, inputs, slab.of_rows(upstream))
        return add_gradients(carry, slab, parts)

    carry = no_gradients(problem, operands)
    return gradients_of(problem, problem.for_each_slab(one_slab, carry))


def inputs_of(problem, slab, key, value, operands):
    """What a slab may be differentiated by."""
    inputs = {"query": slab.of_rows(problem.query), "key": key, "value": value}
    if problem.bias is not None:
        inputs["bias"] = slab.of_pairs(problem.bias)
    return {**inputs, "operands": operands}


def _attend_slab(inputs, problem, slab, compare, normalizer):
    """The output of a slab."""
    scores = scores_of(inputs, compare)
    return attend_scored(scores, inputs.get("bias"), inputs, problem, slab, normalizer)


def scores_of(inputs, compare):
    """The scores of a slab, without the bias."""
    query, key = inputs["query"], inputs["key"]
    if compare is None:
        return matmul(query, key)
    scores = compare(inputs["operands"], query, ops.swapaxes(key, 2, 3))
    return ops.cast(scores, query.dtype)


def attend_scored(scores, bias, inputs, problem, slab, normalizer):
    """The output of a slab from its scores."""
    allowed = problem.allowed(slab)
    weights = attention_weights(scores, normalizer, allowed, bias)
    if problem.options.dropout:
        weights = weights * problem.keep(slab)
    # The gradient of an einsum over a turned value is the faster product.
    return ops.einsum("bhts,bhds->bhtd", weights, inputs["value"])


def no_gradients(problem, operands):
    """What `add_gradients` starts from."""
    carry = {name: getattr(problem, name) for name in NAMES}
    carry = {n: ops.zeros_like(x) for n, x in carry.items() if x is not None}
    return {**carry, "operands": tuple(map(ops.zeros_like, operands))}


def add_gradients(carry, slab, parts):
    """Adds the gradients of a slab; what `Slabs.for_each_slab` wants of its body."""
    operands = zip(carry["operands"], parts["operands"], strict=True)
    carry = {
        **carry,
        "query": slab.put_rows(carry["query"], parts["query"]),
        "operands": tuple(total + part for total, part in operands),
    }
    if "bias" in carry:
        carry["bias"] = slab.add_pairs(carry["bias"], parts["bias"])
    return carry, {"key": parts["key"], "value": parts["value"]}


def gradients_of(problem, carry):
    """The gradients by name, in the shapes of what they are the gradients of."""
    gradients = {
        "query": problem.cut(carry["query"]),
        "key": ops.swapaxes(carry["key"], 2, 3),
        "value": ops.swapaxes(carry["value"], 2, 3),
    }
    if "bias" in carry:
        gradients["bias"] = problem.cut(carry["bias"])
    operands = enumerate(carry["operands"])
    return {**gradients, **{f"operand{i}": part for i, part in operands}}
