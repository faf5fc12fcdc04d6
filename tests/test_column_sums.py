"""The weight that keys receive, in slabs and shares of rows, against all pairs at once."""

import keras
import numpy as np
import oracles
import pytest
from common import BACKEND, numpy, random
from gradients import value_and_gradients
from keras import ops

import keras_sam
from keras_sam import scores
from keras_sam.attention.column_sums import column_sums
from keras_sam.attention.policy import Policy

# More rows than are shared out, of no whole number of slabs.
BATCH, HEADS, LENGTH, DEPTH = 2, 3, 523, 5


@keras.saving.register_keras_serializable(package="tests")
class Scaled(scores.Score):
    """A score with a weight, which is no dot product."""

    def build(self, query_shape, key_shape):
        self.factor = self.add_weight(name="factor", shape=(HEADS, 1, 1))

    def compare(self, query, key):
        return self.factor * super().compare(query, key)


def all_pairs(query, key, mask):
    scores = matmul(query, ops.swapaxes(key, 2, 3))
    scores = ops.where(mask[:, None, None], scores, -1e9)
    weights = ops.exp(scores - ops.max(scores, axis=-1, keepdims=True))
    weights = weights / ops.sum(weights, axis=-1, keepdims=True)
    both = mask[:, None, :, None] & mask[:, None, None]
    return ops.sum(weights * ops.cast(both, weights.dtype), axis=2)


# All pairs at once, blocks as a graph, and blocks that are compiled.
POLICIES = {
    "all pairs": Policy(),
    "blocks": Policy(autodiff_pairs=0, graph_pairs=2**15),
    "compiled": Policy(autodiff_pairs=0, graph_pairs=2**15, compiled=True),
}


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_values_and_gradients(weighted, masked, policy):
    dtype = "float32" if BACKEND == "jax" else "float64"
    shape = (BATCH, HEADS, LENGTH, DEPTH)
    arrays = random(*shape, dtype=dtype), random(*shape, seed=1, dtype=dtype)
    factor = random(HEADS, 1, 1, seed=2, dtype=dtype)
    mask = np.arange(LENGTH) < np.array([[LENGTH], [311 if masked else LENGTH]])
    upstream = random(BATCH, HEADS, LENGTH, seed=3, dtype=dtype)
    tensor = ops.convert_to_tensor(mask)
    score = Scaled(dtype=dtype) if weighted else scores.Dot(dtype=dtype)
    score.build(shape, shape)

    def ours(query, key, factor):
        scope = keras.StatelessScope([(v, factor) for v in score.trainable_variables])
        with scope:
            given = tensor if masked else None
            sums = column_sums(query, key, score, given, POLICIES[policy])
        return sums * ops.convert_to_tensor(upstream)

    def naive(query, key, factor):
        query = query * factor if weighted else query
        return all_pairs(query, key, tensor) * ops.convert_to_tensor(upstream)

    arrays = (*arrays, factor.astype(dtype))
    value, gradients = value_and_gradients(ours, *arrays)
    expected, by_backend = value_and_gradients(naive, *arrays)
    tolerance = 1e-4 if dtype == "float32" else 1e-9
    scores = np.einsum(
        "bhtd,bhsd->bhts", arrays[0] * (arrays[2] if weighted else 1), arrays[1]
    )
    weights = oracles.softmax(np.where(mask[:, None, None], scores, -np.inf))
    weights = weights * mask[:, None, :, None]
    np.testing.assert_allclose(expected, weights.sum(axis=2) * upstream, rtol=1e-3)
    np.testing.assert_allclose(value, expected, rtol=tolerance, atol=tolerance)
    for index, (one, other) in enumerate(zip(gradients, by_backend, strict=True)):
        if index == 2 and not weighted:
            continue  # the factor is not in it
        largest = np.abs(other).max()
        np.testing.assert_allclose(one, other, rtol=0, atol=tolerance * largest)


def test_each_row_gives_a_weight_of_one():
    query = random(1, 1, LENGTH, DEPTH)
    score = scores.Dot()
    received = numpy(column_sums(ops.convert_to_tensor(query), ops.ones(query.shape), score))
    np.testing.assert_allclose(received, 1, rtol=1e-5)


def test_no_rows():
    layer = keras_sam.SelectiveAttention(relation="self")
    assert (numpy(layer(np.zeros((2, 0, 3), "float32"))) == 0).all()


@pytest.mark.parametrize("length", [7, 1031])
def test_unknown_lengths(length):
    layer = keras_sam.SelectiveAttention(relation="self", num_heads=2)
    inputs = keras.Input((None, 3))
    model = keras.Model(inputs, layer(inputs))
    x = random(2, length, 3)
    compiled = model.predict(x, verbose=0)
    np.testing.assert_allclose(compiled, numpy(model(x)), rtol=1e-5, atol=1e-6)
