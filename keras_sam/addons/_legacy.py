"""What Keras 2 wrote otherwise than Keras 3 reads it."""

import sys

import keras
import numpy as np


def policy_name(dtype):
    """Returns a dtype policy of a Keras 2 configuration as Keras 3 takes it."""
    if isinstance(dtype, dict) and dtype.get("class_name") == "Policy":
        return dtype["config"]["name"]
    return dtype


def revive(layer, argument, value):
    """Returns the keyword argument that a legacy file gives to `layer`.

    Keras 2 wrote a tensor as `["name of its layer", node, index]` and a constant as nested
    lists. Keras 3 hands both over as they stand, and does not say which layers the model
    is made of: they are looked up in the function that makes the model.
    """
    if not isinstance(value, list) or not value:
        return value
    if all(isinstance(row, list) for row in value):
        return np.asarray(value, "float32")
    if len(value) != 3 or not isinstance(value[0], str):
        return value
    name, node, index = value
    frame = sys._getframe()
    while frame is not None:
        layers = frame.f_locals.get("created_layers")
        if isinstance(layers, dict) and layers.get(layer.name) is layer and name in layers:
            # A node that is not there yet is an IndexError, upon which Keras goes on with
            # the other layers and comes back to this one.
            return layers[name]._inbound_nodes[node].output_tensors[index]
        frame = frame.f_back
    raise ValueError(
        f"`{argument}` is the name of a tensor in a legacy file, in "
        f"{type(layer).__name__} {layer.name!r}, and Keras {keras.__version__} does not "
        "let it be found. Make the model in code, and load its weights with "
        f"`keras_sam.addons.load_weights`. Received: {argument}={value!r}"
    )
