"""What is behind a mask changes no bit of what is in front of it, however large it is.

Not even by choosing a formula: padding, or the last position where attention is causal,
is a million times as large.
"""

import keras
import numpy as np
import pytest
from common import SCORES, numpy, random, randomize

from keras_sam import scores
from keras_sam.layers import (
    CrossAttention,
    SelectiveAttention,
    SelfAttention,
    UnprojectedAttention,
)

NAMES = (*SCORES, "tanh_sum")
LAYERS = {
    "self": lambda score, **kw: SelfAttention(2, score=score, **kw),
    "cross": lambda score, **kw: CrossAttention(2, score=score, **kw),
    "unprojected": lambda score, **kw: UnprojectedAttention(score=score, **kw),
    "selective": lambda score: SelectiveAttention(relation="self", score=score, pool=False),
}
PADDED = [(name, score) for name in LAYERS for score in NAMES]
CAUSAL = [(name, score) for name in LAYERS if name != "selective" for score in NAMES]
WAYS = ("eager", "graph", "compiled")


def make(name, score, **options):
    score = scores.TanhSum() if score == "tanh_sum" else score
    return LAYERS[name](score, **options)


def caller(layer, way, length):
    """A function of arrays that calls the layer with each of its inputs, and of a mask."""
    count = 2 if isinstance(layer, CrossAttention | UnprojectedAttention) else 1
    names = ["query_mask", "value_mask"][:count] if count == 2 else ["mask"]

    def call(x, mask=None):
        masks = {} if mask is None else dict.fromkeys(names, mask)
        return layer(*[x] * count, **masks)

    call(random(2, length, 8))
    randomize(layer)
    if way == "eager":
        return lambda *given: numpy(call(*map(keras.ops.convert_to_tensor, given)))
    import tensorflow as tf

    run = tf.function(call, jit_compile=way == "compiled", autograph=False)
    return lambda *given: numpy(run(*map(tf.constant, given)))


def check_padding(name, score, way, length):
    run = caller(make(name, score), way, length)
    mask = np.arange(length) < np.array([[length - 3], [length // 2]])
    inputs, large = random(2, length, 8), random(2, length, 8)
    large[~mask] *= 1e6
    np.testing.assert_array_equal(run(large, mask)[mask], run(inputs, mask)[mask])


def check_future(name, score, way, length):
    run = caller(make(name, score, causal=True), way, length)
    inputs, large = random(2, length, 8), random(2, length, 8)
    large[:, -1] *= 1e6
    np.testing.assert_array_equal(run(large)[:, :-1], run(inputs)[:, :-1])


def table(pairs):
    """Rows `(name, score, way)`: all of them eagerly, and in a graph and compiled some.

    There, where each takes seconds, every score is compared by "self" and the layers take
    turns at the scores; compiled, they take turns only.
    """
    names = list(dict.fromkeys(name for name, _ in pairs))
    rows = []
    for way in WAYS:
        marks = () if way == "eager" else (pytest.mark.tensorflow,)
        for name, score in pairs:
            turn = names[NAMES.index(score) % len(names)] == name
            if way == "eager" or turn or (way == "graph" and name == "self"):
                rows.append(pytest.param(name, score, way, marks=marks))
    return pytest.mark.parametrize(("name", "score", "way"), rows)


@table(PADDED)
def test_large_padding(name, score, way):
    check_padding(name, score, way, 30)


@table(CAUSAL)
def test_a_large_future(name, score, way):
    check_future(name, score, way, 30)


@pytest.mark.parametrize("check", [check_padding, check_future])
@table([("self", "additive"), ("self", "scaled_dot")])
def test_long_sequences(name, score, way, check):
    check(name, score, way, 300)
