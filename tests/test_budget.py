"""Selective attention within a budget of keys, and the loss that teaches to need few."""

import keras
import numpy as np
import oracles
import pytest
from common import numpy, random, randomize, refused
from keras import ops

from keras_sam import Decoder, SelfAttention
from keras_sam.attention import budget
from keras_sam.attention.cache import EMPTY, LATEST
from keras_sam.scores import Rotary

B, T, C = 2, 7, 6
LEFT = np.arange(T) >= np.array([[0], [3]])  # (B, T), with padding on the left


def worst_key(taken, positions, first, oldest=0):
    """Returns which key of a dictionary leaves its slot for the next row."""

    def rank(key):
        position = positions[key]
        amount = -1 if position == first else taken[key]
        return -np.inf if position < oldest else -amount, position, key

    return min(taken, key=rank)


def keys_within_budget(selected, taken, positions, first):
    """What `budget.within_budget` is, example by example and key by key."""
    slots = taken.shape[1]
    seen = np.zeros(selected.shape, bool)
    penalty = np.zeros_like(selected)
    kept = np.zeros(taken.shape, int)
    left = np.zeros_like(taken)
    for b in range(len(taken)):
        found = dict(enumerate(taken[b]))
        for t in range(selected.shape[1]):
            if positions[b, slots + t] >= 0:
                del found[worst_key(found, positions[b], first[b])]
                found[slots + t] = 0.0
            for key in found:
                seen[b, t, key] = True
                penalty[b, t, key] = found[key]
                found[key] += selected[b, t, key]
        kept[b] = sorted(found)
        left[b] = [found[key] for key in kept[b]]
    return seen, penalty, kept, left


