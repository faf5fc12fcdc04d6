"""The attention layer of TensorFlow Addons, against outputs of the real one."""

import pathlib

import addons_cases
import keras
import numpy as np
import pytest
from common import stored_arrays

import keras_sam
from keras_sam import addons

numpy = keras.ops.convert_to_numpy
DATA = pathlib.Path(__file__).parent / "data" / "addons"


@pytest.fixture(scope="module")
def expected():
    return stored_arrays(DATA / "expected.npz")


def build(case, dtype=None):
    """Returns the layer of a case with its weights."""
    layer = addons.MultiHeadAttention(**case.config(), dtype=dtype or case.policy)
    layer.build([each.shape for each in case.inputs()])
    layer.set_weights(case.weights())
    return layer


def run(case):
    """Returns the outputs of a case, end to end."""
    layer = build(case)
    inputs = [keras.ops.cast(each, layer.compute_dtype) for each in case.inputs()]
    outputs = layer(inputs, mask=case.mask())
    outputs = outputs if case.return_attn_coef else [outputs]
    wide = "float64" if case.policy == "float64" else "float32"
    return np.concatenate([np.ravel(numpy(keras.ops.cast(each, wide))) for each in outputs])


# JAX has no float64 unless a whole process asks for it.
FLOAT64 = pytest.param("float64", marks=pytest.mark.tensorflow)


@pytest.mark.parametrize(
    "policy", ["float32", FLOAT64, "float16", "mixed_float16", "bfloat16", "mixed_bfloat16"]
)
def test_computes_what_tensorflow_addons_does(policy, expected):
    cases = [case for case in addons_cases.CASES if case.policy == policy]
    ends = np.cumsum([case.output_count() for case in cases])
    atol = addons_cases.tolerance(policy, expected[f"layer/{policy}"])
    wanted = np.split(expected[f"layer/{policy}"], ends)
    assert wanted.pop().size == 0
    # The others compile anew for every shape, and compute with the same code.
    thin = 1 if keras.backend.backend() == "tensorflow" else 7
    for case, want in list(zip(cases, wanted, strict=True))[::thin]:
        np.testing.assert_allclose(run(case), want, rtol=0, atol=atol, err_msg=str(case))


