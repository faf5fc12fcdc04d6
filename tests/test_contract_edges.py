"""The contract at its edges: nothing at all, integers, halves whose sum is too large."""

import inspect

import keras
import numpy as np
import pytest
from cases import CASES
from common import assert_rounded_alike, numpy, random, randomize
from keras import ops

from keras_sam import attend
from keras_sam.layers import CBAM, CrossAttention, SelectiveAttention, SelfAttention
from keras_sam.layers._projection import Projection

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


@pytest.mark.parametrize("score", ["additive", "bilinear", "low_rank_bilinear", "cosine"])
@pytest.mark.parametrize("layer", [SelfAttention, SelectiveAttention])
def test_one_head_in_a_graph(layer, score):
    """TensorFlow crashed where it fused products of batches with what is added to them."""
    options = {"relation": "self"} if layer is SelectiveAttention else {}
    one = layer(num_heads=1, score=score, **options)
    inputs = random(2, 300, 4)
    model = keras.Sequential([keras.Input((None, 4)), one])
    expected = numpy(model(inputs))
    assert_rounded_alike(model.predict(inputs, verbose=0), expected)


PROJECTIONS = {
    "self": SelfAttention(3, key_dim=1, use_gate=True, output_shape=(3, 1)),
    "cross": CrossAttention(3, key_dim=1, num_key_value_heads=1, output_shape=(3, 1, 1)),
    "selective": SelectiveAttention(num_heads=3, units=1, relation="self"),
    "features": SelectiveAttention(num_heads=3, units=1, axis=-1),
}


@pytest.mark.parametrize("name", PROJECTIONS)
def test_a_bias_of_as_many_entries_as_there_are_positions(name):
    """Which `keras.ops.add` adds to the positions, on TensorFlow."""
    layer = PROJECTIONS[name]
    layer.build(*[(2, 3, 3)] * (1 + isinstance(layer, CrossAttention)))
    denses = [x for x in layer._flatten_layers() if isinstance(x, Projection)]
    assert len(denses) == {"self": 5, "cross": 4, "selective": 2, "features": 1}[name]
    for dense in denses:
        randomize(dense)
        sizes = dict(zip(letters(dense)[1], dense.kernel.shape, strict=True))
        inputs = random(*({"b": 2, "t": 3, **sizes}[axis] for axis in letters(dense)[0]))
        expected = np.einsum(dense.equation, inputs, numpy(dense.kernel)) + numpy(
            dense.bias
        )
        expected = numpy(dense.activation(ops.convert_to_tensor(expected)))
        np.testing.assert_allclose(numpy(dense(inputs)), expected, atol=1e-5)


def letters(dense):
    """The axes of the inputs and of the kernel."""
    return dense.equation.split("->")[0].split(",")


def inputs_by_name(case):
    names = list(inspect.signature(case.layer.call).parameters)[1:]
    return dict(zip(names, case.inputs(), strict=False))


@pytest.mark.tensorflow
@every
def test_ragged_tensors(case):
    """The message says how to fill them up and, where there is a mask, how to make it."""
    import tensorflow as tf

    inputs = inputs_by_name(case)
    for index, (name, array) in enumerate(inputs.items()):
        ragged = tf.RaggedTensor.from_tensor(
            array, lengths=[1, 2] if array.ndim > 2 else None
        )
        expected = rf"`{name}` must not be ragged, in {case.layer.__name__} 'ours'\. "
        expected += rf"`{name}\.to_tensor\(\)` fills it up"
        if index in case.masks.values():
            mask = next(m for m, i in case.masks.items() if i == index)
            expected += rf", and `{mask}=tf\.sequence_mask\({name}\.row_lengths\(\)\)`"
        changed = {**inputs, name: ragged}
        with pytest.raises(ValueError, match=expected):
            case.make(name="ours")(**changed)
        with pytest.raises(ValueError, match=expected):
            case.make(name="ours")(*changed.values())


@pytest.mark.tensorflow
@pytest.mark.parametrize("layer", [SelfAttention, SelectiveAttention])
def test_a_ragged_tensor_filled_up_as_the_message_says(layer):
    import tensorflow as tf

    inputs = tf.RaggedTensor.from_row_lengths(random(7, 8), [5, 2])
    one = layer(num_heads=2)
    mask = tf.sequence_mask(inputs.row_lengths())
    found = numpy(one(inputs.to_tensor(), mask=mask))
    for row, array in zip(found, inputs, strict=True):
        alone = numpy(one(array[None]))[0]
        np.testing.assert_allclose(
            row[: len(alone)] if row.ndim > 1 else row, alone, atol=1e-6
        )


@every
def test_a_list_of_tensors(case):
    """The habit of Keras's `Attention`."""
    inputs = inputs_by_name(case)
    message = rf"`{next(iter(inputs))}` must be a tensor, in {case.layer.__name__} 'ours', "
    parameters = inspect.signature(case.layer.call).parameters
    needed = [n for n, p in parameters.items() if p.default is p.empty and n != "self"]
    message += rf"which is called as `layer\({', '.join(needed)}\)`\. Received: "
    for arrays in (list(inputs.values()), tuple(case.symbols())):
        with pytest.raises(ValueError, match=message):
            case.make(name="ours")(arrays)


WRONG_CALLS = {
    "two tensors": (SelfAttention, ("x", "x"), {}, "`inputs` must be the only tensor"),
    "three": (SelfAttention, ("x", "x", "x"), {}, "Received: 3 tensors, of shapes"),
    "a value": (SelfAttention, ("x",), {"value": "x"}, "keyword argument 'value', in"),
    "no input": (SelfAttention, (), {"query": "x", "value": "x"}, "argument: 'inputs', in"),
    "no value": (CrossAttention, ("x",), {}, "Missing a required argument: 'value', in"),
    "masks": (CrossAttention, ("x", "x"), {"mask": "x"}, "keyword argument 'mask', in"),
    "nothing": (CBAM, (), {}, "Missing a required argument: 'inputs', in"),
}


@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@pytest.mark.parametrize("name", WRONG_CALLS)
def test_calls_of_other_layers(name, symbolic):
    """The habits of `MultiHeadAttention`: the message names the layer and its call."""
    layer, args, kwargs, message = WRONG_CALLS[name]
    x = keras.Input((5, 8)) if symbolic else random(2, 5, 8)
    options = {} if layer is CBAM else {"num_heads": 2}
    with pytest.raises((TypeError, ValueError), match=message) as error:
        layer(**options, name="ours")(*(x for _ in args), **dict.fromkeys(kwargs, x))
    assert f"{layer.__name__} 'ours', which is called as `layer(" in str(error.value)
