"""Functions whose first derivative is that of a library, and the others our own.

The fast kernels of libraries have a gradient, and that gradient has none. So its
derivative is that of a second formula, as in `derivatives`::

    order 1    the backend's gradient of `fn`
    order 2    the vjp of `again`, and so on
"""

import keras

from keras_sam.backend.derivatives import differentiable_backward, with_gradient


def with_own_gradient(fn, again):
    """Returns a function of `(inputs, constants)` like `fn`, with a gradient of any order.

    Args:
        fn: A function of `(inputs, constants)` that returns a tensor.
        again: See `derivatives.with_gradient`.

    `inputs` is a structure of float tensors, `constants` one of any tensors or Nones.
    """
    make = {"jax": _with_jax, "torch": _with_torch}
    return make[keras.backend.backend()](fn, again)


def _with_jax(fn, again):
    import jax

    # JAX keeps what a gradient needs as the leaves of the function that computes it.
    def differentiate(inputs, constants):
        return jax.vjp(lambda inputs: fn(inputs, constants), inputs)

    def forward(inputs, constants):
        output, pullback = differentiate(inputs, constants)
        return [output], jax.tree.leaves(pullback)

    def backward(inputs, constants, outputs, residuals, upstream):
        # Traced without computing anything, for the structure of the function.
        _, pullback = jax.eval_shape(differentiate, inputs, constants)
        pullback = jax.tree.unflatten(jax.tree.structure(pullback), residuals)
        return pullback(upstream[0])[0]

    run = with_gradient(forward, backward, again)
    return lambda inputs, constants: run(inputs, constants)[0]


def _with_torch(fn, again):
    import torch

    def backward(inputs, constants, outputs, graph, upstream):
        output, leaves = graph
        wanted = [leaf for leaf in leaves if leaf.requires_grad]
        # Kept, because the caller may keep its graph as well.
        found = iter(torch.autograd.grad(output, wanted, upstream, retain_graph=True))
        return keras.tree.pack_sequence_as(
            inputs,
            [next(found) if x.requires_grad else torch.zeros_like(x) for x in leaves],
        )

    rule = differentiable_backward(backward, again)

    class Run(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, constants, *flat):
            leaves = [x.detach().requires_grad_(x.requires_grad) for x in flat]
            with torch.enable_grad():
                output = fn(keras.tree.pack_sequence_as(inputs, leaves), constants)
            ctx.save_for_backward(*flat)
            ctx.structure = inputs, constants, (output, leaves)
            return output.detach()

        @staticmethod
        def backward(ctx, upstream):
            inputs, constants, graph = ctx.structure
            given = keras.tree.pack_sequence_as(inputs, list(ctx.saved_tensors))
            gradients = rule(given, constants, [], graph, [upstream])
            return None, None, *keras.tree.flatten(gradients)

    def call(inputs, constants):
        flat = keras.tree.flatten(inputs)
        # A compiler differentiates once only, and sees through no function of one's own.
        once = torch.compiler.is_compiling()
        if once or not (torch.is_grad_enabled() and any(x.requires_grad for x in flat)):
            return fn(inputs, constants)
        placeholders = keras.tree.map_structure(lambda x: 0, inputs)
        return Run.apply(placeholders, constants, *flat)

    return call
