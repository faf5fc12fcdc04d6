"""Attention layers of keras_sam that are called as those of KerasHub are."""

import dataclasses
import inspect

import keras
from keras import ops


@dataclasses.dataclass(frozen=True)
class Padding:
    """What a decoder's mask says beside its pattern.

    Args:
        keys: Tensor `(B, S)`, zero for padding, or None.
    """

    keys: object = None


class HubAttention(keras.layers.Layer):
    """Calls an attention layer of keras_sam with the arguments of one of KerasHub.

    It is a sublayer of KerasHub's own layers, which call it and expect what the layer
    would return that it stands for. It is never saved by itself: see `models.Converted`.

    Args:
        attention: `SelfAttention` or `CrossAttention`.
        old: The layer of KerasHub.
        answer: A function of this layer and the arguments of a call by their names, which
            returns what the layer of KerasHub would.
        keep: The names of sublayers of `old` that the function needs.
    """

    def __init__(self, attention, old, answer, keep=()):
        super().__init__(name=old.name, dtype=old.dtype_policy)
        self.supports_masking = True
        self.attention = attention
        self._parameters = inspect.signature(type(old).call)
        self._answer = answer
        for name in keep:
            setattr(self, name, getattr(old, name, None))
        self._path = old.path
        self.built = True

    def __call__(self, *args, **kwargs):
        # Not through Keras: it would look for tensors in a `Padding`, and in arguments
        # that have other names in each layer of KerasHub.
        call = dict(self._parameters.bind(self, *args, **kwargs).arguments)
        call.pop("self")
        call.update(call.pop("kwargs", {}))
        return self._answer(self, call)

    def attend(self, query, call, value=None, key=None, **others):
        """Returns the output of a call without a cache.

        Args:
            query, value, key: Tensors `(B, T, C)`; of self-attention the query alone.
            call: The arguments of the call.
            **others: Arguments of the call of keras_sam's layer.
        """
        tensors = [x for x in (query, value, key) if x is not None]
        mask = pairs(call.get("attention_mask", call.get("mask")))
        return self.attention(
            *map(without_mask, tensors),
            attention_mask=mask,
            training=call.get("training") or None,
            **others,
        )


def pairs(mask):
    """Returns a mask of KerasHub as boolean `(B, 1 or T, S)` or `(B, H, T, S)`, or None."""
    if isinstance(mask, Padding):
        mask = mask.keys
    if mask is None:
        return None
    if keras.backend.is_float_dtype(keras.backend.standardize_dtype(mask.dtype)):
        mask = mask > -1  # added to scores: 0, or far below
    mask = ops.cast(mask, "bool")
    return mask[:, None, :] if len(mask.shape) == 2 else mask


def without_mask(tensor):
    """Returns a tensor without Keras's implicit mask, which layers of KerasHub ignore."""
    if getattr(tensor, "_keras_mask", None) is None:
        return tensor
    return ops.reshape(tensor, ops.shape(tensor))


# What layers of KerasHub return -----------------------------------------------------------


def plain(layer, call):
    """The output, and the cache if there is one."""
    x = next(iter(call.values()))
    return layer.attend(x, call)


def with_cache(layer, call):
    """The output and the cache, also where there is none."""
    return plain(layer, call), call.get("cache")


def with_weights(layer, call):
    """The output, no weights, and no cache."""
    return plain(layer, call), None, call.get("cache")


def one_or_two(layer, call):
    """The output of `T5GemmaAttention`, which takes a list in cross-attention."""
    inputs = call["inputs"]
    if layer.attention.kind == "self":
        return layer.attend(inputs, call), call.get("cache")
    return layer.attend(*inputs[:1], call, inputs[1]), call.get("cache")


def merged(layer, call):
    """The output of attention to a sequence and, in the same softmax, to a second one."""
    x, other = call["inputs"], call["encoder_hidden_states"]
    return layer.attend(x, call, ops.concatenate([x, other], axis=1)), call.get("cache")


def t5(layer, call):
    """The output; what stands for the biases, which each layer has by itself; the cache."""
    x, other = call["hidden_states"], call.get("key_value_states")
    output = layer.attend(x, call, other)
    return output, ops.zeros((1, 1, 1, 1), output.dtype), call.get("cache")


def rows_masked(layer, call):
    """The output, for a mask of rows: what they compute is not read."""
    return layer.attend(next(iter(call.values())), {**call, "attention_mask": None})


def query_and_value(layer, call):
    """The output of `CachedMultiHeadAttention` and what inherits from it."""
    query, value, key = (call.get(name) for name in ("query", "value", "key"))
    scores = {"return_attention_scores": call.get("return_attention_scores", False)}
    if layer.attention.kind == "self":
        return layer.attend(query, call, **scores)
    return layer.attend(query, call, value, key, **scores)


def of_keras(layer, call):
    """The output of Keras's `MultiHeadAttention`, which heeds implicit masks."""
    tensors = [call.pop(name) for name in ("query", "value", "key") if name in call]
    call = {name: value for name, value in call.items() if value is not None}
    if "attention_mask" in call:
        call["attention_mask"] = pairs(call["attention_mask"])
    if layer.attention.kind == "self":
        call.pop("key_mask", None)
        masks = [call.pop(name, None) for name in ("query_mask", "value_mask")]
        mask = next((mask for mask in masks if mask is not None), None)
        return layer.attention(tensors[0], mask=mask, **call)
    return layer.attention(*tensors, **call)


def windows(layer, call):
    """The output of attention within windows, whose masks repeat for each picture."""
    x, mask = call["x"], call.get("mask")
    if mask is not None:
        pictures = ops.shape(x)[0] // ops.shape(mask)[0]
        mask = ops.tile(mask, (pictures, 1, 1))
    return layer.attend(x, {**call, "mask": mask})


def reduced(layer, call):
    """The output of attention to a picture that is made smaller first."""
    x = call["x"]
    if layer.sr is None:
        return layer.attend(x, call, x)
    batch, length, channels = ops.shape(x)
    size = int(length**0.5)
    small = layer.sr(ops.reshape(x, (batch, size, size, channels)))
    return layer.attend(x, call, layer.norm(ops.reshape(small, (batch, -1, channels))))


def with_nothing(layer, call):
    """The output, and no weights."""
    return plain(layer, call), None
