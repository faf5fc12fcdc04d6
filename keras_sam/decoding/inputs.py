"""What a model takes, and which of it are the tokens that are decoded."""

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam._signatures import input_signature


class ModelInputs:
    """The positional arguments of a model, of which one tensor are the tokens.

    Args:
        model: A built `keras.Model`.
        tokens: The tokens' index among all tensors, or its name or key; None finds it.
        signature: The positional arguments as a list of nests of `keras.InputSpec`, or
            None.
    """

    def __init__(self, model, tokens=None, signature=None):
        self.model = model
        self.signature = _told_by(model) if signature is None else list(signature)
        self.specs = keras.tree.flatten(self.signature)
        self.names = [_name(spec) for spec in self.specs]
        if len(self.signature) == 1 and isinstance(self.signature[0], dict):
            self.names = sorted(self.signature[0])
        self.at = self._index_of(tokens)
        self.spec = self.specs[self.at]
        if len(self.spec.shape) < 2 or self.spec.shape[1] is not None:
            raise ValueError(
                "`model` must take sequences of any length, as one with `keras.Input("
                f"(None,))` does. Received: an input of shape {tuple(self.spec.shape)}"
            )

    @property
    def are_numbers(self):
        """Whether tokens are integers, and not vectors."""
        return "int" in self.spec.dtype or len(self.spec.shape) == 2

    def _index_of(self, tokens):
        count, known = len(self.specs), ", ".join(map(repr, self.names))
        if tokens is None:
            if count == 1:
                return 0
            tokens = "token_ids" if "token_ids" in self.names else None
        if check.is_integer(tokens) and 0 <= tokens < count:
            return int(tokens)
        if isinstance(tokens, str) and tokens in self.names:
            return self.names.index(tokens)
        expected = f"the index or the name of one of the inputs {known}"
        raise check.invalid("tokens", expected, tokens)

    def split(self, given):
        """Returns the tokens of what a caller gives, and all tensors.

        Args:
            given: The inputs as the model takes them (a tuple for several positional
                arguments). The tokens alone do if the model takes nothing else, or only a
                `padding_mask` beside them.
        """
        flat = keras.tree.flatten(given)
        if len(flat) == 1 and set(self.names) == {"padding_mask", "token_ids"}:
            tokens = ops.convert_to_tensor(flat[0])
            spec = self.specs[self.names.index("padding_mask")]
            ones = ops.ones(ops.shape(tokens), dtype=spec.dtype)
            flat = [tokens if n == "token_ids" else ones for n in self.names]
        if len(flat) != len(self.specs):
            raise ValueError(
                f"`inputs` must be {len(self.specs)} tensors, as the model takes them. "
                f"Received: {len(flat)} tensors"
            )
        flat = [ops.convert_to_tensor(x) for x in flat]
        return flat[self.at], flat

    def beside(self, tokens, context):
        """Returns all tensors, of tokens and what else the model takes.

        Args:
            tokens: The tokens.
            context: The other inputs: a dictionary by their names, a list of all in order,
                one tensor, or None where there are none.
        """
        others = [i for i in range(len(self.specs)) if i != self.at]
        flat = [tokens] * len(self.specs)
        missing = [i for i in others if self.names[i] != "padding_mask"]
        if isinstance(context, dict):
            given = [context.get(self.names[i]) for i in missing]
        elif context is None or isinstance(context, list | tuple):
            given = list(context or ())
        else:
            given = [context]
        if len(given) != len(missing) or any(x is None for x in given):
            names = ", ".join(self.names[i] for i in missing) or "nothing"
            raise ValueError(
                f"`context` must be the other inputs of the model: {names}. "
                f"Received: context={type(context).__name__} with {len(given)} of them"
            )
        for index, x in zip(missing, given, strict=True):
            flat[index] = ops.convert_to_tensor(x)
        return flat

    def with_tokens(self, flat, tokens):
        """Returns all tensors with other tokens in the place of theirs.

        The others are repeated if there are more examples of tokens; a padding mask of
        KerasHub gets the shape of the tokens.
        """
        flat = list(flat)
        for index, x in enumerate(flat):
            if index == self.at:
                flat[index] = tokens
            elif self.names[index] == "padding_mask":
                flat[index] = ops.ones(ops.shape(tokens), dtype=self.specs[index].dtype)
            else:
                times = ops.shape(tokens)[0] // ops.shape(x)[0]
                if not isinstance(times, int) or times != 1:
                    flat[index] = ops.repeat(x, times, axis=0)
        return flat

    def call(self, flat):
        """Calls the model with all its tensors."""
        arguments = keras.tree.pack_sequence_as(self.signature, flat)
        return self.model(*arguments, training=False)

    def symbols(self, batch, length):
        """Returns symbolic tensors with tokens of one length."""
        return [self._symbol(i, batch, length) for i in range(len(self.specs))]

    def is_as_long_as_tokens(self, index):
        """Returns whether an input has one value for each token."""
        return index == self.at or self.names[index] == "padding_mask"

    def _symbol(self, index, batch, length):
        return keras.KerasTensor(self._shape(index, batch, length), self.specs[index].dtype)

    def _shape(self, index, batch, length):
        free = length if self.is_as_long_as_tokens(index) else 3
        shape = [free if n is None else n for n in self.specs[index].shape[1:]]
        return (batch, *shape)

    def examples(self, batch, length, vocabulary):
        """Returns arbitrary tensors with tokens of one length."""
        draw = np.random.default_rng(0)
        flat = []
        for index, spec in enumerate(self.specs):
            shape, dtype = self._shape(index, batch, length), str(spec.dtype or "float32")
            if self.names[index] == "padding_mask" or dtype == "bool":
                x = np.ones(shape)
            elif "int" in dtype or (index == self.at and self.are_numbers):
                x = draw.integers(min(1, vocabulary - 1), vocabulary, shape)
            else:
                x = draw.normal(size=shape)
            flat.append(ops.cast(ops.convert_to_tensor(x), dtype))
        return flat


def _told_by(model):
    """Returns the signature of a model; of a subclassed one, that of any length."""
    signature = input_signature(model)
    if getattr(model, "inputs", None):
        return signature
    (spec,) = signature  # what it was called with for the first time
    if len(spec.shape) == 2:
        return [keras.InputSpec(shape=(None, None), dtype="int32")]
    return [keras.InputSpec(shape=(None, None, *spec.shape[2:]), dtype=spec.dtype)]


def _name(spec):
    return getattr(spec, "name", None) or ""
