"""Keras's attention layers become ours with their weights, and ours become Keras's."""

import keras

from keras_sam import _validation as check
from keras_sam.convert import hub
from keras_sam.convert.counterparts import (
    OURS,
    THEIRS,
    bind,
    built_shapes,
    to_keras,
    to_ours,
)
from keras_sam.convert.rebuild import is_rebuildable, leaves, rebuild
from keras_sam.layers import SelfAttention


def convert(target, to: str = "keras_sam"):
    """Returns a copy of a layer or model whose attention layers are ours, or Keras's.

    ::

        MultiHeadAttention, GroupQueryAttention   SelfAttention where every call is
                                                  `layer(x, x)`, else CrossAttention
        Attention, AdditiveAttention              UnprojectedAttention
        attention layers of KerasHub              SelfAttention or CrossAttention, with
                                                  steps of `score`, `mask` and a gate

    The copy has the weights of the original and computes the same, except that a row with
    nothing to attend to, and a row of padding, is zero before the output projection.
    Models are copied whole: functional and Sequential ones, nested in each other. The
    copy of a model is not compiled. A layer of its own becomes CrossAttention or
    UnprojectedAttention; the latter is called with tensors one by one, not with a list.
    Masks of dropout are drawn anew. An `activity_regularizer` of GroupQueryAttention,
    which Keras applies to its output as well, is of the projections only.

    Backbones, tasks and other layers of KerasHub are copied as well, alone or in a model
    of Keras. The copies stay of their class, and save to `.keras` and load. Their
    preprocessors are shared with the original. docs/converting.md lists which attention
    layers are taken, and what differs.

    Args:
        target: A model or an attention layer; one of KerasHub is to be built.
        to: `"keras_sam"`, or `"keras"` for the way back. A Sequential model whose
            SelfAttention becomes Keras's, with two inputs, is a functional model then.

    Returns:
        A new layer or model.

    Raises:
        ValueError: If `target` has no attention layer to convert; if one is quantized, has
            LoRA weights, is of a subclass, or is inside of a layer or model of your own
            class; if one of KerasHub is of another kind; and, for `to="keras"`, if Keras
            has no layer that computes the same, or the target is of KerasHub.

    Example:

    >>> import keras, keras_sam
    >>> inputs = keras.Input((None, 16))
    >>> attended = keras.layers.MultiHeadAttention(2, 8)(inputs, inputs)
    >>> model = keras.Model(inputs, keras.layers.add([inputs, attended]))
    >>> [type(layer).__name__ for layer in keras_sam.convert(model).layers]
    ['InputLayer', 'SelfAttention', 'Add']
    """
    check.one_of("to", to, ("keras_sam", "keras"))
    kinds, replace = (THEIRS, to_ours) if to == "keras_sam" else (OURS, to_keras)
    if hub.is_hub(target):
        return hub.convert(target, to)
    if not is_rebuildable(target):
        _check_kind(target, kinds)
        replacement = replace(target, None)
        if target.built:
            shapes = built_shapes(target)
            new = replacement.layer
            if isinstance(new, keras.layers.Attention):
                new.build(shapes)
            else:
                new.build(*shapes[: 1 if isinstance(new, SelfAttention) else None])
            replacement.carry()
        return replacement.layer
    found = []
    for layer in leaves(target):
        if hub.is_hub(layer):
            if hub.has_attention(layer):
                found.append(layer)
            continue
        if isinstance(layer, kinds):
            _check_kind(layer, kinds)
            found.append(layer)
            continue
        inner = layer._flatten_layers() if isinstance(layer, keras.layers.Layer) else ()
        for hidden in inner:
            if isinstance(hidden, kinds):
                raise ValueError(
                    f"`target` must have its attention layers in functional or Sequential "
                    f"models. {type(layer).__name__} {layer.name!r} has one inside of it: "
                    "make the layer of keras_sam where that class is written. Received: "
                    f"target={target.name!r}, with {hidden.path or hidden.name!r}"
                )
    if not found:
        expected = f"a model with an attention layer ({_names(kinds)})"
        raise check.invalid("target", expected, target)
    new = {}
    for layer in found:
        make = hub.replacement if hub.is_hub(layer) else replace
        new[id(layer)] = make(layer, to if hub.is_hub(layer) else _calls(layer))
    return rebuild(target, new)


def _names(kinds):
    return ", ".join(kind.__name__ for kind in kinds)


def _check_kind(layer, kinds):
    """Refuses what no layer is known to compute the same as."""
    if type(layer) not in kinds:
        expected = f"a functional or Sequential model, or exactly one of {_names(kinds)}"
        raise check.invalid("target", expected, layer)
    for part in layer._flatten_layers():
        if part.quantization_mode is not None or getattr(part, "lora_enabled", False):
            raise ValueError(
                "`target` must be neither quantized nor have LoRA weights. Convert first, "
                f"and quantize then. Received: {layer.name!r}, with {part.name!r}"
            )


def _calls(layer):
    """The arguments of all calls of a layer in functional models."""
    calls = [node.arguments for node in layer._inbound_nodes]
    return [bind(layer, call.args, call.kwargs) for call in calls]
