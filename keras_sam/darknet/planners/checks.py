"""Checks that several planners share."""

from keras_sam.darknet import geometry

ELEMENTWISE = (
    *("linear", "logistic", "loggy", "relu", "elu", "selu", "gelu", "relie", "ramp"),
    *("revleaky", "leaky", "tanh", "plse", "stair", "hardtan", "lhtan"),
)
_CONVOLUTION_ONLY = (
    "hard_mish",
    "normalize_channels",
    "normalize_channels_softmax",
    "normalize_channels_softmax_maxval",
)
_ACTIVATIONS = {
    "convolutional": (*ELEMENTWISE, "mish", "swish", *_CONVOLUTION_ONLY),
    "shortcut": (*ELEMENTWISE, "mish", "swish"),
}
_KNOWN = {"relu6", *_ACTIVATIONS["convolutional"]}


def check_floats(section, shape):
    """Raises when a tensor is too large to be meant."""
    if shape[2] > geometry.MAX_CHANNELS:
        raise section.error(
            f"has {shape[2]} channels; at most {geometry.MAX_CHANNELS} are supported"
        )
    if geometry.floats(shape) > geometry.MAX_FLOATS:
        raise section.error(
            f"makes {geometry.describe(shape)} numbers for each image; at most "
            f"{geometry.MAX_FLOATS} are supported"
        )


def read_activation(section, reader, default="linear"):
    """Returns the name of the activation, if this kind of section supports it."""
    supported = _ACTIVATIONS.get(section.name, ELEMENTWISE)
    name = reader.text("activation", default)
    if name in supported:
        return name
    listed = ", ".join(supported)
    if name in _KNOWN:
        reason = f"is not supported by [{section.name}]: Darknet outputs zeros for it"
    else:
        reason = "is unknown"
    raise reader.error("activation", f"{reason}. Supported: {listed}", name)
