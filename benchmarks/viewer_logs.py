"""Trains the small models that the pictures and tests of the viewer show.

Five runs, each a few minutes on two cores, all from data that is on the machine: a causal
language model of Python's standard library (4 layers of 4 heads, 512 tokens), a translator
of number words with softmax and with entmax, digits over patches, and CBAM's gates.

    python benchmarks/viewer_logs.py --output runs/viewer [--quick] [language digits ...]
"""

import argparse
import inspect
import pathlib
import queue
import re

import keras
import numpy as np
from keras import layers

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard


class Words(layers.Layer):
    """Embeds tokens and adds a learned vector for their positions."""

    def __init__(self, vocabulary, width, mask_zero=False, **kwargs):
        super().__init__(**kwargs)
        self.token = layers.Embedding(vocabulary, width, mask_zero=mask_zero)

    def build(self, shape):
        self.token.build(shape)
        self.position = self.add_weight(
            shape=(shape[1], self.token.output_dim), initializer="random_normal"
        )

    def call(self, ids):
        return self.token(ids) + self.position

    def compute_mask(self, ids, mask=None):
        return self.token.compute_mask(ids)


def block(x, attention, width):
    """A transformer block with the normalization first."""
    x = layers.Add()([x, attention(layers.LayerNormalization()(x))])
    hidden = layers.Dense(4 * width, activation="gelu")(layers.LayerNormalization()(x))
    return layers.Add()([x, layers.Dense(width)(hidden)])


def train(model, batches, steps, write):
    """Trains on `batches` and calls `write(model, step, loss)` at the chosen steps."""
    recent = []
    for step in range(max(steps) + 1):
        if step in steps:
            write(model, step, float(np.mean(recent)) if recent else None)
            recent = []
        x, y = next(batches)
        recent.append(float(model.train_on_batch(x, y)))


# A language model of the standard library: tokens are words, signs and line breaks with
# their indentation.

MODULES = "queue threading argparse ast asyncio.base_events bdb calendar cmd codecs configparser copy csv dataclasses datetime difflib dis doctest enum fractions functools gettext heapq inspect ipaddress json.decoder logging mailbox mimetypes netrc optparse os pathlib pdb pickle pickletools platform plistlib pprint profile pydoc random re sched selectors shelve shlex shutil smtplib socket statistics string subprocess tarfile tempfile textwrap timeit tokenize trace traceback types typing unittest.case unittest.mock urllib.parse urllib.request uuid warnings weakref zipfile"  # noqa: E501


def split(text):
    return re.findall(r"\n *|[A-Za-z_]+|\d+|[^\sA-Za-z_\d]", text)


def source_tokens():
    import importlib

    for name in MODULES.split():
        try:
            yield split(inspect.getsource(importlib.import_module(name)))
        except (ImportError, OSError):
            continue


def language(make_writer, quick):
    length, width, heads = (64, 32, 2) if quick else (512, 128, 4)
    depth = 2 if quick else 4
    steps = [0, 5, 10] if quick else [0, 10, 20, 40, 70, 100, 150, 200, 300, 400, 550, 700]
    texts = list(source_tokens())
    words, counts = np.unique(np.concatenate(texts), return_counts=True)
    vocabulary = ["<other>", *words[np.argsort(-counts)][:4000]]
    ids = {word: index for index, word in enumerate(vocabulary)}
    stream = np.array([ids.get(token, 0) for text in texts for token in text])
    shown = split(inspect.getsource(queue.Queue.put))
    shown = (shown + split(inspect.getsource(queue.Queue.get)))[:length]
    shown_ids = np.array([[ids.get(token, 0) for token in shown]])

    def batches(rng, size=4):
        while True:
            starts = rng.integers(len(stream) - length - 1, size=size)
            x = np.stack([stream[start : start + length + 1] for start in starts])
            yield x[:, :-1], x[:, 1:]

    inputs = keras.Input((length,), dtype="int32")
    x = Words(len(vocabulary), width)(inputs)
    for index in range(depth):
        attention = keras_sam.SelfAttention(heads, causal=True, name=f"block_{index}")
        x = block(x, attention, width)
    outputs = layers.Dense(len(vocabulary))(layers.LayerNormalization()(x))
    model = keras.Model(inputs, outputs)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(2e-3, clipnorm=1.0), loss)
    shown_ids = np.pad(shown_ids, ((0, 0), (0, length - shown_ids.shape[1])))
    write = make_writer("language", shown_ids, [shown])
    train(model, batches(np.random.default_rng(0)), steps, write)


