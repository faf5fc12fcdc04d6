"""Darknet's activations by the names that a cfg uses."""

import keras
from keras import ops


def _register(function):
    return keras.saving.register_keras_serializable("keras_sam", function.__name__)(
        function
    )


@_register
def darknet_loggy(x):
    """`2 sigmoid(x) - 1`."""
    return 2 * ops.sigmoid(x) - 1


@_register
def darknet_leaky(x):
    """`x` above zero, `0.1 x` below."""
    return ops.leaky_relu(x, negative_slope=0.1)


@_register
def darknet_relie(x):
    """`x` above zero, `0.01 x` below."""
    return ops.leaky_relu(x, negative_slope=0.01)


@_register
def darknet_ramp(x):
    """`relu(x) + 0.1 x`."""
    return ops.relu(x) + 0.1 * x


@_register
def darknet_selu(x):
    """SELU with Darknet's four-digit constants."""
    return 1.0507 * ops.where(x >= 0, x, 1.6732 * ops.expm1(ops.minimum(x, 0)))


@_register
def darknet_gelu(x):
    """GELU in the form with `tanh`, with Darknet's constants."""
    return 0.5 * x * (1 + ops.tanh(0.797885 * x + 0.035677 * x * x * x))


@_register
def darknet_plse(x):
    """`x / 8 + 1/2` inside [-4, 4], slope 0.01 outside."""
    outside = ops.where(x < -4, 0.01 * (x + 4), 0.01 * (x - 4) + 1)
    return ops.where(ops.abs(x) <= 4, 0.125 * x + 0.5, outside)


@_register
def darknet_stair(x):
    """Flat over [2n, 2n + 1], rising by one over [2n + 1, 2n + 2]."""
    below, half = ops.floor(x), ops.floor(x / 2)
    return half + ops.where(below == 2 * half, 0.0, x - below)


@_register
def darknet_lhtan(x):
    """`x` inside [0, 1], slope 0.001 outside."""
    inside = ops.clip(x, 0, 1)
    return inside + 0.001 * (x - inside)


@_register
def darknet_hard_mish(x):
    """`x` above 0, `x²/2 + x` above -2, else 0."""
    return ops.where(x > 0, x, ops.where(x > -2, x * x / 2 + x, 0.0))


@_register
def darknet_normalize_channels(x):
    """`relu(x)` divided by its sum over the channels."""
    x = ops.relu(x)
    return x / (ops.sum(x, axis=-1, keepdims=True) + 1e-4)


@_register
def darknet_normalize_channels_softmax(x):
    """`exp(x)` divided by its sum over the channels."""
    x = ops.exp(x)
    return x / (ops.sum(x, axis=-1, keepdims=True) + 1e-4)


@_register
def darknet_normalize_channels_softmax_maxval(x):
    """The same less the largest channel, so that nothing overflows."""
    return darknet_normalize_channels_softmax(x - ops.max(x, axis=-1, keepdims=True))


ACTIVATIONS = {
    "linear": keras.activations.linear,
    "logistic": keras.activations.sigmoid,
    "loggy": darknet_loggy,
    "relu": keras.activations.relu,
    "relu6": keras.activations.relu6,
    "elu": keras.activations.elu,
    "selu": darknet_selu,
    "gelu": darknet_gelu,
    "relie": darknet_relie,
    "ramp": darknet_ramp,
    "revleaky": darknet_leaky,
    "leaky": darknet_leaky,
    "tanh": keras.activations.tanh,
    "plse": darknet_plse,
    "stair": darknet_stair,
    "hardtan": keras.activations.hard_tanh,
    "lhtan": darknet_lhtan,
    "mish": keras.activations.mish,
    "swish": keras.activations.silu,
    "hard_mish": darknet_hard_mish,
    "normalize_channels": darknet_normalize_channels,
    "normalize_channels_softmax": darknet_normalize_channels_softmax,
    "normalize_channels_softmax_maxval": darknet_normalize_channels_softmax_maxval,
}
