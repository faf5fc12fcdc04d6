"""Words are pooled to sentences, and sentences to a document, with padding of both."""

import keras
import numpy as np
import pytest
from common import assert_rounded_alike, numpy, randomize

from keras_sam import SelectiveAttention, SelfAttention

SENTENCES, WORDS, VOCABULARY = 5, 7, 11

POOLINGS = {
    "context": {},
    "heads": {"num_heads": 2},
    "self": {"relation": "self"},
    "entmax": {"normalizer": "entmax"},
    "top_k": {"top_k": 2},
    "dropout": {"dropout": 0.3},
}
SHAPES = {"known": (SENTENCES, WORDS), "unknown words": (SENTENCES, None)}
# XLA takes seconds to compile one of these models, so it compiles few of them.
UNDER_XLA = ("context",)


def documents(count=6):
    """Word ids with zeros behind the last word of a sentence and the last sentence."""
    rng = np.random.default_rng(0)
    ids = rng.integers(1, VOCABULARY, (count, SENTENCES, WORDS)).astype("int32")
    for document in ids:
        document[rng.integers(1, SENTENCES + 1) :] = 0
        for sentence in document:
            sentence[rng.integers(1, WORDS + 1) :] = 0
    return ids


def build(shape, pooling, encode=False):
    words = keras.Input(shape, dtype="int32")
    x = keras.layers.Embedding(VOCABULARY, 8, mask_zero=True)(words)
    if encode:
        x = keras.layers.TimeDistributed(SelfAttention(2))(x)
    x = keras.layers.TimeDistributed(SelectiveAttention(**pooling))(x)
    if encode:
        x = SelfAttention(2)(x)
    x = SelectiveAttention(**pooling)(x)
    outputs = keras.layers.Dense(2, activation="softmax")(x)
    return randomize(keras.Model(words, outputs))


@pytest.mark.parametrize(
    ("shape", "encode"),
    [("known", False), ("unknown words", True)],
    ids=["known-pooled", "unknown words-encoded and pooled"],
)
@pytest.mark.parametrize("pooling", POOLINGS)
def test_padding_changes_nothing(pooling, shape, encode):
    """A document gives the same alone, without the padding, layer by layer."""
    model, ids = build(SHAPES[shape], POOLINGS[pooling], encode), documents(3)
    model.compile(jit_compile=pooling in UNDER_XLA and not encode)
    found = numpy(model(ids))
    assert_rounded_alike(model.predict(ids, batch_size=2, verbose=0), found)
    for document, expected in zip(ids, found, strict=True):
        longest = (document != 0).sum(axis=1).max()
        x = document[None, document.any(axis=1), :longest]
        for layer in model.layers[1:]:
            x = layer(x)
        np.testing.assert_allclose(numpy(x)[0], expected, atol=1e-6)
    if shape == "unknown words":
        wider = np.pad(ids, ((0, 0), (0, 0), (0, 2)))
        np.testing.assert_allclose(numpy(model(wider)), found, atol=1e-6)


@pytest.mark.parametrize("pooling", POOLINGS)
def test_trained_saved_and_loaded(pooling, reload):
    """Of known and of unknown lengths by turns."""
    shape = tuple(SHAPES)[tuple(POOLINGS).index(pooling) % 2]
    model, ids = build(SHAPES[shape], POOLINGS[pooling]), documents()
    model.compile(
        keras.optimizers.Adam(0.1),
        "sparse_categorical_crossentropy",
        jit_compile=pooling in UNDER_XLA,
    )
    labels = np.arange(len(ids)) % 2
    before = model.evaluate(ids, labels, verbose=0)
    model.fit(ids, labels, batch_size=4, epochs=10, verbose=0)
    assert model.evaluate(ids, labels, verbose=0) < before
    loaded = reload(model)
    np.testing.assert_array_equal(numpy(loaded(ids)), numpy(model(ids)))


def test_a_document_without_a_word():
    model, ids = build(SHAPES["known"], {}), documents()
    ids[0] = 0
    found = numpy(model(ids))
    assert np.isfinite(found).all()
    bias = model.layers[-1].bias
    np.testing.assert_allclose(found[0], numpy(keras.ops.softmax(bias)), rtol=1e-6)
