"""Checks that several planners share."""

import difflib

from keras_sam.darknet import geometry

ELEMENTWISE = (
    *("linear", "logistic", "loggy", "relu", "elu", "selu", "gelu", "relie", "ramp"),
    *("revleaky", "leaky", "tanh", "plse", "stair", "hardtan", "lhtan", "relu6"),
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
_KNOWN = {*_ACTIVATIONS["convolutional"]}
_OTHER_NAMES = {  # in other libraries
    "silu": "swish",
    "sigmoid": "logistic",
    "leaky_relu": "leaky",
    "leakyrelu": "leaky",
    "none": "linear",
    "identity": "linear",
    "hardtanh": "hardtan",
    "hard_tanh": "hardtan",
    "hardmish": "hard_mish",
}


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
    if name == "relu6":
        reader.notice(
            "activation",
            "relu6 is computed, as most builds of Darknet do; AlexeyAB's on a CPU makes "
            "zeros of it, and pjreddie's a relu",
        )
    if name in supported:
        return name
    listed = ", ".join(supported)
    if name in _KNOWN:
        reason = f"is not supported by [{section.name}]: Darknet outputs zeros for it"
    else:
        close = difflib.get_close_matches(name.lower()[:40], supported, n=1)
        meant = _OTHER_NAMES.get(name.lower(), "".join(close))
        reason = "is unknown" + (f"; did you mean {meant}?" if meant else "")
    raise reader.error("activation", f"{reason}. Supported: {listed}", name)
