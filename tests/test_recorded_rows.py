"""What may be attended to, and rows on demand of weights that are too large to keep."""

import keras
import numpy as np
import pytest
from common import BACKEND, numpy, random
from viewer_oracle import allowed_pairs

import keras_sam
from keras_sam import CrossAttention, RowsOnDemand, SelfAttention, record_attention

B, T, S, C, H = 2, 7, 11, 6, 2
QUERY = np.arange(T) < np.array([[T], [4]])
KEY = np.arange(S) < np.array([[S], [3]])
PAIRS = np.random.default_rng(0).random((B, T, T)) < 0.7
BIAS = np.where(PAIRS[:, None], 0.5, -np.inf).astype("float32")


def self_attention(**arguments):
    return SelfAttention(H, block_size=None, name="attend", **arguments)


def self_call(**call):
    return lambda layer: layer(random(B, T, C), **call)


def cross_call(**call):
    return lambda layer: layer(random(B, T, C), random(B, S, C), **call)


# Layer, call, and what is allowed: (B, H, T, S), by plain loops.
CASES = {
    "everything": (self_attention(), self_call(), {}),
    "causal": (self_attention(causal=True), self_call(), {"causal": True}),
    "window": (self_attention(sliding_window=3), self_call(), {"window": 3}),
    "causal window": (
        self_attention(causal=True, sliding_window=3),
        self_call(),
        {"causal": True, "window": 3},
    ),
    "causal call": (
        self_attention(),
        self_call(use_causal_mask=True),
        {"causal": True},
    ),
    "padding": (self_attention(), self_call(mask=QUERY), {"query": QUERY, "key": QUERY}),
    "pairs": (self_attention(), self_call(attention_mask=PAIRS), {"pairs": PAIRS}),
    "bias": (self_attention(), self_call(attention_bias=BIAS), {"pairs": PAIRS}),
    "additive sparse": (
        self_attention(score="additive", normalizer="sparsemax", causal=True),
        self_call(mask=QUERY),
        {"causal": True, "query": QUERY, "key": QUERY},
    ),
    "cross": (
        CrossAttention(H, 3, block_size=None, name="attend", num_key_value_heads=1),
        cross_call(query_mask=QUERY, value_mask=KEY),
        {"query": QUERY, "key": KEY},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_allowed(name):
    layer, call, masks = CASES[name]
    with record_attention() as maps:
        call(layer)
    weights, allowed = numpy(maps["attend"]), maps.allowed["attend"]
    if name == "everything":
        assert allowed is None
        return
    allowed = numpy(allowed)
    assert allowed.dtype == bool
    assert allowed.ndim == 4
    expected = allowed_pairs(weights.shape, **masks)
    np.testing.assert_array_equal(np.broadcast_to(allowed, weights.shape), expected)
    assert (weights[~expected] == 0).all()


@pytest.mark.parametrize("name", CASES)
def test_rows_on_demand_are_the_weights(name):
    layer, call, _ = CASES[name]
    keras.utils.set_random_seed(1)
    with record_attention() as maps:
        expected_outputs = call(layer)
    whole, allowed = numpy(maps["attend"]), maps.allowed["attend"]
    keras.utils.set_random_seed(1)
    with record_attention(max_entries=1) as maps:
        outputs = call(layer)
    np.testing.assert_allclose(numpy(outputs), numpy(expected_outputs), rtol=1e-5)
    rows = maps["attend"]
    assert isinstance(rows, RowsOnDemand)
    assert rows.shape == whole.shape
    for start, stop in ((0, 1), (2, 5), (0, T), (T - 1, T)):
        found = rows.rows(start, stop)
        np.testing.assert_allclose(found, whole[:, :, start:stop], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.asarray(rows), whole, rtol=1e-5, atol=1e-7)
    if allowed is None:
        assert maps.allowed["attend"] is None
        return
    allowed = np.broadcast_to(numpy(allowed), whole.shape)
    lazy = maps.allowed["attend"]
    for start, stop in ((0, 2), (3, T)):
        found = np.broadcast_to(lazy.rows(start, stop), whole[:, :, start:stop].shape)
        np.testing.assert_array_equal(found, allowed[:, :, start:stop])


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (0, T + 1), (3, 1)])
def test_rows_that_are_not_there(start, stop):
    with record_attention(max_entries=1) as maps:
        self_call()(self_attention())
    with pytest.raises(ValueError, match=f"from 0 to {T}. Received: start={start}"):
        maps["attend"].rows(start, stop)


@pytest.mark.parametrize("max_entries", [None, 1], ids=["whole", "rows"])
def test_attention_along_one_axis(max_entries):
    """All maps of an example are side by side, as heads."""
    layer = SelfAttention(H, attention_axes=2, causal=True, name="attend")
    inputs, mask = random(B, 3, T, C), np.arange(T) < np.array([T, 4, 2])[:, None]
    mask = np.stack([mask, mask[::-1]])
    weights = numpy(layer(inputs, mask=mask, return_attention_scores=True)[1])
    with record_attention(**({} if max_entries is None else {"max_entries": 1})) as maps:
        layer(inputs, mask=mask)
    expected = weights.reshape(B, 3 * H, T, T)
    found, allowed = maps["attend"], maps.allowed["attend"]
    if max_entries == 1:
        found, allowed = found.rows(0, T), allowed.rows(0, T)
    np.testing.assert_allclose(numpy(found), expected, rtol=1e-5, atol=1e-7)
    allowed = np.broadcast_to(numpy(allowed), expected.shape)
    np.testing.assert_array_equal(allowed, expected > 0)


def test_selective_attention_hands_out_its_padding():
    mask = np.arange(T) < np.array([[T], [3]])
    for top_k in (None, 2):
        layer = keras_sam.SelectiveAttention(num_heads=H, top_k=top_k, name="attend")
        with record_attention() as maps:
            layer(random(B, T, C), mask=mask)
        np.testing.assert_array_equal(numpy(maps.allowed["attend"])[:, 0], mask)


def test_gates_hand_out_no_mask():
    features = random(B, 4, 3, 8)
    with record_attention() as maps:
        keras_sam.CBAM(reduction=2, name="cbam")(features)
    assert set(maps.allowed.values()) == {None}
    (details,) = (each for each in maps.details.values() if each.kind == "channel")
    assert details == keras_sam.AttentionDetails("channel", are_features=True)


def test_selective_self_attention_is_recorded_whole():
    layer = SelfAttention(H, causal=True, selective=True, name="attend")
    with record_attention(max_entries=1) as maps:
        layer(random(B, T, C))
    assert not isinstance(maps["attend"], RowsOnDemand)


@pytest.mark.parametrize("max_entries", [0, -1, 1.5, "many", None])
def test_bad_limits(max_entries):
    with (
        pytest.raises(ValueError, match="`max_entries` must be a positive integer"),
        record_attention(max_entries=max_entries),
    ):
        pass


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing by default")
def test_a_function_records_whole_weights():
    layer = self_attention()
    inputs = random(B, T, C)
    layer(inputs)

    def explain(inputs):
        with record_attention(max_entries=1) as maps:
            layer(inputs)
        return dict(maps)

    if BACKEND == "jax":
        import jax

        found = jax.jit(explain)(inputs)
    else:
        import tensorflow as tf

        found = tf.function(explain)(inputs)
    assert tuple(found["attend"].shape) == (B, H, T, T)
