"""Normalizers: how a row of scores becomes a row of weights.

A normalizer works on the last axis, and normalizes each row by itself. It is a small
frozen dataclass, so that it compares, prints and saves without further code. Your own
needs no more than that, and works wherever a built-in one does:

>>> import dataclasses
>>> import keras
>>> from keras_sam import normalizers
>>> @keras.saving.register_keras_serializable(package="my_package")
... @dataclasses.dataclass(frozen=True)
... class Relu(normalizers.Normalizer):
...     scale: float = 1.0
...
...     def __call__(self, scores):
...         return keras.ops.relu(scores) * self.scale
>>> normalizers.deserialize(normalizers.serialize(Relu(scale=0.5)))
Relu(scale=0.5)
"""

from keras_sam import _strategies
from keras_sam.normalizers.base import Normalizer
from keras_sam.normalizers.entmax import Entmax, Sparsemax
from keras_sam.normalizers.sigmoid import HardSigmoid, Sigmoid
from keras_sam.normalizers.softmax import Softmax

_strategies_by_name = _strategies.Strategies(
    argument="normalizer",
    base=None,
    known={
        "softmax": Softmax,
        "sigmoid": Sigmoid,
        "hard_sigmoid": HardSigmoid,
        "sparsemax": Sparsemax,
        "entmax": Entmax,
    },
)
get = _strategies_by_name.get
"""Returns the normalizer that a name, an instance or a serialized instance stands for."""
serialize = _strategies_by_name.serialize
"""Returns a normalizer as a dictionary, as saved models keep it."""
deserialize = _strategies_by_name.deserialize
"""Returns the normalizer that a dictionary of `serialize` describes."""

__all__ = [
    "Entmax",
    "HardSigmoid",
    "Normalizer",
    "Sigmoid",
    "Softmax",
    "Sparsemax",
    "deserialize",
    "get",
    "serialize",
]
