"""DarknetModel: a functional Keras model that remembers the cfg it came from."""

import contextlib
import dataclasses
import os
import sys

import keras

from keras_sam.darknet import geometry
from keras_sam.darknet.cfg import parse_text
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.header import Header
from keras_sam.darknet.plan import plan_network
from keras_sam.darknet.variables import darknet_slots
from keras_sam.darknet.weights import Weights, is_transposed, write_planned_weights


@keras.saving.register_keras_serializable(package="keras_sam")
class DarknetModel(keras.Model):
    """What `keras_sam.darknet.build_model` returns.

    A functional model, which saves, exports, compiles and trains like any other. On
    top of that it keeps the text of its cfg and the header of its weight file, so that
    `write_weights`, `decode` and `layer_outputs` work after `keras.saving.load_model`,
    too.

    Example:

    >>> from keras_sam import darknet
    >>> cfg = "[net]\\nwidth=8\\nheight=8\\nchannels=3\\n[convolutional]\\nfilters=2"
    >>> model = darknet.build_model(cfg)
    >>> isinstance(model, darknet.DarknetModel), model.output.shape
    (True, (None, 8, 8, 2))

    Reference:
        Darknet as AlexeyAB keeps it (https://github.com/AlexeyAB/darknet).
    """

    # The signature of keras.Model: Keras saves the graph of such subclasses.
    def __init__(self, inputs, outputs, name=None, **kwargs):
        with _deep_recursion():
            super().__init__(inputs, outputs, name=name, **kwargs)
        self._plan = None
        self._header = Header()

    def describe(self, plan, header):
        """Attaches the plan that the model was built from, and a weight header."""
        self._plan = plan
        self._header = header

    @property
    def plan(self):
        """The checked configuration: a `keras_sam.darknet.plan.Plan`."""
        if self._plan is None:
            raise DarknetError(
                "this model does not know its cfg; it was put together by hand."
            )
        return self._plan

    def get_config(self):
        config = super().get_config()
        if self._plan is not None:
            config["darknet"] = {
                "cfg": self._plan.sections.text,
                "source": self._plan.sections.source,
                "input_shape": list(self._plan.input_shape),
                "header": dataclasses.asdict(self._header),
            }
        return config

    @classmethod
    def from_config(cls, config, custom_objects=None):
        config = dict(config)
        known = config.pop("darknet", None)
        model = super().from_config(config, custom_objects=custom_objects)
        if known is not None:
            sections = parse_text(known["cfg"], known["source"])
            plan = plan_network(sections, known["input_shape"])
            model.describe(plan, Header(**known["header"]))
        return model

    def assign_darknet_weights(self, weights):
        """Sets the variables that a `Weights` has arrays for."""
        slots = darknet_slots(self)
        for index, arrays in weights.layers.items():
            for name, array in arrays.items():
                slots[index][name].assign(array)
        for index, name, values in weights.parts:
            slot = slots[index][name]
            if is_transposed(self.plan.layers[index], name, weights.header):
                slot = dataclasses.replace(slot, axes=None)  # the file's order is Keras's
            slot.assign_first(values)
        self._header = weights.header

    def to_darknet_weights(self):
        """Returns the variables as a `Weights`."""
        layers = {
            index: {name: slot.read() for name, slot in slots.items()}
            for index, slots in darknet_slots(self).items()
        }
        return Weights(self._header, layers)


def write_weights(model, path: str | os.PathLike) -> None:
    """Writes a model's weights in Darknet's format.

    What `build_model` read is written back byte for byte, its header included; after
    training, Darknet reads the trained weights.

    Args:
        model: A `DarknetModel`.
        path: Where to write. A failure leaves an older file there as it was.
    """
    write_planned_weights(path, _darknet(model).to_darknet_weights(), model.plan)


def layer_outputs(model):
    """Returns a model whose outputs are those of every Darknet layer, for debugging.

    Args:
        model: A `DarknetModel`.

    Returns:
        A Keras model with the same input. Its output is a dictionary from the layers'
        names to tensors, in the order of the cfg.

    Example:

    >>> import numpy as np
    >>> from keras_sam import darknet
    >>> cfg = "[net]\\nwidth=8\\nheight=8\\nchannels=3\\n[maxpool]\\nsize=2\\n[avgpool]"
    >>> outputs = darknet.layer_outputs(darknet.build_model(cfg))(np.ones((1, 8, 8, 3)))
    >>> {name: tuple(tensor.shape) for name, tensor in outputs.items()}
    {'000_maxpool': (1, 8, 8, 3), '001_avgpool': (1, 1, 1, 3)}
    """
    layers = {layer.name: layer for layer in _darknet(model).layers}
    outputs = {spec.name: layers[spec.name].output for spec in model.plan.layers}
    with _deep_recursion():
        return keras.Model(model.input, outputs, name=f"{model.name}_layers")


@contextlib.contextmanager
def _deep_recursion():
    """Lets Keras walk graphs that are deeper than Python's thousand calls."""
    limit = sys.getrecursionlimit()
    sys.setrecursionlimit(max(limit, 16 * geometry.MAX_LAYERS))
    try:
        yield
    finally:
        sys.setrecursionlimit(limit)


def _darknet(model):
    if not isinstance(model, DarknetModel):
        raise DarknetError(
            "needs a model that `keras_sam.darknet.build_model` built. Received: "
            f"{type(model).__name__}"
        )
    return model
