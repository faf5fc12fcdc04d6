"""Running a kernel with its gradient, which can be differentiated any number of times.

The first derivative is the backward pass of the kernel. Derivatives of second and higher
order are those of the reference formula, which keeps whole matrices of weights.
"""

import functools

from keras import ops

from keras_sam.attention import library, policy, reference
from keras_sam.attention.plan import Plan
from keras_sam.attention.request import Inputs, Sizes
from keras_sam.backend.derivatives import vjp, with_gradient
from keras_sam.backend.own_gradient import with_own_gradient
from keras_sam.backend.xla import graph_of_any_sizes


def run(inputs, constants, request, plan):
    """Runs a kernel, and returns its output `(B, H, T, Dv)`.

    A kernel is two functions. `forward(inputs, constants)` returns the output and
    residuals, which are a tensor or empty. `backward(inputs, constants, output, residuals,
    upstream)` returns the gradients as `Inputs`.

    Args:
        inputs: `Inputs`.
        constants: `Constants`.
        request: `Request`.
        plan: `Plan`.
    """
    given = {name: x for name, x in inputs._asdict().items() if x is not None}

    def again(given, constants, upstream):
        def attend(given):
            inputs = Inputs(**given).repeated().widened().scaled(request.scale)
            output = reference.attend(inputs, constants, request)[0]
            return [ops.cast(output, upstream[0].dtype)]

        return vjp(attend, given, upstream)

    if plan.kernel == "library":

        def attend(given, constants):
            return library.attend(Inputs(**given), constants, request)

        return with_own_gradient(attend, again)(given, constants)
    kernel = _passes(request, plan)

    def forward(given, constants):
        output, residuals = kernel[0](Inputs(**given), constants)
        return [output], residuals

    def backward(given, constants, outputs, residuals, upstream):
        inputs = Inputs(**given)
        of_rows = *outputs, residuals, *upstream
        return _in_shape_of(given, kernel[1](inputs, constants, *of_rows))

    return with_gradient(forward, backward, again)(given, constants)[0]


def _passes(request, plan):
    """Returns the forward and the backward pass of a plan."""
    kernel = policy.passes(request, plan)
    if plan.any_sizes:
        kernel = _graphs_of_any_sizes(*kernel)
    if plan.few_kernel is None:
        return kernel
    few = policy.passes(request, Plan(plan.few_kernel))
    return _either(few, kernel, plan.few_pairs)


@functools.lru_cache(maxsize=256)
def _graphs_of_any_sizes(forward, backward):
    """Returns the passes of a kernel, each traced once for all batches and lengths."""
    return (
        graph_of_any_sizes(forward, _open_shapes),
        graph_of_any_sizes(backward, _open_shapes),
    )


def _open_shapes(inputs, constants, *of_rows):
    """Returns the shapes of all tensors, with None for each batch and length."""

    def rows(tensor):
        return (None, tensor.shape[1], None, tensor.shape[3])

    def pairs(tensor):
        if tensor is None:
            return None
        sizes = (None, tensor.shape[1], None, None)
        return tuple(1 if n == 1 else m for n, m in zip(tensor.shape, sizes, strict=True))

    def examples(tensor):
        return None if tensor is None else (None, None)

    def positions(tensor):
        if tensor is None:
            return None
        return (1 if tensor.shape[0] == 1 else None, None)

    return [
        *map(rows, inputs[:3]),
        pairs(inputs.bias),
        *(tuple(operand.shape) for operand in inputs.operands),
        None if inputs.sinks is None else tuple(inputs.sinks.shape),
        pairs(constants.mask),
        examples(constants.key_mask),
        examples(constants.query_mask),
        None if constants.seed is None else (2,),
        (),
        (),
        *map(positions, constants[-4:]),
        *(rows(tensor) for tensor in of_rows if not isinstance(tensor, tuple)),
    ]


def _either(few, many, most):
    """Chooses a kernel when it runs, by the number of pairs.

    Args:
        few: A kernel, whose residuals may be a tensor of four axes.
        many: A kernel without residuals.
        most: The largest number of pairs for which the first is taken.
    """

    def are_few(inputs):
        batch, heads, rows, keys, _ = Sizes.of(inputs)
        room = most // ops.maximum(keys, 1) // ops.maximum(rows, 1)
        return batch * heads <= room  # no product of lengths, which an int32 may not hold

    def forward(inputs, constants):
        def run_few():
            output, residuals = few[0](inputs, constants)
            return output, none_as_empty(residuals)

        def run_many():
            return many[0](inputs, constants)[0], none_as_empty(())

        def none_as_empty(residuals):
            is_empty = isinstance(residuals, tuple)
            return ops.zeros((0, 0, 0, 0), inputs.query.dtype) if is_empty else residuals

        return ops.cond(are_few(inputs), run_few, run_many)

    def backward(inputs, constants, output, residuals, upstream):
        given = inputs, constants, output
        gradients = ops.cond(
            are_few(inputs),
            lambda: _present(few[1](*given, residuals, upstream)),
            lambda: _present(many[1](*given, (), upstream)),
        )
        return Inputs(**gradients)

    return forward, backward


def _present(gradients):
    return {name: x for name, x in gradients._asdict().items() if x is not None}


def _in_shape_of(given, gradients):
    """Gives gradients the static sizes that are known of their tensors.

    A graph that was traced for unknown sizes, as in `fit`, also serves calls where they
    are known, and would then return unknown ones: no loop takes those.
    """
    shaped = {"operands": gradients.operands}
    for name in given:
        if name != "operands":
            shape = ops.shape(given[name])
            shaped[name] = ops.reshape(getattr(gradients, name), shape)
    return {name: shaped[name] for name in given}
