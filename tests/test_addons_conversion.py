"""Layers, scores and activations of TensorFlow Addons as those of keras_sam.

What needs the real package is in `real_addons.py`.
"""

import keras
import numpy as np
import pytest

import keras_sam
from keras_sam import addons

numpy = keras.ops.convert_to_numpy
WIDE = {"rtol": 0, "atol": 1e-5}


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


def old_layer(widths=(7, 11, 13), seed=1, **kwargs):
    """A layer of a loaded model, with weights."""
    kwargs = {"head_size": 4, "num_heads": 3, "output_size": widths[0], **kwargs}
    layer = addons.MultiHeadAttention(name="attend", return_attn_coef=True, **kwargs)
    layer.build([(None, None, width) for width in widths])
    layer.set_weights([draw(*each.shape, seed=seed) for each in layer.get_weights()])
    return layer


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("output_size", [7, 5])
@pytest.mark.parametrize("mask_shape", [None, (2, 3, 5), (2, 3, 3, 5)])
def test_cross_attention_computes_the_same(bias, output_size, mask_shape):
    layer = old_layer(use_projection_bias=bias, output_size=output_size)
    new = addons.convert(layer)
    query, key, value = draw(2, 3, 7), draw(2, 5, 11), draw(2, 5, 13)
    mask = None
    if mask_shape:
        mask = draw(*mask_shape) > -0.5
        mask[..., 0] = True
    want, want_weights = layer([query, key, value], mask=mask)
    got, weights = new(query, value, key, attention_mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(numpy(got), numpy(want), **WIDE)
    np.testing.assert_allclose(numpy(weights), numpy(want_weights), **WIDE)
    assert type(new) is keras_sam.CrossAttention


def test_self_attention_computes_the_same():
    layer = old_layer(widths=(7, 7, 7))
    new = addons.convert(layer, to=keras_sam.SelfAttention)
    x = draw(2, 3, 7)
    want, want_weights = layer([x, x], mask=np.tri(3))
    got, weights = new(x, attention_mask=np.tri(3)[None] > 0, return_attention_scores=True)
    np.testing.assert_allclose(numpy(got), numpy(want), **WIDE)
    np.testing.assert_allclose(numpy(weights), numpy(want_weights), **WIDE)
    assert type(new) is keras_sam.SelfAttention


def test_conversion_keeps_the_rest_and_the_layer(tmp_path):
    layer = old_layer(
        dropout=0.25,
        kernel_regularizer="l2",
        kernel_initializer="he_normal",
        dtype="bfloat16",
    )
    layer.trainable = False
    before = [each.copy() for each in layer.get_weights()]
    new = addons.convert(layer)
    assert (new.name, new.dropout, new.dtype_policy.name) == ("attend", 0.25, "bfloat16")
    assert isinstance(new.kernel_initializer, keras.initializers.HeNormal)
    assert isinstance(new.kernel_regularizer, keras.regularizers.L2)
    assert not new.trainable
    for old, now in zip(before, layer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, now)


def test_a_row_with_nothing_to_attend_to_has_weights_of_zero():
    new = addons.convert(old_layer(widths=(7, 7, 7)), to=keras_sam.SelfAttention)
    mask = np.ones((1, 3, 3), bool)
    mask[:, 1] = False
    _, weights = new(draw(2, 3, 7), attention_mask=mask, return_attention_scores=True)
    assert (numpy(weights)[:, :, 1] == 0).all()


def test_a_converted_layer_in_a_model_is_saved_and_loaded(tmp_path):
    new = addons.convert(old_layer(widths=(7, 7, 7)), to=keras_sam.SelfAttention)
    model = keras.Sequential([keras.Input((3, 7)), new])
    model.save(tmp_path / "model.keras")
    x = draw(2, 3, 7)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_allclose(numpy(loaded(x)), numpy(model(x)), **WIDE)


@pytest.mark.parametrize(
    ("make", "to", "message"),
    [
        (
            lambda: addons.MultiHeadAttention(4, 2, name="it"),
            None,
            "called once.*layer='it'",
        ),
        (
            lambda: keras.layers.Dense(2),
            None,
            "`layer` must be a tfa.layers.MultiHeadAttent",
        ),
        (lambda: 3, None, "`layer` must be a tfa.layers.MultiHeadAttent"),
        (
            old_layer,
            keras.layers.Attention,
            "`to` must be keras_sam.SelfAttention or keras",
        ),
        (old_layer, keras_sam.SelfAttention, "of one width.*layer='attend', with widths"),
        (
            lambda: old_layer(kernel_constraint="non_neg"),
            None,
            "has no `kernel_constraint`",
        ),
        (lambda: old_layer(bias_constraint="non_neg"), None, "has no `bias_constraint`"),
        (
            lambda: old_layer(bias_regularizer="l1"),
            None,
            "no `bias_regularizer` that means the same.*Keep the l",
        ),
    ],
)
def test_refuses_to_convert(make, to, message):
    with pytest.raises(ValueError, match=message):
        addons.convert(make(), **({} if to is None else {"to": to}))


MECHANISMS = [
    ("LuongAttention", {}, keras_sam.scores.Bilinear),
    ("BahdanauAttention", {"normalize": False}, keras_sam.scores.Additive),
    ("BahdanauAttention", {"normalize": True}, keras_sam.scores.Additive),
]


@pytest.mark.parametrize(("name", "more", "cls"), MECHANISMS)
def test_configurations_of_mechanisms_are_scores(name, more, cls):
    config = {"name": name, "units": 5, "dtype": "float32", "memory": None, **more}
    serialized = {"class_name": f"Addons>{name}", "config": config}
    layer = keras_sam.CrossAttention(num_heads=1, key_dim=5, score=serialized)
    assert type(layer.score) is cls
    assert layer(draw(2, 3, 5), draw(2, 4, 6)).shape == (2, 3, 5)
    if cls is keras_sam.scores.Additive:
        assert (layer.score.units, layer.score.use_bias) == (5, more["normalize"])


@pytest.mark.parametrize(
    ("name", "config", "message"),
    [
        ("LuongAttention", {"name": "it"}, "LuongAttention 'it': it needs `units`"),
        ("BahdanauAttention", {"name": "it"}, "BahdanauAttention 'it': it needs `units`"),
        ("LuongAttention", {"units": 3, "probability_fn": "hardmax"}, 'must be "softmax"'),
        (
            "LuongAttention",
            {
                "units": 3,
                "memory_layer": {
                    "class_name": "Dense",
                    "config": {"name": "it", "use_bias": True, "activation": "linear"},
                },
            },
            r"must be `Dense` without bias .* 'it'",
        ),
        ("LuongMonotonicAttention", {"units": 3}, "It depends on the step before"),
        ("BahdanauMonotonicAttention", {"units": 3}, "It depends on the step before"),
    ],
)
def test_refuses_configurations_of_mechanisms(name, config, message):
    with pytest.raises(ValueError, match=message):
        keras.saving.deserialize_keras_object(
            {"class_name": f"Addons>{name}", "config": config}
        )


ACTIVATIONS = {
    "hardshrink": lambda x: np.where(np.abs(x) > 0.5, x, 0),
    "softshrink": lambda x: np.sign(x) * np.maximum(np.abs(x) - 0.5, 0),
    "tanhshrink": lambda x: x - np.tanh(x),
    "lisht": lambda x: x * np.tanh(x),
    "mish": lambda x: x * np.tanh(np.log1p(np.exp(x))),
    "snake": lambda x: x + np.sin(x) ** 2,
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activations(name):
    x = draw(3, 4).astype("float64")
    function = keras.saving.get_registered_object(f"Addons>{name}")
    got = function(keras.ops.convert_to_tensor(x, "float32"))
    np.testing.assert_allclose(got, ACTIVATIONS[name](x), atol=1e-6)
    assert function is getattr(addons.activations, name)


@pytest.mark.parametrize("axis", [-1, 0, 1])
def test_sparsemax_along_an_axis(axis):
    x = draw(3, 4, 5)
    weights = numpy(addons.Sparsemax(axis=axis)(x))
    rows = keras_sam.normalizers.Sparsemax()(
        keras.ops.convert_to_tensor(np.moveaxis(x, axis, -1))
    )
    np.testing.assert_allclose(np.moveaxis(weights, axis, -1), rows, atol=1e-6)


@pytest.mark.parametrize(
    "layer", [addons.Sparsemax(axis=1), addons.GELU(), addons.GELU(approximate=False)]
)
def test_layers_of_activations_are_saved_and_loaded(layer, tmp_path):
    model = keras.Sequential([keras.Input((4, 5)), layer])
    model.save(tmp_path / "model.keras")
    x = draw(3, 4, 5)
    loaded = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
    assert model.output_shape == (None, 4, 5)
