"""What an attention layer of KerasHub computes, in words of keras_sam, with its weights."""

import dataclasses

import keras
import numpy as np
from keras import ops

from keras_sam.layers import CrossAttention, SelfAttention


class NoCounterpart(Exception):
    """Why a layer cannot become one of keras_sam, without the layer's name."""


@dataclasses.dataclass(frozen=True)
class Weights:
    """A kernel and maybe a bias, in the layout of keras_sam.

    Args:
        kernel: Array `(C, H, D)`, or `(H, D, ...)` of the output.
        bias: Array, or None.
        trainable: Whether they train.
    """

    kernel: np.ndarray
    bias: np.ndarray | None = None
    trainable: bool = True

    def part(self, start, stop):
        """The weights of some channels of each head."""
        bias = None if self.bias is None else self.bias[..., start:stop]
        return Weights(self.kernel[..., start:stop], bias, self.trainable)

    def heads(self, start, stop):
        """The weights of some heads."""
        bias = None if self.bias is None else self.bias[start:stop]
        return Weights(self.kernel[:, start:stop], bias, self.trainable)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """The arguments and weights of the layer of keras_sam that computes the same.

    Args:
        query, key, value, output, gate: `Weights`.
        score: A list of pairs of a name or `keras_sam.scores.Score`, and its variables.
        mask: The `keras_sam.masks.Mask` that the layer has by itself, or None.
        causal: Whether the formula is of a causal layer only.
        options: Other arguments of the layer of keras_sam.
    """

    query: Weights
    key: Weights
    value: Weights
    output: Weights
    score: tuple = (("scaled_dot", ()),)
    gate: Weights | None = None
    mask: object = None
    causal: bool = False
    options: dict = dataclasses.field(default_factory=dict)

    def make(self, layer, cross=False, pattern=None):
        """Returns a new layer of keras_sam, not yet built.

        Args:
            layer: The layer of KerasHub.
            cross: Whether it is a `CrossAttention`.
            pattern: A mask instead of the recipe's own, or None.
        """
        _, num_heads, key_dim = self.query.kernel.shape
        width = self.query.kernel.shape[0]
        out = self.output.kernel.shape[2:]
        denses = [self.query, self.key, self.value, self.output, self.gate]
        denses = [each for each in denses if each is not None]
        steps = [step for step, _ in self.score]
        return (CrossAttention if cross else SelfAttention)(
            num_heads,
            key_dim,
            self.value.kernel.shape[2],
            self.key.kernel.shape[1],
            score=steps if len(steps) > 1 else steps[0],
            mask=self.mask if pattern is None else pattern,
            causal=self.causal and pattern is None,
            use_bias=any(each.bias is not None for each in denses),
            use_gate=self.gate is not None,
            output_shape=None if out == (width,) else out,
            dtype=layer.dtype_policy,
            name=layer.name,
            **self.options,
        )

    def build(self, new, layer, shared=None):
        """Builds the layer of keras_sam, and brings the weights into it.

        Args:
            new: What `make` returned.
            layer: The layer of KerasHub.
            shared: A dictionary of the variables of scores that other layers have got.
        """
        denses = self.query, self.value, self.key
        shapes = [(None, None, each.kernel.shape[0]) for each in denses]
        new.build(*shapes if isinstance(new, CrossAttention) else shapes[:1])
        self.fill(new, layer, shared)

    def fill(self, new, layer, shared=None):
        """Brings the weights into a built layer of keras_sam."""
        new.trainable = layer.trainable
        for name in ("query", "key", "gate", "value", "output"):
            have, dense = getattr(self, name), getattr(new, f"{name}_dense")
            if have is None:
                continue
            dense.kernel.assign(have.kernel)
            if dense.bias is not None:
                bias = np.zeros(dense.bias.shape) if have.bias is None else have.bias
                dense.bias.assign(np.reshape(bias, dense.bias.shape))
            if not have.trainable:
                dense.trainable = False
            elif dense.bias is not None and have.bias is None:
                dense.bias.trainable = False  # the original has none to train
        shared = {} if shared is None else shared
        steps = getattr(new.score, "steps", [new.score])
        for step, (_, variables) in zip(steps, self.score, strict=True):
            for mine, theirs in zip(step.weights, variables, strict=True):
                if id(theirs) in shared:
                    _share(step, mine, shared[id(theirs)])
                    continue
                mine.assign(ops.convert_to_numpy(theirs))
                if isinstance(theirs, keras.Variable):
                    shared[id(theirs)] = mine
                    mine.trainable = mine.trainable and theirs.trainable


def _share(step, mine, other):
    """Makes a variable of another layer that of a step."""
    (name,) = (name for name, value in vars(step).items() if value is mine)
    step._untrack_variable(mine)
    step._tracker.unlock()
    setattr(step, name, other)
    step._tracker.lock()


def read_input(dense, num_heads):
    """Returns the `Weights` of a dense layer before the heads: `(C, H, D)`."""
    kernel, bias = _arrays(dense)
    if hasattr(dense, "equation"):
        inputs, letters, outputs = _letters(dense)
        kernel = _permute(kernel, letters, inputs[-1] + _only(outputs, letters))
    kernel = kernel.reshape(kernel.shape[0], num_heads, -1)
    if bias is not None:
        bias = np.broadcast_to(bias, _full(bias, kernel.shape[1:]))
        bias = bias.reshape(kernel.shape[1:])
    return Weights(kernel, bias, dense.trainable)


def read_output(dense, num_heads):
    """Returns the `Weights` of a dense layer behind the heads: `(H, D, ...)`."""
    kernel, bias = _arrays(dense)
    axes = kernel.shape[-1:]
    if hasattr(dense, "equation"):
        inputs, letters, outputs = _letters(dense)
        first, last = _only(inputs, letters), _only(outputs, letters)
        kernel = _permute(kernel, letters, first + last)
        axes = kernel.shape[len(first) :]
    return Weights(kernel.reshape(num_heads, -1, *axes), bias, dense.trainable)


def _arrays(dense):
    bias = dense.bias
    arrays = dense.kernel, bias
    return tuple(None if x is None else ops.convert_to_numpy(x) for x in arrays)


def _letters(dense):
    operands, outputs = dense.equation.replace(".", "").split("->")
    inputs, letters = operands.split(",")
    return inputs, letters, outputs


def _only(letters, known):
    return "".join(letter for letter in letters if letter in known)


def _permute(kernel, letters, wanted):
    return kernel.transpose([letters.index(letter) for letter in wanted])


def _full(bias, shape):
    return bias.shape if bias.size == np.prod(shape) else shape
