"""Layers, backbones and tasks of KerasHub with attention of keras_sam, saved and loaded."""

import functools
import importlib

import keras
from keras import ops
from keras.src.saving import object_registration

from keras_sam import _validation as check
from keras_sam.convert.hub import places
from keras_sam.convert.rebuild import carry_alike

NAME = "keras_sam>Converted"


@keras.saving.register_keras_serializable(*NAME.split(">"))
class Converted:
    """What a file names instead of a class of KerasHub whose attention is ours.

    The configuration contains that of the original. Loading builds the original from it
    and converts it.
    """

    @staticmethod
    def from_config(config):
        original = config["original"]
        package = original["module"].split(".")[0]
        if package == "keras_hub":
            importlib.import_module(package)
        return _mark(keras.saving.deserialize_keras_object(original))

    def get_config(self):
        """Is of the class that stands for it; see `converted_class`."""
        raise NotImplementedError


@functools.cache
def converted_class(original):
    """Returns the class of converted layers or models of a class of KerasHub.

    They stay of their class as far as `isinstance` can tell.
    """

    class OfConverted(original):
        is_converted = True

        def _post_build(self):  # Keras calls it after `build`
            super()._post_build()
            places.replace_all(self)

        def get_config(self):
            found = {
                "module": original.__module__,
                "class_name": original.__name__,
                "registered_name": object_registration.get_registered_name(original),
                "config": super().get_config(),
            }
            return {"original": found}

        from_config = Converted.from_config

    OfConverted.__name__ = OfConverted.__qualname__ = original.__name__
    # All have the same name in files, which stands for a class that makes any of them.
    object_registration.GLOBAL_CUSTOM_NAMES[OfConverted] = NAME
    return OfConverted


def is_converted(target):
    """Whether the attention of a layer or model of KerasHub is ours already."""
    return getattr(target, "is_converted", False)


def convert_whole(target):
    """Returns a copy of a layer or model of KerasHub whose attention layers are ours."""
    backbone = getattr(target, "backbone", None)
    if isinstance(backbone, keras.Model) and "preprocessor" in target.get_config():
        return _convert_task(target, backbone)
    if is_converted(target) or (target.built and not places.check(target)):
        expected = "a layer or model of KerasHub with attention that is not ours yet"
        raise check.invalid("target", expected, target)
    copy = type(target).from_config(target.get_config())
    if target.built:
        if not copy.built:
            copy.build_from_config(target.get_build_config())
        carry_alike(target, copy)
        # Layers may load other numbers than they save, such as an interpolated table.
        for new, old in zip(copy.weights, target.weights, strict=True):
            new.assign(ops.convert_to_numpy(old))
    return _mark(copy)


def _convert_task(task, backbone):
    inside = {id(layer) for layer in backbone._flatten_layers()}
    for place in places.check(task):
        if id(place.layer) not in inside:
            raise ValueError(
                "`target` must have its attention in its backbone: convert "
                f"`target.backbone`. Received: target={task.name!r}, with {place.path!r}"
            )
    converted = convert_whole(backbone)
    shared = {"backbone": converted, "preprocessor": task.preprocessor}
    copy = type(task).from_config({**task.get_config(), **shared})
    inside |= {id(layer) for layer in converted._flatten_layers()}
    carry_alike(task, copy, inside)
    return copy


def _mark(layer):
    """Converts a layer or model of KerasHub in place, and makes it of a converted class."""
    if layer.built:
        places.replace_all(layer)
    layer.__class__ = converted_class(type(layer))
    return layer
