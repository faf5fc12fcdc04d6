"""Generating tokens after prompts, as one compiled program."""

import keras
import numpy as np
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.xla import on_cpu
from keras_sam.decoding import samplers


class Generation:
    """`Decoder.generate`: its programs, and the calls of them.

    Args:
        decoder: The `Decoder`.
    """

    def __init__(self, decoder):
        self._decoder = decoder
        self._programs = {}

    def __call__(
        self,
        prompt,
        max_length,
        sampler,
        stop_token_ids,
        seed,
        pad_token_id,
        context,
        jit_compile,
        memory_budget,
    ):
        """Returns what `Decoder.generate` does; see there."""
        decoder = self._decoder
        if not decoder.inputs.are_numbers:
            raise ValueError(
                "`model` must take integer tokens to generate some. Received: an input of "
                f"dtype {decoder.inputs.spec.dtype}"
            )
        if stop_token_ids is not None:
            stop_token_ids = tuple(int(n) for n in np.atleast_1d(stop_token_ids))
        seed = np.random.randint(2**31 - 1) if seed is None else check.integer("seed", seed)
        max_length = check.positive_integer("max_length", max_length)
        prompts, single = _prompts(prompt, max_length)
        lengths = [len(row) for row in prompts]
        tokens = np.full((len(prompts), max_length), pad_token_id, "int32")
        for row, found in zip(tokens, prompts, strict=True):
            row[: len(found)] = found
        given = np.arange(max_length)[None] < np.array(lengths)[:, None]
        least = min(lengths)
        if least < max_length:
            cache = decoder.make_cache(*tokens.shape, memory_budget=memory_budget)
            asked = sampler, stop_token_ids, seed, jit_compile
            tokens = self._run(tokens, given, least, cache, context, *asked)
        tokens = _ended(np.array(tokens), given, stop_token_ids, pad_token_id)
        return tokens[0] if single else tokens

    def _run(self, tokens, given, index, cache, context, sampler, stops, seed, jit_compile):
        decoder = self._decoder
        if jit_compile == "auto":
            jit_compile = keras.backend.backend() == "jax" or not on_cpu()
        jit_compile = check.boolean("jit_compile", jit_compile)
        tokens = ops.convert_to_tensor(tokens)
        flat = decoder.inputs.beside(tokens, context)
        if index > 1:
            run = self._program("prompt", self._remember, (), False)
            cache = run(tokens[:, : index - 1], flat, cache)

        def loop(tokens, given, flat, cache, index, seed):
            return self._loop(sampler, stops, tokens, given, flat, cache, index, seed)

        key = sampler if _is_value(sampler) else id(sampler)
        variables = getattr(sampler, "variables", ())
        run = self._program((key, stops), loop, variables, jit_compile)
        index, seed = (ops.convert_to_tensor(x, dtype="int32") for x in (index, seed))
        found = run(tokens, ops.convert_to_tensor(given), flat, cache, index, seed)
        return ops.convert_to_numpy(found)

    def _remember(self, tokens, flat, cache):
        return self._decoder.step(tokens, flat, cache, 0)[1]

    def _loop(self, sampler, stops, tokens, given, flat, cache, index, seed):
        def next(tokens, cache, index):
            token = ops.take(tokens, index - 1, axis=1)[:, None]
            logits, cache = self._decoder.step(
                token, flat, cache, index - 1, surely_fits=True
            )
            return logits[:, -1], (), cache

        return sampler(
            next=next,
            prompt=tokens,
            cache=cache,
            index=index,
            mask=given,
            stop_token_ids=stops,
            model=self._decoder.model,
            **({"seed": seed} if _is_value(sampler) else {}),
        )

    def _program(self, key, function, variables, jit_compile):
        """Returns a function compiled once for each key, and by itself for each shape."""
        key = key, jit_compile
        if key not in self._programs:
            compiled = _compiled(function, self._decoder.model, variables, jit_compile)
            self._programs[key] = compiled, variables  # keeps what an id stands for alive
        return self._programs[key][0]


def _is_value(sampler):
    return type(sampler) in samplers.SAMPLERS.values()


def _compiled(function, model, variables, jit_compile):
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        compiled = tf.function(
            function,
            jit_compile=jit_compile,
            reduce_retracing=not jit_compile,
            autograph=False,
        )
        # Its warning counts the programs of all decoders together.
        compiled._omit_frequent_tracing_warning = True
        return compiled
    if backend == "torch":
        import torch

        return torch.no_grad()(function)
    if not jit_compile:
        return function
    import jax

    variables = [*model.variables, *variables]

    @jax.jit
    def run(values, *arguments):
        pairs = zip(variables, values, strict=True)
        with keras.StatelessScope(state_mapping=pairs) as scope:
            found = function(*arguments)
        return found, [scope.get_current_value(v) for v in variables]

    def call(*arguments):
        found, values = run([v.value for v in variables], *arguments)
        for variable, value in zip(variables, values, strict=True):
            if value is not None and not variable.trainable:
                variable.assign(value)
        return found

    return call


def _prompts(prompt, max_length):
    """Returns prompts as a list of lists of integers, and whether there was only one."""
    rows = ops.convert_to_numpy(prompt) if hasattr(prompt, "shape") else prompt
    single = len(rows) > 0 and np.ndim(rows[0]) == 0
    rows = [np.asarray(row) for row in ([rows] if single else rows)]
    fine = all(row.ndim == 1 and row.dtype.kind in "iu" for row in rows)
    if not rows or not fine or not all(1 <= len(row) <= max_length for row in rows):
        raise ValueError(
            "`prompt` must be integers (B, T), or a list of lists of them, each of 1 to "
            f"`max_length` tokens. Received: lengths {[row.size for row in rows]}, "
            f"max_length={max_length}"
        )
    return rows, single


def _ended(tokens, given, stops, pad):
    """Returns tokens with padding after the first end that was not given."""
    if not stops:
        return tokens
    ends = np.isin(tokens, stops) & ~given
    behind = np.cumsum(ends, axis=1) - ends > 0
    return np.where(behind & ~given, pad, tokens)
