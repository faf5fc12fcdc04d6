"""SpatialGate: values, shapes, masks, recording, saving."""

import keras
import numpy as np
import pytest

import keras_sam
from keras_sam.layers.spatial_gate import SpatialGate


@pytest.fixture
def rng():
    return np.random.default_rng(3)


def draw(rng, *shape):
    return rng.normal(size=shape).astype("float32")


@pytest.mark.parametrize("spatial", [(5,), (5, 7), (2, 3, 5)])
@pytest.mark.parametrize("activation", [None, "relu", keras.activations.mish])
def test_product(rng, spatial, activation):
    features, gate = draw(rng, 2, *spatial, 3), draw(rng, 2, *spatial, 3)
    expected = keras.activations.get(activation)(features * gate)
    layer = SpatialGate(activation)
    np.testing.assert_allclose(layer(features, gate), expected, rtol=1e-6)
    assert layer.compute_output_shape(features.shape, gate.shape) == features.shape
    assert not layer.weights


@pytest.mark.tensorflow
def test_gradient_is_the_product_rule(rng):
    """Darknet's own CPU code loses terms here."""
    import tensorflow as tf

    features, gate, upstream = (tf.constant(draw(rng, 1, 3, 5, 2)) for _ in range(3))
    layer = SpatialGate("sigmoid")
    with tf.GradientTape() as tape:
        tape.watch([features, gate])
        output = layer(features, gate)
    by_features, by_gate = tape.gradient(output, [features, gate], upstream)
    inner = upstream * output * (1 - output)
    np.testing.assert_allclose(by_features, inner * gate, rtol=1e-5)
    np.testing.assert_allclose(by_gate, inner * features, rtol=1e-5)


def test_broadcast(rng):
    features, gate = draw(rng, 2, 5, 7, 3), draw(rng, 2, 5, 7, 1)
    layer = SpatialGate(broadcast=True)
    np.testing.assert_array_equal(layer(features, gate), features * gate)
    np.testing.assert_array_equal(layer(features, features), features * features)


@pytest.mark.parametrize(
    ("shape", "broadcast", "message"),
    [
        ((2, 5, 7, 1), False, "one channel needs `broadcast=True`"),
        ((2, 5, 7, 2), True, "or one channel, in SpatialGate"),
        ((2, 5, 1, 3), True, "must have the shape"),
        ((1, 5, 7, 3), False, "must have the shape"),
        ((2, 7, 3), False, r"Received: features.shape=\(2, 5, 7, 3\), gate.shape="),
    ],
)
def test_other_shapes(rng, shape, broadcast, message):
    features = draw(rng, 2, 5, 7, 3)
    layer = SpatialGate(broadcast=broadcast)
    with pytest.raises(ValueError, match=message):
        layer(features, draw(rng, *shape))
    with pytest.raises(ValueError, match="gate"):
        layer(keras.Input(features.shape[1:]), keras.Input((*shape[1:], 9)))


def test_bad_arguments():
    with pytest.raises(ValueError, match="`broadcast` must be True or False"):
        SpatialGate(broadcast="yes")
    with pytest.raises(ValueError, match="activation"):
        SpatialGate("no such thing")


def test_mask(rng):
    """Steps left out get no weight, and the mask is passed on."""
    features, gate = draw(rng, 2, 5, 3), draw(rng, 2, 5, 3)
    features[0, 3:] = 0
    layer = SpatialGate()
    masked = keras.layers.Masking()(features)
    with keras_sam.record_attention() as maps:
        output = layer(masked, gate)
    assert not np.asarray(maps[layer.path])[0, 3:].any()
    np.testing.assert_allclose(output[0, :3], features[0, :3] * gate[0, :3], rtol=1e-6)
    mask = output._keras_mask
    np.testing.assert_array_equal(mask, [[1, 1, 1, 0, 0], [1] * 5])


@pytest.mark.parametrize(("channels", "kind"), [(1, "spatial"), (3, "pointwise_spatial")])
def test_recording(rng, channels, kind):
    features, gate = draw(rng, 2, 5, 7, 3), draw(rng, 2, 5, 7, channels)
    layer = SpatialGate(broadcast=True, name="gate")
    with keras_sam.record_attention() as maps:
        layer(features, gate)
    np.testing.assert_array_equal(maps["gate"], gate)
    assert maps.details["gate"] == keras_sam.AttentionDetails(kind, (5, 7))


def test_functional_and_saved(rng, tmp_path):
    """Unknown sizes, a name, `.keras`; and symbolic inputs that agree later."""
    inputs = keras.Input((None, None, 3))
    gate = keras.layers.Conv2D(3, 1, activation="sigmoid")(inputs)
    outputs = SpatialGate("relu", name="gate")(inputs, gate)
    assert outputs.shape == (None, None, None, 3)
    model = keras.Model(inputs, outputs)
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    x = draw(rng, 2, 5, 7, 3)
    np.testing.assert_array_equal(loaded(x), model(x))
    config = SpatialGate(keras.activations.mish, broadcast=True).get_config()
    again = SpatialGate.from_config(config)
    assert (again.activation, again.broadcast) == (keras.activations.mish, True)


def test_mixed_precision(rng):
    layer = SpatialGate("sigmoid", dtype="mixed_float16")
    output = layer(draw(rng, 2, 5, 3), draw(rng, 2, 5, 3))
    assert keras.backend.standardize_dtype(output.dtype) == "float16"
