"""One planner per section: `planner(section, reader, network) -> Spec`."""

from keras_sam.darknet.planners.checks import check_floats
from keras_sam.darknet.planners.convolution import convolutional
from keras_sam.darknet.planners.elementwise import (
    activation,
    batchnorm,
    dropout,
    training_only,
)
from keras_sam.darknet.planners.heads import detection, gaussian_yolo, region, yolo
from keras_sam.darknet.planners.merging import route, sam, scale_channels, shortcut
from keras_sam.darknet.planners.resampling import (
    avgpool,
    crop,
    local_avgpool,
    maxpool,
    reorg,
    reorg3d,
    upsample,
)
from keras_sam.darknet.planners.vectors import connected, local, softmax

__all__ = ["NEEDS_MAP", "PLANNERS", "REFUSED", "check_floats"]

PLANNERS = {
    "Gaussian_yolo": gaussian_yolo,
    "activation": activation,
    "avgpool": avgpool,
    "batchnorm": batchnorm,
    "connected": connected,
    "contrastive": training_only,
    "convolutional": convolutional,
    "cost": training_only,
    "crop": crop,
    "detection": detection,
    "dropout": dropout,
    "local": local,
    "local_avgpool": local_avgpool,
    "maxpool": maxpool,
    "region": region,
    "reorg": reorg,
    "reorg3d": reorg3d,
    "route": route,
    "sam": sam,
    "scale_channels": scale_channels,
    "shortcut": shortcut,
    "softmax": softmax,
    "upsample": upsample,
    "yolo": yolo,
}

# Sections that Darknet stops at when the layer before is no map.
NEEDS_MAP = {
    *("avgpool", "convolutional", "crop", "local", "local_avgpool", "maxpool", "reorg"),
}

_STATE = (
    "keeps a state from one picture to the next, which a Keras model of single pictures "
    "does not have"
)
# Sections of Darknet that are known and not supported, with the reason.
REFUSED = {
    **dict.fromkeys(("rnn", "gru", "lstm", "crnn", "conv_lstm", "history"), _STATE),
    "iseg": "segments instances, and there is nothing here to decode that",
}
