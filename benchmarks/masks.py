"""How much time do masks save that know which tiles are empty?

Times a training step (forward pass and gradients of inputs and weights) of SelfAttention
with a mask of `keras_sam.masks`, against `keras.layers.MultiHeadAttention` with the same
mask as a tensor, and against our own layer without any mask. All take turns in one process.

    python benchmarks/masks.py                      # all cases: some minutes
    python benchmarks/masks.py --case segments      # one of them
    python benchmarks/masks.py --alone              # without Keras's layer
"""

import argparse
import os

import turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WIDTH, HEADS = 512, 8
# What we want: so many times the speed of a dense mask through Keras.
TARGETS = {"local": 5.0, "segments": 4.0, "prefix": 1.8}


def masks(length):
    """By case, a mask and the segments of the call, or None."""
    import numpy as np

    from keras_sam import masks

    segments = np.repeat(np.arange(8), -(-length // 8))[None, :length].astype("int32")
    return {
        "causal": (masks.Causal(), None),
        "causal_by_table": (masks.Causal("end"), None),
        "window": (masks.Causal() & masks.Window(256), None),
        "local": (masks.Window(256) | masks.Global(16), None),
        "segments": (masks.Segments(), segments),
        "prefix": (masks.Prefix(512), None),
    }


def training(layer, x, **call):
    """A training step of a built layer, as a function without arguments."""
    import tensorflow as tf

    @tf.function
    def step(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, **call)
        weights = [variable.value for variable in layer.trainable_variables]
        return tape.gradient(y, [x, *weights], x)

    return lambda: [gradient.numpy() for gradient in step(x)]


def ours(x, mask, segments):
    import tensorflow as tf

    import keras_sam

    layer = keras_sam.SelfAttention(HEADS, mask=mask)
    call = {} if segments is None else {"segment_ids": tf.constant(segments)}
    layer.build(x.shape)
    return training(layer, x, **call)


def dense(x, mask, segments):
    import keras
    import tensorflow as tf

    layer = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
    layer.build(x.shape, x.shape)
    allowed = mask.as_array(x.shape[1], segment_ids=segments)
    return training(layer, x, value=x, attention_mask=tf.constant(allowed))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=masks(1), action="append", help="only this one")
    parser.add_argument("-T", "--length", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="without Keras's layer")
    options = parser.parse_args()
    import keras

    x = keras.random.normal((1, options.length, WIDTH), seed=0)
    table = masks(options.length)
    for name in options.case or table:
        runs = {"all pairs": ours(x, None, None), "ours": ours(x, *table[name])}
        if not options.alone:
            runs["keras"] = dense(x, *table[name])
        times = turns.medians(runs, options.rounds)
        share = table[name][0].as_array(options.length, segment_ids=table[name][1]).mean()
        line = f"{name:16} {share:5.1%} of the pairs "
        line += "".join(f"{who:>10} {ms:7.0f} ms" for who, ms in times.items())
        if "keras" in times:
            line += f"   {times['keras'] / times['ours']:5.2f} x"
            line += f" (target {TARGETS[name]})" if name in TARGETS else ""
        print(line, flush=True)


if __name__ == "__main__":
    main()
