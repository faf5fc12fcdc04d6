import functools
import gc
import weakref

import keras
import numpy as np
import pytest
from common import BACKEND, numpy, random
from keras import layers
from threads import recorded_in_threads

from keras_sam import AttentionDetails, CrossAttention, SelfAttention, record_attention
from keras_sam.recording import is_recording

B, T, S, C = 2, 5, 7, 6


def attend(name="attend", **arguments):
    # Dense: that recording makes a compiled layer dense has a test of its own.
    return SelfAttention(2, **{"block_size": None, **arguments}, name=name)


def weights_of(layer, inputs, **call):
    return numpy(layer(inputs, **call, return_attention_scores=True)[1])


class Subclassed(keras.Model):
    def __init__(self):
        super().__init__(name="subclassed")
        self.first = attend("first")
        self.block = layers.Dense(C)
        self.second = attend("second")

    def call(self, inputs, training=None):
        return self.second(self.block(self.first(inputs)), training=training)


def functional():
    inputs = keras.Input((None, C))
    return keras.Model(inputs, layers.Dense(3)(attend()(inputs)))


def nested():
    inner = keras.Sequential([layers.Dense(C), attend()], name="inner")
    inputs = keras.Input((None, C))
    return keras.Model(inputs, attend("outer")(inner(inputs)))


MODELS = {
    "layer": (attend, ["attend"]),
    "functional": (functional, ["attend"]),
    "sequential": (lambda: keras.Sequential([attend()], name="s"), ["s/attend"]),
    "nested": (nested, ["inner/attend", "outer"]),
    "subclassed": (Subclassed, ["subclassed/first", "subclassed/second"]),
    "in a sequential": (
        lambda: keras.Sequential([Subclassed()], name="s"),
        ["s/subclassed/first", "s/subclassed/second"],
    ),
}


