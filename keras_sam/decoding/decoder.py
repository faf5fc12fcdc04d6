"""A causal model that was not written for decoding, run step by step."""

import itertools

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam.decoding import samplers, saved_model
from keras_sam.decoding.generate import Generation
from keras_sam.decoding.inputs import ModelInputs
from keras_sam.decoding.run import Run, flat_names
from keras_sam.decoding.survey import Survey, budgets_of, shift_positions
from keras_sam.layers._cached import running

# What rounding may change, relative to the largest number.
TOLERANCES = {"float16": 0.05, "bfloat16": 0.2}
TOLERANCE = 1e-3


class Decoder:
    """Decodes a causal model step by step, remembering keys and values.

    ::

        logits, cache = decode(prompt, decode.make_cache(batch, length), 0)
        logits, cache = decode(next_token, cache, prompt_length)
        logits, cache = decode(next_token, cache, prompt_length + 1)     ...

    The results are those of the whole model on all tokens so far. Each step costs one row
    of attention instead of all rows.

    The model is functional, Sequential or subclassed, and needs no change. While it runs,
    each `SelfAttention` over the tokens finds its cache by its path. `CrossAttention` and
    layers that do not depend on the tokens, such as those of an encoder, work as they are.
    An encoder in the model runs in every step, so make it a separate model. Layers that
    depend on the position start at the right one if their call takes `start_index`, as
    that of KerasHub's `PositionEmbedding` does.

    A model that cannot be decoded is refused: one with a layer that sees later positions,
    or that mixes positions in another way (Keras's own attention, convolutions, recurrent
    layers, pooling). To find other such layers, a few arbitrary tokens are decoded and
    compared with the whole model.

    Args:
        model: A built `keras.Model` whose tokens may have any length. It may have other
            inputs beside.
        tokens: Which of several inputs are the tokens: an index, a name or a key. None
            finds the only one, or `"token_ids"`.
        input_signature: The positional arguments of a subclassed model that was not
            called with exactly one tensor, as a list of (nests of) `keras.InputSpec`.
        check: Whether to compare a decoding to the whole model, which costs a few calls.

    Call arguments:
        inputs: The tokens `(B, T)`, or vectors `(B, T, C)`; or all inputs of the model.
        cache: What `make_cache` or the last call returned, a dictionary of tensors.
        index: The position of the first of these tokens: an integer, or an integer tensor
            of shape `()` or `(B,)`, one for each example.
        mask: Boolean `(B, T)`, False for padding, or None. Padding is not remembered.

    Returns:
        What the model returns for these tokens, and the new cache.

    Raises:
        ValueError: For a model that cannot be decoded, when the decoder is made; for a
            cache that is too short or another's. Where an index that is a tensor leads
            beyond the cache, the results are not a number, or PyTorch raises `IndexError`.

    Prompts of unequal length: `generate` takes them as lists. Step by step, there are two
    ways, and each example gets the same results as alone. Pad the prompts at the end, give
    `mask`, and continue with the number of tokens of each example as its index. Or pad them
    at the start, and begin with minus the number of padding tokens as the index. Both need
    `make_cache(..., padding=True)`, which is the default for models whose `Embedding` has
    `mask_zero=True`.

    Example:

    >>> import keras, numpy as np, keras_sam
    >>> model = keras.Sequential(
    ...     [
    ...         keras.Input((None,), dtype="int32"),
    ...         keras.layers.Embedding(50, 16),
    ...         keras_sam.SelfAttention(2, causal=True, score="scaled_dot"),
    ...         keras.layers.Dense(50),
    ...     ]
    ... )
    >>> decode = keras_sam.Decoder(model)
    >>> cache = decode.make_cache(batch=1, length=8)
    >>> logits, cache = decode(np.array([[3, 1, 4]]), cache, 0)
    >>> logits, cache = decode(np.array([[1]]), cache, 3)
    >>> logits.shape
    TensorShape([1, 1, 50])
    >>> decode.generate([[3, 1, 4]], max_length=8).shape
    (1, 8)

    Reference:
        Pope et al., 2022, "Efficiently Scaling Transformer Inference"
        (https://arxiv.org/abs/2211.05102), section 2.
    """

    def __init__(
        self,
        model: keras.Model,
        tokens: int | str | None = None,
        input_signature: list | None = None,
        check: bool = True,
    ):
        if not isinstance(model, keras.Model) or not model.built:
            raise ValueError(
                f"`model` must be a built keras.Model. Received: model={model!r}"
            )
        self.model = model
        self.inputs = ModelInputs(model, tokens, input_signature)
        self._survey = Survey(self.inputs)
        shift_positions(self._survey.counting)
        self._generation = Generation(self)
        if check:
            self.check()

    def make_cache(
        self,
        batch: int,
        length: int,
        padding: bool = False,
        memory_budget: int | dict[str, int] | None = None,
    ):
        """Returns an empty cache.

        Args:
            batch: The number of examples.
            length: The number of positions that are to be decoded, prompts included.
            padding: Whether calls have a `mask`, or negative indices.
            memory_budget: How many positions each layer with `selective=True` remembers at
                most; a dictionary has the numbers of some of them by their paths. See
                `SelfAttention.make_cache`.

        Returns:
            A dictionary of tensors, whose first axis is the batch. Layers that see a fixed
            number of positions back have fewer slots.
        """
        for layer in self._survey.counting:
            most = getattr(layer, "sequence_length", None)
            if isinstance(most, int) and check.is_integer(length) and length > most:
                raise check.invalid(
                    "length", f"at most {most}, the positions of {layer.path!r}", length
                )
        made, padding = {}, check.boolean("padding", padding)
        budgets = budgets_of(self._survey.remembered, memory_budget)
        for found in self._survey.remembered:
            remembers = padding or found.padding
            cache = found.layer.make_cache_for(
                found.use_causal_mask, batch, length, remembers, budgets[found.key]
            )
            made.update(flat_names(found.key, cache))
        return made

    def __call__(self, inputs, cache, index, mask=None):
        tokens, flat = self.inputs.split(inputs)
        return self.step(tokens, flat, cache, index, mask)

    def step(self, tokens, flat, cache, index, mask=None, surely_fits=False):
        """Decodes some tokens; see the call arguments.

        Args:
            tokens: The tokens.
            flat: All inputs of the model, of which those of the tokens are not looked at.
            cache: See the call arguments.
            index: See the call arguments.
            mask: See the call arguments.
            surely_fits: Whether there is a slot for each token.
        """
        run = Run(self._survey.remembered, cache, tokens, index, mask)
        with running(run):
            outputs = self.inputs.call(self.inputs.with_tokens(flat, tokens))
        run.finish()
        if not surely_fits:
            outputs = keras.tree.map_structure(run.poisoned, outputs)
        return outputs, run.caches

    def generate(
        self,
        prompt,
        max_length: int,
        sampler="greedy",
        stop_token_ids=None,
        seed: int | None = None,
        pad_token_id: int = 0,
        context=None,
        jit_compile: bool | str = "auto",
        memory_budget: int | dict[str, int] | None = None,
    ):
        """Returns prompts with tokens after them.

        Prompts of unequal length share their first positions; from there on all examples
        go on token by token, those that are still given as they are given.

        Args:
            prompt: Integers `(B, T)` or `(T,)`, or a list of lists of unequal lengths.
            max_length: The length of the results, prompts included.
            sampler: `"greedy"`, `"random"`, `"top_k"`, `"top_p"` or `"beam"`, or an
                instance from `keras_sam.samplers` or `keras_hub.samplers`.
            stop_token_ids: The tokens that end a text, an integer or a list, or None.
            seed: An integer with which the same tokens are drawn again, or None. KerasHub's
                samplers have a seed of their own.
            pad_token_id: What fills up texts that have ended.
            context: The model's other inputs, where it has some: a dictionary by their
                names, a list in their order, or the only one.
            jit_compile: Whether XLA compiles the loop. `"auto"` does on JAX and on
                accelerators. XLA compiles for each batch size, `max_length` and sampler,
                which takes seconds. Without XLA, TensorFlow traces a graph equally often.
            memory_budget: See `make_cache`.

        Returns:
            A NumPy array of integers `(B, max_length)`, or `(max_length,)` for one prompt.
        """
        return self._generation(
            prompt,
            max_length,
            samplers.get(sampler),
            stop_token_ids,
            seed,
            pad_token_id,
            context,
            jit_compile,
            memory_budget,
        )

    def export_saved_model(self, filepath, length, rows=1, verbose=True):
        """Writes a SavedModel that decodes, and needs TensorFlow only.

        It has two endpoints. `start(tokens)` takes the first tokens of all, of any number.
        `decode(tokens, cache, index)` takes the next ones. A model with other inputs gets
        all of them, in the order of `keras.tree.flatten`. Both return a dictionary of
        `"logits"` and the tensors of the cache.

        Args:
            filepath: Where to write it, a folder.
            length: The number of positions that are decoded at most.
            rows: The number of tokens of a call of `decode`; None is any number.
            verbose: Whether to print the endpoints.

        Raises:
            ValueError: If the backend is not TensorFlow.

        Example::

            decode.export_saved_model("served", length=128)
            served = tf.saved_model.load("served")
            cache = dict(served.start(tokens))
            logits = cache.pop("logits")
            found = served.decode(next_token, cache, tf.constant(index))
        """
        saved_model.write(self, filepath, length, rows, verbose)

    def check(self):
        """Compares a decoding in steps to the whole model, on arbitrary tokens.

        Raises:
            ValueError: If they differ by more than rounding does.
        """
        length = min([6, *(n for n in map(_most, self._survey.counting) if n)])
        vocabulary = min([*(each.input_dim for each in self._survey.embeddings), 2**15])
        if not self._survey.embeddings:
            vocabulary = 2
        flat = self.inputs.examples(2, length, vocabulary)
        whole = self.inputs.call(flat)
        tokens, cache, steps = flat[self.inputs.at], self.make_cache(2, length), []
        bounds = sorted({0, length // 2, length // 2 + 1, length})
        for start, stop in itertools.pairwise(bounds):
            found, cache = self.step(tokens[:, start:stop], flat, cache, start)
            steps.append(keras.tree.flatten(found))
        for expected, *parts in zip(keras.tree.flatten(whole), *steps, strict=True):
            self._compare(expected, parts)

    def _compare(self, expected, parts):
        dtype = keras.backend.standardize_dtype(expected.dtype)
        if "float" not in dtype or any(len(part.shape) < 2 for part in parts):
            expected_rank = "a float tensor with the axes (batch, length, ...)"
            raise ValueError(
                f"`model` must return {expected_rank}. Received: a tensor of dtype {dtype} "
                f"and shape {tuple(expected.shape)}"
            )
        expected, *parts = (
            ops.convert_to_numpy(ops.cast(x, "float32")) for x in (expected, *parts)
        )
        error, others = np.inf, {(*x.shape[:1], *x.shape[2:]) for x in (expected, *parts)}
        found = np.concatenate(parts, axis=1) if len(others) == 1 else None
        if found is not None and found.shape == expected.shape:
            difference = np.abs(found - expected).max()
            error = difference / max(np.abs(expected).max(), 1e-30)
        if not error <= TOLERANCES.get(self.model.compute_dtype, TOLERANCE):
            raise ValueError(
                "`model` must give for each position what it gives with fewer positions "
                "after it, and with those before it remembered by causal attention of "
                "keras_sam alone. A layer that counts positions must take `start_index` in "
                "its call; `check=False` takes the model as it is. Received: outputs in "
                f"steps that differ by {error:.2g} of the largest from those of the whole"
            )


def _most(layer):
    most = getattr(layer, "sequence_length", None)
    return most if isinstance(most, int) else None
