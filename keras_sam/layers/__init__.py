"""The layers, one public layer a file."""

from keras_sam.layers.cbam import CBAM
from keras_sam.layers.channel_attention import ChannelAttention
from keras_sam.layers.cross_attention import CrossAttention
from keras_sam.layers.pointwise_spatial_attention import PointwiseSpatialAttention
from keras_sam.layers.selective_attention import SelectiveAttention
from keras_sam.layers.self_attention import SelfAttention
from keras_sam.layers.spatial_attention import SpatialAttention
from keras_sam.layers.spatial_gate import SpatialGate
from keras_sam.layers.unprojected_attention import UnprojectedAttention

__all__ = [
    "CBAM",
    "ChannelAttention",
    "CrossAttention",
    "PointwiseSpatialAttention",
    "SelectiveAttention",
    "SelfAttention",
    "SpatialAttention",
    "SpatialGate",
    "UnprojectedAttention",
]
