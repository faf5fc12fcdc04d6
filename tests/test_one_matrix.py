"""Products that TensorFlow computes wrongly: a stack of matrices and one matrix."""

import keras
import numpy as np
import pytest
from common import numpy, random
from keras import ops

from keras_sam import SelectiveAttention, SelfAttention
from keras_sam.backend.precision import matmul

STACKS = {
    "one matrix": ((4, 1, 5, 6), (6, 7)),
    "of one": ((4, 1, 5, 6), (1, 6, 7)),
    "of one of one": ((4, 1, 5, 6), (1, 1, 6, 7)),
    "to a column": ((8, 1, 5, 6), (1, 6, 1)),
    "large": ((4, 1, 128, 32), (1, 32, 32)),
    "of two": ((4, 2, 5, 6), (2, 6, 7)),
    "two axes": ((5, 6), (6, 7)),
    "more axes on the right": ((5, 6), (1, 6, 7)),
    "empty": ((0, 1, 5, 6), (1, 6, 7)),
}


@pytest.mark.parametrize("name", STACKS)
def test_products(name):
    left, right = (random(*shape, seed=i) for i, shape in enumerate(STACKS[name]))
    expected = left.astype("float64") @ right.astype("float64")
    found = numpy(matmul(ops.convert_to_tensor(left), ops.convert_to_tensor(right)))
    assert found.shape == expected.shape
    np.testing.assert_allclose(found, expected, atol=1e-4)


LAYERS = {
    "self, additive": lambda: SelfAttention(1, score="additive"),
    "self, bilinear": lambda: SelfAttention(1, score="bilinear"),
    "self, low rank": lambda: SelfAttention(1, score="low_rank_bilinear"),
    "selective, additive": lambda: SelectiveAttention(relation="self", score="additive"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_examples_do_not_mix_with_one_head(name):
    layer, inputs = LAYERS[name](), random(8, 5, 6)
    together = numpy(layer(inputs))
    alone = np.concatenate([numpy(layer(one[None])) for one in inputs])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    symbolic = keras.Input((None, 6))
    np.testing.assert_allclose(
        numpy(keras.Model(symbolic, layer(symbolic))(inputs)), alone, atol=1e-5
    )
