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


def _attend_slab(inputs, problem, slab, compare, normalizer):
    """The output of a slab, from a dictionary of what it may be differentiated by."""
    key = ops.swapaxes(inputs["key"], 2, 3)
    scores = compare(inputs["operands"], inputs["query"], key)
    scores = ops.cast(scores, inputs["query"].dtype)
    allowed = problem.allowed(slab)
    weights = attention_weights(scores, normalizer, allowed, inputs.get("bias"))
    if problem.options.dropout:
        weights = weights * ops.cast(problem.keep(slab), weights.dtype)
    # The gradient of an einsum over a turned value is the faster product.
    return ops.einsum("bhts,bhds->bhtd", weights, inputs["value"])


def _inputs(problem, slab, shared, operands):
    key, value = shared or problem.keys_of(slab)
    inputs = {"query": slab.of_rows(problem.query), "key": key, "value": value}
    if problem.bias is not None:
        inputs["bias"] = slab.of_pairs(problem.bias)
    return {**inputs, "operands": operands}


def _for_each_slab(problem, body, carry):
    """Runs `body(slab, shared keys and values, carry)` for each slab."""
    for group in problem.groups:
        shared = problem.shared_keys(group)

        def step(index, carry, group=group, shared=shared):
            return body(problem.slab(group, index), shared, carry)

        carry = ops.fori_loop(0, group.count, step, carry)
    return carry


def _forward(tensors, compare, normalizer, options):
    problem = Problem(tensors, options)

    def one_slab(slab, shared, outputs):
        inputs = _inputs(problem, slab, shared, tensors["operands"])
        output = _attend_slab(inputs, problem, slab, compare, normalizer)
        return slab.put_rows(outputs, output)

    init = problem.empty(tensors["value"])
    return problem.cut(_for_each_slab(problem, one_slab, init))


def _backward(tensors, upstream, compare, normalizer, options):
    problem = Problem(tensors, options)
    upstream = problem.pad(upstream)

    def one_slab(slab, shared, totals):
        inputs = _inputs(problem, slab, shared, tensors["operands"])

        def attend_slab(inputs):
            return _attend_slab(inputs, problem, slab, compare, normalizer)

        parts = vjp(attend_slab, inputs, slab.of_rows(upstream))
        totals = {
            "query": slab.put_rows(totals["query"], parts["query"]),
            "key": slab.add_keys(totals["key"], parts["key"]),
            "value": slab.add_keys(totals["value"], parts["value"]),
            "operands": tuple(map(ops.add, totals["operands"], parts["operands"])),
            **{name: totals[name] for name in totals if name == "bias"},
        }
        if "bias" in totals:
            totals["bias"] = slab.add_pairs(totals["bias"], parts["bias"])
        return totals

    init = {name: getattr(problem, name) for name in NAMES}
    init = {name: ops.zeros_like(x) for name, x in init.items() if x is not None}
    init["operands"] = tuple(map(ops.zeros_like, tensors["operands"]))
    totals = _for_each_slab(problem, one_slab, init)
    gradients = [
        problem.cut(totals["query"]),
        ops.swapaxes(totals["key"], 2, 3),
        ops.swapaxes(totals["value"], 2, 3),
    ]
    if "bias" in totals:
        gradients.append(problem.cut(totals["bias"]))
    return (*gradients, *totals["operands"])
