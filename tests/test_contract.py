"""What every layer owes to Keras: each case of `cases.py`, crossed with each check."""

import inspect
import json
import os
import subprocess
import sys
import textwrap

import keras
import numpy as np
import oracles
import pytest
from cases import BATCH, CASES, everything
from common import (
    BACKEND,
    assert_rounded_alike,
    dtype_of,
    numpy,
    random,
    randomize,
    stored_arrays,
)
from keras import ops
from keras.src import testing

import keras_sam

every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)
compiles = pytest.mark.skipif(
    BACKEND == "torch", reason="torch.compile takes a minute, and Keras has it off"
)


def assert_same(results, expected, equal=np.testing.assert_array_equal):
    keras.tree.map_structure(
        lambda one, other: equal(numpy(one), numpy(other)), results, expected
    )


# Arguments and configuration ----------------------------------------------------------


@every
def test_every_argument_is_in_the_configuration(case):
    arguments = set()
    for cls in case.layer.__mro__:
        if cls.__module__.startswith("keras_sam") and "__init__" in vars(cls):
            arguments |= set(inspect.signature(cls.__init__).parameters)
    arguments -= {"self", "args", "kwargs"}
    config = case.make().get_config()
    assert arguments <= set(config)
    assert {"name", "trainable", "dtype"} <= set(config)
    for name, value in case.arguments.items():
        if isinstance(value, int | float | bool | None):
            assert config[name] == value


def test_some_case_names_every_argument():
    """Arguments that only the base class knows count for any layer that has it."""
    for layer in {case.layer for case in CASES.values()}:
        relatives = [c for c in CASES.values() if issubclass(c.layer, layer.__base__)]
        named = set().union(*(case.arguments for case in relatives))
        config = next(c for c in relatives if c.layer is layer).make().get_config()
        assert set(config) - named == {"name", "trainable", "dtype"}, layer


@every
def test_configuration(case):
    layer = case.make(name="ours", dtype="mixed_bfloat16", trainable=False)
    config = layer.get_config()
    again = case.layer.from_config(config)
    assert again.get_config() == config
    assert (again.name, again.trainable) == ("ours", False)
    assert again.compute_dtype == "bfloat16"
    serialized = keras.saving.serialize_keras_object(layer)
    loaded = keras.saving.deserialize_keras_object(json.loads(json.dumps(serialized)))
    assert loaded.get_config() == config


@pytest.mark.filterwarnings("ignore:`shuffle=True` was passed")
@every
def test_keras_says_so_too(case):
    """Keras's own test of layers."""
    test = testing.TestCase()
    test.setUp()
    shapes = [(BATCH, *shape) for shape in case.shapes]
    single = len(shapes) == 1
    if not single:
        names = list(inspect.signature(case.layer.call).parameters)[1 : 1 + len(shapes)]
        shapes = {f"{name}_shape": shape for name, shape in zip(names, shapes, strict=True)}
    test.run_layer_test(
        case.layer,
        case.arguments,
        input_shape=shapes[0] if single else shapes,
        expected_output_shape=tuple(case.make()(*case.inputs()).shape),
        supports_masking=True,
        # Keras's test can train layers of one input only. See the tests of `fit` below,
        # which are enough for JAX, where each takes many seconds to compile.
        run_training_check=single and BACKEND != "jax",
    )


# Shapes and dtypes --------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@every
def test_symbolic_shapes_are_eager_shapes(case, unknown):
    options = [{}]
    if case.returns_weights:
        options.append({"return_attention_scores": True})
    layer = case.make(dtype="mixed_float16")
    inputs = case.inputs(unknown=5 if unknown else None)
    for call in options:
        symbolic = keras.tree.flatten(layer(*case.symbols(unknown), **call))
        eager = keras.tree.flatten(layer(*inputs, **call))
        assert len(symbolic) == len(eager)
        for spec, tensor in zip(symbolic, eager, strict=True):
            assert spec.dtype == dtype_of(tensor) == "float16"
            assert len(spec.shape) == len(tensor.shape)
            for size, found in zip(spec.shape, tensor.shape, strict=True):
                assert size in (None, found)
            assert unknown or None not in spec.shape[1:]
    shapes = [array.shape for array in inputs]
    output = layer(*inputs)
    assert layer.compute_output_shape(*shapes) == tuple(output.shape)


