"""Decoding with a cache: any causal model, token by token."""

from keras_sam.decoding.decoder import Decoder

__all__ = ["Decoder"]
