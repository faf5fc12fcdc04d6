"""Layers that are made of Keras layers, which may have been quantized."""

import keras

from keras_sam import scores


class CompositeLayer(keras.layers.Layer):
    """A layer whose direct sublayers come back from a file as they were quantized.

    Keras's own composite layers look for the dtype policies of their sublayers by their
    path in the model, which is another one after loading, and so fail to load. Here
    they are kept by the names of the sublayers.

    A subclass makes its sublayers in `build` with `dtype=self.sublayer_dtype(name)`, or
    in its constructor if they are composite themselves.
    """

    _sublayer_policies = {}  # noqa: RUF012 (replaced, never written to)

    def sublayer_dtype(self, name):
        """The dtype policy that the sublayer of this name is to be made with."""
        policy = self._sublayer_policies.get(name)
        if policy is None:
            return self.dtype_policy
        return keras.dtype_policies.deserialize(policy)

    def get_config(self):
        config = super().get_config()
        quantized = {
            layer.name: keras.dtype_policies.serialize(layer.dtype_policy)
            for layer in self._flatten_layers(include_self=False, recursive=False)
            if layer.quantization_mode is not None
        }
        for layer in self._composites():
            inner = layer.get_config()
            if "quantized" in inner:
                quantized[layer.name] = inner["quantized"]
        return {**config, "quantized": quantized} if quantized else config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        policies = config.pop("quantized", {})
        layer = cls(**config)
        layer._take(policies)
        return layer

    def _take(self, policies):
        self._sublayer_policies = policies
        for layer in self._composites():
            layer._take(policies.get(layer.name, {}))

    def _composites(self):
        layers = self._flatten_layers(include_self=False, recursive=False)
        return [layer for layer in layers if isinstance(layer, CompositeLayer)]


def own_score(score, dtype_policy):
    """Returns a score for one layer to own, from its argument `score`.

    A named score follows the layer's dtype policy; an instance has its own. An instance
    is copied: one that two layers hold is saved but once, and the model does not load.
    """
    if isinstance(score, str):
        return scores.get(score, dtype=dtype_policy)
    if isinstance(score, dict):
        # Built by the layer that owns it, its variables are named after that layer.
        return scores.get({**score, "build_config": None})
    score = scores.get(score)
    if score.weights:
        raise ValueError(
            "`score` must not have weights yet, because each layer has a score of its "
            f"own. Received: score={score!r}, which is built"
        )
    return type(score).from_config(score.get_config())
