"""Three questions that need attention, each answered with and without it.

Real handwritten digits, and a question for each of the three mechanisms: which one is
alike, which one is the latest, which one stands in the clutter? Each is learned with the
layer made for it and with about as many weights without it, from three seeds. The first
model is then saved, loaded by a fresh process, served, and opened in the viewer.

    python examples/quickstart.py
"""

import argparse
import contextlib
import os
import pathlib
import subprocess
import sys
import time

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


@contextlib.contextmanager
def without_stderr():
    """Hides what TensorFlow logs while it is imported, whatever its log level."""
    stderr = os.dup(2)
    with open(os.devnull, "w") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)


with without_stderr():
    import keras
    from keras import layers

    import keras_sam
    from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="The quickstart of keras_sam.")
parser.add_argument("--quick", action="store_true", help="one seed, few examples")
parser.add_argument("--output", default="runs/quickstart", help="where to write")
options = parser.parse_args()
output = pathlib.Path(options.output)
output.mkdir(parents=True, exist_ok=True)
seeds = range(1 if options.quick else 3)
width = 64
COLORS = "red", "green", "blue", "gold"

# 1797 handwritten digits of 8 x 8 pixels. No digit of the test is trained on.

pixels, classes = load_digits(return_X_y=True)
pixels = (pixels / 16).astype("float32")
split = train_test_split(pixels, classes, test_size=0.3, stratify=classes, random_state=0)
known, new = (split[0], split[2]), (split[1], split[3])


# Self-attention. Eight digits: seven have a color, one has none and asks for the color of
# the digit that is alike. A token is the pixels of a digit and its color.


def alike(count, digits, seed):
    pixels, classes = digits
    rng = np.random.default_rng(seed)
    members = [np.flatnonzero(classes == number) for number in range(10)]
    tokens = np.zeros((count, 8, 64 + len(COLORS)), "float32")
    answers = np.zeros(count, "int32")
    for index, example in enumerate(tokens):
        numbers = rng.permutation(10)[:7]
        places = rng.permutation(8)
        for place, number in zip(places, [numbers[0], *numbers], strict=True):
            example[place, :64] = pixels[rng.choice(members[number])]
            color = rng.integers(len(COLORS))
            if place == places[1]:  # alike to the one that asks
                answers[index] = color
            if place != places[0]:
                example[place, 64 + color] = 1
    return tokens, answers


def find_alike(attention):
    inputs = keras.Input((8, 64 + len(COLORS)))
    x = layers.Dense(width, activation="relu")(inputs)
    x = layers.LayerNormalization()(layers.Dense(width)(x))
    if attention:
        mixed = keras_sam.SelfAttention(num_heads=2, name="compare")(x)
    else:
        mixed = layers.Dense(width)(layers.Dense(2 * width, activation="relu")(x))
    x = layers.LayerNormalization()(layers.Add()([x, mixed]))
    hidden = layers.Dense(2 * width, activation="relu")(x)
    x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(width)(hidden)]))
    x = layers.GlobalAveragePooling1D()(x)
    return keras.Model(inputs, layers.Dense(len(COLORS), activation="softmax")(x))


# Selective attention. Sixteen digits, each with the time when it was written: which one is
# the latest? A part counts more or less than the others; a mean takes all for equal.


def latest(count, digits, seed):
    pixels, classes = digits
    rng = np.random.default_rng(seed)
    chosen = rng.integers(len(pixels), size=(count, 16))
    times = rng.random((count, 16)).astype("float32")
    tokens = np.concatenate([pixels[chosen], times[..., None]], axis=-1)
    return tokens, classes[chosen[range(count), times.argmax(axis=1)]]