@pytest.mark.parametrize("built", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("name", MODELS)
def test_models_of_all_kinds(name, built):
    make, paths = MODELS[name]
    model = make()
    inputs = random(B, T, C)
    if built:
        model(inputs)
    with record_attention() as maps:
        outputs = model(inputs, training=False)
    assert list(maps) == paths
    for weights in maps.values():
        assert tuple(weights.shape) == (B, 2, T, T)
        np.testing.assert_allclose(numpy(weights).sum(axis=-1), 1, rtol=1e-6)
    np.testing.assert_array_equal(numpy(outputs), numpy(model(inputs)))
    assert not is_recording()


def test_weights_are_those_that_the_layer_returns():
    layer = attend(causal=True, dropout=0.5)
    inputs, mask = random(B, T, C), np.arange(T) < np.array([[T], [2]])
    expected = weights_of(layer, inputs, mask=mask)
    for call in ({}, {"training": True}, {"return_attention_scores": True}):
        with record_attention() as maps:
            layer(inputs, mask=mask, **call)
        np.testing.assert_array_equal(numpy(maps[layer.path]), expected)
    assert (expected[1, :, 2:] == 0).all()
    assert (expected[1, :, :, 2:] == 0).all()


def test_a_blockwise_layer_is_recorded_too():
    layer = attend(block_size=2)
    inputs = random(B, T, C)
    with record_attention() as maps:
        layer(inputs)
    np.testing.assert_array_equal(numpy(maps["attend"]), weights_of(layer, inputs))


def test_details():
    inputs = random(B, 3, 2, C)
    with record_attention() as maps:
        attend("image")(inputs)
        attend("row")(inputs[:, 0])
        CrossAttention(2, 3, name="cross")(random(B, T, C), random(B, S, C))
    assert maps.details == {
        "image": AttentionDetails("self", (3, 2), (3, 2)),
        "row": AttentionDetails("self"),
        "cross": AttentionDetails("cross"),
    }
    assert tuple(maps["image"].shape) == (B, 2, 6, 6)
    assert tuple(maps["cross"].shape) == (B, 2, T, S)


def test_a_layer_called_again_and_another_layer_of_the_same_path():
    layer, other = attend(), attend()
    inputs = random(B, T, C)
    with record_attention() as maps:
        outputs = layer(layer(inputs))
        other(outputs)
    assert list(maps) == list(maps.details) == ["attend", "attend#2", "attend#3"]
    np.testing.assert_array_equal(numpy(maps["attend"]), weights_of(layer, inputs))
    np.testing.assert_array_equal(numpy(maps["attend#3"]), weights_of(other, outputs))


@pytest.mark.parametrize("steps", [3, None], ids=["known", "unknown"])
def test_time_distributed(steps):
    layer = attend()
    model = keras.Sequential([keras.Input((steps, T, C)), layers.TimeDistributed(layer)])
    inputs = random(B, 3, T, C)
    with record_attention() as maps:
        model(inputs)
    assert list(maps) == [layer.path, f"{layer.path}#2", f"{layer.path}#3"]
    for step, weights in enumerate(maps.values()):
        expected = weights_of(layer, inputs[:, step])
        np.testing.assert_allclose(numpy(weights), expected, rtol=1e-5)


def test_nobody_records():
    layer = attend()
    inputs = random(B, T, C)
    with record_attention() as maps:
        assert is_recording()
    layer(inputs)
    assert maps == {}
    # And what was recorded is kept by nothing but the maps.
    with record_attention() as maps:
        layer(inputs)
    kept = weakref.ref(maps["attend"])
    assert kept() is not None
    del maps
    gc.collect()
    assert kept() is None


def test_what_was_not_recorded_says_why():
    with record_attention() as maps:
        attend()(random(B, T, C))
    with pytest.raises(KeyError, match=r"No attention was recorded for 'x'.*'attend'"):
        maps["x"]
    assert maps.get("x") is None
    with record_attention() as maps:
        pass
    with pytest.raises(KeyError, match="Recorded: nothing"):
        maps["attend"]


def test_recorders_inside_one_another():
    layer = attend()
    inputs = random(B, T, C)
    with record_attention() as outer:
        layer(inputs)
        with record_attention() as inner:
            layer(inputs)
        layer(inputs)
    assert list(outer) == ["attend", "attend#2"]
    assert list(inner) == ["attend"]


def test_an_exception_ends_the_recording():
    def fail():
        with record_attention() as maps:
            layer(random(B, T, C))
            try:
                layer(random(B, T))
            finally:
                recorded.append(maps)

    layer, recorded = attend(), []
    with pytest.raises(ValueError, match="ndim"):
        fail()
    assert not is_recording()
    assert list(recorded[0]) == ["attend"]


def test_threads_do_not_see_each_other():
    layers_ = {name: attend(name) for name in ("one", "other")}
    inputs = random(B, T, C)
    for layer in layers_.values():
        layer(inputs)
    calls = {name: functools.partial(layer, inputs) for name, layer in layers_.items()}
    recorded, maps = recorded_in_threads(calls)
    assert maps == {}
    for name in layers_:
        assert recorded[name] == [name, f"{name}#2", f"{name}#3"]


def test_making_a_model_of_symbolic_tensors_records_nothing():
    with record_attention() as maps:
        functional()
        Subclassed()(keras.Input((T, C)))
        keras.Sequential([Subclassed()]).build((None, T, C))
    assert maps == {}


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing by default")
def test_a_function_compiled_meanwhile_is_not_recorded():
    """Its tensors are symbols: of no use outside, and it must not stay dense for good."""
    model = functional()
    model.compile("sgd", "mse")
    with record_attention() as maps:
        model.predict(random(B, T, C), verbose=0)
        model.fit(random(B, T, C), random(B, T, 3), verbose=0)
    assert maps == {}
    with pytest.raises(KeyError, match="is not recorded from outside"):
        maps["attend"]


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
def test_inside_a_function(jit_compile):
    import tensorflow as tf

    model = keras.Sequential([keras.Input((None, C)), attend()])
    layer = model.layers[0]

    @tf.function(jit_compile=jit_compile, input_signature=[tf.TensorSpec([None, None, C])])
    def explain(inputs):
        with record_attention() as maps:
            outputs = model(inputs, training=False)
        return outputs, dict(maps)

    for length in (T, S):
        inputs = random(B, length, C)
        outputs, maps = explain(inputs)
        assert list(maps) == [layer.path]
        np.testing.assert_allclose(outputs, model(inputs), rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(
            maps[layer.path], weights_of(layer, inputs), rtol=1e-5, atol=1e-6
        )


@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
def test_inside_a_function_of_jax():
    import jax

    layer = attend()
    inputs = random(B, T, C)
    expected = weights_of(layer, inputs)

    @jax.jit
    def explain(inputs):
        with record_attention() as maps:
            layer(inputs)
        return dict(maps)

    np.testing.assert_allclose(explain(inputs)["attend"], expected, rtol=1e-5, atol=1e-6)
