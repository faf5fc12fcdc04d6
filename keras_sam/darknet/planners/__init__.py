"""One planner per section: `planner(section, reader, network) -> Spec`."""

from keras_sam.darknet.planners.checks import check_floats
from keras_sam.darknet.planners.convolution import convolutional
from keras_sam.darknet.planners.elementwise import activation, batchnorm, dropout, yolo
from keras_sam.darknet.planners.merging import route, sam, scale_channels, shortcut
from keras_sam.darknet.planners.resampling import (
    avgpool,
    local_avgpool,
    maxpool,
    reorg3d,
    upsample,
)

__all__ = ["PLANNERS", "check_floats"]

PLANNERS = {
    "activation": activation,
    "avgpool": avgpool,
    "batchnorm": batchnorm,
    "convolutional": convolutional,
    "dropout": dropout,
    "local_avgpool": local_avgpool,
    "maxpool": maxpool,
    "reorg3d": reorg3d,
    "route": route,
    "sam": sam,
    "scale_channels": scale_channels,
    "shortcut": shortcut,
    "upsample": upsample,
    "yolo": yolo,
}
