"""Layers that are made of Keras layers, which may have been quantized."""

import keras


class CompositeLayer(keras.layers.Layer):
    """A layer whose direct sublayers come back from a file as they were quantized.

    Keras's own composite layers look for the dtype policies of their sublayers by their
    path in the model, which is another one after loading, and so fail to load. Here
    they are kept by the names of the sublayers.

    A subclass makes its sublayers in `build` with `dtype=self.sublayer_dtype(name)`.
    """

    _sublayer_policies = {}  # noqa: RUF012 (replaced, never written to)

    def sublayer_dtype(self, name):
        """The dtype policy that the sublayer of this name is to be made with."""
        return self._sublayer_policies.get(name, self.dtype_policy)

    def get_config(self):
        config = super().get_config()
        quantized = {
            layer.name: keras.dtype_policies.serialize(layer.dtype_policy)
            for layer in self._flatten_layers(include_self=False, recursive=False)
            if layer.quantization_mode is not None
        }
        return {**config, "quantized": quantized} if quantized else config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        quantized = config.pop("quantized", {})
        layer = cls(**config)
        layer._sublayer_policies = {
            name: keras.dtype_policies.deserialize(policy)
            for name, policy in quantized.items()
        }
        return layer


def fresh(initializer):
    """A copy of an initializer, for one more variable.

    One instance with a seed would give all variables the same numbers.
    """
    return initializer.__class__.from_config(initializer.get_config())