@pytest.mark.parametrize("new", [1, 5, 11])
@pytest.mark.parametrize("ties", [False, True])
def test_keeps_what_the_oracle_keeps(new, ties):
    slots, batch = 5, 3
    rng = np.random.default_rng(new)
    selected = rng.normal(size=(batch, new, slots + new)).clip(0).astype("float32")
    selected[:, :, slots:] *= np.tri(new, k=-1, dtype="float32")  # what comes before
    taken = rng.random((batch, slots)).astype("float32")
    if ties:
        selected, taken = selected.round(), taken.round()
    positions = np.stack([rng.permutation(slots + 2)[:slots] for _ in range(batch)])
    positions[1, 2:4] = EMPTY
    positions[2] = EMPTY
    rows = np.tile(slots + 2 + np.arange(new), (batch, 1))
    rows[1, new // 2] = EMPTY
    positions = np.concatenate([positions, rows], axis=1).astype("int32")
    first = np.where(positions < 0, LATEST, positions).min(axis=1).astype("int32")
    given = selected, taken, positions, first
    found = budget.within_budget(*map(ops.convert_to_tensor, given))
    expected = keys_within_budget(*given)
    seen = expected[0]
    np.testing.assert_array_equal(numpy(found[0]), seen)
    np.testing.assert_allclose(numpy(found[1])[seen], expected[1][seen], rtol=1e-6)
    np.testing.assert_array_equal(numpy(found[2]), expected[2])
    np.testing.assert_allclose(numpy(found[3]), expected[3], rtol=1e-6)


def layer_within_budget(layer, inputs, most):
    """What a selective layer computes for an example `(T, C)`, and which keys are kept."""

    def project(dense):
        kernel = numpy(dense.kernel).astype("float64")
        return np.einsum("tc,chd->htd", inputs, kernel) + numpy(dense.bias)[:, None]

    query, key, value = map(
        project, (layer.query_dense, layer.key_dense, layer.value_dense)
    )
    if layer.num_key_value_heads:
        key, value = (np.repeat(x, len(query) // len(x), axis=0) for x in (key, value))
    outputs, taken, positions = [], {}, range(len(inputs))
    for i in positions:
        if len(taken) == most:
            oldest = max(i - layer.sliding_window + 1, 0) if layer.sliding_window else 0
            del taken[worst_key(taken, positions, 0, oldest)]
        taken[i] = 0.0
        alive = list(taken)
        if layer.sliding_window:
            alive = [j for j in alive if i - j < layer.sliding_window]
        logits = np.einsum("hd,hjd->hj", query[:, i], key[:, alive])
        logits /= np.sqrt(query.shape[-1])
        weights = np.stack(
            [oracles.softmax(row - [taken[j] for j in alive]) for row in logits]
        )
        heads = np.einsum("hj,hjd->hd", weights, value[:, alive])
        kernel, bias = map(numpy, (layer.output_dense.kernel, layer.output_dense.bias))
        outputs.append(np.einsum("hd,hdc->c", heads, kernel) + bias)
        for logit, j in zip(logits[0], alive, strict=True):
            taken[j] += max(logit, 0) if 0 < j < i else 0
    return np.array(outputs), sorted(taken)


LONG = 13
CHUNKS = {"all": [LONG], "one by one": [1] * LONG, "mixed": [5, 1, 1, 4, 2]}


def selective(**arguments):
    layer = SelfAttention(2, 4, causal=True, selective=True, block_size=None, **arguments)
    layer.build((None, None, C))
    return randomize(layer)


def in_steps(layer, inputs, chunks, **arguments):
    """Calls a layer step by step; returns the outputs and the last cache."""
    cache = layer.make_cache(len(inputs), inputs.shape[1], **arguments)
    outputs, start = [], 0
    for count in chunks:
        rows = inputs[:, start : start + count]
        output, cache = layer(rows, cache=cache, cache_update_index=start)
        outputs.append(numpy(output))
        start += count
    return np.concatenate(outputs, axis=1), cache


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("most", [2, 5, LONG, LONG + 7])
@pytest.mark.parametrize(
    "arguments", [{}, {"num_key_value_heads": 1}, {"sliding_window": 6}], ids=str
)
def test_layer_within_a_budget(arguments, most, chunks):
    layer = selective(**arguments)
    inputs = random(B, LONG, C, seed=3)
    found, cache = in_steps(layer, inputs, CHUNKS[chunks], memory_budget=most)
    slots = min(most, layer.sliding_window or LONG, LONG)
    assert cache["keys_values"].shape[2] == slots
    for b, example in enumerate(inputs.astype("float64")):
        expected, kept = layer_within_budget(layer, example, slots)
        np.testing.assert_allclose(found[b], expected, rtol=0, atol=1e-5)
        assert sorted(numpy(cache["kept"])[b]) == kept


@pytest.mark.parametrize("chunks", CHUNKS)
@pytest.mark.parametrize("window", [None, 6])
def test_a_budget_of_all_changes_nothing(window, chunks):
    layer = selective(score=[Rotary(), "scaled_dot"], sliding_window=window)
    inputs = random(B, LONG, C, seed=4)
    found, _ = in_steps(layer, inputs, CHUNKS[chunks], memory_budget=LONG)
    np.testing.assert_allclose(found, numpy(layer(inputs)), rtol=0, atol=1e-5)


@pytest.mark.parametrize("by_mask", [False, True])
def test_padding_takes_no_slot(by_mask):
    """Prompts filled up at the start, by negative indices, or at the end, by a mask."""
    layer, most = selective(), 4
    inputs = random(2, LONG, C, seed=6)
    short = LONG - 3
    cache = layer.make_cache(2, LONG, padding=True, memory_budget=most)
    first = inputs[:, :8].copy()
    if by_mask:  # the second example has five rows in the first step
        mask = np.arange(8) < np.array([[8], [5]])
        first[1, 5:] = np.nan
        step = {"mask": mask, "cache_update_index": 0}
    else:
        first[1] = np.concatenate([np.full((3, C), 7.0), inputs[1, :5]])
        step = {"cache_update_index": np.array([0, -3], "int32")}
    found = []
    output, cache = layer(first.astype("float32"), cache=cache, **step)
    found.append(numpy(output))
    for i in range(8, LONG):
        rows = np.stack([inputs[0, i], inputs[1, i - 3]])[:, None]
        index = np.array([i, i - 3], "int32")
        output, cache = layer(rows, cache=cache, cache_update_index=index)
        found.append(numpy(output))
    found = np.concatenate(found, axis=1)
    real = np.r_[0:5, 8:LONG] if by_mask else np.arange(3, LONG)
    expected, _ = layer_within_budget(layer, inputs[0].astype("float64"), most)
    np.testing.assert_allclose(found[0], expected, rtol=0, atol=1e-5)
    expected, _ = layer_within_budget(layer, inputs[1, :short].astype("float64"), most)
    np.testing.assert_allclose(found[1, real], expected, rtol=0, atol=1e-5)


def language_model(**arguments):
    keras.utils.set_random_seed(1)
    tokens = keras.Input((None,), dtype="int32")
    x = keras.layers.Embedding(11, C)(tokens)
    for name in ("low", "high"):
        score = [Rotary(), "scaled_dot"]
        attend = SelfAttention(2, 4, causal=True, score=score, name=name, **arguments)
        x = keras.layers.Add()([x, attend(x)])
    return randomize(keras.Model(tokens, keras.layers.Dense(11)(x)))


def test_decoder_within_a_budget():
    decode = Decoder(language_model(selective=True))
    tokens = np.arange(2 * LONG).reshape(2, LONG) % 11
    whole = decode(tokens, decode.make_cache(2, LONG), 0)[0]
    enough = decode(tokens, decode.make_cache(2, LONG, memory_budget=LONG), 0)[0]
    np.testing.assert_allclose(numpy(enough), numpy(whole), rtol=0, atol=1e-4)
    at_once = decode(tokens, decode.make_cache(2, LONG, memory_budget=4), 0)[0]
    assert np.abs(numpy(at_once) - numpy(whole)).max() > 1e-2
    cache = decode.make_cache(2, LONG, memory_budget={"low": 4, "high": 4})
    assert cache["low"].shape[2] == cache["high"].shape[2] == 4
    steps = []
    for i in range(LONG):
        index = ops.convert_to_tensor(i, dtype="int32")
        logits, cache = decode(tokens[:, i : i + 1], cache, index)
        steps.append(numpy(logits))
    steps = np.concatenate(steps, axis=1)
    np.testing.assert_allclose(steps, numpy(at_once), rtol=0, atol=1e-4)


def test_generates_beyond_its_budget():
    decode = Decoder(language_model(selective=True))
    prompt = np.array([[3, 1, 4]])
    text = list(prompt[0])
    cache = decode.make_cache(1, 20, memory_budget=5)
    logits, cache = decode(prompt, cache, 0)
    while len(text) < 20:
        text.append(int(numpy(logits)[0, -1].argmax()))
        logits, cache = decode(np.array([[text[-1]]]), cache, len(text) - 1)
    found = decode.generate(prompt, 20, memory_budget=5)
    np.testing.assert_array_equal(found[0], text)


def memory_by_hand(layer, inputs, real):
    """The loss, in float64, from the formula."""
    first = layer.query_dense, layer.key_dense
    query, key = (
        np.einsum("btc,cd->btd", inputs, numpy(dense.kernel)[:, 0].astype("float64"))
        + numpy(dense.bias)[0]
        for dense in first
    )
    logits = query @ key.swapaxes(1, 2) / np.sqrt(query.shape[-1])
    causal = np.tri(T, dtype=bool) & real[:, :, None] & real[:, None, :]
    taken = oracles.taken_off(logits, causal, real.argmax(axis=1))
    needed = np.where(causal, 1 - np.minimum(taken, 1), 0).sum(axis=2)
    return (needed.max(axis=1) / real.sum(axis=1)).mean()


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("block_size", [None, "auto"])
def test_memory_loss(padded, block_size):
    layer = SelfAttention(
        2, 3, causal=True, selective=True, memory_loss=0.3, block_size=block_size
    )
    layer.build((None, T, C))
    randomize(layer)
    inputs = random(B, T, C, seed=5)
    mask = LEFT if padded else None
    layer(inputs, mask=mask, training=False)
    assert not layer.losses
    layer(inputs, mask=mask, training=True)
    (loss,) = layer.losses
    expected = memory_by_hand(layer, inputs.astype("float64"), LEFT | (not padded))
    assert 0.2 < expected < 0.99
    np.testing.assert_allclose(numpy(loss), 0.3 * expected, rtol=1e-5)


@pytest.mark.tensorflow
def test_training_with_the_loss_needs_fewer_keys():
    keras.utils.set_random_seed(0)
    inputs = keras.Input((T, C))
    layer = SelfAttention(2, causal=True, selective=True, memory_loss=1.0)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.Adam(0.03), "mse", loss_weights=[1e-3])
    x, y = random(16, T, C), np.zeros((16, T, C))
    history = model.fit(x, y, epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.85 * history[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"memory_loss": -0.1}, "`memory_loss` must be a number from 0 on"),
        ({"memory_loss": "0.1"}, "`memory_loss` must be a number from 0 on"),
        (
            {"memory_loss": 0.1, "selective": False},
            "`memory_loss` must be 0 where `selective` is False",
        ),
    ],
)
def test_bad_arguments(arguments, message):
    with refused(message):
        SelfAttention(2, causal=True, **{"selective": True, **arguments})


def test_bad_budgets():
    layer, plain = selective(), SelfAttention(2, 3, causal=True, name="plain")
    plain.build((None, None, C))
    with refused("`memory_budget` must be an integer of at least 2", "memory_budget=1"):
        layer.make_cache(1, 9, memory_budget=1)
    with refused("`memory_budget` must be None where `selective` is False", "plain"):
        plain.make_cache(1, 9, memory_budget=4)
    with refused("`memory_budget` must be None for a model without"):
        Decoder(language_model()).make_cache(1, 9, memory_budget=4)
    decode = Decoder(language_model(selective=True))
    with refused("`memory_budget` must be a dictionary with some of 'low', 'high'"):
        decode.make_cache(1, 9, memory_budget={"lowest": 4})
    cache = layer.make_cache(1, 9, memory_budget=4)
    with refused("`attention_mask` must be None where later positions take the slots"):
        layer(
            random(1, 2, C),
            cache=cache,
            cache_update_index=0,
            attention_mask=np.ones((1, 2, 4), bool),
        )
