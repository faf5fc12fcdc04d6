"""The way in: a layer or model of KerasHub, alone or in a model of Keras."""

import inspect

from keras_sam import _validation as check
from keras_sam.convert.hub import places
from keras_sam.convert.hub.adapter import pairs
from keras_sam.convert.hub.models import convert_whole
from keras_sam.convert.hub.recipe import NoCounterpart
from keras_sam.convert.rebuild import Replacement
from keras_sam.layers import CrossAttention


def is_hub(target):
    """Whether a layer or model is of a class of KerasHub, or of one on top of one."""
    modules = (cls.__module__ for cls in type(target).__mro__)
    return any(module.split(".")[0] == "keras_hub" for module in modules)


def has_attention(layer):
    """Whether a layer of KerasHub is or contains attention that is not ours."""
    return _is_attention(layer) or any(True for _ in places.places(layer))


def convert(target, to):
    """Returns the counterpart of an attention layer, or a copy of a layer or model."""
    _check_way(target, to)
    if _is_attention(target):
        return _convert_layer(target)[0]
    return convert_whole(target)


def replacement(layer, to):
    """Returns the `Replacement` of a layer of KerasHub in a model of Keras."""
    _check_way(layer, to)
    if not _is_attention(layer):
        return Replacement(convert_whole(layer), lambda *call: call, lambda: None)
    new, carry = _convert_layer(layer, build=False)
    signature = inspect.signature(layer.call)

    def arguments(args, kwargs):
        call = dict(signature.bind(*args, **kwargs).arguments)
        count = 1
        if isinstance(new, CrossAttention):
            count = 3 if call.get("key") is not None else 2
        tensors = [call.pop(name) for name in list(call)[:count]]
        if call.get("attention_mask") is not None:
            added = places.kind_of(layer).adds_mask
            call["attention_mask"] = pairs(call["attention_mask"], added)
        return tensors, {name: value for name, value in call.items() if value is not None}

    return Replacement(new, arguments, carry)


def _is_attention(layer):
    return bool(places.kind_of(layer) or places.reason_against(layer))


def _check_way(target, to):
    if to != "keras_sam":
        expected = "a layer or model of Keras's own classes, for the way back"
        raise check.invalid("target", expected, target.name)


def _convert_layer(layer, build=True):
    """Returns a layer of keras_sam, and a function that brings the weights into it."""
    reason = places.reason_against(layer)
    if reason is None and not layer.built:
        reason = "it is not built, so that the sizes of its heads are not known"
    try:
        if reason is not None:
            raise NoCounterpart(reason)
        kind = places.kind_of(layer)
        recipe = kind.recipe(layer)
        new = recipe.make(layer, kind.two)
    except (NoCounterpart, ValueError) as error:
        raise ValueError(
            f"`target` must be a layer that can be converted. {type(layer).__name__} "
            f"{layer.path or layer.name!r} cannot: {error}. Received: {layer.name!r}"
        ) from error
    if build:
        recipe.build(new, layer)
    return new, lambda: recipe.fill(new, layer)
