"""Makes tests/data/addons with the real TensorFlow Addons: files and outputs of models.

    python tests/make_addons_data.py tests/data/addons

Needs Python 3.11 and `pip install -e ".[addons]"`. The files are what people have who
trained with it; the outputs are what their models computed.
"""

import os
import pathlib
import shutil
import sys
import tempfile
import warnings

import addons_cases
import numpy as np


def prepare():
    """Chooses Keras 2 for this process and returns it with TensorFlow Addons."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras.src.engine

    sys.modules["keras.src.engine"] = tf_keras.src.engine
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import tensorflow_addons
    return tf_keras, tensorflow_addons


def layer_outputs(keras, tfa):
    """Returns the outputs of all cases, end to end, for each dtype policy."""
    outputs = {}
    for case in addons_cases.CASES:
        keras.mixed_precision.set_global_policy(case.policy)
        layer = tfa.layers.MultiHeadAttention(**case.config())
        inputs = [keras.backend.cast(each, layer.compute_dtype) for each in case.inputs()]
        layer.build([each.shape for each in inputs])
        layer.set_weights(case.weights())
        made = layer(inputs, mask=case.mask())
        wide = "float64" if case.policy == "float64" else "float32"
        for each in made if case.return_attn_coef else [made]:
            outputs.setdefault(case.policy, []).append(np.ravel(each.numpy().astype(wide)))
    keras.mixed_precision.set_global_policy("float32")
    return {policy: np.concatenate(parts) for policy, parts in outputs.items()}


def functional(keras, tfa):
    """A model with a mask, weights as output, and activations of TensorFlow Addons."""
    query = keras.Input((3, 7), name="query")
    key = keras.Input((5, 11), name="key")
    mask = keras.Input((3, 5), name="mask")
    x = keras.layers.Dense(6, activation="Addons>sparsemax", name="sparse")(query)
    x, weights = tfa.layers.MultiHeadAttention(
        head_size=4,
        num_heads=2,
        dropout=0.1,
        return_attn_coef=True,
        kernel_regularizer="l2",
        name="attention",
    )([x, key], mask=mask)
    x = keras.layers.LayerNormalization(name="normalize")(x)
    x = keras.layers.Dense(2, activation=tfa.activations.mish, name="mish")(x)
    model = keras.Model([query, key, mask], [x, weights], name="functional")
    model.compile(
        tfa.optimizers.AdamW(weight_decay=1e-3, learning_rate=1e-3),
        loss=tfa.losses.SigmoidFocalCrossEntropy(),
    )
    return model


def shared(keras, tfa):
    """A model that calls one layer three times: on one tensor, with a constant mask."""
    inputs = keras.Input((3, 6), name="inputs")
    layer = tfa.layers.MultiHeadAttention(head_size=4, num_heads=2, name="attention")
    x = layer([inputs, inputs], mask=np.tri(3))
    x = layer([x, inputs, inputs])
    x = tfa.layers.Sparsemax(axis=1)(layer([x, x]))
    return keras.Model(inputs, tfa.layers.GELU()(x), name="shared")


def mixed(keras, tfa):
    """A model in mixed precision."""
    keras.mixed_precision.set_global_policy("mixed_float16")
    inputs = keras.Input((3, 6), name="inputs")
    x = tfa.layers.MultiHeadAttention(head_size=4, num_heads=2)([inputs, inputs])
    outputs = keras.layers.Activation("linear", dtype="float32")(x)
    keras.mixed_precision.set_global_policy("float32")
    return keras.Model(inputs, outputs, name="mixed")


def sequential(keras, tfa):
    """A Sequential model whose first layer takes two tensors."""
    attention = tfa.layers.MultiHeadAttention(head_size=4, num_heads=2)
    layers = [attention, keras.layers.BatchNormalization(), keras.layers.Dense(2)]
    model = keras.Sequential(layers, name="sequential")
    model([np.zeros((1, 3, 7), "float32"), np.zeros((1, 5, 11), "float32")])
    return model


def nested(keras, tfa):
    """A model that is called twice inside of another, and layers inside of wrappers."""

    def attending(name):
        inputs = keras.Input((3, 6))
        attention = tfa.layers.MultiHeadAttention(head_size=4, num_heads=2)
        return keras.Model(inputs, attention([inputs, inputs], mask=np.tri(3)), name=name)

    inputs = keras.Input((3, 6), name="inputs")
    inner = attending("inner")
    x = inner(inner(inputs))
    x = keras.layers.BatchNormalization()(keras.layers.Reshape((1, 3, 6))(x))
    x = keras.layers.TimeDistributed(attending("spread"))(x)
    recurrent = keras.layers.LSTM(2, activation="Addons>mish")
    x = keras.layers.Bidirectional(recurrent)(keras.layers.Reshape((3, 6))(x))
    return keras.Model(inputs, x, name="nested")


def unmapped(keras, tfa):
    """A model with a layer that keras_sam does not bring over."""
    inputs = keras.Input((4,))
    return keras.Model(inputs, tfa.layers.Maxout(2, name="the_maxout")(inputs))


def model_inputs(model_name):
    draw = np.random.default_rng(7).standard_normal
    if model_name in ("functional", "sequential"):
        inputs = [draw((2, 3, 7)), draw((2, 5, 11))]
        if model_name == "functional":
            inputs.append(np.tri(3, 5, 1) * np.ones((2, 1, 1)))
        return [each.astype("float32") for each in inputs]
    return [draw((2, 3, 6)).astype("float32")]


def main(folder, more=False):
    """Writes the files; with `more`, those that are too large to be kept as well."""
    folder = pathlib.Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    keras, tfa = prepare()
    expected = {f"layer/{key}": value for key, value in layer_outputs(keras, tfa).items()}
    for make in (functional, shared, mixed, sequential, nested):
        model = make(keras, tfa)
        # Kernels of one shape begin equal in TensorFlow Addons, which would hide a mix-up.
        draw = np.random.default_rng(3).uniform
        size = 0.3 if model.name == "nested" else 1  # so that no gate is all closed
        weights = [size * draw(0.1, 1, each.shape) for each in model.get_weights()]
        model.set_weights(weights)
        outputs = model(model_inputs(model.name), training=False)
        for index, each in enumerate(outputs if isinstance(outputs, list) else [outputs]):
            expected[f"{model.name}/{index}"] = each.numpy()
        model.save(folder / f"{model.name}.h5")
        if model.name == "functional":
            model.save(folder / "functional.keras")
            model.save_weights(folder / "functional_checkpoint", save_format="tf")
            (folder / "checkpoint").unlink()
        if model.name == "functional" and more:
            model.save_weights(folder / "functional.weights.h5")
        if model.name in ("functional", "nested"):
            saved = folder if more else pathlib.Path(tempfile.mkdtemp())
            model.save(saved / f"{model.name}_saved", save_format="tf")
        if model.name == "functional":
            metadata = saved / "functional_saved" / "keras_metadata.pb"
            shutil.copy(metadata, folder / "functional_metadata.pb")
        if model.name == "sequential":
            model.save_weights(folder / "sequential_weights.h5")
    unmapped(keras, tfa).save(folder / "unmapped.h5")
    np.savez_compressed(folder / "expected.npz", **expected)


if __name__ == "__main__":
    main(sys.argv[1], more="--more" in sys.argv)
