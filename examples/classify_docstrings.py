"""Which package of the standard library does this docstring sentence come from?

Real text that every Python has: the docstrings of eight packages, cut into sentences. A
small network makes one vector of the words of a sentence: their mean, their mean after
self-attention, or the sum that selective attention weighs. Then the last two say which
words they looked at.

    python examples/classify_docstrings.py
"""

import argparse
import ast
import os
import pathlib
import re

import keras
import numpy as np
from keras import layers

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="Classify docstrings with attention.")
parser.add_argument("--quick", action="store_true", help="one seed and few epochs")
parser.add_argument("--output", default="runs/classify_docstrings", help="where to write")
parser.add_argument("--seeds", type=int, help="how many times to train each network")
options = parser.parse_args()
seeds = options.seeds or (1 if options.quick else 3)
epochs = 3 if options.quick else 10
packages = ["asyncio", "decimal", "email", "http"]
packages += ["importlib", "logging", "unittest", "xml"]
longest, vocabulary, width = 40, 4000, 32  # words in a sentence, words known, vector size

# The data: sentences of at least four words. Nothing is imported, only parsed.

library = pathlib.Path(os.__file__).parent
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def docstrings(package):
    """Yields the docstrings in a package's source, in a fixed order."""
    # decimal.py hands over to C; its twin in Python has the text.
    path = library / ("_pydecimal.py" if package == "decimal" else package)
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        if file.parent.name in ("test", "tests"):  # tests of the package itself
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            if isinstance(node, DOCUMENTED):
                yield ast.get_docstring(node) or ""


def sentences(docstring):
    """Yields the sentences of a docstring as lists of words."""
    for sentence in re.split(r"[.!?:]\s|\n\s*\n|>>>", docstring):
        words = re.findall(r"[a-z_]{2,}", sentence.lower())
        if len(words) >= 4:
            yield words[:longest]


def split():
    """Splits whole docstrings, not sentences, into two lists of (words, label)."""
    rng = np.random.default_rng(0)
    train, test = [], []
    for label, package in enumerate(packages):
        for docstring in docstrings(package):
            part = test if rng.random() < 0.25 else train
            part += [(words, label) for words in sentences(docstring)]
    return train, test


def bags(examples, index):
    """Returns which words each sentence has, as rows of length one."""
    rows = np.zeros((len(examples), len(index)), "float32")
    for row, (words, _) in zip(rows, examples, strict=True):
        row[[index[word] for word in words]] = 1
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def without_copies(test, train):
    """Drops test sentences that a training sentence nearly repeats.

    Docstrings are copied and adapted, so that a new docstring is not always new text.
    """
    known = {word for words, _ in train + test for word in words}
    index = {word: position for position, word in enumerate(sorted(known))}
    likeness = bags(test, index) @ bags(train, index).T
    return [test[row] for row in np.flatnonzero(likeness.max(axis=1) < 0.8)]


train, test = split()
copies, test = len(test), without_copies(test, train)
copies -= len(test)
texts = [" ".join(words) for words, _ in train], [" ".join(words) for words, _ in test]
labels = [np.array([label for _, label in part]) for part in (train, test)]
print(f"{len(train)} sentences to learn from, {len(test)} of other docstrings to test on.")
print(f"({copies} more nearly repeat a training sentence and are left out.)")

to_ids = layers.TextVectorization(vocabulary, output_sequence_length=longest)
to_ids.adapt(texts[0])  # id 0 is padding, 1 any other word
ids = [np.array(to_ids(part)) for part in texts]


# The networks differ only in how they make one vector of the words.


def build(*pooling):
    return keras.Sequential(
        [
            keras.Input((longest,), dtype="int64"),
            layers.Embedding(vocabulary, width, mask_zero=True),
            layers.Dropout(0.3),
            *pooling,
            layers.Dropout(0.3),
            layers.Dense(len(packages), activation="softmax"),
        ]
    )


def mean():
    return build(layers.GlobalAveragePooling1D())


def self_attention():
    attend = keras_sam.SelfAttention(num_heads=2, name="attend")
    return build(attend, layers.GlobalAveragePooling1D())


def selective_attention():
    # With dropout no word can count on being the only one that is looked at.
    return build(keras_sam.SelectiveAttention(dropout=0.3, name="attend"))


networks = {
    "mean of the words": mean,
    "self-attention, then mean": self_attention,
    "selective attention": selective_attention,
}

# Training. What the last models attend to goes to TensorBoard, word by word.

probes = [np.flatnonzero(labels[1] == label)[0] for label in range(len(packages))]
accuracies = {name: [] for name in networks}
attending = {}
for name, make in networks.items():
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = make()
        model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
        callbacks = []
        if make is not mean and seed == seeds - 1:
            attending[name] = model
            folder = pathlib.Path(options.output, make.__name__)
            watch = AttentionTensorBoard(
                folder,
                ids[1][probes],
                tokens=[test[probe][0] for probe in probes],
                max_examples=len(probes),
            )
            callbacks = [keras.callbacks.TensorBoard(folder), watch]
        print(f"\n{name}, seed {seed}:")
        model.fit(ids[0], labels[0], batch_size=32, epochs=epochs, callbacks=callbacks)
        accuracies[name].append(model.evaluate(ids[1], labels[1], verbose=0)[1])

# What they looked at: the weight of a word, where 1 is what each word of its sentence would
# have if all had the same. With self-attention, it is what all words give to it.

valid = ids[1] != 0
known = to_ids.get_vocabulary()


def weights_of_words(model):
    with keras_sam.record_attention() as maps:
        model(ids[1], training=False)
    (weights,) = map(np.array, maps.values())
    if weights.ndim == 4:  # (B, H, T, T)
        return weights.mean(axis=1).sum(axis=1)
    return weights.mean(axis=1) * valid.sum(axis=1, keepdims=True)  # of (B, H, T)


for name, model in attending.items():
    print(f"\n{name}: the words of the largest weight, in how many times the average:")
    weights = weights_of_words(model)
    for label, package in enumerate(packages):
        found = {}
        chosen = valid & (labels[1] == label)[:, None]
        for word, weight in zip(ids[1][chosen], weights[chosen], strict=True):
            found.setdefault(known[word], []).append(weight)
        means = {word: np.mean(each) for word, each in found.items() if len(each) >= 3}
        best = sorted(means, key=means.get, reverse=True)[:6]
        print(f"{package:>10}: " + ", ".join(f"{word} {means[word]:.1f}" for word in best))

print("\nAccuracy on the test sentences, by seed:")
share = np.bincount(labels[1]).max() / len(labels[1])
print(f"{'always the most frequent package':>33}: {share:.1%}")
for name, each in accuracies.items():
    by_seed = ", ".join(f"{accuracy:.1%}" for accuracy in each)
    print(f"{name:>33}: {np.mean(each):.1%} ({by_seed})")
print(f"\nSee the attention: tensorboard --logdir {options.output}")
