"""With the same weights, the layers compute what those of Keras compute.

The truth is the float64 oracle. Both are compared with it: ours may be at most twice as
far from it as Keras's, or a few roundings.
"""

import keras
import numpy as np
import oracles
import pytest
from common import (
    attention_oracle,
    dtype_of,
    numpy,
    numpy_dtype,
    random,
    randomize,
)
from keras import ops
from keras.layers import GroupQueryAttention as GroupedQueryAttention
from keras.layers import MultiHeadAttention

from keras_sam import CrossAttention, SelfAttention

B, H, T, S, C, D = 2, 4, 13, 11, 8, 5
PADDING = np.arange(T) < np.array([[T], [7]])
SOURCE_PADDING = np.arange(S) < np.array([[5], [S]])
PAIRS = np.random.default_rng(1).random((B, T, T)) < 0.6
PAIRS[:, :, 0] = True  # Keras has no promise for a row with nothing to attend to
MULTI = {"num_heads": H, "key_dim": D}
GROUPED = {"num_query_heads": H, "num_key_value_heads": 2, "head_dim": D}
OURS = {"num_heads": H, "key_dim": D}
OURS_GROUPED = {**OURS, "num_key_value_heads": 2}
CAUSAL = {"use_causal_mask": True}

# Keras's layer, its arguments, those of ours, of both calls, and of Keras's only.
SELF = {
    "plain": (MultiHeadAttention, MULTI, OURS, {}, {}),
    "value_dim": (MultiHeadAttention, {**MULTI, "value_dim": 3}, {**OURS, "value_dim": 3}),
    "no bias": (
        MultiHeadAttention,
        {**MULTI, "use_bias": False},
        {**OURS, "use_bias": False},
    ),
    "pairs": (MultiHeadAttention, MULTI, OURS, {"attention_mask": PAIRS}),
    "per head": (
        MultiHeadAttention,
        MULTI,
        OURS,
        {"attention_mask": np.repeat(PAIRS[:, None], H, axis=1)},
    ),
    "causal": (MultiHeadAttention, MULTI, {**OURS, "causal": True}, {}, CAUSAL),
    "causal, pairs": (
        MultiHeadAttention,
        MULTI,
        {**OURS, "causal": True},
        {"attention_mask": PAIRS},
        CAUSAL,
    ),
    "grouped": (GroupedQueryAttention, GROUPED, OURS_GROUPED),
    "grouped, causal": (
        GroupedQueryAttention,
        GROUPED,
        {**OURS_GROUPED, "causal": True},
        {},
        CAUSAL,
    ),
    "grouped, pairs": (
        GroupedQueryAttention,
        GROUPED,
        OURS_GROUPED,
        {"attention_mask": PAIRS},
    ),
    "window": (
        GroupedQueryAttention,
        {**GROUPED, "sliding_window": 3},
        {**OURS_GROUPED, "sliding_window": 3},
    ),
    "causal window": (
        GroupedQueryAttention,
        {**GROUPED, "sliding_window": 3},
        {**OURS_GROUPED, "sliding_window": 3, "causal": True},
        {},
        CAUSAL,
    ),
}
if keras.backend.backend() == "jax":  # Keras 3.15's own layer fails there
    del SELF["value_dim"]
if "sliding_window" not in GroupedQueryAttention(**GROUPED).get_config():
    del SELF["window"], SELF["causal window"]
WINDOW = {"sliding_window": 4}
if "sliding_window" in MultiHeadAttention(1, 1).get_config():  # not in every Keras
    SELF["multi-head window"] = (
        MultiHeadAttention,
        {**MULTI, **WINDOW},
        {**OURS, **WINDOW},
    )


@pytest.fixture(scope="module")
def differences(request):
    """Says at the end how large the largest difference was, by dtype."""
    found = {}
    yield found
    plugin = request.config.pluginmanager.get_plugin
    if plugin("terminalreporter") is None:  # a worker of pytest-xdist has no terminal
        return
    with plugin("capturemanager").global_and_fixture_disabled():
        for dtype, difference in found.items():
            plugin("terminalreporter").write_line(
                f"\nLargest difference to Keras, {dtype}: {difference:.2g}"
            )


