"""Files that models of TensorFlow Addons were saved to, made by the real package."""

import json
import pathlib
import shutil
import zipfile

import h5py
import keras
import make_addons_data
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


@pytest.fixture
def functional():
    """The model of functional.h5 with other weights."""
    model = keras.models.load_model(DATA / "functional.h5", compile=False)
    model.set_weights([np.full_like(each, 0.5) for each in model.get_weights()])
    return model


def assert_outputs(model, name, expected, atol=1e-5):
    inputs = make_addons_data.model_inputs(name)
    inputs = [keras.ops.convert_to_tensor(each) for each in inputs]
    outputs = model(inputs[0] if len(inputs) == 1 else inputs, training=False)
    outputs = outputs if isinstance(outputs, list | tuple) else [outputs]
    assert len(outputs) == sum(key.startswith(f"{name}/") for key in expected)
    for index, output in enumerate(outputs):
        wanted = expected[f"{name}/{index}"]
        np.testing.assert_allclose(numpy(output), wanted, rtol=0, atol=atol)


@pytest.mark.parametrize(
    ("name", "atol"), [("functional", 1e-5), ("shared", 1e-4), ("mixed", 0.1)]
)
def test_models_load_and_compute_the_same(name, atol, expected, tmp_path):
    model = keras.models.load_model(DATA / f"{name}.h5", compile=False)
    assert_outputs(model, name, expected, atol)
    for file in ("model.keras", "model.h5"):
        model.save(tmp_path / file)
        assert_outputs(keras.models.load_model(tmp_path / file), name, expected, atol)


MODELS = ["functional", "shared", "mixed", "nested", "sequential"]
TOLERANCE = {"shared": 1e-4, "mixed": 0.1}


@pytest.mark.parametrize("name", MODELS)
def test_load_model_makes_whole_models(name, expected, tmp_path):
    """Also those that Keras 3 does not read; called with a tensor, and saved again."""
    model = addons.load_model(DATA / f"{name}.h5")
    assert_outputs(model, name, expected, TOLERANCE.get(name, 1e-5))
    assert not model.compiled
    if name == "sequential":
        return  # no Sequential model of several inputs is saved with its shapes
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert_outputs(loaded, name, expected, TOLERANCE.get(name, 1e-5))


def test_load_model_reads_files_of_keras_2(expected):
    assert_outputs(addons.load_model(DATA / "functional.keras"), "functional", expected)


@pytest.mark.tensorflow
def test_load_model_reads_folders(expected, tmp_path):
    shutil.copy(DATA / "functional_metadata.pb", tmp_path / "keras_metadata.pb")
    (tmp_path / "variables").mkdir()
    for part in DATA.glob("functional_checkpoint.*"):
        name = part.name.replace("functional_checkpoint", "variables")
        shutil.copy(part, tmp_path / "variables" / name)
    assert_outputs(addons.load_model(tmp_path), "functional", expected)


def edited(tmp_path, edit):
    """Copies functional.h5 with another configuration of its attention layer."""
    path = tmp_path / "edited.h5"
    shutil.copy(DATA / "functional.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        (layer,) = (
            each for each in config["config"]["layers"] if "attention" in str(each["name"])
        )
        edit(layer)
        file.attrs["model_config"] = json.dumps(config)
    return path


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (
            lambda layer: layer.update(class_name="TFOpLambda"),
            "TensorFlow between its layers.*load_weights.*layer='attention'",
        ),
        (
            lambda layer: layer.update(class_name="Addons>Nothing"),
            "Make the model in code.*Addons>Nothing",
        ),
        (
            lambda layer: layer["config"].pop("head_size"),
            r"Make the model in code.*MultiHeadAttention 'attention'.*\['head_size'\]",
        ),
        (
            lambda layer: layer["config"].update(head_size=5),
            "The weights do not load into the model 'functional'",
        ),
        (
            lambda layer: layer.update(class_name="Addons>Maxout"),
            "`Maxout` is not brought over by keras_sam, in 'attention'",
        ),
    ],
)
def test_load_model_says_what_to_do(edit, message, tmp_path):
    with pytest.raises(ValueError, match=f"(?s){message}"):
        addons.load_model(edited(tmp_path, edit))


