"""Finding attention layers within layers of KerasHub, and putting others in their stead."""

import dataclasses
import inspect

import keras
from keras.src.backend import get_keras_mask

from keras_sam.convert.hub.adapter import HubAttention, Padding
from keras_sam.convert.hub.recipe import NoCounterpart
from keras_sam.convert.hub.table import ATTEND_TO_THEMSELVES, KINDS, PATTERNS, REFUSED

MASKS = (
    "_compute_self_attention_mask",
    "_compute_attention_mask",
    "_make_self_attention_mask",
)


@dataclasses.dataclass(frozen=True)
class Place:
    """Where an attention layer is.

    Args:
        owner: The layer that it is an attribute of.
        name: The attribute, or that of a list it is in.
        index: Its index in the list, or None.
        layer: The attention layer.
    """

    owner: keras.layers.Layer
    name: str
    index: int | None
    layer: keras.layers.Layer

    @property
    def path(self):
        """The name of the layer, with those of the layers that it is in."""
        return self.layer.path or f"{self.owner.path or self.owner.name}/{self.layer.name}"


def class_of(layer):
    """The class of a layer, or what it was before the layer was converted."""
    found = type(layer)
    return found.__base__ if getattr(found, "is_converted", False) else found


def is_of(layer, *packages):
    """Whether the class of a layer is of one of these packages, and no class on top."""
    return class_of(layer).__module__.split(".")[0] in packages


def kind_of(layer):
    """Returns the `Kind` of an attention layer of KerasHub, or None."""
    name = type(layer).__name__
    if not is_of(layer, "keras_hub") and not (
        name == "MultiHeadAttention" and is_of(layer, "keras")
    ):
        return None
    return KINDS.get(name)


def reason_against(layer):
    """Returns why a layer is attention that cannot be taken, or None."""
    name = type(layer).__name__
    if kind_of(layer) is not None:
        for part in layer._flatten_layers():
            if part.quantization_mode is not None or getattr(part, "lora_enabled", False):
                return (
                    f"it is quantized or has LoRA weights, in {part.name!r}: convert "
                    "first, and quantize then"
                )
        return None
    if name in REFUSED and is_of(layer, "keras_hub"):
        return REFUSED[name]
    for base in type(layer).__mro__[1:]:
        if base.__name__ in KINDS and base.__module__.startswith("keras_hub"):
            return f"it is a class of your own, which inherits from {base.__name__}"
    if is_of(layer, "keras", "keras_hub") and "Attention" in name and "Mask" not in name:
        inner = layer._flatten_layers(include_self=False)
        if not any(kind_of(each) or reason_against(each) for each in inner):
            return "there is no conversion for its class"
    return None


def places(root):
    """Yields a `Place` for each attribute inside of a layer that is an attention layer."""
    seen, stack = set(), [root]
    while stack:
        owner = stack.pop()
        if id(owner) in seen or isinstance(owner, HubAttention):
            continue
        seen.add(id(owner))
        children = {id(layer): layer for layer in owner._layers}
        attributes = {**vars(owner), **vars(owner).get("_modules", {})}  # PyTorch's
        for name, value in attributes.items():
            listed = isinstance(value, list) and name != "_layers"
            for index, layer in enumerate(value) if listed else [(None, value)]:
                layer = children.get(id(layer))
                if layer is not None and (kind_of(layer) or reason_against(layer)):
                    seen.add(id(layer))
                    yield Place(owner, name, index, layer)
        stack.extend(reversed(list(children.values())))


def check(root):
    """Refuses attention that cannot be taken, and returns all `Place`s."""
    found = list(places(root))
    known = {id(place.layer) for place in found}
    for layer in root._flatten_layers():
        if (kind_of(layer) or reason_against(layer)) and id(layer) not in known:
            found.append(Place(root, "", None, layer))
    for place in found:
        reason = reason_against(place.layer)
        if reason is None and _is_called_by_a_graph(place):
            reason = "the functional model that it is in calls it by itself"
        if reason is None and not place.name and place.layer is not root:
            reason = "it is no attribute of the layer that it is in"
        if reason is not None:
            raise _refusal(place, reason)
    return found


