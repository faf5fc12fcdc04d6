"""Attention slab by slab, for any score and any normalizer.

Nothing is kept for the backward pass: each slab is computed again there, and only then
differentiated. All heads go through a slab together, because the weights of a score may
belong to one head each.
"""

import functools

from keras import ops

from keras_sam.ops.attention import attention_weights
from keras_sam.ops.compiled import compiled, graph, vjp
from keras_sam.ops.slabs import Problem

NAMES = ("query", "key", "value", "bias")


def attend(query, key, value, bias, operands, constants, compare, normalizer, options):
    """Returns `normalizer(compare(operands, query, key) + bias) @ value`.

    Args:
        query: Float tensor `(B, H, T, D)`.
        key: Float tensor `(B, H, S, D)`.
        value: Float tensor `(B, H, S, Dv)`.
        bias: Float tensor `(B or 1, H or 1, T or 1, S or 1)`, or None.
        operands: A tuple of float tensors.
        constants: As in `dot_softmax.attend`.
        compare: A function `(operands, query, key) -> (B, H, T, S)`.
        normalizer: A function of float32 scores that works on the last axis.
        options: `slabs.Options`.

    Returns:
        The output, `(B, H, T, Dv)`.
    """
    forward, backward = _passes(compare, normalizer, options)

    @ops.custom_gradient
    def run(*inputs):
        # Or an eager TensorFlow differentiates the kernels all the same.
        inputs = [ops.stop_gradient(tensor) for tensor in inputs]
        tensors = {"first_head": 0, **constants, **_by_name(inputs, bias)}

        def gradient(*args, upstream=None):
            if upstream is None:
                (upstream,) = args
            return backward(tensors, upstream)

        return forward(tensors), gradient

    biases = () if bias is None else (bias,)
    return run(query, key, value, *biases, *operands)


def _by_name(inputs, bias):
    """Names the inputs of `run`; the operands come last."""
    names = NAMES if bias is not None else NAMES[:-1]
    named = dict(zip(names, inputs, strict=False))
    return {"bias": None, **named, "operands": tuple(inputs[len(names) :])}


@functools.lru_cache(maxsize=64)
def _passes(compare, normalizer, options):
    """The forward and the backward pass, compiled once for all layers."""
    static = {"compare": compare, "normalizer": normalizer, "options": options}
    forward = compiled(functools.partial(_forward, **static))
    backward = compiled(functools.partial(_backward, **static))
    return graph(forward), graph(backward)


def _forward(tensors, compare, normalizer, options):
    """Returns the output `(B, H, T, Dv)`."""
    problem = Problem(tensors, options, together=True)

    def one_slab(slab, key, value, carry):
        inputs = _inputs(problem, slab, key, value, tensors["operands"])
        output = _attend_slab(inputs, problem, slab, compare, normalizer)
        return {"output": slab.put_rows(carry["output"], output)}, {}

    carry = {"output": problem.empty(tensors["value"])}
    return problem.cut(problem.for_each_slab(one_slab, carry)["output"])


def _backward(tensors, upstream, compare, normalizer, options):
    """Returns the gradients of query, key, value, bias (if any), and the operands."""
    problem = Problem(tensors, options, together=True)
    upstream = problem.pad(upstream)

    def one_slab(slab, key, value, carry):
        def attend_slab(inputs):
            return _attend_slab(inputs, problem, slab, compare, normalizer)

        inputs = _inputs(problem, slab, key, value, tensors["operands"])
        parts = vjp(attend_slab, inputs, slab.of_rows(upstream))
        operands = zip(carry["operands"], parts["operands"], strict=True)
        carry = {
            **carry,
            "query": slab.put_rows(carry["query"], parts["query"]),
            "operands": tuple(total + part for total, part in operands),
        }
        if "bias" in carry:
            carry["bias"] = slab.add_pairs(carry["bias"], parts["bias"])
        return carry, {"key": parts["key"], "value": parts["value"]}

    carry = {name: getattr(problem, name) for name in NAMES}
    carry = {n: ops.zeros_like(x) for n, x in carry.items() if x is not None}
    carry["operands"] = tuple(map(ops.zeros_like, tensors["operands"]))
    carry = problem.for_each_slab(one_slab, carry)
    gradients = [
        problem.cut(carry["query"]),
        ops.swapaxes(carry["key"], 2, 3),
        ops.swapaxes(carry["value"], 2, 3),
    ]
    if "bias" in carry:
        gradients.append(problem.cut(carry["bias"]))
    return (*gradients, *carry["operands"])


def _inputs(problem, slab, key, value, operands):
    """What a slab may be differentiated by."""
    inputs = {"query": slab.of_rows(problem.query), "key": key, "value": value}
    if problem.bias is not None:
        inputs["bias"] = slab.of_pairs(problem.bias)
    return {**inputs, "operands": operands}


def _attend_slab(inputs, problem, slab, compare, normalizer):
    """The output of a slab."""
    key = ops.swapaxes(inputs["key"], 2, 3)
    scores = compare(inputs["operands"], inputs["query"], key)
    scores = ops.cast(scores, inputs["query"].dtype)
    allowed = problem.allowed(slab)
    weights = attention_weights(scores, normalizer, allowed, inputs.get("bias"))
    if problem.options.dropout:
        weights = weights * ops.cast(problem.keep(slab), weights.dtype)
    # The gradient of an einsum over a turned value is the faster product.
    return ops.einsum("bhts,bhds->bhtd", weights, inputs["value"])
