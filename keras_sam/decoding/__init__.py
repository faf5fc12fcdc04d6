"""Decoding with a cache: causal models, token by token."""

from keras_sam.decoding.decoder import Decoder

__all__ = ["Decoder"]
