"""Building a model anew with some of its layers replaced by others."""

import dataclasses
from collections.abc import Callable

import keras
import numpy as np
from keras import ops
from keras.src.models import Functional

MODELS = (Functional, keras.Sequential)


@dataclasses.dataclass(frozen=True)
class Replacement:
    """What takes the place of a layer.

    Args:
        layer: The new layer.
        arguments: A function of the positional and the keyword arguments that the layer
            was called with, which returns those of the new layer.
        carry: A function that brings the weights into the new layer, which is built.
        fits_sequential: Whether the new layer is called with one tensor.
    """

    layer: keras.layers.Layer
    arguments: Callable
    carry: Callable
    fits_sequential: bool = True


def is_rebuildable(model):
    """Whether a model is a functional or Sequential one, and of no class of its own."""
    return type(model) in MODELS


def leaves(model):
    """Yields each layer of a model, and of the models in it, that is not a model."""
    seen = set()
    for layer in model.layers:
        inner = leaves(layer) if is_rebuildable(layer) else (layer,)
        for leaf in inner:
            if id(leaf) not in seen:
                seen.add(id(leaf))
                yield leaf


def rebuild(model, replacements):
    """Returns a copy of a functional or Sequential model, with other layers in it.

    All layers are copied, with their weights. The copy is not compiled.

    Args:
        model: The model.
        replacements: A dictionary of the `id` of a layer to its `Replacement`.
    """
    copy = _Copy(replacements)
    new = copy.model(model)
    copy.carry_state()
    return new


class _Copy:
    def __init__(self, replacements):
        self.replacements = replacements
        self.by_new = {id(each.layer): each for each in replacements.values()}
        self.pairs = {}  # the old and the new one, by the id of the old one

    def model(self, model):
        """Copies a model, and with it all that is in it."""
        copy = self._sequential if isinstance(model, keras.Sequential) else self._functional
        new = copy(model)
        self.pairs[id(model)] = model, new
        return new

    def layer(self, layer):
        """Copies a layer or an operation, once."""
        if id(layer) in self.pairs:
            return self.pairs[id(layer)][1]
        if is_rebuildable(layer):
            return self.model(layer)
        if id(layer) in self.replacements:
            new = self.replacements[id(layer)].layer
        elif isinstance(layer, keras.layers.Lambda):
            new = layer  # it has no weights, and its function may be no configuration
        else:
            new = type(layer).from_config(layer.get_config())
        self.pairs[id(layer)] = layer, new
        return new

    def call(self, layer, *args, **kwargs):
        """Calls a new layer with the arguments of the old one."""
        replacement = self.by_new.get(id(layer))
        if replacement is not None:
            args, kwargs = replacement.arguments(args, kwargs)
        return layer(*args, **kwargs)

    def _functional(self, model):
        # A model of the same graph that is not compiled: losses need not be copied.
        graph = keras.Model(model.input, model.output, name=model.name)
        return keras.models.clone_model(
            graph, clone_function=self.layer, call_function=self.call
        )

    def _sequential(self, model):
        layers = [self.layer(layer) for layer in model.layers]
        inputs = []
        if model.built:
            (given,) = model.inputs
            inputs = [keras.Input(batch_shape=given.shape, dtype=given.dtype)]
        called = (self.by_new.get(id(layer)) for layer in layers)
        if all(each is None or each.fits_sequential for each in called):
            return keras.Sequential([*inputs, *layers], name=model.name)
        if not inputs:
            raise ValueError(
                "`model` must be built, because a layer of its copy takes two tensors, "
                f"so that it is a functional model. Received: model={model.name!r}"
            )
        x = inputs[0]
        for layer in layers:
            x = self.call(layer, x)
        return keras.Model(inputs[0], x, name=model.name)

    def carry_state(self):
        """Brings weights, and which of them are trainable, into the copies."""
        pairs = list(self.pairs.values())[::-1]  # models before what is in them
        pairs = [pair for pair in pairs if isinstance(pair[0], keras.layers.Layer)]
        for old, new in pairs:
            if is_rebuildable(old):
                new.trainable = old.trainable
        for old, new in pairs:
            if is_rebuildable(old) or new is old:
                continue
            replacement = self.replacements.get(id(old))
            if replacement is not None:
                replacement.carry()
            elif old.built:
                carry_alike(old, new)


def carry_alike(old, new, but=()):
    """Brings the state of a layer into another one of the same configuration.

    Args:
        old, new: The layers.
        but: The `id`s of layers inside of them that have no counterpart.
    """
    pairs = [
        [layer for layer in each._flatten_layers() if id(layer) not in but]
        for each in (old, new)
    ]
    for one, other in zip(*pairs, strict=True):
        if other.trainable != one.trainable:  # setting it sets all that is inside as well
            other.trainable = one.trainable
        store = {}
        one.save_own_variables(store)
        if store:  # copied: two JAX variables that share an array lose it when one trains
            arrays = {name: ops.convert_to_numpy(value) for name, value in store.items()}
            other.load_own_variables({n: np.array(x) for n, x in arrays.items()})
