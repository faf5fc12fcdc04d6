"""keras_sam: attention for Keras, fast, memory-efficient and visible."""

from keras_sam import layers, normalizers, scores
from keras_sam._version import __version__
from keras_sam.layers import CrossAttention, SelfAttention
from keras_sam.recording import AttentionDetails, AttentionMaps, record_attention

__all__ = [
    "AttentionDetails",
    "AttentionMaps",
    "CrossAttention",
    "SelfAttention",
    "__version__",
    "layers",
    "normalizers",
    "record_attention",
    "scores",
]