# Number words from English into German, as in examples/translate_numbers.py.


def translate(make_writer, quick, normalizer="softmax"):
    from num2words import num2words

    limit, width = (300, 32) if quick else (3000, 64)
    steps = [0, 5, 10] if quick else [0, 25, 50, 75, 100, 150, 200, 250, 300, 400, 500, 600]
    english = [re.findall(r"\w+", num2words(number)) for number in range(limit)]
    german = [list(num2words(number, lang="de")) for number in range(limit)]
    word_ids = {w: n for n, w in enumerate(sorted({w for e in english for w in e}), 2)}
    letter_ids = {c: n for n, c in enumerate(sorted({c for g in german for c in g}), 2)}
    pad = keras.utils.pad_sequences
    sources = pad([[word_ids[w] for w in e] for e in english], padding="post")
    targets = pad([[letter_ids[c] for c in g] + [1] for g in german], padding="post")
    written = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=1)

    source = keras.Input(sources.shape[1:], dtype="int32", name="source")
    meanings = Words(len(word_ids) + 2, width, mask_zero=True)(source)
    x = block(meanings, keras_sam.SelfAttention(4, name="read"), width)
    target = keras.Input(targets.shape[1:], dtype="int32", name="written")
    y = Words(len(letter_ids) + 2, width, mask_zero=True)(target)
    y = block(y, keras_sam.SelfAttention(4, causal=True, name="write"), width)
    align = keras_sam.CrossAttention(1, normalizer=normalizer, name="align")
    y = block(y, lambda z: align(z, value=meanings, key=x), width)
    logits = layers.Dense(len(letter_ids) + 2)(layers.LayerNormalization()(y))
    model = keras.Model([source, target], logits)
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=0)
    model.compile(keras.optimizers.Adam(3e-3, clipnorm=1.0), loss)

    def batches(rng, size=64):
        while True:
            chosen = rng.integers(limit, size=size)
            yield [sources[chosen], written[chosen]], targets[chosen]

    shown = [23, 47, 286] if quick else [23, 586, 2747]
    words = [english[number] for number in shown]
    letters = [["<start>", *german[number]] for number in shown]
    tokens = {"read": words, "write": letters, "align": {"query": letters, "key": words}}
    name = f"translate {normalizer}"
    write = make_writer(name, [sources[shown], written[shown]], tokens)
    train(model, batches(np.random.default_rng(0)), steps, write)


# Digits over patches, as in examples/quickstart.py.


def digits(make_writer, quick):
    from sklearn.datasets import load_digits

    steps = [0, 10, 20] if quick else [0, 20, 40, 80, 120, 200, 300, 450, 600]
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    gated = keras_sam.SpatialAttention(kernel_size=3, name="gate")
    x = layers.Add()([x, gated(layers.Conv2D(16, 3, padding="same")(x))])
    x = layers.Conv2D(32, kernel_size=2, strides=2)(x)
    spread = keras.initializers.RandomNormal(stddev=0.3)
    x = layers.EinsumDense(
        "bhwc,cd->bhwd", (4, 4, 32), bias_axes="hwd", bias_initializer=spread
    )(x)
    for index in (1, 2):
        x = block(x, keras_sam.SelfAttention(num_heads=4, name=f"mix_{index}"), 32)
    pool = keras_sam.SelectiveAttention(num_heads=2, name="pool")
    x = pool(layers.LayerNormalization()(x))
    model = keras.Model(inputs, layers.Dense(10, activation="softmax")(x))
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")

    def batches(rng, size=32):
        while True:
            chosen = rng.integers(300, len(images), size=size)
            yield images[chosen], labels[chosen]

    shown = [2, 13, 25, 38]
    write = make_writer("digits", images[shown], None)
    train(model, batches(np.random.default_rng(0)), steps, write)


