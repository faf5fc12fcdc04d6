"""Attention layers of keras_sam that are called as those of KerasHub are."""

import dataclasses
import inspect

import keras
from keras import ops

from keras_sam.convert.hub import positions
from keras_sam.layers._cached import current


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
        kind: The `table.Kind` of `old`.
    """

    def __init__(self, attention, old, kind):
        super().__init__(name=old.name, dtype=old.dtype_policy)
        self.supports_masking = True
        self.attention = attention
        self._signature = inspect.signature(type(old).call)
        self._kind = kind
        for name in kind.keep:
            setattr(self, name, getattr(old, name, None))
        self._path = old.path
        self.built = True

    def __call__(self, *args, **kwargs):
        # Not through Keras: it would look for tensors in a `Padding`, and in arguments
        # that have other names in each layer of KerasHub.
        call = dict(self._signature.bind(self, *args, **kwargs).arguments)
        call.pop("self")
        call.update(call.pop("kwargs", {}))
        return self._kind.answer(self, call)

    def attend(self, query, call, value=None, key=None, **others):
        """Returns the output of a call, and the cache after it or None.

        Args:
            query, value, key: Tensors `(B, T, C)`; of self-attention the query alone.
            call: The arguments of the call, of which a mask, a cache and its index count.
            **others: Other arguments of the call of keras_sam's layer.
        """
        mask = call.get("attention_mask", call.get("mask"))
        if isinstance(mask, Padding) and current() is not None:  # a `Decoder` runs
            others["mask"] = None if mask.keys is None else ops.cast(mask.keys, "bool")
            mask = None
        mask = pairs(mask, self._kind.adds_mask)
        others |= {"attention_mask": mask, "training": call.get("training")}
        cache = call.get("cache", call.get("self_attention_cache"))
        tensors = [without_mask(x) for x in (query, value, key) if x is not None]
        if cache is None:
            return self.attention(*tensors, **others), None
        names = "cache_update_index", "self_attention_cache_update_index"
        index = next((call[name] for name in names if call.get(name) is not None), None)
        if self.attention.kind == "self":
            if index is None:
                raise ValueError(
                    "`cache_update_index` must be given with a cache in the converted "
                    f"attention {self.path!r}. Received: cache_update_index=None"
                )
            others |= {"cache": cache, "cache_update_index": index}
            return self.attention(*tensors, **others)
        if index is not None:  # the keys and values are to be remembered
            cache = self.attention.make_cache(*tensors[1:])
        others |= {"cache": cache, "cache_update_index": 0}  # of no account to its scores
        return self.attention(tensors[0], **others)


def pairs(mask, is_added=False):
    """Returns a mask of KerasHub as boolean `(B, 1 or T, S)` or `(B, H, T, S)`, or None.

    Args:
        mask: A tensor, a `Padding`, or None.
        is_added: Whether a tensor is one to add to scores: zero, or far below.
    """
    if isinstance(mask, Padding):
        mask, is_added = mask.keys, False
    if mask is None:
        return None
    is_bool = keras.backend.standardize_dtype(mask.dtype) == "bool"
    mask = mask > -1 if is_added and not is_bool else ops.cast(mask, "bool")
    return mask[:, None, :] if len(mask.shape) == 2 else mask


def without_mask(tensor):
    """Returns a tensor without Keras's implicit mask, which layers of KerasHub ignore."""
    if getattr(tensor, "_keras_mask", None) is None:
        return tensor
    return ops.reshape(tensor, ops.shape(tensor))


# What layers of KerasHub return -----------------------------------------------------------


def plain(layer, call):
    """The output, and the cache if there is one."""
    output, cache = layer.attend(next(iter(call.values())), call)
    return output if cache is None else (output, cache)


def with_cache(layer, call):
    """The output and the cache, also where there is none."""
    return layer.attend(next(iter(call.values())), call)


def two_tensors(layer, call):
    """The output, and a cache that is two tensors, as Gemma 3 has it.

    Its `cache_update_mask` leaves the keys of a prompt as they are. In causal attention
    those that are computed again are the same, so that it may be ignored.
    """
    if call.get("cache") is None:
        return plain(layer, call)
    call = {**call, "cache": ops.stack(call["cache"], axis=1)}
    output, cache = with_cache(layer, call)
    return output, (cache[:, 0], cache[:, 1])