DTYPES = ["float64", "float16", "mixed_float16", "mixed_bfloat16"]


@pytest.mark.parametrize("dtype", DTYPES[BACKEND == "jax" :])  # JAX has no float64
@every
def test_dtypes(case, dtype):
    layer = case.make(dtype=dtype)
    inputs = case.inputs()
    result = layer(*inputs)
    policy = keras.dtype_policies.get(dtype)
    assert dtype_of(result) == policy.compute_dtype
    # A score that is given as an instance has a dtype of its own, float32 here.
    score = getattr(layer, "score", None)
    of_score = [] if score is None else [id(weight) for weight in score.weights]
    for weight in layer.weights:
        allowed = [policy.variable_dtype, "float32"][: 1 + (id(weight) in of_score)]
        assert dtype_of(weight) in allowed
    assert np.isfinite(numpy(result).astype("float64")).all()


# Masks --------------------------------------------------------------------------------


@every
def test_masks_of_any_type(case):
    layer = case.make()
    inputs = case.inputs()
    masks = case.padding(inputs)
    layer(*inputs)
    randomize(layer)
    expected = layer(*inputs, **masks)
    assert (numpy(expected) != numpy(layer(*inputs))).any()
    for convert in (
        lambda mask: mask.astype("int32"),
        lambda mask: mask.astype("float32"),
        ops.convert_to_tensor,
    ):
        converted = {name: convert(mask) for name, mask in masks.items()}
        assert_same(layer(*inputs, **converted), expected)


@every
def test_padding_is_not_looked_at(case):
    layer = case.make()
    inputs = case.inputs()
    masks = case.padding(inputs)
    changed = list(inputs)
    for name, index in case.masks.items():
        other = random(*inputs[index].shape, seed=11, scale=100)
        changed[index] = np.where(masks[name][..., None], changed[index], other)
    expected = numpy(layer(*inputs, **masks))
    found = numpy(layer(*changed, **masks))
    if expected.shape == inputs[0].shape:  # some rows are padding themselves
        mask = masks[next(iter(case.masks))]
        expected, found = expected[mask], found[mask]
    error = oracles.allowance(expected, expected)  # a few roundings
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)


@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@every
def test_masks_of_the_wrong_shape(case, symbolic):
    inputs = case.inputs()
    for name, mask in case.padding(inputs).items():
        for wrong in (mask[:, :-1], mask[..., None], mask[0]):
            call = {name: wrong}
            arguments = inputs
            if symbolic:
                arguments = [keras.Input(batch_shape=array.shape) for array in inputs]
                call = {name: keras.Input(batch_shape=wrong.shape, dtype="bool")}
            with pytest.raises(ValueError, match=f"`{name}` must have the shape") as error:
                case.make()(*arguments, **call)
            assert f"Received: {name}.shape=" in str(error.value)


@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@every
def test_inputs_of_the_wrong_shape(case, symbolic):
    for shapes in case.wrong_shapes:
        if symbolic:
            inputs = [keras.Input(shape) for shape in shapes]
        elif any(None in shape for shape in shapes):
            continue
        else:
            inputs = [random(BATCH, *shape) for shape in shapes]
        with pytest.raises(ValueError, match=r"`\w+` must .*Received: ") as error:
            case.make(name="ours")(*inputs)
        assert f"{case.layer.__name__} 'ours'" in str(error.value)


# Saving and loading -------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
@pytest.mark.parametrize("suffix", ["keras", "h5"])
@every
def test_saved_and_loaded(case, suffix, reload):
    model = case.model(unknown=True)
    randomize(model)
    inputs = case.inputs(unknown=7)
    loaded = reload(model, f"model.{suffix}")
    assert_same(loaded(inputs), model(inputs))
    layer, again = model.layers[-1], loaded.layers[-1]
    assert json.dumps(again.get_config()) == json.dumps(layer.get_config())
    assert [w.path for w in again.weights] == [w.path for w in layer.weights]


