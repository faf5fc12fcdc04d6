"""Darknet configurations and weights as Keras models.

`load_model("yolov4.cfg", "yolov4.weights")` gives a Keras model that computes what
Darknet computes, `[sam]` included. It trains, saves to `.keras`, exports to SavedModel,
and `write_weights` takes it back to Darknet.

The same on the command line: `python -m keras_sam.darknet --help`.
"""

from keras_sam.darknet.builder import build_model, load_model
from keras_sam.darknet.cfg import Option, Section, Sections, parse_cfg
from keras_sam.darknet.decode import Detections, decode
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.model import DarknetModel, layer_outputs, write_weights
from keras_sam.darknet.weights import Header, Weights, read_weights

__all__ = [
    "DarknetError",
    "DarknetModel",
    "Detections",
    "Header",
    "Option",
    "Section",
    "Sections",
    "Weights",
    "build_model",
    "decode",
    "layer_outputs",
    "load_model",
    "parse_cfg",
    "read_weights",
    "write_weights",
]