@pytest.fixture
def compare(differences, record_property):
    def compare(dtype, ours, theirs, expected):
        found = 0.0
        for our, their, (truth, _) in zip(ours, theirs, expected, strict=True):
            assert dtype_of(our) == dtype_of(their)
            our, their = (numpy(ops.cast(x, "float32")) for x in (our, their))
            found = max(found, float(np.abs(our - their).max()))
            naive = their.astype(numpy_dtype(dtype))
            allowed = oracles.allowance(truth, naive)
            np.testing.assert_allclose(our.astype("float64"), truth, rtol=0, atol=allowed)
        differences[dtype] = max(differences.get(dtype, 0.0), found)
        record_property("difference", found)

    return compare


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("name", SELF)
def test_self_attention(name, dtype, compare):
    cls, theirs, ours, call, keras_call = (*SELF[name], {}, {})[:5]
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    theirs, ours = cls(**theirs, dtype=policy), SelfAttention(**ours, dtype=policy)
    theirs.build((B, T, C), (B, T, C))
    ours.build((B, T, C))
    ours.set_weights(randomize(theirs).get_weights())
    inputs = random(B, T, C)
    scores = {"return_attention_scores": True}
    allowed = call.get("attention_mask", np.True_)
    allowed = allowed[:, None] if allowed.ndim == 3 else allowed
    expected = attention_oracle(ours, dtype, inputs, inputs, inputs, allowed)
    compare(
        dtype,
        [ours(inputs, **call), *ours(inputs, **call, **scores)],
        [
            theirs(inputs, inputs, **call, **keras_call),
            *theirs(inputs, inputs, **call, **keras_call, **scores),
        ],
        [expected[0], *expected],
    )


CROSS = {
    "plain": {},
    "query": {"query_mask": PADDING},
    "value": {"value_mask": SOURCE_PADDING},
    "pairs": {"attention_mask": PAIRS[:, :, :S]},
    "value and pairs": {
        "value_mask": SOURCE_PADDING,
        "attention_mask": PAIRS[:, :, :S],
    },
}


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("with_key", [False, True], ids=["value", "key and value"])
@pytest.mark.parametrize("name", CROSS)
def test_cross_attention(name, with_key, dtype, compare):
    call = CROSS[name]
    policy = dtype if dtype == "float32" else f"mixed_{dtype}"
    theirs = MultiHeadAttention(**MULTI, dtype=policy)
    ours = CrossAttention(**OURS, dtype=policy)
    query, value = random(B, T, C), random(B, S, 7, seed=1)
    key = random(B, S, 3, seed=2) if with_key else value
    arrays = [query, value, key] if with_key else [query, value]
    theirs.build(*(array.shape for array in arrays))
    ours.build(*(array.shape for array in arrays))
    ours.set_weights(randomize(theirs).get_weights())
    # Keras has no promise for the rows of padding.
    rows = call.get("query_mask", np.ones((B, T), bool))
    allowed = np.ones((B, 1, T, S), bool)
    allowed &= call.get("value_mask", np.ones((B, S), bool))[:, None, None]
    allowed &= call.get("attention_mask", np.ones((B, T, S), bool))[:, None]
    expected = attention_oracle(ours, dtype, query, key, value, allowed)

    def chosen(results):
        outputs, weights = results
        return outputs[rows], np.moveaxis(weights, 1, 2)[rows]

    def of_tensors(results):
        return [
            ops.convert_to_tensor(x)
            for x in chosen([numpy(ops.cast(x, "float32")) for x in results])
        ]

    scores = {"return_attention_scores": True}
    truth = chosen([values for values, _ in expected])
    compare(
        dtype,
        of_tensors(ours(*arrays, **call, **scores)),
        of_tensors(theirs(*arrays, **call, **scores)),
        [(values, None) for values in truth],
    )


@pytest.mark.parametrize("cls", [MultiHeadAttention, GroupedQueryAttention])
def test_weights_have_the_same_names_and_shapes(cls):
    multi = cls is MultiHeadAttention
    theirs = cls(**(MULTI if multi else GROUPED), name="attention")
    ours = CrossAttention(**(OURS if multi else OURS_GROUPED), name="attention")
    theirs.build((B, T, C), (B, S, C))
    ours.build((B, T, C), (B, S, C))
    assert [(w.path, tuple(w.shape)) for w in ours.weights] == [
        (w.path, tuple(w.shape)) for w in theirs.weights
    ]


def test_trained_alike():
    """A few steps of training, from the same weights on the same data."""
    losses = []
    inputs, target = random(31, T, C), random(31, T, C, seed=1)
    symbol = keras.Input((None, C))
    for layer in (MultiHeadAttention(**MULTI), SelfAttention(**OURS)):
        ours = isinstance(layer, SelfAttention)
        model = keras.Model(symbol, layer(symbol) if ours else layer(symbol, symbol))
        randomize(model)
        model.compile("adam", "mse")
        history = model.fit(
            inputs, target, batch_size=8, epochs=3, shuffle=False, verbose=0
        )
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)
