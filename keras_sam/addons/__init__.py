"""Models of TensorFlow Addons, which ended in 2024, brought over to Keras 3.

Importing this module registers what follows with Keras, under the names that saved models
have for it, and changes nothing else. TensorFlow Addons itself is not needed.

>>> import keras
>>> import keras_sam.addons
>>> keras.saving.get_registered_object("Addons>MultiHeadAttention").__module__
'keras_sam.addons.multi_head_attention'

- `Addons>MultiHeadAttention` becomes `keras_sam.addons.MultiHeadAttention`, with the same
  arguments, weights and outputs. `convert` makes it a `SelfAttention` or `CrossAttention`.
- `Addons>sparsemax`, `gelu`, `hardshrink`, `lisht`, `mish`, `snake`, `softshrink` and
  `tanhshrink` become the functions of `keras_sam.addons.activations`. As a normalizer,
  there is `keras_sam.normalizers.Sparsemax`.
- `Addons>Sparsemax` and `Addons>GELU` become `keras_sam.addons.Sparsemax` and
  `keras_sam.addons.GELU`.
- `tfa.seq2seq.LuongAttention` and `BahdanauAttention` become the scores `Bilinear` and
  `Additive`: by `convert`, or from a configuration.
- `load_model` and `load_weights` read whole models and weights of Keras 2.
- Everything else raises a `ValueError` with what to do instead; see
  `keras_sam.addons.unmapped`.
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
