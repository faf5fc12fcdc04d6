"""Models of TensorFlow Addons, which ended in 2024, brought over to Keras 3.

Importing this module registers what follows with Keras, under the names that saved models
have for it, and changes nothing else. TensorFlow Addons itself is not needed.

>>> import keras
>>> import keras_sam.addons
>>> keras.saving.get_registered_object("Addons>MultiHeadAttention").__module__
'keras_sam.addons.multi_head_attention'

====================================  ====================================================
TensorFlow Addons                     keras_sam
====================================  ====================================================
`Addons>MultiHeadAttention`           `keras_sam.addons.MultiHeadAttention`, the same in
                                      arguments, weights and outputs; `convert` makes it a
                                      `SelfAttention` or `CrossAttention`
`Addons>sparsemax`, `Addons>gelu`,    the functions of `keras_sam.addons.activations`; as a
`hardshrink`, `lisht`, `mish`,        normalizer, `keras_sam.normalizers.Sparsemax`
`snake`, `softshrink`, `tanhshrink`
`Addons>Sparsemax`, `Addons>GELU`     `keras_sam.addons.Sparsemax`, `keras_sam.addons.GELU`
`tfa.seq2seq.LuongAttention`,         a score, `Bilinear` or `Additive`: by `convert`, or
`tfa.seq2seq.BahdanauAttention`       from a configuration (`Addons>LuongAttention`, ...)
whole models and weights of Keras 2   `load_model` and `load_weights`
everything else                       a `ValueError` that says what to do, see `unmapped`
====================================  ====================================================
"""

from keras_sam.addons import activations, scores, unmapped
from keras_sam.addons.activations import GELU, Sparsemax
from keras_sam.addons.conversion import convert
from keras_sam.addons.loading import load_weights
from keras_sam.addons.models import load_model
from keras_sam.addons.multi_head_attention import MultiHeadAttention
from keras_sam.addons.original import import_tfa

__all__ = [
    "GELU",
    "MultiHeadAttention",
    "Sparsemax",
    "activations",
    "convert",
    "import_tfa",
    "load_model",
    "load_weights",
    "scores",
    "unmapped",
]
