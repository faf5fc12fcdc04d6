"""Which package of the standard library is this whole docstring from?

Hierarchical attention (Yang et al., 2016): `SelectiveAttention` weighs the words of each
sentence, which become one vector, and then the sentences of the document. It is two lines,
and the padding of both goes its way by itself. The other network takes the mean of all
words. Real text that every Python has: docstrings of two sentences or more.

    python examples/classify_documents.py
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

parser = argparse.ArgumentParser(description="Classify documents with attention.")
parser.add_argument("--quick", action="store_true", help="one seed and few epochs")
parser.add_argument("--output", default="runs/classify_documents", help="where to write")
parser.add_argument("--seeds", type=int, help="how many times to train each network")
options = parser.parse_args()
seeds = options.seeds or (1 if options.quick else 3)
epochs = 8 if options.quick else 40
packages = ["asyncio", "decimal", "email", "http"]
packages += ["importlib", "logging", "unittest", "xml"]
most, longest = 12, 24  # sentences in a document, words in a sentence
vocabulary, width = 4000, 32  # words known, vector size

# The data: documents, as lists of sentences, as lists of words. Nothing is imported.

library = pathlib.Path(os.__file__).parent
DOCUMENTED = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def documents(package):
    """Yields the docstrings in a package's source, in a fixed order and each but once."""
    # decimal.py hands over to C; its twin in Python has the text.
    path = library / ("_pydecimal.py" if package == "decimal" else package)
    seen = set()
    for file in [path] if path.is_file() else sorted(path.rglob("*.py")):
        if file.parent.name in ("test", "tests"):  # tests of the package itself
            continue
        for node in ast.walk(ast.parse(file.read_text("utf-8"))):
            text = (isinstance(node, DOCUMENTED) and ast.get_docstring(node)) or ""
            cut = re.split(r"[.!?:]\s|\n\s*\n|>>>", text.lower())
            sentences = [re.findall(r"[a-z_]{2,}", sentence) for sentence in cut]
            sentences = [words[:longest] for words in sentences if len(words) >= 2]
            if len(sentences) >= 2 and text not in seen:
                seen.add(text)
                yield sentences[:most]


rng = np.random.default_rng(0)
train, test = [], []
for label, package in enumerate(packages):
    for document in documents(package):
        (test if rng.random() < 0.3 else train).append((document, label))
print(f"{len(train)} documents to learn from, {len(test)} to test on.")

to_ids = layers.TextVectorization(vocabulary, output_sequence_length=longest)
to_ids.adapt([" ".join(words) for document, _ in train for words in document])


def arrays(part):
    """Ids of words, `(documents, most, longest)`, where 0 is padding, and labels."""
    filled = [document + [[]] * (most - len(document)) for document, _ in part]
    flat = [" ".join(words) for document in filled for words in document]
    ids = np.array(to_ids(flat)).reshape(len(part), most, longest)
    return ids, np.array([label for _, label in part])


train_x, train_y = arrays(train)
test_x, test_y = arrays(test)

# The networks differ only in how they make one vector of the words.


def embed(words):
    x = layers.Embedding(vocabulary, width, mask_zero=True)(words)
    return layers.Dropout(0.5)(x)


def mean(words):
    return layers.GlobalAveragePooling1D()(embed(layers.Reshape((-1,))(words)))


def attention(words):
    of_words = keras_sam.SelectiveAttention(dropout=0.3, name="words")
    x = layers.TimeDistributed(of_words)(embed(words))
    return keras_sam.SelectiveAttention(dropout=0.3, name="sentences")(x)


def build(pool):
    words = keras.Input((most, longest), dtype="int64")
    x = layers.Dropout(0.3)(pool(words))
    return keras.Model(words, layers.Dense(len(packages), activation="softmax")(x))


networks = {"without attention": mean, "hierarchical attention": attention}
probes = [np.flatnonzero(test_y == label)[0] for label in range(len(packages))]
starts = [[" ".join(words[:6]) for words in test[probe][0]] for probe in probes]
accuracies = {name: [] for name in networks}
for name, pool in networks.items():
    for seed in range(seeds):
        keras.utils.set_random_seed(seed)
        model = build(pool)
        model.compile(
            keras.optimizers.Adam(0.003),
            "sparse_categorical_crossentropy",
            metrics=["accuracy"],
        )
        callbacks = [keras.callbacks.TensorBoard(options.output)]
        if pool is attention and seed == seeds - 1:
            tokens = {"sentences": starts}
            callbacks.append(
                AttentionTensorBoard(options.output, test_x[probes], tokens=tokens)
            )
        print(f"\n{name}, seed {seed}:")
        model.fit(train_x, train_y, 32, epochs, callbacks=callbacks)
        accuracies[name].append(model.evaluate(test_x, test_y, verbose=0)[1])

# What the last model looked at: the sentence of the largest weight, and its word.

with keras_sam.record_attention() as maps:
    model(test_x[probes], training=False)
weights = {path: np.array(x)[:, 0] for path, x in maps.items()}
of_sentences = weights.pop("sentences")
of_words = np.stack([*weights.values()], axis=1)  # a call of the layer for each sentence
for row, probe in enumerate(probes):
    document = test[probe][0]
    sentence = of_sentences[row].argmax()
    words = document[sentence]
    word = words[of_words[row, sentence, : len(words)].argmax()]
    share = of_sentences[row].max()
    print(
        f"{packages[row]:>10}: {share:.0%} of the weight of {len(document)} sentences on "
        f"{' '.join(words[:8])!r}, most of it on {word!r}"
    )

print("\nAccuracy on the test documents, by seed:")
share = np.bincount(test_y).max() / len(test_y)
print(f"{'always the most frequent package':>33}: {share:.1%}")
for name, each in accuracies.items():
    by_seed = ", ".join(f"{accuracy:.1%}" for accuracy in each)
    spread = max(each) - min(each)
    print(f"{name:>33}: {np.mean(each):.1%} ({by_seed}; spread {spread:.1%})")
print(f"\nSee the attention: tensorboard --logdir {options.output}")
