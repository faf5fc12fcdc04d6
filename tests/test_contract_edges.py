"""The contract at its edges: nothing at all, integers, halves whose sum is too large."""

import keras
import numpy as np
import pytest
from cases import CASES
from common import numpy, random
from keras import ops

from keras_sam import attend
from keras_sam.layers import CrossAttention, SelectiveAttention

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def skip_dilated(case):
    if case.arguments.get("dilation_rate", 1) != 1:
        pytest.skip("TensorFlow gives a dilated convolution of nothing another shape")


@every
def test_no_examples(case):
    skip_dilated(case)
    inputs = case.inputs(batch=0)
    layer = case.make()
    shapes = [x.shape for x in inputs]
    assert tuple(layer(*inputs).shape) == layer.compute_output_shape(*shapes)


@every
def test_no_positions(case):
    skip_dilated(case)
    inputs = case.inputs(unknown=0)
    layer = case.make()
    layer(*case.inputs(unknown=5))
    output = numpy(layer(*inputs))
    assert output.shape == layer.compute_output_shape(*[x.shape for x in inputs])
    assert np.isfinite(output).all()


@pytest.mark.parametrize("top_k", [2, 0.5])
@pytest.mark.parametrize("pool", [False, True])
def test_top_k_of_no_examples(top_k, pool):
    layer = SelectiveAttention(top_k=top_k, pool=pool)
    assert layer(np.zeros((0, 5, 8), "float32")).shape[0] == 0


@pytest.mark.tensorflow
@pytest.mark.parametrize("block_size", ["auto", 4, None])
@pytest.mark.parametrize("lengths", [(0, 3), (3, 0), (0, 0)], ids=str)
def test_lengths_of_zero_that_are_unknown(lengths, block_size):
    import tensorflow as tf

    layer = CrossAttention(2, block_size=block_size)
    layer(np.zeros((2, 3, 8), "float32"), np.zeros((2, 3, 8), "float32"))
    open_shape = tf.TensorSpec((None, None, 8))
    run = tf.function(lambda *x: layer(*x), input_signature=[open_shape] * 2)
    arrays = [np.zeros((2, length, 8), "float32") for length in lengths]
    assert run(*arrays).shape == arrays[0].shape


@pytest.mark.parametrize("dtype", ["uint8", "int32"])
@every
def test_integers(case, dtype):
    """Pictures and columns of tables: what the same numbers give as floats."""
    if case.layer.__name__ == "SpatialGate":
        pytest.skip("its gate is a share")
    inputs = [np.abs(8 * x).astype(dtype) for x in case.inputs()]
    layer = case.make()
    expected = layer(*[x.astype("float32") for x in inputs])
    np.testing.assert_array_equal(numpy(layer(*inputs)), numpy(expected))


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_means_of_halves_whose_sum_is_too_large(masked):
    inputs = np.full((2, 3, 64, 64, 1), 20.0, "float16")
    layer = SelectiveAttention(axis=1, dtype="float16")
    mask = np.ones((2, 3, 64, 64), bool) if masked else None
    np.testing.assert_allclose(numpy(layer(inputs, mask=mask)), 20.0, rtol=2e-3)


def test_hierarchical_attention():
    """Words are pooled to sentences, and those to a document, with padding of both."""
    words = keras.Input((4, 6), dtype="int32")
    x = keras.layers.Embedding(11, 8, mask_zero=True)(words)
    x = keras.layers.TimeDistributed(SelectiveAttention())(x)
    model = keras.Model(words, SelectiveAttention()(x))
    document = np.random.default_rng(0).integers(1, 11, (2, 4, 6)).astype("int32")
    document[:, :, 4:] = 0
    whole = numpy(model(document))
    document[0, 2:] = 0
    shorter = numpy(model(document))
    assert np.isfinite(shorter).all()
    assert (shorter[0] != whole[0]).any()
    np.testing.assert_allclose(shorter[1], whole[1], rtol=1e-6)
    first = numpy(model.layers[2](model.layers[1](document[:1, :2])))
    np.testing.assert_allclose(shorter[:1], numpy(model.layers[3](first)), rtol=1e-5)


@pytest.mark.parametrize("normalizer", ["softmax", "entmax", "sparsemax", "sigmoid"])
@pytest.mark.parametrize("block_size", ["auto", 8])
def test_the_future_changes_no_bit(block_size, normalizer):
    query, key, value = (random(1, 2, 40, 8, seed=seed) for seed in range(3))
    options = {"causal": True, "block_size": block_size, "normalizer": normalizer}
    expected = numpy(attend(query, key, value, **options))
    for array in (query, key, value):
        array[:, :, -1] *= 1e6
    found = numpy(attend(*map(ops.convert_to_tensor, (query, key, value)), **options))
    np.testing.assert_array_equal(found[:, :, :-1], expected[:, :, :-1])