def test_a_row_with_nothing_to_attend_to_attends_to_all_alike():
    layer = addons.MultiHeadAttention(4, 2, return_attn_coef=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    mask = np.ones((3, 3), "float32")
    mask[1] = 0
    _, weights = layer([x, x], mask=mask)
    weights = numpy(weights)
    np.testing.assert_allclose(weights[:, :, 1], 1 / 3, rtol=1e-6)


def test_masks_are_added_to_scores_of_any_size():
    """As in TensorFlow Addons, which `real_addons.py` asks the same."""
    scores, mask, wanted = addons_cases.added_mask()
    layer = addons.MultiHeadAttention(
        4, 1, use_projection_bias=False, return_attn_coef=True
    )
    weights = addons_cases.weights_of_scores(layer, scores, mask)
    np.testing.assert_allclose(numpy(weights), wanted, rtol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", FLOAT64])
def test_masks_work_in_every_dtype(dtype):
    """Where TensorFlow Addons fails."""
    layer = addons.MultiHeadAttention(4, 2, return_attn_coef=True, dtype=dtype)
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    output, weights = layer([x, x], mask=np.tri(3))
    weights = numpy(keras.ops.cast(weights, "float32"))
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    assert (weights[..., np.triu_indices(3, 1)[0], np.triu_indices(3, 1)[1]] == 0).all()
    np.testing.assert_allclose(weights.sum(-1), 1, atol=1e-2)


@pytest.mark.parametrize("rank", [2, 3, 4])
def test_any_number_of_leading_axes(rank):
    case = addons_cases.Case(5, 3)
    layer = build(case)
    inputs = [each[0] for each in case.inputs()]
    output, weights = layer(case.inputs())
    for _ in range(rank - 2):
        inputs = [each[None] for each in inputs]
    got, got_weights = layer(inputs)
    assert got.shape == (1,) * (rank - 2) + output.shape[1:]
    assert got_weights.shape == (1,) * (rank - 2) + weights.shape[1:]
    np.testing.assert_allclose(np.squeeze(numpy(got)), numpy(output[0]), atol=1e-5)


def test_dropout_drops_weights_in_training_only():
    """With identities for kernels, the output is the weights."""
    size, rate = 64, 0.25
    layer = addons.MultiHeadAttention(
        size, 1, dropout=rate, use_projection_bias=False, return_attn_coef=True
    )
    x = np.eye(size, dtype="float32")[None]
    layer.build([x.shape] * 2)
    layer.set_weights([x, x, x, x])
    output, weights = layer([x, x])
    weights = numpy(weights)
    np.testing.assert_allclose(numpy(output), weights[:, 0], rtol=1e-6)
    first = numpy(layer([x, x], training=True)[0])
    second, kept = (numpy(each) for each in layer([x, x], training=True))
    np.testing.assert_allclose(kept, weights, rtol=1e-6)  # the weights before dropout
    dropped = second == 0
    assert abs(dropped.mean() - rate) < 0.05
    np.testing.assert_allclose(
        second[~dropped], kept[:, 0][~dropped] / (1 - rate), rtol=1e-5
    )
    assert (first != second).any()


def test_kernels_of_one_shape_begin_different():
    layer = addons.MultiHeadAttention(
        4, 2, kernel_initializer=keras.initializers.GlorotUniform(seed=1)
    )
    layer.build([(None, 3, 4)] * 3)
    kernels = [np.array(each) for each in layer.get_weights()[:3]]
    assert np.abs(kernels[0] - kernels[1]).min() > 0
    assert np.abs(kernels[1] - kernels[2]).min() > 0


@pytest.mark.parametrize("with_value", [True, False])
def test_symbolic_shapes_are_those_of_the_outputs(with_value):
    case = addons_cases.Case(3, 3, output_size=8, with_value=with_value)
    layer = addons.MultiHeadAttention(**case.config())
    inputs = [keras.Input((None, each.shape[-1])) for each in case.inputs()]
    mask = keras.Input((None, None))
    model = keras.Model([*inputs, mask], layer(inputs, mask=mask))
    assert [each.shape for each in model.outputs] == [
        (None, None, 8),
        (None, 3, None, None),
    ]
    outputs = model([*case.inputs(), np.ones((2, 3, 5), "float32")])
    assert [tuple(each.shape) for each in outputs] == [(2, 3, 8), (2, 3, 3, 5)]


@pytest.mark.parametrize("name", ["model.keras", "model.h5"])
def test_round_trip_and_training(name, tmp_path):
    query, key, mask = keras.Input((3, 4)), keras.Input((5, 6)), keras.Input((3, 5))
    outputs = addons.MultiHeadAttention(
        4,
        2,
        output_size=2,
        dropout=0.1,
        kernel_regularizer="l2",
        kernel_constraint="non_neg",
        bias_regularizer="l1",
        bias_constraint="max_norm",
    )([query, key], mask=mask)
    model = keras.Model([query, key, mask], outputs)
    model.compile("adam", "mse")
    draw = np.random.default_rng(0).standard_normal
    inputs = [draw((4, 3, 4)), draw((4, 5, 6)), np.tri(3, 5) + np.zeros((4, 1, 1))]
    before = [each.copy() for each in model.get_weights()]
    model.fit(inputs, draw((4, 3, 2)), epochs=1, verbose=0)
    assert all((a != b).any() for a, b in zip(before, model.get_weights(), strict=True))
    model.save(tmp_path / name)
    loaded = keras.models.load_model(tmp_path / name, compile=False)
    np.testing.assert_allclose(
        loaded.predict(inputs, verbose=0), model.predict(inputs, verbose=0), atol=1e-6
    )
    assert loaded.layers[-1].get_config() == model.layers[-1].get_config()


@pytest.mark.parametrize(("as_self", "kind"), [(True, "self"), (False, "cross")])
def test_its_weights_are_recorded(as_self, kind):
    layer = addons.MultiHeadAttention(4, 2, return_attn_coef=True)
    x = np.random.default_rng(0).standard_normal((2, 3, 5)).astype("float32")
    x = keras.ops.convert_to_tensor(x)
    with keras_sam.record_attention() as maps:
        _, weights = layer([x, x if as_self else x + 1])
    np.testing.assert_array_equal(numpy(maps[layer.path]), numpy(weights))
    assert maps.details[layer.path].kind == kind


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"head_size": 0}, "`head_size` must be a positive integer. Received: head_size=0"),
        ({"num_heads": 1.5}, "`num_heads` must be a positive integer"),
        ({"output_size": 0}, "`output_size` must be a positive integer or None"),
        ({"dropout": 1.0}, r"`dropout` must be a number in the range \[0, 1\)"),
        ({"kernel_regularizer": 2}, "`kernel_regularizer` must be the name or an instance"),
        ({"bias_regularizer": "x"}, "`bias_regularizer` must be the name or an instance"),
        ({"use_projection_bias": 2}, "`use_projection_bias` must be True or False"),
        ({"return_attn_coef": None}, "`return_attn_coef` must be True or False"),
        ({"key_dim": 3}, r"MultiHeadAttention 'it'.*unknown=\['key_dim'\]"),
    ],
)
def test_refuses_configurations(change, message):
    config = {"head_size": 4, "num_heads": 2, "name": "it", **change}
    with pytest.raises(ValueError, match=message):
        addons.MultiHeadAttention.from_config(config)


