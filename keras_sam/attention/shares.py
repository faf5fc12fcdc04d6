"""Sharing compiled kernels out: some heads to each core, one example after the other.

Only kernels that XLA compiles on TensorFlow are shared out. One example at a time makes a
compiled program serve every batch; on a CPU it is large enough.
"""

import functools

import keras
from keras import ops

from keras_sam.attention.request import Inputs
from keras_sam.backend.cores import shares
from keras_sam.backend.loops import stack
from keras_sam.backend.xla import compiled, graph


def share_out(forward, backward, plan, keeps_rows=False):
    """Returns the two passes of a kernel, compiled and shared out as a plan says.

    Args:
        forward: See `gradient.run`.
        backward: See `gradient.run`.
        plan: `plan.Plan`.
        keeps_rows: Whether the residuals are a tensor `(B, H, T, n)`; they are empty
            otherwise.
    """
    if not plan.compiled:
        return forward, backward
    forward, backward = compiled(forward), compiled(backward)
    if plan.cores:
        forward, backward = _forward_by_heads(forward), _backward_by_heads(backward)
    if plan.one_by_one:
        forward = _forward_by_examples(forward, keeps_rows)
        backward = _backward_by_examples(backward)
    return graph(forward), graph(backward)


def _forward_by_heads(run):
    def forward(inputs, constants):
        parts = [run(*share) for share in _shares_of_heads(inputs, constants)]
        outputs, residuals = zip(*parts, strict=True)
        kept = () if isinstance(residuals[0], tuple) else _join(residuals)
        return _join(outputs), kept

    return forward


def _backward_by_heads(run):
    def backward(inputs, constants, *of_rows):
        shares = _shares_of_heads(inputs, constants, *of_rows)
        parts = [run(*share) for share in shares]
        bias = [part.bias for part in parts]
        if inputs.bias is not None:
            bias = _join(bias) if inputs.bias.shape[1] != 1 else sum(bias[1:], bias[0])
        else:
            bias = None
        names = "query", "key", "value"
        joined = {name: _join([getattr(part, name) for part in parts]) for name in names}
        operands = functools.reduce(_add, [part.operands for part in parts])
        sinks = None
        if inputs.sinks is not None:
            sinks = _join([part.sinks for part in parts])
        return Inputs(**joined, bias=bias, operands=operands, sinks=sinks)

    return backward


def _shares_of_heads(inputs, constants, *of_rows):
    """Yields the arguments of a pass for each share of the heads."""
    first = 0
    for size in shares(inputs.query.shape[1]):
        heads = slice(first, first + size)

        def take(tensor, heads=heads):
            if tensor is None or isinstance(tensor, tuple) or tensor.shape[1] == 1:
                return tensor
            return tensor[:, heads]

        share = Inputs(*map(take, inputs[:4]), inputs.operands, take(inputs.sinks))
        offset = constants.head_offset + ops.convert_to_tensor(first, "int32")
        mask = take(constants.mask)
        yield share, constants._replace(mask=mask, head_offset=offset), *map(take, of_rows)
        first += size


def _join(parts):
    return parts[0] if len(parts) == 1 else ops.concatenate(parts, axis=1)


def _forward_by_examples(run, keeps_rows):
    def forward(inputs, constants):
        if inputs.query.shape[0] == 1:
            return run(inputs, constants)

        def one_example(index, carry):
            output, kept = run(*_example(index, inputs, constants))
            found = {"output": output[0]}
            return {**found, "kept": kept[0]} if keeps_rows else found, carry

        names = ("output", "kept") if keeps_rows else ("output",)
        dtypes = dict.fromkeys(names, inputs.query.dtype)
        found, _ = stack(one_example, ops.shape(inputs.query)[0], (), dtypes)
        return found["output"], found.get("kept", ())

    return forward


def _backward_by_examples(run):
    def backward(inputs, constants, *of_rows):
        if inputs.query.shape[0] == 1:
            return run(inputs, constants, *of_rows)
        names = ["query", "key", "value"]
        if inputs.bias is not None and inputs.bias.shape[0] != 1:
            names.append("bias")
        given = inputs._asdict()
        sums = {
            name: keras.tree.map_structure(ops.zeros_like, x)
            for name, x in given.items()
            if name not in names and x is not None
        }

        def one_example(index, sums):
            parts = run(*_example(index, inputs, constants, *of_rows))._asdict()
            sums = {name: _add(x, parts[name]) for name, x in sums.items()}
            return {name: parts[name][0] for name in names}, sums

        dtypes = dict.fromkeys(names, inputs.query.dtype)
        found, sums = stack(one_example, ops.shape(inputs.query)[0], sums, dtypes)
        return Inputs(**found, **sums)

    return backward


def _add(total, part):
    if isinstance(total, tuple):
        return tuple(x + y for x, y in zip(total, part, strict=True))
    return total + part


def _example(index, inputs, constants, *of_rows):
    """Returns the arguments of a pass for one example."""

    def take(tensor):
        if tensor is None or isinstance(tensor, tuple) or tensor.shape[0] == 1:
            return tensor
        size = (1, *ops.shape(tensor)[1:])
        return ops.slice(tensor, (index, *[0] * (len(size) - 1)), size)

    others = "seed", "example_offset", "head_offset"
    parts = {n: take(x) for n, x in constants._asdict().items() if n not in others}
    constants = constants._replace(**parts, example_offset=index)
    inputs = Inputs(*map(take, inputs[:4]), inputs.operands, inputs.sinks)
    return inputs, constants, *map(take, of_rows)