def find_latest(attention):
    inputs = keras.Input((16, 65))
    x = layers.Dense(width, activation="relu")(inputs)
    x = layers.Dense(width, activation="relu")(x)
    if attention:
        x = keras_sam.SelectiveAttention(units=width, name="choose")(x)
    else:
        x = layers.Dense(width, activation="relu")(x)
        x = layers.GlobalAveragePooling1D()(x)
    x = layers.Dense(width, activation="relu")(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


# Spatial attention. A digit somewhere among torn pieces of other digits: which one is it?
# After each residual block's last convolution a map weighs the places.


def cluttered(count, digits, seed):
    pixels, classes = digits
    rng = np.random.default_rng(seed)
    pictures = np.zeros((count, 24, 24, 1), "float32")
    chosen = rng.integers(len(pixels), size=count)
    for picture, index in zip(pictures, chosen, strict=True):
        top, left = rng.integers(24 - 8 + 1, size=2)
        for _ in range(20):
            piece = pixels[rng.integers(len(pixels))].reshape(8, 8, 1)
            height, breadth = rng.integers(3, 6, size=2)
            y, x = rng.integers(8 - height + 1), rng.integers(8 - breadth + 1)
            piece = piece[y : y + height, x : x + breadth]
            y, x = rng.integers(24 - height + 1), rng.integers(24 - breadth + 1)
            above_or_below = y + height <= top or y >= top + 8
            if above_or_below or x + breadth <= left or x >= left + 8:
                area = picture[y : y + height, x : x + breadth]
                np.maximum(area, piece, out=area)
        area = picture[top : top + 8, left : left + 8]
        np.maximum(area, pixels[index].reshape(8, 8, 1), out=area)
    return pictures, classes[chosen]


def convolve(x, filters, size=3, strides=1):
    x = layers.Conv2D(filters, size, strides=strides, padding="same", use_bias=False)(x)
    return layers.BatchNormalization(momentum=0.9)(x)


def find_in_clutter(attention):
    inputs = keras.Input((24, 24, 1))
    x = layers.ReLU()(convolve(inputs, 16, strides=2))
    for block in (1, 2):
        y = convolve(layers.ReLU()(convolve(x, 24)), 24)
        if attention:
            y = keras_sam.SpatialAttention(name=f"look_{block}")(y)
        x = layers.ReLU()(layers.Add()([convolve(x, 24, size=1), y]))
    x = layers.GlobalAveragePooling2D()(x)
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


# Training: every question with and without attention, from each seed.


def train(build, attention, data, epochs, seed, callbacks=()):
    keras.utils.set_random_seed(seed)
    model = build(attention)
    steps = epochs * -(-len(data[0]) // 64)
    rate = keras.optimizers.schedules.CosineDecay(
        3e-4, steps, warmup_target=3e-3, warmup_steps=steps // 10
    )
    model.compile(
        keras.optimizers.Adam(rate),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    model.fit(*data, batch_size=64, epochs=epochs, verbose=0, callbacks=list(callbacks))
    return model


questions = {
    # mechanism: (question, examples, model, training examples, epochs)
    "self-attention": ("which is alike?", alike, find_alike, 12000, 6),
    "selective attention": ("which is the latest?", latest, find_latest, 8000, 10),
    "spatial attention": ("which, in clutter?", cluttered, find_in_clutter, 3000, 8),
}


def describe(token):
    """A token in words: its digit is in the picture, here stands who it is."""
    color = COLORS[token[64:].argmax()] if token[64:].any() else "asks"
    nearest = abs(known[0] - token[:64]).sum(axis=1).argmin()
    return f"{known[1][nearest]} {color}"


results, kept = [], None
for mechanism, (question, examples, build, count, epochs) in questions.items():
    data = examples(count // 5 if options.quick else count, known, seed=1)
    test = examples(2000, new, seed=2)
    reached = {"with": [], "without": []}
    for seed in seeds:
        for which, accuracies in reached.items():
            callbacks = []
            if kept is None:  # TensorBoard sees the first training
                probe = test[0][:4]
                words = [[describe(token) for token in example] for example in probe]
                watch = AttentionTensorBoard(output, probe, tokens=words, max_examples=4)
                callbacks = [keras.callbacks.TensorBoard(output), watch]
            start = time.perf_counter()
            model = train(build, which == "with", data, epochs, seed, callbacks)
            kept = kept or model
            accuracies.append(model.evaluate(*test, verbose=0)[1])
            print(
                f"{mechanism}, seed {seed}, {which:7}: {accuracies[-1]:6.1%} right "
                f"({time.perf_counter() - start:.0f} s)",
                flush=True,
            )
    results.append((mechanism, question, reached))

# Saving, in `.keras` and as a SavedModel. A new process loads both; the SavedModel is asked
# for answers ("serve") and for the weights of its attention ("attention"), without Keras.

probe, model = alike(500, new, seed=3)[0], kept
expected = model.predict(probe, verbose=0)
model.save(output / "model.keras")
keras_sam.export_saved_model(model, output / "saved_model", verbose=False)
np.save(output / "probe.npy", probe)
SERVE = """
import sys
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
probe = np.load(folder + "/probe.npy")
served = tf.saved_model.load(folder + "/saved_model")
np.save(folder + "/served.npy", served.serve(probe))
np.savez(folder + "/attention.npz", **served.attention(probe))
assert "keras_sam" not in sys.modules  # TensorFlow is enough

import keras, keras_sam

reloaded = keras.saving.load_model(folder + "/model.keras")
np.save(folder + "/reloaded.npy", reloaded.predict(probe, verbose=0))
"""
served = subprocess.run(
    [sys.executable, "-c", SERVE, str(output)], stderr=subprocess.PIPE, text=True
)
if served.returncode:  # else there are the logs of TensorFlow alone
    sys.exit(served.stderr)
for name, what in {"reloaded": "model.keras", "served": "the SavedModel"}.items():
    difference = abs(np.load(output / f"{name}.npy") - expected).max()
    print(f"Largest difference of {what} in a new process: {difference:.1e}")
for path, weights in np.load(output / "attention.npz").items():
    print(f"Served attention of {path}: {weights.shape}")

# The result.


def summary(accuracies):
    mean, low, high = np.mean(accuracies), min(accuracies), max(accuracies)
    return f"{mean:.1%} ({low:.1%} to {high:.1%})"


print(f"\nShare of right answers, mean (least to most) of {len(seeds)} seeds:")
print(f"{'':21}{'':23}{'with':26}without")
for mechanism, question, reached in results:
    columns = "".join(f"{summary(each):26}" for each in reached.values())
    print(f"{mechanism:21}{question:23}{columns}".rstrip())

page = output / "attention.html"
words = [[describe(token) for token in example] for example in probe[:8]]
keras_sam.show(model, probe[:8], tokens=words, path=page)
print(f"\nSee what it looks at:     open {page} in a browser")
print(f"See how it came to that:  tensorboard --logdir {output}  (tab Attention)")
