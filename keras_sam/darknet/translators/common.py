"""What translators share."""

import keras

from keras_sam.darknet import layers, specs
from keras_sam.darknet.activations import ACTIVATIONS

EPSILON = 1e-5  # of Darknet's batch normalization
CHANNELS_LAST = {"data_format": "channels_last"}


class SharedLayers:
    """The Keras layers that `share_index` makes several Darknet layers use."""

    def __init__(self, plan):
        self._owners = {
            spec.owner
            for spec in plan.layers
            if isinstance(spec, specs.Convolution) and spec.owner != spec.index
        }
        self._layers = {}

    def __contains__(self, spec):
        return spec.owner in self._owners

    def get(self, spec, part, make):
        """Returns the layer's part (made now, if this is the owner of the weights)."""
        key = spec.owner, part
        if key not in self._layers:
            self._layers[key] = make()
        return self._layers[key]


def activate(spec, tensor, activation):
    return keras.layers.Activation(ACTIVATIONS[activation], name=spec.name)(tensor)


def normalization(spec, make=keras.layers.BatchNormalization, suffix="_norm"):
    # Darknet keeps nine tenths of the old statistics at each step of training.
    return make(momentum=0.9, epsilon=EPSILON, name=spec.name + suffix)


def flatten(spec, tensor):
    """Returns `(B, 1, 1, N)` in Darknet's order, channel after channel."""
    if tuple(tensor.shape[1:3]) == (1, 1):
        return tensor
    return layers.FlattenChannelsFirst(name=f"{spec.name}_flatten")(tensor)