# CBAM's gates: a digit among torn pieces of others, as in examples/locate_digit.py.


def clutter(count, images, rng, side=32):
    """Returns pictures with one whole digit each, and which digit it is."""

    def enlarged(image, size):
        index = np.arange(size) * len(image) // size
        return image[np.ix_(index, index)]

    pictures = 0.1 * rng.random((count, side, side)).astype("float32")
    chosen = rng.integers(len(images), size=count)
    for picture, index in zip(pictures, chosen, strict=True):
        for _ in range(6):
            piece = enlarged(images[rng.integers(len(images))], 14)[:5, 2:9]
            y, x = rng.integers(side - 5), rng.integers(side - 7)
            picture[y : y + 5, x : x + 7] = piece
        size = rng.integers(12, 19)
        top, left = rng.integers(side - size + 1, size=2)
        area = picture[top : top + size, left : left + size]
        np.maximum(area, enlarged(images[index], size), out=area)
    return pictures[..., None], chosen


def gates(make_writer, quick):
    from sklearn.datasets import load_digits

    steps = [0, 5, 10] if quick else [0, 25, 50, 100, 200, 300, 450, 600]
    images, labels = load_digits(return_X_y=True)
    images = (images.reshape(-1, 8, 8) / 16).astype("float32")
    pictures, chosen = clutter(400 if quick else 4000, images, np.random.default_rng(1))
    labels = labels[chosen]
    x = inputs = keras.Input((32, 32, 1))
    for index, channels in ((1, 16), (2, 32)):
        x = layers.Conv2D(channels, 3, strides=index, padding="same", activation="relu")(x)
        y = layers.Conv2D(channels, 3, padding="same", activation="relu")(x)
        y = layers.Conv2D(channels, 3, padding="same")(y)
        y = keras_sam.layers.CBAM(reduction=4, name=f"cbam_{index}")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    outputs = layers.Dense(10, activation="softmax")(layers.GlobalAveragePooling2D()(x))
    model = keras.Model(inputs, outputs)
    model.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy")

    def batches(rng, size=32):
        while True:
            rows = rng.integers(8, len(pictures), size=size)
            yield pictures[rows], labels[rows]

    write = make_writer("gates", pictures[:3], None)
    train(model, batches(np.random.default_rng(0)), steps, write)


RUNS = {
    "language": language,
    "softmax": translate,
    "entmax": lambda *arguments: translate(*arguments, normalizer="entmax"),
    "digits": digits,
    "gates": gates,
}


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("runs", nargs="*", default=list(RUNS), help=", ".join(RUNS))
    parser.add_argument("--output", default="runs/viewer", help="where to write")
    parser.add_argument("--quick", action="store_true", help="small and hardly trained")
    options = parser.parse_args()
    output = pathlib.Path(options.output)
    for name in options.runs:
        keras.utils.set_random_seed(0)
        RUNS[name](lambda *arguments: writer(output, *arguments), options.quick)


def writer(output, name, inputs, tokens):
    """Returns a function that logs a step, with the callback that people use."""
    watch = AttentionTensorBoard(
        output / name, inputs, tokens, max_examples=4, write_images=False
    )

    def write(model, step, loss):
        if watch.model is not model:
            watch.set_model(model)
        watch.on_epoch_end(step, {} if loss is None else {"loss": loss})
        print(f"{name}: step {step}, loss {loss}", flush=True)

    return write


if __name__ == "__main__":
    main()
