"""Selective attention within a budget of keys, and the loss that teaches to need few."""

import keras
import numpy as np
import oracles
import pytest
from common import numpy, random, randomize, refused
from keras import ops

from keras_sam import SelfAttention
from keras_sam.attention import budget

B, T, C = 2, 7, 6
LEFT = np.arange(T) >= np.array([[0], [3]])  # (B, T), with padding on the left


def keys_within_budget(selected, taken, positions, first, rows):
    """What `budget.within_budget` is, example by example and key by key."""
    slots, new = taken.shape[1], rows.shape[1]
    seen = np.zeros(selected.shape, bool)
    penalty = np.zeros_like(selected)
    kept = np.zeros(taken.shape, int)
    left = np.zeros_like(taken)
    for b in range(len(taken)):
        taken_off = {column: taken[b, column] for column in range(slots)}
        for t in range(new):
            if rows[b, t]:
                ranks = []
                for column, amount in taken_off.items():
                    position = positions[b, column]
                    amount = np.inf if position < 0 else amount
                    amount = -1 if position == first[b] else amount
                    ranks.append((-amount, position, column))
                del taken_off[min(ranks)[2]]
                taken_off[slots + t] = 0.0
            for column, amount in taken_off.items():
                seen[b, t, column] = True
                penalty[b, t, column] = amount
                taken_off[column] += selected[b, t, column]
        kept[b] = sorted(taken_off)
        left[b] = [taken_off[column] for column in kept[b]]
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
    positions[1, 2:4] = budget.EMPTY
    positions[2] = budget.EMPTY
    rows = np.ones((batch, new), bool)
    rows[1, new // 2] = False
    after = np.where(rows, slots + 2 + np.arange(new), budget.EMPTY)
    positions = np.concatenate([positions, after], axis=1).astype("int32")
    first = np.where(positions < 0, budget.LATEST, positions).min(axis=1).astype("int32")
    given = selected, taken, positions, first, rows
    found = budget.within_budget(*map(ops.convert_to_tensor, given))
    expected = keys_within_budget(*given)
    seen = expected[0]
    np.testing.assert_array_equal(numpy(found[0]), seen)
    np.testing.assert_allclose(numpy(found[1])[seen], expected[1][seen], rtol=1e-6)
    np.testing.assert_array_equal(numpy(found[2]), expected[2])
    np.testing.assert_allclose(numpy(found[3]), expected[3], rtol=1e-6)


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
    """And without any other loss, so nothing else moves the weights."""
    keras.utils.set_random_seed(0)
    inputs = keras.Input((T, C))
    layer = SelfAttention(2, causal=True, selective=True, memory_loss=1.0)
    model = keras.Model(inputs, layer(inputs))
    model.compile(keras.optimizers.Adam(0.03))
    history = model.fit(random(16, T, C), epochs=30, verbose=0).history["loss"]
    assert history[-1] < 0.75 * history[0]


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
