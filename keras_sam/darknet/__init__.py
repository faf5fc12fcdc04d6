"""Darknet configurations and weights as Keras models.

`load_model("yolov4.cfg", "yolov4.weights")` gives a Keras model that computes what
Darknet computes, `[sam]` included. It trains, saves to `.keras`, exports to SavedModel,
and `write_weights` takes it back to Darknet.

The same on the command line: `python -m keras_sam.darknet --help`.
"""

from keras_sam import _startup

if not _startup.runs("keras_sam.darknet"):  # a command imports only what it needs
    from keras_sam.darknet.builder import build_model, load_model
    from keras_sam.darknet.cfg import Option, Section, Sections, parse_cfg
    from keras_sam.darknet.decode import Detections, LabeledDetections, decode
    from keras_sam.darknet.errors import DarknetError
    from keras_sam.darknet.header import Header
    from keras_sam.darknet.model import DarknetModel, layer_outputs, write_weights
    from keras_sam.darknet.names import read_names
    from keras_sam.darknet.pictures import load_image
    from keras_sam.darknet.weights import Weights, read_weights

__all__ = [
    "DarknetError",
    "DarknetModel",
    "Detections",
    "Header",
    "LabeledDetections",
    "Option",
    "Section",
    "Sections",
    "Weights",
    "build_model",
    "decode",
    "layer_outputs",
    "load_image",
    "load_model",
    "parse_cfg",
    "read_names",
    "read_weights",
    "write_weights",
]