def test_load_model_refuses_what_is_not_a_model(tmp_path):
    (tmp_path / "text.h5").write_text("no model in here")
    for path in (DATA / "sequential_weights.h5", tmp_path, tmp_path / "text.h5"):
        with pytest.raises(ValueError, match=r"`path` must be .* whole .*load_weights"):
            addons.load_model(path)
    with pytest.raises(FileNotFoundError, match="There is no file or folder"):
        addons.load_model(tmp_path / "nothing.h5")


def test_a_keras_file_of_keras_2_loads(expected):
    """Keras 3 wants to be told what Keras 2 meant by a functional model."""
    model = keras.models.load_model(
        DATA / "functional.keras", custom_objects={"Functional": keras.Model}, compile=False
    )
    assert_outputs(model, "functional", expected)


def test_the_weights_of_loaded_models_are_recorded(expected):
    model = keras.models.load_model(DATA / "functional.h5", compile=False)
    with keras_sam.record_attention() as maps:
        model(make_addons_data.model_inputs("functional"))
    weights = numpy(maps["attention"])
    np.testing.assert_allclose(weights, expected["functional/1"], atol=1e-6)


@pytest.mark.parametrize("suffix", [".weights.h5", ".h5", ".keras"])
def test_weight_files_load(suffix, functional, expected, tmp_path):
    path = tmp_path / f"file{suffix}"
    if suffix == ".weights.h5":  # is what a .keras file has inside
        with zipfile.ZipFile(DATA / "functional.keras") as archive:
            path.write_bytes(archive.read("model.weights.h5"))
    else:
        shutil.copy(DATA / f"functional{suffix}", path)
    addons.load_weights(functional, path)
    assert_outputs(functional, "functional", expected)


def test_legacy_weights_under_the_new_name_load(functional, expected, tmp_path):
    """Older versions of Keras 2 wrote the legacy layout into `.weights.h5` files too."""
    shutil.copy(DATA / "functional.h5", tmp_path / "model.weights.h5")
    addons.load_weights(functional, tmp_path / "model.weights.h5")
    assert_outputs(functional, "functional", expected)


@pytest.mark.tensorflow
@pytest.mark.parametrize("as_saved_model", [False, True])
def test_checkpoints_load(as_saved_model, functional, expected, tmp_path):
    path = DATA / "functional_checkpoint"
    if as_saved_model:  # which has its checkpoint inside
        (tmp_path / "variables").mkdir()
        for part in DATA.glob("functional_checkpoint.*"):
            name = part.name.replace("functional_checkpoint", "variables")
            shutil.copy(part, tmp_path / "variables" / name)
        path = tmp_path
    addons.load_weights(functional, str(path))
    assert_outputs(functional, "functional", expected)


def sequential():
    model = keras.Sequential(
        [
            addons.MultiHeadAttention(head_size=4, num_heads=2),
            keras.layers.BatchNormalization(),
            keras.layers.Dense(2),
        ]
    )
    model(make_addons_data.model_inputs("sequential"))
    return model


@pytest.mark.parametrize("load", [addons.load_weights, keras.Model.load_weights])
def test_weights_load_into_a_sequential_model(load, expected):
    model = sequential()
    load(model, DATA / "sequential_weights.h5")
    assert_outputs(model, "sequential", expected)


def functional_with(head_size=4, mish_units=2):
    """The model of functional.h5 in code, or almost."""
    query, key, mask = keras.Input((3, 7)), keras.Input((5, 11)), keras.Input((3, 5))
    x = keras.layers.Dense(6, activation=addons.activations.sparsemax)(query)
    attention = addons.MultiHeadAttention(head_size, 2, return_attn_coef=True)
    x, weights = attention([x, key], mask=mask)
    x = keras.layers.LayerNormalization()(x)
    x = keras.layers.Dense(mish_units, activation=addons.activations.mish)(x)
    return keras.Model([query, key, mask], [x, weights])


SOURCES = [
    "functional.h5",
    "functional.keras",
    pytest.param("functional_checkpoint", marks=pytest.mark.tensorflow),
]


@pytest.mark.parametrize("source", SOURCES)
def test_weights_load_into_the_same_model_in_code(source, expected):
    model = functional_with()
    addons.load_weights(model, DATA / source)
    assert_outputs(model, "functional", expected)


