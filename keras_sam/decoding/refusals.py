"""Layers that cannot be decoded step by step, and what to do instead."""

import numpy as np
from keras import layers

import keras_sam.layers as ours

CONVERT = "convert it with `keras_sam.convert`"
MIXES = "it mixes positions, and remembers none"

_ATTENTION = (
    layers.MultiHeadAttention,
    layers.GroupQueryAttention,
    layers.Attention,
    layers.AdditiveAttention,
)
_OURS = (
    ours.SelectiveAttention,
    ours.SpatialAttention,
    ours.PointwiseSpatialAttention,
    ours.SpatialGate,
    ours.ChannelAttention,
    ours.CBAM,
)
_MIXING = (
    layers.RNN,
    layers.Bidirectional,
    layers.Flatten,
    layers.Permute,
    layers.RepeatVector,
    layers.GroupNormalization,
)
_POOLING = ("Pooling", "Cropping", "ZeroPadding", "UpSampling")


def refuse(call):
    """Refuses a layer that works on tokens and is wrong when it sees one step of them.

    Args:
        call: `survey.Call`.
    """
    reason = _reason(call, call.layer)
    if reason is not None:
        raise ValueError(
            f"`model` must have no layers over its tokens but those that see one position "
            f"at a time and causal attention of keras_sam; {reason}. "
            f"Received: {type(call.layer).__name__} {call.layer.path!r}"
        )


def _reason(call, layer):
    """Returns why a layer is refused, or None."""
    if isinstance(layer, ours.SelfAttention):
        if not call.sees_all_tokens:
            return "this one sees other positions beside those of the tokens"
        if not (layer.is_causal or call.use_causal_mask):
            return "this one sees what comes after a position: it needs `causal=True`"
        return None
    if isinstance(layer, ours.CrossAttention | ours.UnprojectedAttention):
        uses = "this one attends over the tokens: use `keras_sam.SelfAttention`"
        return uses if call.attends_over_tokens else None
    if isinstance(layer, _ATTENTION):
        return CONVERT if call.attends_over_tokens else None
    return MIXES if _mixes(layer) else None


def _mixes(layer):
    """Returns whether a layer computes something from several positions."""
    if isinstance(layer, (*_OURS, *_MIXING)):
        return True
    name, sizes = type(layer).__name__, getattr(layer, "kernel_size", None)
    if "Conv" in name and isinstance(sizes, tuple):
        return any(size > 1 for size in sizes)
    if isinstance(layer, layers.LayerNormalization):
        return 1 in np.atleast_1d(layer.axis)
    is_keras = type(layer).__module__.startswith("keras.")
    return is_keras and any(word in name for word in _POOLING)
