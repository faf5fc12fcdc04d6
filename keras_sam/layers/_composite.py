"""Layers with Keras layers inside, which may be quantized or frozen."""

import keras

from keras_sam import scores
from keras_sam._strategies import outside_sharing, refuse_deep
from keras_sam.layers._calls import check_tensors, wrong_call


class CompositeLayer(keras.layers.Layer):
    """A layer whose sublayers come back from a file quantized or frozen as they were.

    Keras's own composite layers look for the dtype policies of their sublayers by their
    path in the model, which is another one after loading, and so fail to load. Here
    they are kept by the names of the sublayers. Keras tells `trainable` to the sublayers
    that exist when it is set; here those that are made later get to know it as well.

    A subclass makes its sublayers in `build` with `dtype=self.sublayer_dtype(name)`, or
    in its constructor if they are composite themselves.
    """

    _sublayer_policies = {}  # noqa: RUF012 (replaced, never written to)
    _sublayer_trainable = {}  # noqa: RUF012 (replaced, never written to)

    def __call__(self, *args, **kwargs):
        check_tensors(self, args, kwargs)
        try:
            return super().__call__(*args, **kwargs)
        except TypeError as error:
            message = wrong_call(self, args, kwargs)
            if message is None:
                raise
            raise TypeError(message) from error

    def _post_build(self):  # Keras calls it after `build`
        super()._post_build()
        if not self.trainable:
            # The setter would not: setting what is set already does nothing.
            for each in (*self._trainable_variables, *self._sublayers()):
                each.trainable = False
        self._freeze(self._sublayer_trainable)

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
            for layer in self._sublayers()
            if layer.quantization_mode is not None
        }
        for layer in self._composites():
            inner = layer.get_config()
            if "quantized" in inner:
                quantized[layer.name] = inner["quantized"]
        if quantized:
            config["quantized"] = quantized
        trainable = self._unlike_their_layer()
        if trainable:
            config["sublayers_trainable"] = trainable
        return config

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        for name, value in config.items():
            if isinstance(value, dict | list | tuple):
                refuse_deep(name, value)
        policies = config.pop("quantized", {})
        trainable = config.pop("sublayers_trainable", {})
        layer = cls(**config)
        layer._take(policies)
        layer._sublayer_trainable = trainable
        return layer

    def _take(self, policies):
        self._sublayer_policies = policies
        for layer in self._composites():
            layer._take(policies.get(layer.name, {}))

    def _unlike_their_layer(self):
        """Returns which sublayers train where their layer does not, or the reverse.

        Returns:
            A dictionary that maps the name of each such sublayer to its `trainable` and
            to the same dictionary of its own sublayers.
        """
        unlike = {}
        for layer in self._sublayers():
            below = {}
            if isinstance(layer, CompositeLayer):
                below = layer._unlike_their_layer()
            if below or layer.trainable != self.trainable:
                unlike[layer.name] = [layer.trainable, below]
        return unlike

    def _freeze(self, unlike):
        """Undoes `_unlike_their_layer`."""
        for layer in self._sublayers():
            if layer.name in unlike:
                layer.trainable, below = unlike[layer.name]
                if below:
                    layer._freeze(below)

    def _composites(self):
        return [x for x in self._sublayers() if isinstance(x, CompositeLayer)]

    def _sublayers(self):
        return self._flatten_layers(include_self=False, recursive=False)


def own_score(score, dtype_policy):
    """Returns a score for one layer to own, from its argument `score`.

    A named score follows the layer's dtype policy; an instance has its own. An instance
    is copied: one that two layers hold is saved but once, and the model does not load.
    """
    if isinstance(score, str):
        return scores.get(score, dtype=dtype_policy)
    if isinstance(score, list | tuple):
        score = scores.get(score, dtype=dtype_policy)
    if isinstance(score, dict):
        # Built by the layer that owns it, its variables are named after that layer.
        return scores.get({**score, "build_config": None})
    score = scores.get(score)
    if score.weights:
        raise ValueError(
            "`score` must not have weights yet, because each layer has a score of its "
            f"own. Received: score={score!r}, which is built"
        )
    with outside_sharing():
        return type(score).from_config(score.get_config())
