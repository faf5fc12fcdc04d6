"""How the next token is chosen, and the loop that chooses one after the other.

Samplers are called like those of `keras_hub.samplers`, which can be used instead::

    tokens = sampler(next=next, prompt=tokens, cache=cache, index=index, mask=mask,
                     stop_token_ids=None, model=model)

    next(tokens, cache, index) -> logits (B, V), None, cache        of position `index`
"""

import dataclasses

import keras
from keras import ops
from keras.src import backend

from keras_sam import _validation as check


@dataclasses.dataclass(frozen=True)
class Greedy:
    """Takes the most likely token.

    Reference: Wiher et al., 2022 (https://arxiv.org/abs/2203.15721), section 3, compares
    the samplers of this file.
    """

    def choose(self, logits, seed):
        return ops.argmax(logits, axis=-1)

    def __call__(
        self,
        next,
        prompt,
        cache,
        index,
        mask,
        stop_token_ids=None,
        model=None,
        seed=None,
        **unused,
    ):
        length = ops.shape(prompt)[1]

        def going_on(tokens, cache, index, done):
            return ops.logical_and(index < length, ops.logical_not(ops.all(done)))

        def step(tokens, cache, index, done):
            logits, _, cache = next(tokens, cache, index)
            given = ops.take(tokens, index, axis=1)
            is_given = ops.take(mask, index, axis=1)
            logits = ops.cast(logits, "float32")
            token = ops.cast(self.choose(logits, _Fixed(seed, index)), tokens.dtype)
            token = ops.where(ops.logical_or(is_given, done), given, token)
            tokens = ops.slice_update(tokens, (0, index), token[:, None])
            ended = ops.logical_and(is_stop(token, stop_token_ids), ~is_given)
            return tokens, cache, index + 1, ops.logical_or(done, ended)

        done = ops.zeros_like(prompt[:, 0], "bool")
        index = ops.cast(ops.convert_to_tensor(index), "int32")
        return ops.while_loop(going_on, step, (prompt, cache, index, done))[0]


@dataclasses.dataclass(frozen=True)
class Random(Greedy):
    """Draws a token by its probability.

    Args:
        temperature: What logits are divided by: below 1 likely tokens become likelier.
    """

    temperature: float = 1.0

    def __post_init__(self):
        check.number("temperature", self.temperature, "a positive number")
        if self.temperature <= 0:
            raise check.invalid("temperature", "a positive number", self.temperature)

    def choose(self, logits, seed):
        logits = self.restricted(logits / self.temperature)
        return keras.random.categorical(logits, 1, seed=seed, dtype="int32")[:, 0]

    def restricted(self, logits):
        """Returns logits that are very low where a token may not be drawn."""
        return logits


@dataclasses.dataclass(frozen=True)
class TopK(Random):
    """Draws one of the `k` most likely tokens.

    Args:
        k: Their number.

    Reference: Fan et al., 2018 (https://arxiv.org/abs/1805.04833), section 5.4.
    """

    k: int = 5

    def __post_init__(self):
        super().__post_init__()
        check.positive_integer("k", self.k)

    def restricted(self, logits):
        k = min(self.k, logits.shape[-1])
        least = ops.top_k(logits, k)[0][:, -1:]
        return ops.where(logits >= least, logits, -1e9)


@dataclasses.dataclass(frozen=True)
class TopP(Random):
    """Draws one of the most likely tokens that together have the probability `p`.

    Args:
        p: Their probability, in (0, 1].

    Reference: Holtzman et al., 2020 (https://arxiv.org/abs/1904.09751), section 3.1.
    """

    p: float = 0.1

    def __post_init__(self):
        super().__post_init__()
        expected = "a number above 0, up to 1"
        if not 0 < check.number("p", self.p, expected) <= 1:
            raise check.invalid("p", expected, self.p)

    def restricted(self, logits):
        descending = -ops.sort(-logits, axis=-1)
        share = ops.softmax(descending, axis=-1)
        before = ops.cumsum(share, axis=-1) - share  # of the tokens that are likelier
        least = ops.where(before < self.p, descending, ops.max(descending))
        return ops.where(logits >= ops.min(least, axis=-1, keepdims=True), logits, -1e9)


