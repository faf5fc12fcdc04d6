"""Keras callbacks. Imports TensorBoard."""

from keras_sam.callbacks.attention_tensorboard import AttentionTensorBoard

__all__ = ["AttentionTensorBoard"]
