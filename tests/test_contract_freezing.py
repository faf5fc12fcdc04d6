"""The contract of `trainable`: each case of `cases.py`, frozen in each way."""

import keras
import numpy as np
import pytest
from cases import CASES
from common import numpy, randomize

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def with_dense(case, layer):
    """A model of the layer and a layer of Keras, which has two weights that train."""
    symbols = case.symbols()
    return keras.Model(symbols, keras.layers.Dense(2, name="after")(layer(*symbols)))


def frozen_at_first(case):
    return with_dense(case, case.make(name="ours", trainable=False))


def frozen_before_it_is_built(case):
    layer = case.make(name="ours")
    layer.trainable = False
    return with_dense(case, layer)


def frozen_after_it_is_built(case):
    model = with_dense(case, case.make(name="ours"))
    model.get_layer("ours").trainable = False
    return model


WAYS = (frozen_at_first, frozen_before_it_is_built, frozen_after_it_is_built)


@pytest.mark.parametrize("way", WAYS, ids=[way.__name__ for way in WAYS])
@every
def test_frozen(case, way):
    """Trained in a graph by one of the ways, and else eagerly; XLA would take seconds."""
    model = way(case)
    in_a_graph = WAYS[list(CASES.values()).index(case) % len(WAYS)] is way
    layer = model.get_layer("ours")
    assert layer.trainable_variables == []
    paths = [variable.path for variable in model.trainable_variables]
    assert paths == ["after/kernel", "after/bias"]
    before = [numpy(weight) for weight in layer.weights]
    inputs = case.inputs()
    how = {"run_eagerly": not in_a_graph, "jit_compile": False}
    model.compile(keras.optimizers.SGD(0.1), "mse", **how)
    targets = np.ones(model(inputs).shape, "float32")
    kernel = numpy(model.get_layer("after").kernel)
    model.fit(inputs, targets, epochs=1, verbose=0)
    for weight, value in zip(layer.weights, before, strict=True):
        np.testing.assert_array_equal(numpy(weight), value, weight.path)
    assert (numpy(model.get_layer("after").kernel) != kernel).any()


@every
def test_thawed(case):
    layer = case.make(trainable=False)
    layer(*case.inputs())
    other = case.make()
    other(*case.inputs())
    layer.trainable = True
    trainable = [variable.trainable for variable in layer.variables]
    assert trainable == [variable.trainable for variable in other.variables]


def sublayers(layer):
    return layer._flatten_layers(include_self=False)


def states(layer):
    """What trains, layer by layer and variable by variable."""
    layers = [(each.name, each.trainable) for each in sublayers(layer)]
    return layer.trainable, layers, [v.trainable for v in layer.variables]


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@every
def test_saved_and_loaded_as_it_was_frozen(case, reload):
    """Whole, and with one sublayer frozen alone, at any depth; and the reverse.

    The two kinds of files take turns, so that each sublayer is in both.
    """
    count = len(sublayers(randomize(with_dense(case, case.make(name="ours"))).layers[-2]))
    inputs = case.inputs()
    rows = [(True, None, "keras"), (True, None, "h5")]
    for index in range(count):
        suffixes = ("keras", "h5") if index % 2 else ("h5", "keras")
        rows += zip((False, True), (index, index), suffixes, strict=True)
    for whole, index, suffix in rows:
        model = randomize(with_dense(case, case.make(name="ours")))
        layer = model.get_layer("ours")
        layer.trainable = not whole
        if index is not None:
            one = sublayers(layer)[index]
            one.trainable = not one.trainable
        again = reload(model, f"model.{suffix}")
        loaded = again.get_layer("ours")
        assert states(loaded) == states(layer)
        np.testing.assert_array_equal(numpy(again(inputs)), numpy(model(inputs)))
        clone = keras.models.clone_model(model)
        assert states(clone.get_layer("ours")) == states(layer)
