"""A long training with callbacks and changing lengths: does anything grow?

    python benchmarks/soak.py # 2,000 steps, some minutes on one core

After each epoch of 100 steps it prints the resident memory, threads, open files, programs
that XLA has compiled and graphs that Keras has traced. It fails where one grows after the
warm-up by more than `BOUNDS`.
"""

import argparse
import os
import pathlib
import sys
import tempfile
import threading

# How XLA's log says that it has compiled a program; this process counts these lines.
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
os.environ["TF_CPP_VMODULE"] = "device_compilation_profiler=1"
COMPILED = "times, compile time:"
# How much each number may grow from the end of the warm-up on.
BOUNDS = {"MiB": 64, "threads": 0, "files": 0, "programs": 0, "graphs": 0}
LENGTHS, BATCHES, VOCABULARY = (4, 65), (2, 9), 50

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--steps", type=int, default=2000)
parser.add_argument("--epoch", type=int, default=100, help="steps of an epoch")
parser.add_argument("--warm-up", type=int, default=3, help="epochs that may grow")
parser.add_argument("--memory", type=int, default=BOUNDS["MiB"], help="MiB it may grow by")


def batches(np):
    """Sentences of changing lengths; is the first word there a second time?"""
    generator = np.random.default_rng(0)
    while True:
        shape = generator.integers(*BATCHES), generator.integers(*LENGTHS)
        words = generator.integers(1, VOCABULARY, shape).astype("int32")
        until = generator.integers(2, shape[1] + 1, (shape[0], 1))
        words *= np.arange(shape[1]) < until
        again = (words[:, 1:] == words[:, :1]).any(axis=1, keepdims=True)
        yield words, again.astype("float32")


def counter(keras, tf):
    """A layer that passes on its input, and counts the graphs that it is traced for."""

    class Counter(keras.layers.Layer):
        graphs = 0

        def call(self, inputs):
            if not tf.executing_eagerly():
                Counter.graphs += 1
            return inputs

    layer = Counter()
    layer.supports_masking = True
    return layer


def make_model(keras, keras_sam, counts):
    words = keras.Input((None,), dtype="int32")
    x = counts(keras.layers.Embedding(VOCABULARY, 16, mask_zero=True)(words))
    y = keras_sam.SelfAttention(num_heads=2, dropout=0.1)(x)
    y = keras_sam.CrossAttention(num_heads=2, score="additive", normalizer="entmax")(y, x)
    y = keras_sam.SelectiveAttention(num_heads=2, relation="self")(y)
    model = keras.Model(words, keras.layers.Dense(1)(y))
    model.compile("adam", "mse")
    return model


def numbers(counts, log):
    """What must not grow, by name."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return {
        "MiB": round(pages * os.sysconf("SC_PAGE_SIZE") / 2**20),
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
        "programs": log.read_text().count(COMPILED),
        "graphs": counts.graphs,
    }


def grown(first, last, bounds):
    """Returns what has grown beyond its bound, by name."""
    growth = {name: last[name] - first[name] for name in bounds}
    return {name: more for name, more in growth.items() if more > bounds[name]}


def main():
    options = parser.parse_args()
    folder = pathlib.Path(tempfile.mkdtemp())
    log = folder / "log.txt"
    kept = os.dup(2)
    os.dup2(os.open(log, os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)

    import keras
    import numpy as np
    import tensorflow as tf

    import keras_sam

    compiled = tf.function(lambda x: x + 1, jit_compile=True)
    for length in (2, 3, 5, 3):
        compiled(tf.ones(length))
    if log.read_text().count(COMPILED) != 3:
        raise RuntimeError("the log of this TensorFlow says nothing of compiled programs")
    counts = counter(keras, tf)
    model = make_model(keras, keras_sam, counts)
    open_shape = tf.TensorSpec((None, None), tf.int32), tf.TensorSpec((None, 1))
    data = tf.data.Dataset.from_generator(lambda: batches(np), output_signature=open_shape)
    rows = []

    def measure(epoch, logs):
        rows.append(numbers(counts, log))
        print((epoch + 1) * options.epoch, *rows[-1].values(), sep="\t", flush=True)

    watch = keras_sam.callbacks.AttentionTensorBoard(
        folder / "logs", next(batches(np))[0], update_freq=options.epoch // 2
    )
    callbacks = [
        keras.callbacks.TensorBoard(folder / "logs"),
        watch,
        keras.callbacks.LambdaCallback(on_epoch_end=measure),
    ]
    print("steps", *BOUNDS, sep="\t")
    epochs = options.steps // options.epoch
    steps = {"epochs": epochs, "steps_per_epoch": options.epoch}
    try:
        model.fit(data, **steps, verbose=0, callbacks=callbacks)
    finally:
        os.dup2(kept, 2)
    bounds = {**BOUNDS, "MiB": options.memory}
    more = grown(rows[options.warm_up - 1], rows[-1], bounds)
    print(f"grown beyond the bounds {bounds}: {more or 'nothing'}")
    alive = [t.name for t in threading.enumerate()]
    print(f"{len(alive)} Python threads at the end: {', '.join(alive)}")
    sys.exit(bool(more))


if __name__ == "__main__":
    main()
