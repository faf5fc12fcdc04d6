"""Weight files of Keras 2, in all the forms that it wrote."""

import os
import pathlib
import shutil
import tempfile
import zipfile

import h5py
import keras
import numpy as np

# Parts of a checkpoint that are not weights of the model.
_BESIDE = {
    "_CHECKPOINTABLE_OBJECT_GRAPH",
    "save_counter",
    "optimizer",
    ".OPTIMIZER_SLOT",
    "keras_api",
    "_random_generator",
}


def load_weights(model, path: str | os.PathLike):
    """Loads the weights of a Keras 2 model into the same model of Keras 3, or none.

    Takes whatever Keras 2 wrote, by its content: `.h5` files (weights or whole models),
    `.weights.h5` files of both layouts that went by this name, `.keras` files, TensorFlow
    checkpoints and SavedModel folders. `model.load_weights` of Keras 3 takes some of them,
    and leaves a model half loaded where a weight does not fit.

    Args:
        model: A built Keras 3 model with the same layers.
        path: The file, the SavedModel's folder, or the prefix of the checkpoint's files.

    Raises:
        ValueError: If the weights do not fit; `model` is as it was before.

    Example:

    >>> import keras, keras_sam.addons, tempfile, pathlib
    >>> x = keras.Input((3, 4))
    >>> attended = keras_sam.addons.MultiHeadAttention(head_size=2, num_heads=2)([x, x])
    >>> model = keras.Model(x, attended)
    >>> path = pathlib.Path(tempfile.mkdtemp()) / "attention.weights.h5"
    >>> model.save_weights(path)
    >>> keras_sam.addons.load_weights(model, path)
    """
    if not model.built or not model.weights:
        raise ValueError(
            "`model` must have weights to load into: call it once. "
            f"Received: model={model.name!r}, which has none"
        )
    path = pathlib.Path(path)
    load = _loader(path)
    # Copies: what NumPy gets from PyTorch is the memory of the variable itself.
    before = [np.array(keras.ops.convert_to_numpy(each)) for each in model.variables]
    try:
        load(model, path)
    except Exception as error:
        for variable, value in zip(model.variables, before, strict=True):
            variable.assign(value)
        raise ValueError(
            f"The weights do not load into the model {model.name!r}, which is as it was. "
            "Make the same layers with the same arguments, in the same order. "
            f"Received: path={str(path)!r}. {error}"
        ) from error


def _loader(path):
    """Returns the function that loads what is at `path`, or raises if nothing is."""
    if path.is_dir() or path.with_name(path.name + ".index").exists():
        return _load_checkpoint
    if path.exists():
        return _load_file
    raise FileNotFoundError(f"There is no file, folder or checkpoint {str(path)!r}.")


def _load_file(model, path):
    """Loads a file under the name by which Keras knows what it is."""
    with tempfile.TemporaryDirectory() as folder:
        named = pathlib.Path(folder) / "model.weights.h5"
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                archive.extract(named.name, folder)
        else:
            with h5py.File(path) as file:
                if "layer_names" in file.attrs or "model_weights" in file:
                    named = named.with_name("model.h5")
            shutil.copyfile(path, named)
        model.load_weights(named)


def _load_checkpoint(model, path):
    """Assigns what a TensorFlow checkpoint holds, which is named by attributes."""
    import tensorflow as tf

    # A SavedModel has its checkpoint inside.
    prefix = path / "variables" / "variables" if path.is_dir() else path
    reader = tf.train.load_checkpoint(str(prefix))
    missing = {id(variable): variable for variable in model.weights}
    for key in reader.get_variable_to_shape_map():
        attributes = key.split("/.ATTRIBUTES")[0].split("/")
        if not _BESIDE.isdisjoint(attributes):
            continue
        variable = _find(model, attributes)
        if variable is None:
            raise ValueError(f"The model has no variable for {key!r} of the checkpoint.")
        variable.assign(reader.get_tensor(key))
        missing.pop(id(variable), None)
    if missing:
        listed = ", ".join(variable.path for variable in missing.values())
        raise ValueError(f"The checkpoint has no values for {listed}.")


def _find(model, attributes):
    """Follows a checkpoint's path of attributes, from the model to a variable."""
    found = model
    try:
        for name in attributes:
            kind, _, index = name.rpartition("-")
            if kind == "layer_with_weights":
                found = [layer for layer in found.layers if layer.weights][int(index)]
            elif kind == "layer":
                found = found.layers[int(index)]
            elif name == "variables":  # Keras 3 counts seeds among them, too
                found = found.weights
            else:
                found = found[int(name)] if name.isdigit() else getattr(found, name)
    except (AttributeError, IndexError):
        return None
    return found if isinstance(found, keras.Variable) else None
