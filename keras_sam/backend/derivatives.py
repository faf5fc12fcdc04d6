"""Gradients that are written by hand, and that can be differentiated again.

A hand-written backward pass is fast, and cannot be differentiated itself: it reads what
the forward pass kept, and loops. So the derivative of the backward pass is that of a
second formula for the same gradients, `again`, all of whose operations can be
differentiated::

    order 1    forward, backward            by hand
    order 2    the vjp of `again`           by the backend, from the inputs
    order n    the vjp of that, and so on   by the backend
"""

import keras


def with_gradient(forward, backward, again):
    """Returns a function of `(inputs, constants)` whose gradient is `backward`.

    Args:
        forward: A function of `(inputs, constants)` that returns a list of outputs and a
            structure of residuals, which are kept for the backward pass.
        backward: A function of `(inputs, constants, outputs, residuals, upstream)` that
            returns the gradients, in the structure of `inputs`.
        again: A function of `(inputs, constants, upstream)` that returns the same
            gradients. Derivatives of second and higher order are those of this function.

    `inputs` is a structure of float tensors, `constants` one of any tensors or Nones.
    """

    def backward_alone(both, kept):
        constants, outputs, residuals = kept
        inputs, upstream = both
        gradients = backward(inputs, constants, outputs, residuals, upstream)
        return keras.tree.flatten(gradients), ()

    def derivative_of_backward(both, kept, outputs, residuals, upstream):
        def gradients(both):
            inputs, of_outputs = both
            return keras.tree.flatten(again(inputs, kept[0], of_outputs))

        return vjp(gradients, both, upstream)

    differentiable_backward = _custom(backward_alone, derivative_of_backward)

    def rule(inputs, constants, outputs, residuals, upstream):
        kept = (constants, outputs, residuals)
        flat = differentiable_backward((inputs, upstream), kept)
        return keras.tree.pack_sequence_as(inputs, flat)

    return _custom(forward, rule)


def _custom(forward, rule):
    """`with_gradient` for one order: `rule` gets what `backward` gets."""
    backend = keras.backend.backend()
    make = {"tensorflow": _custom_tensorflow, "jax": _custom_jax, "torch": _custom_torch}
    return make[backend](forward, rule)


def _custom_tensorflow(forward, rule):
    import tensorflow as tf

    def call(inputs, constants):
        @tf.custom_gradient
        def run(*flat):
            # An eager tape would record the steps of the forward pass all the same.
            stopped = keras.tree.pack_sequence_as(inputs, [*map(tf.stop_gradient, flat)])
            # What the gradient reads of them becomes an output of an enclosing
            # `tf.function`, and is differentiated as one where that is called again.
            outputs, residuals = keras.tree.map_structure(
                tf.stop_gradient, forward(stopped, constants)
            )

            def gradient(*upstream):
                given = keras.tree.pack_sequence_as(inputs, flat)
                gradients = rule(given, constants, outputs, residuals, list(upstream))
                return keras.tree.flatten(gradients)

            return outputs, gradient

        return run(*map(tf.convert_to_tensor, keras.tree.flatten(inputs)))

    return call


def _custom_jax(forward, rule):
    import jax

    # The residuals are outputs, so that the forward pass of the gradient can call the
    # whole function: its derivative is then taken by the rule, at every order.
    @jax.custom_vjp
    def run(inputs, constants):
        return forward(inputs, constants)

    def run_forward(inputs, constants):
        outputs, residuals = run(inputs, constants)
        kept = jax.lax.stop_gradient((outputs, residuals))
        return (outputs, residuals), (inputs, constants, kept)

    def run_backward(kept, upstream):
        inputs, constants, (outputs, residuals) = kept
        gradients = rule(inputs, constants, outputs, residuals, list(upstream[0]))
        return gradients, None

    run.defvjp(run_forward, run_backward)
    return lambda inputs, constants: run(inputs, constants)[0]


def _custom_torch(forward, rule):
    import torch

    class Run(torch.autograd.Function):
        @staticmethod
        def forward(ctx, inputs, constants, *flat):
            given = keras.tree.pack_sequence_as(inputs, list(flat))
            outputs, residuals = forward(given, constants)
            kept = keras.tree.flatten(residuals)
            ctx.save_for_backward(*flat, *outputs, *kept)
            ctx.structure = inputs, constants, residuals, len(flat), len(outputs)
            return tuple(outputs)

        @staticmethod
        def backward(ctx, *upstream):
            inputs, constants, residuals, count, outputs = ctx.structure
            saved = list(ctx.saved_tensors)
            given = keras.tree.pack_sequence_as(inputs, saved[:count])
            kept = [tensor.detach() for tensor in saved[count:]]
            residuals = keras.tree.pack_sequence_as(residuals, kept[outputs:])
            gradients = rule(given, constants, kept[:outputs], residuals, list(upstream))
            return None, None, *keras.tree.flatten(gradients)

    def call(inputs, constants):
        # Structures of placeholders: a context must not keep tensors that it has saved.
        placeholders = keras.tree.map_structure(lambda x: 0, inputs)
        return list(Run.apply(placeholders, constants, *keras.tree.flatten(inputs)))

    return call


def vjp(fn, inputs, upstream):
    """Returns the gradients of `inputs`, a structure of float tensors.

    The gradients can be differentiated again.

    Args:
        fn: A function of such a structure that returns a tensor or a structure of them.
        inputs: The structure.
        upstream: The gradient of what `fn` returns, in the same structure.
    """
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return _vjp_tensorflow(fn, inputs, upstream)
    if backend == "jax":
        import jax

        return jax.vjp(fn, inputs)[1](upstream)[0]
    import torch

    again = torch.is_grad_enabled()

    def leaf(tensor):
        if again and tensor.requires_grad:
            return tensor.view_as(tensor)
        return tensor.detach().requires_grad_()

    with torch.enable_grad():
        inputs = keras.tree.map_structure(leaf, inputs)
        output = fn(inputs)
    gradients = torch.autograd.grad(
        keras.tree.flatten(output),
        keras.tree.flatten(inputs),
        keras.tree.flatten(upstream),
        create_graph=again,
        materialize_grads=True,
    )
    return keras.tree.pack_sequence_as(inputs, gradients)


def _vjp_tensorflow(fn, inputs, upstream):
    import tensorflow as tf

    with tf.GradientTape() as tape:
        tape.watch(inputs)
        output = fn(inputs)
    sources = keras.tree.flatten(inputs)
    found = tape.gradient(output, sources, upstream)
    if sources and all(gradient is None for gradient in found):
        # `tf.autodiff.ForwardAccumulator` records no tape while it differentiates a
        # backward pass. Symbolic gradients need none.
        found = _symbolic_gradients(fn, inputs, sources, upstream)
    pairs = zip(found, sources, strict=True)
    found = [tf.zeros_like(x) if gradient is None else gradient for gradient, x in pairs]
    return keras.tree.pack_sequence_as(inputs, found)


def _symbolic_gradients(fn, inputs, sources, upstream):
    import tensorflow as tf

    if tf.config.functions_run_eagerly():
        raise RuntimeError(
            "Forward mode (`tf.autodiff.ForwardAccumulator`) needs graphs. Call "
            "`tf.config.run_functions_eagerly(False)`."
        )

    def gradients(sources, upstream):
        outputs = fn(keras.tree.pack_sequence_as(inputs, sources))
        zero = tf.UnconnectedGradients.ZERO
        flat = keras.tree.flatten(outputs), sources, keras.tree.flatten(upstream)
        return tf.gradients(*flat, unconnected_gradients=zero)

    return tf.function(gradients, autograph=False)(sources, upstream)
