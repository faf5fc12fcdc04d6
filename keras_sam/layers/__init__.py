"""The layers, one public layer a file."""

from keras_sam.layers.cross_attention import CrossAttention
from keras_sam.layers.self_attention import SelfAttention
from keras_sam.layers.spatial_gate import SpatialGate

__all__ = ["CrossAttention", "SelfAttention", "SpatialGate"]
