"""Conversion of Keras's attention layers into ours, and back."""

from keras_sam.convert.conversion import convert

__all__ = ["convert"]
