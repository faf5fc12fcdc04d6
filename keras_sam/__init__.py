"""keras_sam: attention for Keras, fast, memory-efficient and visible."""

import importlib

from keras_sam import _startup
from keras_sam._version import __version__

if not _startup.runs("keras_sam.darknet"):  # a command imports only what it needs
    _startup.check_backend()
    from keras_sam import darknet, distribution, layers, masks, normalizers, scores
    from keras_sam._rows import RowsOnDemand
    from keras_sam._show import show
    from keras_sam.attention import attend
    from keras_sam.convert import convert
    from keras_sam.decoding import Decoder, samplers
    from keras_sam.export import export_litert, export_onnx, export_saved_model
    from keras_sam.layers import (
        CBAM,
        ChannelAttention,
        CrossAttention,
        PointwiseSpatialAttention,
        SelectiveAttention,
        SelfAttention,
        SpatialAttention,
        SpatialGate,
        UnprojectedAttention,
    )
    from keras_sam.recording import AttentionDetails, AttentionMaps, record_attention

__all__ = [
    "CBAM",
    "AttentionDetails",
    "AttentionMaps",
    "ChannelAttention",
    "CrossAttention",
    "Decoder",
    "PointwiseSpatialAttention",
    "RowsOnDemand",
    "SelectiveAttention",
    "SelfAttention",
    "SpatialAttention",
    "SpatialGate",
    "UnprojectedAttention",
    "__version__",
    "attend",
    "callbacks",
    "convert",
    "darknet",
    "distribution",
    "export_litert",
    "export_onnx",
    "export_saved_model",
    "layers",
    "masks",
    "normalizers",
    "record_attention",
    "samplers",
    "scores",
    "show",
]


def __getattr__(name):
    # These import TensorFlow, which the layers do without on other backends.
    if name == "callbacks":
        return importlib.import_module(f"keras_sam.{name}")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
