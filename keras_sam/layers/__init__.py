"""The layers, one public layer a file."""

from keras_sam.layers.cross_attention import CrossAttention
from keras_sam.layers.selective_attention import SelectiveAttention
from keras_sam.layers.self_attention import SelfAttention

__all__ = ["CrossAttention", "SelectiveAttention", "SelfAttention"]
