"""The attention mechanisms of `tfa.seq2seq`, as scores.

A mechanism of TensorFlow Addons is a score, a softmax and the memory it attends to, all in
one. Here it is a `keras_sam.scores.Score`; the normalizer and the values are the layer's.

::

    LuongAttention       q . (W_m m)                     Bilinear,  W = W_m^T
      scale=True         g q . (W_m m)                   Bilinear,  W = g W_m^T
    BahdanauAttention    v . tanh(W_q q + W_m m)         Additive without a bias
      normalize=True     g v/|v| . tanh(W_q q + W_m m + b)   Additive,  v = g v/|v|
"""

import keras
import numpy as np

from keras_sam.addons._legacy import policy_name
from keras_sam.scores import Additive, Bilinear

register = keras.saving.register_keras_serializable(package="Addons")


@register
class LuongAttention:
    """`tfa.seq2seq.LuongAttention`; its configuration makes a `Bilinear` score."""

    @classmethod
    def from_config(cls, config):
        _check_config("LuongAttention", config)
        return Bilinear(name=config.get("name"), dtype=policy_name(config.get("dtype")))

    def get_config(self):  # without it, Keras registers no class
        return {}

    @staticmethod
    def weights(mechanism):
        """Returns the widths of queries and of keys, and the weights of the score."""
        memory = _kernel("LuongAttention", mechanism.memory_layer)
        scale = 1 if mechanism.scale_weight is None else mechanism.scale_weight.numpy()
        return memory.shape[1], memory.shape[0], {"kernel": scale * memory.T}


@register
class BahdanauAttention:
    """`tfa.seq2seq.BahdanauAttention`; its configuration makes an `Additive` score."""

    @classmethod
    def from_config(cls, config):
        _check_config("BahdanauAttention", config)
        return Additive(
            units=config["units"],
            use_bias=config.get("normalize", False),
            kernel_initializer=config.get("kernel_initializer", "glorot_uniform"),
            name=config.get("name"),
            dtype=policy_name(config.get("dtype")),
        )

    def get_config(self):  # without it, Keras registers no class
        return {}

    @staticmethod
    def weights(mechanism):
        """Returns the widths of queries and of keys, and the weights of the score."""
        query = _kernel("BahdanauAttention", mechanism.query_layer)
        memory = _kernel("BahdanauAttention", mechanism.memory_layer)
        vector = mechanism.attention_v.numpy()
        weights = {"query_kernel": query, "key_kernel": memory}
        if mechanism.normalize:
            vector = mechanism.attention_g.numpy() * vector / np.linalg.norm(vector)
            weights["bias"] = mechanism.attention_b.numpy()[None, :]
        weights["vector"] = vector[:, None]
        return query.shape[0], memory.shape[0], weights


def _check_config(kind, config):
    name = config.get("name")
    if "units" not in config:
        raise ValueError(
            f"The configuration must be that of tfa.seq2seq.{kind}, in {kind} {name!r}: "
            f"it needs `units`. Received: {sorted(config)}"
        )
    for argument in ("query_layer", "memory_layer"):
        inner = config.get(argument)
        if inner is not None:
            _check_linear(kind, inner["class_name"], inner["config"])
    probability = config.get("probability_fn", "softmax")
    if probability != "softmax":
        raise ValueError(
            f'`probability_fn` must be "softmax", in {kind} {name!r}: keras_sam has no '
            f"other one of TensorFlow Addons, and `hardmax` does not train. Give the score "
            "a normalizer of keras_sam.normalizers instead. "
            f"Received: probability_fn={probability!r}"
        )


def _kernel(kind, layer):
    """Returns the kernel of a linear layer without a bias, which is all a score has."""
    _check_linear(kind, type(layer).__name__, layer.get_config())
    return layer.kernel.numpy()


def _check_linear(kind, class_name, config):
    if (
        class_name != "Dense"
        or config["use_bias"]
        or config["activation"] not in (None, "linear")
    ):
        raise ValueError(
            f"The query and memory layers of {kind} must be `Dense` without bias and "
            "activation, as they are unless given; apply yours to the inputs of the score "
            f"instead. Received: {config['name']!r} (of type {class_name})"
        )
