"""KeepUnused: a place in the graph for layers that lead nowhere."""

import keras


@keras.saving.register_keras_serializable(package="keras_sam")
class KeepUnused(keras.layers.Layer):
    """Passes on its first argument and drops its second.

    Keras forgets layers that no output depends on; Darknet stores their weights all
    the same, and shows what they compute. A compiled model does not compute them.
    """

    def call(self, outputs, unused):
        return outputs

    def compute_output_spec(self, outputs, unused):
        return keras.tree.map_structure(
            lambda tensor: keras.KerasTensor(tensor.shape, tensor.dtype), outputs
        )
