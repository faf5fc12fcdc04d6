"""The examples that a callback looks at: one batch, of arrays or of a dataset."""

import keras

from keras_sam import _validation as check

_EXPECTED = (
    "one batch of examples as the model takes it (an array, or a list or dictionary of "
    "arrays with the same number of examples), or a dataset of such batches"
)


def first_batch(inputs):
    """Returns the batch to look at, and how many examples it has; or raises.

    Tuples are read as `fit` reads the batches of a dataset: `(x,)`, `(x, y)` or
    `(x, y, sample_weight)`, of which `x` counts. Of a `tf.data.Dataset`, a
    `keras.utils.PyDataset`, a generator or any other iterable it is the first batch. A
    generator goes on behind that batch.
    """
    batch = inputs
    if not _is_batch(inputs):
        try:
            batch = inputs[0] if _is_indexed(inputs) else next(iter(inputs))
        except Exception as error:
            found = f"{inputs!r}, whose first batch cannot be had ({error!r})"
            raise ValueError(f"`inputs` must be {_EXPECTED}. Received: {found}") from error
        if isinstance(batch, list):  # as `fit` does
            batch = tuple(batch)
    if isinstance(batch, tuple):
        if not 1 <= len(batch) <= 3:
            raise check.invalid("inputs", f"{_EXPECTED}; several inputs in a list", inputs)
        batch = batch[0]
    return batch, _examples(batch, inputs)


def _is_batch(inputs):
    """Returns whether these are arrays, and no dataset or iterable of batches."""
    if isinstance(inputs, list | tuple | dict | str | bytes) or inputs is None:
        return True
    return hasattr(inputs, "shape") or not (
        hasattr(inputs, "__iter__") or _is_indexed(inputs)
    )


def _is_indexed(inputs):
    return isinstance(inputs, keras.utils.PyDataset)


def _examples(batch, inputs):
    """Returns the number of examples in a batch, or raises."""
    leaves = keras.tree.flatten(batch)
    shapes = [getattr(leaf, "shape", None) for leaf in leaves]
    sizes = {shape[0] if shape is not None and len(shape) else None for shape in shapes}
    symbolic = any(isinstance(leaf, keras.KerasTensor) for leaf in leaves)
    if symbolic or len(sizes) != 1 or not all(sizes):
        raise check.invalid("inputs", _EXPECTED, inputs)
    return int(sizes.pop())
