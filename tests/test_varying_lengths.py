"""Lengths that change from call to call: few programs, the same results, little memory."""

import sys
import textwrap

import pytest
from fresh_process import run_python

pytestmark = pytest.mark.tensorflow

# For 80 lengths from 20 to 600 and batches of 1 to 8, however the layer is called.
MOST_PROGRAMS = 12

# How XLA's log says that it has compiled a program; the process counts these lines.
COUNTING = """
import os, sys
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "0"
os.environ["TF_CPP_VMODULE"] = "device_compilation_profiler=1"
log = open("log.txt", "w")
os.dup2(log.fileno(), 2)

import keras, numpy as np, tensorflow as tf
import keras_sam

def programs():
    with open("log.txt") as lines:
        return sum("times, compile time:" in line for line in lines)

@tf.function(jit_compile=True)
def compiled(x):
    return x + 1

for length in (2, 3, 5, 3):
    compiled(tf.ones(length))
assert programs() == 3, "the log has changed: nothing is counted"
"""

SHAPES = """
generator = np.random.default_rng(0)
lengths = generator.permutation(np.arange(20, 601))[:80]
WIDTH, VOCABULARY = 8, 50

def all_shapes():
    for length in lengths:
        assert programs() - 3 <= {most}, f"{{programs() - 3}} programs by now"
        yield generator.integers(1, 9), length

def features(batch, length):
    x = generator.normal(size=(batch, length, WIDTH)).astype("float32")
    return tf.constant(x), tf.constant(is_token(batch, length))

def is_token(batch, length):
    until = generator.integers(1, length + 1, (batch, 1))
    return np.arange(length) < until

def tokens(batch, length):
    numbers = generator.integers(1, VOCABULARY, (batch, length))
    return (numbers * is_token(batch, length)).astype("int32")

def layers(**arguments):
    \"\"\"One that is free to choose, and one that computes all rows at once.\"\"\"
    both = [keras_sam.SelfAttention(4, block_size=size) for size in ("auto", None)]
    for layer in both:
        layer.build((None, None, WIDTH))
    both[1].set_weights(both[0].get_weights())
    return both

def models():
    def make(attention):
        model = keras.Sequential([
            keras.Input((None,), dtype="int32"),
            keras.layers.Embedding(VOCABULARY, WIDTH, mask_zero=True),
            attention,
            keras.layers.GlobalAveragePooling1D(),
            keras.layers.Dense(3),
        ])
        model.compile(keras.optimizers.SGD(0.01), "mse")
        return model

    both = [make(layer) for layer in layers()]
    both[1].set_weights(both[0].get_weights())
    return both

def assert_close(actual, expected):
    \"\"\"To 2e-5 of the largest number; the exact gradient of some weights is zero.\"\"\"
    pairs = [
        [np.asarray(tensor) for tensor in pair]
        for pair in zip(tf.nest.flatten(actual), tf.nest.flatten(expected), strict=True)
    ]
    largest = max(np.abs(other).max() for _, other in pairs)
    for one, other in pairs:
        assert np.abs(one - other).max() <= 2e-5 * largest, (one, other)

def step(layer):
    weights = [variable.value for variable in layer.trainable_variables]

    def call(x, mask):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, mask=mask)
        return y, tape.gradient(y, [x, *weights], output_gradients=tf.cos(y))

    return call
"""

CALLS = {
    "eager": """
ours, plain = map(step, layers())
for shape in all_shapes():
    inputs = features(*shape)
    for actual, expected in zip(ours(*inputs), plain(*inputs)):
        assert_close(actual, expected)
""",
    "graph": """
sizes = [tf.TensorSpec((None, None, WIDTH)), tf.TensorSpec((None, None), "bool")]
ours, plain = (tf.function(step(layer), input_signature=sizes) for layer in layers())
for shape in all_shapes():
    inputs = features(*shape)
    for actual, expected in zip(ours(*inputs), plain(*inputs)):
        assert_close(actual, expected)
""",
    "predict": """
ours, plain = models()
for shape in all_shapes():
    x = tokens(*shape)
    assert_close(ours.predict_on_batch(x), plain.predict_on_batch(x))
""",
    "train": """
ours, plain = models()
for shape in all_shapes():
    x = tokens(*shape)
    y = generator.normal(size=(len(x), 3))
    assert_close(ours.train_on_batch(x, y), plain.train_on_batch(x, y))
assert_close(ours.get_weights(), plain.get_weights())
""",
    "saved": """
ours, plain = models()
ours.export("saved", verbose=False)
served = tf.saved_model.load("saved")
for shape in all_shapes():
    x = tokens(*shape)
    assert_close(served.serve(x), plain.predict_on_batch(x))
""",
}


@pytest.mark.parametrize("call", CALLS)
def test_new_lengths_compile_few_programs(call, tmp_path):
    script = COUNTING + SHAPES.format(most=MOST_PROGRAMS) + CALLS[call] + "print('ended')"
    try:
        assert "ended" in run_python("-c", script, cwd=tmp_path)
    except AssertionError as error:
        # What it said last is in the log.
        log = (tmp_path / "log.txt").read_text()
        raise AssertionError(log[-1000:]) from error


# 8 heads, so that the number of pairs in 32 bits is -2^31, just below 0, and 0.
LENGTHS = (16384, 23170, 32768)


@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_unknown_sizes_take_little_memory(tmp_path):
    """All weights take 8 to 32 GiB; the process ends itself before it takes them."""
    script = textwrap.dedent(
        f"""
        import os, resource, threading, time
        import numpy as np, tensorflow as tf
        import keras_sam

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        layer = keras_sam.SelfAttention(8)
        layer.build((None, None, 8))
        attend = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 8))])
        attend(tf.ones((1, 700, 8)))
        before = peak()

        def watch():
            while peak() - before < 3000:
                time.sleep(0.01)
            print("MiB", peak() - before, flush=True)
            os._exit(0)

        threading.Thread(target=watch, daemon=True).start()
        for length in {LENGTHS}:
            x = np.random.default_rng(0).normal(size=(1, length, 8)).astype("float32")
            y = attend(tf.constant(x)).numpy()
            assert np.isfinite(y).all()
            print("MiB", peak() - before, "at", length)
        """
    )
    printed = run_python("-c", script, cwd=tmp_path)
    found = [int(line.split()[1]) for line in printed.splitlines() if "MiB" in line]
    assert max(found) < 1200, printed
    assert len(found) == len(LENGTHS), printed