@pytest.mark.filterwarnings("ignore:Skipping nested container")  # Keras, about the file
@pytest.mark.parametrize("change", [{"head_size": 3}, {"mish_units": 3}])
@pytest.mark.parametrize("source", [*SOURCES, "sequential_weights.h5", "unmapped.h5"])
def test_weights_that_do_not_fit_leave_the_model_as_it_was(change, source):
    model = functional_with(**change)
    before = [each.copy() for each in model.get_weights()]
    with pytest.raises(
        ValueError, match=r"is as it was. Make the same layers .* path='"
    ) as e:
        addons.load_weights(model, DATA / source)
    assert e.value.__cause__ is not None
    for old, new in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


@pytest.mark.tensorflow
def test_a_checkpoint_of_fewer_layers_leaves_the_model_as_it_was(functional):
    longer = keras.Sequential([functional.layers[-1], keras.layers.Dense(3)])
    longer.build((None, 3, 11))
    before = [each.copy() for each in longer.get_weights()]
    with pytest.raises(ValueError, match=r"no variable for|no values for"):
        addons.load_weights(longer, DATA / "functional_checkpoint")
    for old, new in zip(before, longer.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_load_weights_refuses_what_is_not_there(functional, tmp_path):
    with pytest.raises(FileNotFoundError, match="There is no file, folder or checkpoint"):
        addons.load_weights(functional, tmp_path / "nothing.h5")
    (tmp_path / "text.h5").write_text("not a weight in here")
    with pytest.raises(ValueError, match="functional', which is as it was"):
        addons.load_weights(functional, tmp_path / "text.h5")
    with pytest.raises(ValueError, match=r"call it once. Received: model='unbuilt'"):
        addons.load_weights(keras.Sequential(name="unbuilt"), DATA / "functional.h5")


def test_layers_that_are_not_brought_over_say_what_to_do():
    message = (
        "`Maxout` is not brought over by keras_sam, in 'the_maxout'.*custom_object_scope"
    )
    with pytest.raises(ValueError, match=message):
        keras.models.load_model(DATA / "unmapped.h5")


def test_optimizers_that_are_not_brought_over_say_what_to_do():
    message = "`AdamW` is not brought over.*`compile=False`.*`keras.optimizers.AdamW`"
    with pytest.raises(ValueError, match=message):
        keras.models.load_model(DATA / "functional.h5")


def test_a_class_of_ones_own_takes_the_place_of_one_that_is_not_brought_over():
    class Maxout(keras.layers.Layer):
        def __init__(self, num_units, axis=-1, **kwargs):
            super().__init__(**kwargs)
            self.num_units = num_units

        def call(self, inputs):
            shape = (-1, self.num_units, inputs.shape[-1] // self.num_units)
            return keras.ops.max(keras.ops.reshape(inputs, shape), axis=-1)

    with keras.saving.custom_object_scope({"Addons>Maxout": Maxout}):
        model = keras.models.load_model(DATA / "unmapped.h5", compile=False)
    assert model([np.ones((3, 4))]).shape == (3, 2)


@pytest.mark.parametrize("name", ["rrelu", "sparsemax_loss"])
def test_functions_that_are_not_brought_over_say_what_to_do(name):
    function = keras.saving.deserialize_keras_object(
        {
            "module": "builtins",
            "class_name": "function",
            "config": f"Addons>{name}",
            "registered_name": "function",
        }
    )
    with pytest.raises(ValueError, match=f"`{name}` is not brought over by keras_sam"):
        function(np.ones(3))


def test_a_mask_that_cannot_be_found_says_what_to_do():
    layer = addons.MultiHeadAttention(4, 2, name="it")
    x = keras.Input((3, 4))
    with pytest.raises(ValueError, match=r"MultiHeadAttention 'it'.*load_weights"):
        layer([x, x], mask=["mask", 0, 0])


def test_a_mask_made_later_than_the_layer_that_takes_it_is_found(tmp_path, expected):
    """Keras comes back to a layer when what it needs is there."""
    path = tmp_path / "reordered.h5"
    shutil.copy(DATA / "functional.h5", path)
    with h5py.File(path, "r+") as file:
        config = json.loads(file.attrs["model_config"])
        config["config"]["layers"].sort(key=lambda layer: layer["name"] == "mask")
        file.attrs["model_config"] = json.dumps(config)
    model = keras.models.load_model(path, compile=False)
    assert_outputs(model, "functional", expected)
