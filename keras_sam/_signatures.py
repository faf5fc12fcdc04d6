"""The inputs that a model takes, as far as it can tell them."""

import keras


def input_signature(model):
    """Returns the positional arguments of a model as a list of nests of `InputSpec`."""
    if isinstance(model, keras.Sequential):  # has no `input` before it is called
        return [_open_batch(model.inputs[0])]
    if getattr(model, "inputs", None):  # functional
        return [keras.tree.map_structure(_open_batch, model.input)]
    shape = model.get_build_config() or {}
    shape = shape.get("input_shape")
    if shape is None or not all(size is None or isinstance(size, int) for size in shape):
        raise ValueError(
            "`input_signature` must be given for a subclassed model that was not called "
            f"with exactly one tensor. Received: input_signature=None, model={model!r}"
        )
    return [keras.InputSpec(shape=(None, *shape[1:]), dtype=model.input_dtype)]


def _open_batch(tensor):
    return keras.InputSpec(
        shape=(None, *tensor.shape[1:]), dtype=tensor.dtype, name=tensor.name
    )