@every
def test_cloned_and_weights_loaded(case, tmp_path):
    model = randomize(case.model())
    clone = keras.models.clone_model(model)
    model.save_weights(tmp_path / "model.weights.h5")
    clone.load_weights(tmp_path / "model.weights.h5")
    inputs = case.inputs()
    assert_same(clone(inputs), model(inputs))


@compiles
@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
def test_trained_under_xla(unknown):
    """Half of the cases in one model; they are asked to learn smaller outputs.

    Every second case has unknown lengths: XLA takes a minute for each half.
    """
    names = tuple(CASES)[unknown::2]
    # Without dropout, which XLA may draw otherwise: the two ways are compared.
    model, arrays = everything(unknown, names, dropout=0.0)
    weights = model.get_weights()
    x = arrays(5)
    targets = {name: 0.3 * numpy(y) for name, y in model(x).items()}
    losses = {}
    for jit_compile in (False, True):
        model.set_weights(weights)
        model.compile(keras.optimizers.SGD(0.01), "mse", jit_compile=jit_compile)
        history = model.fit(x, targets, batch_size=5, epochs=3, shuffle=False, verbose=0)
        losses[jit_compile] = history.history["loss"]
    assert losses[True][0] > losses[True][1] > losses[True][2]
    np.testing.assert_allclose(losses[True], losses[False], rtol=1e-4)
    for name in names:  # each weight of these layers has learned
        case = CASES[name]
        if not case.layer.__name__.startswith(("Self", "Cross", "Selective")):
            continue
        layer = model.get_layer(name.replace(", ", "_").replace(" ", "_"))
        before = dict(zip([w.path for w in model.weights], weights, strict=True))
        for weight in layer.trainable_weights:
            moved = (numpy(weight) != before[weight.path]).any()
            # A bias may add the same to all scores of a row, which neither softmax nor
            # a batch normalization sees.
            unseen = weight.path.endswith(("bias", "beta"))
            assert moved or unseen, (case.layer, weight.path)


@pytest.mark.tensorflow
def test_saved_model_and_fresh_process(tmp_path):
    """Loads a SavedModel without keras_sam, and a `.keras` file with it.

    Of unknown batch and lengths, and then called with two of each. Weights come back to
    the bit. Results need not: another process may compile the same formula otherwise,
    and divide sums otherwise among its threads.
    """
    model, arrays = everything(unknown=True)
    model.export(tmp_path / "exported", verbose=False)
    model.save(tmp_path / "model.keras")
    x = arrays(3)
    np.savez(tmp_path / "inputs.npz", *x)
    program = """
        import sys
        import numpy as np, tensorflow as tf
        inputs = np.load("inputs.npz")
        inputs = [inputs[name] for name in inputs.files]
        served = tf.saved_model.load("exported")
        np.savez("served.npz", **served.serve(inputs))
        assert "keras_sam" not in sys.modules
        import keras, keras_sam
        model = keras.saving.load_model("model.keras")
        np.savez("loaded.npz", **{k: v.numpy() for k, v in model(inputs).items()})
        np.savez("weights.npz", **{w.path: w.numpy() for w in model.weights})
    """
    root = os.path.dirname(os.path.dirname(keras_sam.__file__))
    subprocess.run(
        [sys.executable, "-c", textwrap.dedent(program)],
        cwd=tmp_path,
        check=True,
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
    )
    served, loaded, weights = (
        stored_arrays(tmp_path / f"{name}.npz") for name in ("served", "loaded", "weights")
    )
    assert len(weights) == len(model.weights)
    for weight in model.weights:
        np.testing.assert_array_equal(weights[weight.path], numpy(weight), weight.path)
    for name, expected in model(x).items():
        assert_rounded_alike(served[name], numpy(expected))
        assert_rounded_alike(loaded[name], numpy(expected))
