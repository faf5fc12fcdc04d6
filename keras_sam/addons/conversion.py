"""Turning layers of TensorFlow Addons into layers and scores of keras_sam."""

import keras
import numpy as np

from keras_sam.addons._legacy import policy_name
from keras_sam.addons.multi_head_attention import MultiHeadAttention
from keras_sam.addons.scores import BahdanauAttention, LuongAttention
from keras_sam.layers import CrossAttention, SelfAttention


def convert(layer, to=CrossAttention):
    """Returns a keras_sam layer or score that computes what `layer` does, weights and all.

    ::

        tfa.layers.MultiHeadAttention             SelfAttention or CrossAttention
        keras_sam.addons.MultiHeadAttention       SelfAttention or CrossAttention
        tfa.seq2seq.LuongAttention                keras_sam.scores.Bilinear
        tfa.seq2seq.BahdanauAttention             keras_sam.scores.Additive

    `layer` itself is left as it is. These are not the same in the new layer:

    * It is called as `new(query, value, key, attention_mask=...)`, or `new(inputs)`; it
      returns its weights when it is called with `return_attention_scores=True`.
    * A row whose mask is all zeros has weights of zero, not the same weight everywhere.
    * If the output had a bias, queries, keys and values have one too. It is zero until
      you train.
    * A score makes scores: attend with `softmax(score(query, memory))`.

    Args:
        layer: A layer or mechanism of TensorFlow Addons that has been called once, so
            that it has weights, or a `MultiHeadAttention` of a loaded model.
        to: `keras_sam.CrossAttention`, which fits always, or `keras_sam.SelfAttention`,
            if `layer` was called with a list of one tensor only.

    Raises:
        ValueError: If there is no layer or score that computes the same.

    Example:

    >>> import numpy as np, keras_sam.addons
    >>> old = keras_sam.addons.MultiHeadAttention(head_size=4, num_heads=2)
    >>> x = np.ones((1, 3, 6))
    >>> y = old([x, x])
    >>> new = keras_sam.addons.convert(old, to=keras_sam.SelfAttention)
    >>> np.testing.assert_allclose(new(x), y, atol=1e-5)
    """
    kind = _kind(layer)
    if not layer.built:
        raise ValueError(
            f"`layer` must have been called once, so that it has weights to carry over. "
            f"Received: layer={layer.name!r}, which has none"
        )
    if kind == "MultiHeadAttention":
        return _convert_attention(layer, to)
    mechanism = {"LuongAttention": LuongAttention, "BahdanauAttention": BahdanauAttention}
    return _convert_score(layer, mechanism[kind])


def _kind(layer):
    """Returns the name of the class that `layer` is of, or inherits from."""
    kinds = "MultiHeadAttention", "LuongAttention", "BahdanauAttention"
    for cls in type(layer).__mro__:
        of_addons = cls.__module__.startswith("tensorflow_addons.")
        if cls is MultiHeadAttention or (of_addons and cls.__name__ in kinds):
            for method in ("call", "_calculate_attention"):
                if getattr(type(layer), method, None) is not getattr(cls, method, None):
                    raise ValueError(
                        f"`layer` must compute what {cls.__name__} does, and a subclass "
                        f"with its own `{method}` may not. Write it as a layer of Keras 3. "
                        f"Received: layer={layer.name!r} (of type {type(layer).__name__})"
                    )
            return cls.__name__
    raise ValueError(
        "`layer` must be a tfa.layers.MultiHeadAttention, tfa.seq2seq.LuongAttention or "
        "tfa.seq2seq.BahdanauAttention, or a keras_sam.addons.MultiHeadAttention; nothing "
        "else of TensorFlow Addons maps to keras_sam. "
        f"Received: layer={layer!r} (of type {type(layer).__name__})"
    )


def _convert_attention(layer, to):
    if to not in (SelfAttention, CrossAttention):
        raise ValueError(
            "`to` must be keras_sam.SelfAttention or keras_sam.CrossAttention. "
            f"Received: to={to!r}"
        )
    weights = {
        name: keras.ops.convert_to_numpy(getattr(layer, name))
        for name in ("query_kernel", "key_kernel", "value_kernel", "projection_kernel")
    }
    widths = [weights[f"{name}_kernel"].shape[1] for name in ("query", "key", "value")]
    _check_convertible(layer, to, widths)
    output_width = weights["projection_kernel"].shape[-1]
    new = to(
        num_heads=layer.num_heads,
        key_dim=layer.head_size,
        dropout=layer.get_config()["dropout"],
        output_shape=None if output_width == widths[0] else output_width,
        use_bias=layer.use_projection_bias,
        kernel_initializer=_current(keras.initializers, layer, "kernel_initializer"),
        kernel_regularizer=_current(keras.regularizers, layer, "kernel_regularizer"),
        name=layer.name,
        dtype=policy_name(layer.get_config()["dtype"]),
        trainable=layer.trainable,
    )
    shapes = [(None, None, width) for width in widths]
    if to is SelfAttention:
        new.build(shapes[0])
    else:
        new.build(shapes[0], shapes[2], shapes[1])
    for name in ("query", "key", "value"):
        kernel = np.moveaxis(weights[f"{name}_kernel"], 0, 1)  # (C, H, D)
        getattr(new, f"{name}_dense").kernel.assign(kernel)
    new.output_dense.kernel.assign(weights["projection_kernel"])
    if layer.use_projection_bias:
        new.output_dense.bias.assign(keras.ops.convert_to_numpy(layer.projection_bias))
    return new


def _check_convertible(layer, to, widths):
    """Refuses what the new layer could not compute, or not go on training."""
    keep = (
        f"Keep the layer as it is, with keras_sam.addons.MultiHeadAttention. "
        f"Received: layer={layer.name!r}"
    )
    if to is SelfAttention and len(set(widths)) > 1:
        raise ValueError(
            "`layer` must have queries, keys and values of one width to become a "
            "SelfAttention. Convert it to keras_sam.CrossAttention. "
            f"Received: layer={layer.name!r}, with widths {widths}"
        )
    for name in ("kernel_constraint", "bias_regularizer", "bias_constraint"):
        if getattr(layer, name) is not None:
            raise ValueError(
                f"keras_sam's attention has no `{name}` that means the same: its kernels "
                f"have another layout, and all its projections a bias. {keep}"
            )


def _current(module, layer, name):
    """Returns an initializer or regularizer of Keras 2 as one of Keras 3."""
    return module.get(layer.get_config()[name])


def _convert_score(mechanism, kind):
    score = kind.from_config(mechanism.get_config())
    query_width, key_width, weights = kind.weights(mechanism)
    score.build((None, None, query_width), (None, None, key_width))
    score.built = True
    for name, value in weights.items():
        getattr(score, name).assign(value)
    return score
