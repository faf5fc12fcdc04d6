"""A SavedModel that decodes."""

import keras
from keras import ops

from keras_sam import _validation as check


def write(decoder, filepath, length, rows=1, verbose=True):
    """Writes a SavedModel with the endpoints `start` and `decode`.

    `start(tokens)` takes the first tokens of all, of any number. `decode(tokens, ...,
    cache, index)` takes `rows` more. Both return a dictionary of the logits, under
    `"logits"`, and the tensors of the cache.

    Args:
        decoder: A `Decoder`.
        filepath: Where to write it, a folder.
        length: The number of positions that are decoded at most.
        rows: The number of tokens of a call of `decode`; None is any number.
        verbose: Whether to print the endpoints.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "`export_saved_model` needs the TensorFlow backend of Keras. "
            f"Received: keras.backend.backend()={keras.backend.backend()!r}"
        )
    import tensorflow as tf

    rows = check.positive_integer("rows", rows, optional=True)
    inputs = decoder.inputs

    def specs(count):
        flat = []
        for index, spec in enumerate(inputs.specs):
            shape = [None, *spec.shape[1:]]
            if inputs.is_as_long_as_tokens(index):
                shape[1] = count
            flat.append(tf.TensorSpec(shape, spec.dtype or "float32", inputs.names[index]))
        return flat

    def results(outputs, cache):
        if not isinstance(outputs, dict):
            outputs = {"logits": outputs}
        return {**outputs, **cache}

    def start(*flat):
        tokens = flat[inputs.at]
        cache = decoder.make_cache(ops.shape(tokens)[0], length)
        return results(*decoder.step(tokens, flat, cache, 0))

    def decode(*given):
        *flat, cache, index = given
        return results(*decoder.step(flat[inputs.at], flat, cache, index))

    cache = {
        name: tf.TensorSpec([None, *x.shape[1:]], x.dtype, name.replace("/", "_"))
        for name, x in decoder.make_cache(1, length).items()
    }
    index = tf.TensorSpec([], "int32", "index")
    archive = keras.export.ExportArchive()
    archive.track(decoder.model)
    archive.add_endpoint("start", start, specs(None))
    archive.add_endpoint("decode", decode, [*specs(rows), cache, index])
    archive.write_out(filepath, verbose=verbose)
