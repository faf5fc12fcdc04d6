"""All gates of feature maps in one network: nested, called twice, recorded and exported."""

import keras
import numpy as np
import pytest
from common import BACKEND, numpy, random, randomize

import keras_sam
from keras_sam import layers


@pytest.fixture(scope="module")
def model():
    """A network of any size whose inner model is called twice."""
    inputs = keras.Input((None, None, 4))
    x = layers.CBAM(2, kernel_size=3, name="cbam")(inputs)
    x = layers.PointwiseSpatialAttention(name="pointwise")(x)
    block = keras.Model(inputs, keras.layers.Add()([inputs, x]), name="block")

    pictures = keras.Input((None, None, 3), name="pictures")
    x = keras.layers.Conv2D(4, 3, padding="same")(pictures)
    x = keras.layers.MaxPooling2D(2, padding="same")(block(x))
    x = block(x)
    x = layers.SpatialAttention(5, normalizer="softmax", name="places")(x)
    x = layers.ChannelAttention(2, name="channels")(x)
    gate = keras.layers.Conv2D(1, 1, activation="sigmoid")(x)
    x = layers.SpatialGate(broadcast=True, name="gate")(x, gate)
    outputs = keras.layers.GlobalAveragePooling2D()(x)
    return randomize(keras.Model(pictures, outputs))


def maps_of(height, width):
    """The paths of all maps, and their shapes for pictures of this size."""
    half, batch = ((height + 1) // 2, (width + 1) // 2), 2
    block = {
        "cbam/channel_attention": lambda grid: (batch, 1, 1, 4),
        "cbam/spatial_attention": lambda grid: (batch, *grid, 1),
        "pointwise": lambda grid: (batch, *grid, 4),
    }
    return {
        **{path: shape((height, width)) for path, shape in block.items()},
        **{f"{path}#2": shape(half) for path, shape in block.items()},
        "places": (batch, *half, 1),
        "channels": (batch, 1, 1, 4),
        "gate": (batch, *half, 1),
    }


@pytest.mark.parametrize("size", [(11, 7), (1, 13), (1, 1)])
def test_recorded_in_a_nested_model(model, size):
    with keras_sam.record_attention() as maps:
        outputs = model(random(2, *size, 3), training=False)
    assert {path: tuple(maps[path].shape) for path in maps} == maps_of(*size)
    for path, weights in maps.items():
        assert (numpy(weights) > 0).all(), path
        assert (numpy(weights) < 1).all() or size == (1, 1), path
    np.testing.assert_allclose(numpy(maps["places"]).sum((1, 2, 3)), 1, rtol=1e-5)
    assert np.isfinite(numpy(outputs)).all()


@pytest.mark.tensorflow
def test_exported(model, tmp_path):
    """Both endpoints, for pictures of any size."""
    import tensorflow as tf

    keras_sam.export_saved_model(model, tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    for size in ((11, 7), (4, 6)):
        pictures = random(2, *size, 3)
        with keras_sam.record_attention() as maps:
            outputs = model(pictures, training=False)
        np.testing.assert_allclose(served.serve(pictures), outputs, rtol=1e-5, atol=1e-6)
        found = served.attention(pictures)
        assert set(found) == set(maps)
        for path, weights in maps.items():
            np.testing.assert_allclose(found[path], weights, rtol=1e-5, err_msg=path)


@pytest.mark.skipif(BACKEND == "torch", reason="torch.compile takes a minute")
def test_trained_and_loaded(model, reload):
    """Every weight learns, compiled too, and comes back."""
    network = keras.models.clone_model(model)
    randomize(network)
    before = [numpy(weight) for weight in network.trainable_weights]
    network.compile("adam", "mse", jit_compile=True)
    pictures = random(4, 9, 8, 3)
    network.fit(pictures, random(4, 4, seed=1), epochs=2, verbose=0)
    for weight, value in zip(network.trainable_weights, before, strict=True):
        assert (numpy(weight) != value).any(), weight.path
    loaded = reload(network)
    np.testing.assert_array_equal(numpy(loaded(pictures)), numpy(network(pictures)))