@pytest.mark.parametrize("name", ["head_size", "num_heads"])
def test_refuses_configurations_with_missing_keys(name):
    config = addons.MultiHeadAttention(4, 2, name="it").get_config()
    del config[name]
    with pytest.raises(ValueError, match=rf"MultiHeadAttention 'it'.*missing=\['{name}'\]"):
        addons.MultiHeadAttention.from_config(config)


@pytest.mark.parametrize(
    ("shapes", "mask_shape", "message"),
    [
        ([(2, 3, 4)], None, r"`inputs` must be a list \[query, key\] or"),
        ([(2, 3, 4)] * 4, None, r"`inputs` must be a list \[query, key\] or"),
        ([(2, 3, 4), (2, 5, 4), (2, 7, 4)], None, "`key` and `value` must have the same"),
        ([(2, 3, 4), (2, 5, 4)], (3, 4), r"`mask` must have the shape \(..., 3, 5\)"),
        ([(2, 3, 4), (2, 5, 4)], (2, 1, 5), r"`mask` must have the shape \(..., 3, 5\)"),
        ([(2, 3, 4), (2, 5, 4)], (5,), r"`mask` must have the shape \(..., 3, 5\)"),
    ],
)
@pytest.mark.parametrize("symbolic", [False, True])
def test_refuses_calls(shapes, mask_shape, message, symbolic):
    make = (lambda shape: keras.KerasTensor(shape)) if symbolic else np.ones
    mask = None if mask_shape is None else make(mask_shape)
    layer = addons.MultiHeadAttention(4, 2, name="it")
    with pytest.raises(ValueError, match=f"(?s){message}.*MultiHeadAttention 'it'"):
        layer([make(shape) for shape in shapes], mask=mask)


def test_refuses_one_tensor_and_the_masks_of_its_inputs():
    layer = addons.MultiHeadAttention(4, 2, name="it")
    with pytest.raises(ValueError, match=r"`inputs` must be a list \[query, key\] or"):
        layer(np.ones((2, 3, 4)))
    x = keras.layers.Embedding(9, 4, mask_zero=True)(np.array([[1, 2, 0]]))
    with pytest.raises(ValueError, match=r"use keras_sam.CrossAttention, which takes them"):
        layer([x, x])


def test_weights_of_another_shape_leave_the_layer_as_it_was():
    layer = addons.MultiHeadAttention(4, 2)
    layer.build([(None, 3, 4)] * 2)
    before = [each.copy() for each in layer.get_weights()]
    with pytest.raises(ValueError, match="shape"):
        layer.set_weights([*before[:4], np.zeros(9)])
    for old, new in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
