"""Fit, reload, export, recording and callback, once each: what `.ci/versions` runs."""

import os
import pathlib
import sys
import tempfile

import keras
import numpy as np

import keras_sam


def main():
    folder = pathlib.Path(tempfile.mkdtemp())
    inputs = keras.Input((None, 8))
    x = keras_sam.SelfAttention(2, score="additive", normalizer="entmax")(inputs)
    x = keras_sam.CrossAttention(2)(x, inputs)
    model = keras.Model(inputs, keras_sam.SelectiveAttention()(x))
    model.compile("adam", "mse")
    x = np.random.default_rng(0).normal(size=(16, 6, 8)).astype("float32")
    watch = keras_sam.callbacks.AttentionTensorBoard(str(folder / "logs"), x[:2])
    model.fit(x, x.mean(1), epochs=2, callbacks=[watch], verbose=0)
    assert list((folder / "logs").rglob("events.*"))
    expected = np.asarray(model(x))

    model.save(folder / "model.keras")
    loaded = keras.saving.load_model(folder / "model.keras")
    np.testing.assert_array_equal(np.asarray(loaded(x)), expected)

    with keras_sam.record_attention() as maps:
        model(x)
    assert len(maps) == 3

    import tensorflow as tf

    keras_sam.export_saved_model(model, str(folder / "served"), verbose=False)
    served = tf.saved_model.load(str(folder / "served"))
    np.testing.assert_allclose(served.serve(x).numpy(), expected, atol=1e-6)
    assert set(served.attention(x)) == set(maps)

    images = np.random.default_rng(0).normal(size=(4, 8, 8, 8)).astype("float32")
    gates = keras.Sequential([keras.Input((8, 8, 8)), keras_sam.CBAM(reduction=2)])
    gates.compile("adam", "mse")
    gates.fit(images, images, verbose=0)

    half = keras_sam.SelfAttention(2, dtype="mixed_bfloat16")
    assert np.isfinite(np.asarray(keras.ops.cast(half(x), "float32"))).all()

    scores = keras_sam.scores
    steps = [scores.QKNorm(), scores.Rotary(), "dot", scores.SoftCap(5.0), scores.T5Bias()]
    layer = keras_sam.SelfAttention(2, score=steps)
    again = keras_sam.SelfAttention.from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    again(x)
    print(
        f"passed with Python {sys.version.split()[0]}, TensorFlow {tf.__version__}, "
        f"Keras {keras.__version__}, NumPy {np.__version__}"
    )


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