def heads_first(layer, call):
    """The output, no weights, and a cache `(B, 2, H, S, D)`, as Gemma 3n has it."""
    if call.get("cache") is not None:
        call = {**call, "cache": ops.swapaxes(call["cache"], 2, 3)}
    output, cache = with_cache(layer, call)
    return output, None, None if cache is None else ops.swapaxes(cache, 2, 3)


def with_nothing(layer, call):
    """The output, and no weights."""
    return plain(layer, call), None


def one_or_two(layer, call):
    """The output of `T5GemmaAttention`, which takes a list in cross-attention."""
    inputs = call["inputs"]
    if layer.attention.kind == "self":
        return layer.attend(inputs, call)
    output, cache = layer.attend(inputs[0], call, inputs[1])
    if cache is None and not call.get("training"):  # its model asks for it by no argument
        cache = layer.attention.make_cache(without_mask(inputs[1]))
    return output, cache


def merged(layer, call):
    """The output of attention to a sequence and, in the same softmax, to a second one."""
    x, other = call["inputs"], call["encoder_hidden_states"]
    caches = call.pop("cache", None) or (None, None)
    if any(cache is not None for cache in caches):
        refuse(layer, {"cache": caches}, "cache")
    output, _ = layer.attend(x, call, ops.concatenate([x, other], axis=1))
    return output, caches


def t5(layer, call):
    """The output; what stands for the biases, which each layer has by itself; the cache."""
    x, other = call["hidden_states"], call.get("key_value_states")
    output, cache = layer.attend(x, call, other)
    return output, ops.zeros((1, 1, 1, 1), output.dtype), cache


def rows_masked(layer, call):
    """The output, for a mask of rows: those of padding see the mean of all values."""
    x, mask = call["x"], call.get("attention_mask")
    output = plain(layer, {**call, "attention_mask": None})
    if mask is None:
        return output
    mean = ops.mean(x, axis=1, keepdims=True)
    mean = layer.attention.output_dense(layer.attention.value_dense(mean))
    return ops.where(ops.cast(mask, "bool")[..., None], output, mean)


def one_axis(layer, call):
    """The output, for positions along one axis only."""
    refuse(layer, call, "position_ids")
    return plain(layer, call)


def own_keys(layer, call):
    """The output and the cache, of a layer that may be handed positions."""
    refuse(layer, call, "shared_kv")
    with positions.given(call.get("positions")):
        return with_cache(layer, call)


def windows(layer, call):
    """The output of attention within windows, whose masks repeat for each picture."""
    x, mask = call["x"], call.get("mask")
    if mask is not None:
        pictures = ops.shape(x)[0] // ops.shape(mask)[0]
        mask = ops.tile(mask, (pictures, 1, 1))
    return plain(layer, {**call, "mask": mask})


def reduced(layer, call):
    """The output of attention whose keys come from the downsampled picture."""
    x = small = call["x"]
    if layer.sr is not None:
        batch, length, channels = ops.shape(x)
        size = int(length**0.5)
        small = layer.sr(ops.reshape(x, (batch, size, size, channels)))
        small = layer.norm(ops.reshape(small, (batch, -1, channels)))
    return layer.attend(x, call, small)[0]


def query_and_value(layer, call):
    """The output of `CachedMultiHeadAttention` and what inherits from it."""
    query, value, key = (call.get(name) for name in ("query", "value", "key"))
    scores = call.get("return_attention_scores", False)
    if layer.attention.kind == "self":
        value = key = None
    found = layer.attend(query, call, value, key, return_attention_scores=scores)
    if call.get("cache") is None:
        return found[0]
    return found


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


def refuse(layer, call, *names):
    """Refuses arguments that the converted layer does not know what to do with."""
    for name in names:
        if call.get(name) is not None:
            raise ValueError(
                f"`{name}` must be None in the converted attention {layer.path!r}. "
                f"Received: {name}={call[name]!r}"
            )