@dataclasses.dataclass(frozen=True)
class Beam:
    """Keeps the `num_beams` most likely sequences, and returns the most likely one.

    A sequence that has ended stays as it is. With as many beams as there are sequences it
    finds the most likely one of all.

    Args:
        num_beams: Their number.

    Reference: Sutskever et al., 2014 (https://arxiv.org/abs/1409.3215), section 3.2.
    """

    num_beams: int = 5

    def __post_init__(self):
        check.positive_integer("num_beams", self.num_beams)

    def __call__(
        self, next, prompt, cache, index, mask, stop_token_ids=None, model=None, **unused
    ):
        beams, length = self.num_beams, ops.shape(prompt)[1]

        def repeated(x):
            return ops.repeat(x, beams, axis=0)

        def going_on(tokens, cache, index, done, chance):
            return ops.logical_and(index < length, ops.logical_not(ops.all(done)))

        def step(tokens, cache, index, done, chance):
            logits, _, cache = next(tokens, cache, index)
            count = logits.shape[-1]
            logits = ops.log_softmax(ops.cast(logits, "float32"), axis=-1)
            given = ops.take(tokens, index, axis=1)
            is_given = ops.take(mask, index, axis=1)
            # What is given, or follows an end, has no alternative and costs nothing.
            fixed = ops.logical_or(is_given, done)[:, None]
            only = ops.equal(ops.arange(count, dtype=given.dtype)[None], given[:, None])
            logits = ops.where(fixed, ops.where(only, 0.0, -1e9), logits)
            total = ops.reshape(logits + chance[:, None], (-1, beams * count))
            chance, best = ops.top_k(total, beams)
            best = ops.cast(best, "int32")
            parents = ops.arange(ops.shape(best)[0], dtype="int32")[:, None] * beams
            parents = ops.reshape(parents + best // count, (-1,))
            token = ops.cast(ops.reshape(best % count, (-1,)), tokens.dtype)

            def inherited(x):
                return ops.reshape(ops.take(x, parents, axis=0), ops.shape(x))

            tokens, done, is_given = map(inherited, (tokens, done, is_given))
            cache = keras.tree.map_structure(inherited, cache)
            tokens = ops.slice_update(tokens, (0, index), token[:, None])
            ended = ops.logical_and(is_stop(token, stop_token_ids), ~is_given)
            chance = ops.reshape(chance, ops.shape(done))
            return tokens, cache, index + 1, ops.logical_or(done, ended), chance

        batch = ops.shape(prompt)[0]
        prompt, mask = repeated(prompt), repeated(mask)
        cache = keras.tree.map_structure(repeated, cache)
        first = ops.equal(ops.arange(ops.shape(prompt)[0]) % beams, 0)
        chance = ops.where(first, 0.0, -1e9)  # only one of the equal beams counts
        done = ops.zeros_like(prompt[:, 0], "bool")
        index = ops.cast(ops.convert_to_tensor(index), "int32")
        start = prompt, cache, index, done, ops.cast(chance, "float32")
        tokens, _, _, _, chance = ops.while_loop(going_on, step, start)
        best = ops.argmax(ops.reshape(chance, (batch, beams)), axis=-1)
        best = ops.arange(batch) * beams + ops.cast(best, "int32")
        return ops.take(tokens, best, axis=0)


class _Fixed(keras.random.SeedGenerator):
    """A seed that is a tensor: that of one step of a generation."""

    def __init__(self, seed, index):  # without the variable of a generator
        seed = ops.zeros((), "int32") if seed is None else ops.cast(seed, "int32")
        pair = ops.stack([seed, ops.cast(index, "int32") * 104729])
        self._pair = ops.cast(pair, backend.random_seed_dtype())

    def next(self, ordered=True):
        return self._pair


def is_stop(tokens, stop_token_ids):
    """Returns which tokens end a sequence."""
    found = ops.zeros_like(tokens, "bool")
    for stop in stop_token_ids or ():
        found = ops.logical_or(found, ops.equal(tokens, stop))
    return found


SAMPLERS = {"greedy": Greedy, "random": Random, "top_k": TopK, "top_p": TopP, "beam": Beam}


def get(sampler):
    """Returns the sampler of a name, or `sampler` itself if it can be called."""
    if callable(sampler) and not isinstance(sampler, type):
        return sampler
    if isinstance(sampler, str) and sampler in SAMPLERS:
        return SAMPLERS[sampler]()
    names = ", ".join(map(repr, SAMPLERS))
    expected = f"one of {names}, or an instance of one of keras_sam.samplers or KerasHub's"
    raise check.invalid("sampler", expected, sampler)