def _is_called_by_a_graph(place):
    operations = getattr(place.owner, "operations", ())
    return any(operation is place.layer for operation in operations)


def replace_all(root):
    """Puts layers of keras_sam in the places of those of KerasHub, with their weights."""
    found = check(root)
    prepared = {}
    for place in found:
        if id(place.layer) not in prepared:
            prepared[id(place.layer)] = _prepared(place, root)
    shared, new = {}, {}
    for place in found:
        layer = place.layer
        if id(layer) not in new:
            recipe, attention = prepared[id(layer)]
            attention._parent_path = layer._parent_path
            recipe.build(attention, layer, shared)
            new[id(layer)] = HubAttention(attention, layer, kind_of(layer))
        _put(place, new[id(layer)])


def _prepared(place, root):
    """Returns the recipe of an attention layer, and the new layer from it."""
    kind = kind_of(place.layer)
    try:
        recipe = kind.inside(place, root) if kind.inside else kind.recipe(place.layer)
        pattern = _pattern(place, recipe, root)
        return recipe, recipe.make(place.layer, _is_cross(place), pattern)
    except (NoCounterpart, ValueError) as error:
        raise _refusal(place, str(error)) from error


def _put(place, new):
    owner = place.owner
    locked = owner._tracker.locked
    owner._tracker.unlock()
    if place.index is None:
        setattr(owner, place.name, new)
    else:
        getattr(owner, place.name)[place.index] = new
    owner._layers[:] = [each for each in owner._layers if each is not place.layer]
    if not any(each is new for each in owner._layers):
        owner._layers.append(new)
    if locked:
        owner._tracker.lock()


def _refusal(place, reason):
    return ValueError(
        "`target` must have attention layers that can be converted only. "
        f"{type(place.layer).__name__} {place.path!r} cannot: {reason}. "
        f"Received: target with {place.path!r}"
    )


def _is_cross(place):
    """Whether a layer attends to another tensor, or may do so."""
    two = kind_of(place.layer).two or "cross" in place.name
    names = class_of(place.owner).__name__, place.name
    return two and not (names in ATTEND_TO_THEMSELVES and is_of(place.owner, "keras_hub"))


def _pattern(place, recipe, root):
    """The mask of the decoder that a layer is in and of the layer itself, or None."""
    owner = place.owner
    rule = PATTERNS.get(class_of(owner).__name__) if is_of(owner, "keras_hub") else None
    method = next((name for name in MASKS if hasattr(owner, name)), None)
    if rule is None or method is None or "cross" in place.name:
        return None
    if getattr(root, "vision_encoder", None) is not None:
        return None  # pictures among the words see themselves in both directions
    pattern = rule(owner, place.layer)
    if pattern is None:
        return None
    _hand_on_padding(owner, method)
    return pattern if recipe.mask is None else pattern & recipe.mask


def _hand_on_padding(owner, method):
    """Lets a decoder make no mask of all pairs where its attention knows the pattern."""
    original = getattr(owner, method)
    if getattr(original, "hands_on_padding", False):
        return
    signature = inspect.signature(original)

    def compute(*args, **kwargs):
        call = signature.bind(*args, **kwargs).arguments
        if not call.get("use_causal_mask", True):
            raise ValueError(
                "`use_causal_mask` must be True, because the attention of the converted "
                f"{type(owner).__name__} {owner.name!r} is causal. "
                "Received: use_causal_mask=False"
            )
        sequence = next(iter(call.values()))
        padding = None
        for name, value in call.items():
            if not name.endswith("mask") or value is None or name == "use_causal_mask":
                continue
            if "vision" in name:
                raise ValueError(
                    f"`{name}` must be None in the converted {type(owner).__name__} "
                    f"{owner.name!r}, whose model had no vision encoder. Received: {name}="
                    f"a tensor of shape {tuple(value.shape)}"
                )
            if "padding" not in name:
                return original(*args, **kwargs)
            padding = value
        return Padding(get_keras_mask(sequence) if padding is None else padding)

    compute.hands_on_padding = True
    setattr(owner, method, compute)
