"""Layers that see their input as a vector, channels first. No Keras here."""

import dataclasses

from keras_sam.darknet.specs.base import NORMALIZATION, Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Connected(Spec):
    """`[connected]`: a matrix of the whole input, in the order channels, rows, columns."""

    inputs: int
    batch_normalize: bool
    activation: str

    @property
    def blocks(self):
        outputs = self.shape[2]
        normalization = NORMALIZATION if self.batch_normalize else ()
        return {
            "biases": (outputs,),
            "weights": (outputs, self.inputs),
            **dict.fromkeys(normalization, (outputs,)),
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class Local(Spec):
    """`[local]`: a convolution with weights of its own at each position."""

    input_channels: int
    size: int
    stride: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    activation: str

    @property
    def blocks(self):
        height, width, filters = self.shape
        kernel = (filters, self.input_channels, self.size, self.size)
        return {"biases": (filters, height, width), "weights": (height, width, *kernel)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Softmax(Spec):
    """`[softmax]`, over each of `groups` equal parts of the input."""

    groups: int
    temperature: float
