"""Which Keras variable holds which array of a weight file, and in which order."""

import dataclasses
import typing

import numpy as np
from keras import ops

from keras_sam.darknet import specs


@dataclasses.dataclass(frozen=True)
class Slot:
    """A Keras variable that holds an array of Darknet's, its axes in another order.

    Args:
        variable: The variable.
        axes: Darknet's axes in the order of the variable's, or None if they agree.
    """

    variable: typing.Any
    axes: tuple[int, ...] | None = None

    def assign(self, array):
        """Sets the variable to an array as Darknet stores it."""
        self.variable.assign(array if self.axes is None else array.transpose(self.axes))

    def assign_first(self, values):
        """Sets the first numbers in Darknet's order; the others stay."""
        array = np.array(self.read(), order="C")
        array.reshape(-1)[: len(values)] = values
        self.assign(array)

    def read(self):
        """Returns the array as Darknet stores it."""
        array = ops.convert_to_numpy(self.variable)
        return array if self.axes is None else array.transpose(np.argsort(self.axes))


def darknet_slots(model):
    """Returns by layer index, for layers that store weights, the slots by name."""
    layers = {layer.name: layer for layer in model.layers}
    return {
        spec.index: _FINDERS[type(spec)](spec, layers)
        for spec in model.plan.layers
        if spec.blocks
    }


def _shortcut(spec, layers):
    return {"weights": Slot(layers[f"{spec.name}_sum"].mix)}


def _batch_norm(spec, layers):
    return _normalization(layers[spec.name])


def _convolution(spec, layers):
    conv = layers[f"{spec.name}_conv"]
    kernel = Slot(conv.kernel, (2, 3, 1, 0))  # (F, C, H, W) to (H, W, C, F)
    return _biases(spec, conv, layers) | {"weights": kernel}


def _connected(spec, layers):
    dense = layers[f"{spec.name}_dense"]
    return _biases(spec, dense, layers) | {"weights": Slot(dense.kernel, (1, 0))}


def _local(spec, layers):
    local = layers[f"{spec.name}_local"]
    return {
        "biases": Slot(local.bias, (1, 2, 0)),  # (F, I, J) to (I, J, F)
        "weights": Slot(local.kernel, (0, 1, 4, 5, 3, 2)),  # (I, J, F, C, H, W)
    }


def _biases(spec, layer, layers):
    if spec.batch_normalize:
        return _normalization(layers[f"{spec.name}_norm"])
    return {"biases": Slot(layer.bias)}


def _normalization(norm):
    return {
        "biases": Slot(norm.beta),
        "scales": Slot(norm.gamma),
        "mean": Slot(norm.moving_mean),
        "variance": Slot(norm.moving_variance),
    }


_FINDERS = {
    specs.BatchNorm: _batch_norm,
    specs.Connected: _connected,
    specs.Convolution: _convolution,
    specs.Local: _local,
    specs.Shortcut: _shortcut,
}
