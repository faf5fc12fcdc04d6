"""Whole models of Keras 2, where Keras 3 does not read what Keras 2 wrote of them."""

import json
import os
import pathlib
import zipfile

import h5py
import keras

from keras_sam.addons._legacy import policy_name
from keras_sam.addons.loading import load_weights

# Keras 3 looks a function that is a mere name up among its own only.
_BY_NAME = {"module": "builtins", "registered_name": "function"}
MODELS = {"Functional": "Model", "Model": "Model", "Sequential": "Sequential"}
IN_CODE = (
    "Make the model in code, and load its weights with `keras_sam.addons.load_weights`."
)


def load_model(path: str | os.PathLike):
    """Returns the model that Keras 2 saved at `path`, with its weights, not compiled.

    Takes `.h5` and `.keras` files and SavedModel folders of Sequential and functional
    models. `keras.models.load_model` takes `.h5` files too, but not those of models inside
    of models, of recurrent layers, or of a Sequential model that takes several inputs.

    Args:
        path: The file, or the SavedModel's folder.

    Raises:
        ValueError: If there is no model at `path`, or one that Keras 3 cannot make.

    Example:

    >>> import keras, keras_sam.addons, tempfile, pathlib
    >>> x = keras.Input((3, 4))
    >>> attended = keras_sam.addons.MultiHeadAttention(head_size=2, num_heads=2)([x, x])
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "model.h5"
    >>> keras.Model(x, attended).save(path)
    >>> keras_sam.addons.load_model(path).output_shape
    (None, 3, 4)
    """
    path = pathlib.Path(path)
    saved = _read(path)
    if not isinstance(saved, dict) or saved.get("class_name") not in MODELS:
        raise ValueError(
            "`path` must be a file or folder of a whole Sequential or functional model of "
            f"Keras 2; those of weights alone, or of a subclass, do not say what the model "
            f"is. {IN_CODE} Received: path={str(path)!r}"
        )
    saved = _translated(saved)
    try:
        model = _made(getattr(keras, saved["class_name"]), saved["config"])
    except Exception as error:
        raise ValueError(
            f"Keras {keras.__version__} cannot make the model. {IN_CODE} "
            f"Received: path={str(path)!r}. {error}"
        ) from error
    if model.weights or not model.built:
        load_weights(model, path)
    return model


def _made(kind, config):
    """Returns the model of a configuration, with all of its weights."""
    shape = config.get("build_input_shape")
    model = kind.from_config(config)
    if shape is not None and not model.weights:
        # Of several inputs, which Keras 3 builds no Sequential model for.
        outputs = keras.tree.map_shape_structure(keras.KerasTensor, shape)
        for layer in model.layers:
            outputs = layer(outputs)
    return model


def _read(path):
    """Returns the configuration of the model at `path`, or None if there is none."""
    if path.is_dir():
        metadata = path / "keras_metadata.pb"
        if not metadata.exists():
            return None
        # A protocol buffer of JSON texts. The first is that of the model itself.
        text = metadata.read_bytes().decode("utf-8", "replace")
        return json.JSONDecoder().raw_decode(text, text.index("{"))[0].get("model_config")
    if not path.exists():
        raise FileNotFoundError(f"There is no file or folder {str(path)!r}.")
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    if h5py.is_hdf5(path):
        with h5py.File(path) as file:
            return json.loads(file.attrs.get("model_config", "null"))
    return None


def _translated(saved):
    """Returns a part of a configuration of Keras 2 as Keras 3 reads it."""
    if isinstance(saved, list):
        return [_translated(each) for each in saved]
    if not isinstance(saved, dict):
        return saved
    if saved.get("class_name") == "__tuple__":
        return _translated(saved["items"])
    saved = {key: _translated(value) for key, value in saved.items()}
    config = saved.get("config")
    if "class_name" not in saved or not isinstance(config, dict):
        return saved
    kind = saved["class_name"]
    if kind in ("TFOpLambda", "SlicingOpLambda"):
        raise ValueError(
            "The model computes with TensorFlow between its layers, which Keras 3 does "
            f"not load. {IN_CODE} Received: layer={config['name']!r}"
        )
    for key, value in config.items():
        if isinstance(value, str) and value.startswith("Addons>"):
            config[key] = {"class_name": "function", "config": value, **_BY_NAME}
    if "dtype" in config:
        config["dtype"] = policy_name(config["dtype"])
    if not config.get("time_major", True):
        del config["time_major"]  # False is all that is left
    if kind == "BatchNormalization" and isinstance(config["axis"], list):
        (config["axis"],) = config["axis"]
    config.pop("input_length", None)  # of Embedding
    if kind != "InputLayer":  # a first layer, after an InputLayer that says it too
        config.pop("batch_input_shape", None)
    if "module" not in saved and hasattr(keras.layers, kind):
        saved.update(module="keras.layers", registered_name=None)
    if kind in MODELS:
        saved.update(module="keras", class_name=MODELS[kind], registered_name=None)
        saved.pop("build_config", None)
        if "input_layers" in config:
            _renumber(config)
    return saved


def _renumber(config):
    """Counts the calls of models inside of a functional model as Keras 3 does.

    In Keras 2 the first call of a model with inputs of its own was the making of it. And
    it wrote a single input or output in a list.
    """
    inner = {
        layer["name"]: layer["class_name"]
        for layer in config["layers"]
        if layer["class_name"] in MODELS.values()
        and layer["config"]["layers"][0]["class_name"] == "InputLayer"
    }

    def shifted(value, kinds):
        if isinstance(value, dict):
            return {key: shifted(each, kinds) for key, each in value.items()}
        if not isinstance(value, list):
            return value
        if len(value) >= 3 and isinstance(value[0], str) and inner.get(value[0]) in kinds:
            value = [value[0], value[1] - 1, *value[2:]]
        return [shifted(each, kinds) for each in value]

    for layer in config["layers"]:
        layer["inbound_nodes"] = shifted(layer["inbound_nodes"], ("Model", "Sequential"))
    for ends in ("input_layers", "output_layers"):
        # Where a model ends, Keras 3 does so itself, but for Sequential models.
        config[ends] = shifted(config[ends], ("Sequential",))
        if isinstance(config[ends], list) and len(config[ends]) == 1:
            (config[ends],) = config[ends]
