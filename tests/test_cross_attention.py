import gradients
import keras
import numpy as np
import pytest
from common import (
    DTYPES,
    HALVES,
    NORMALIZERS,
    SCORES,
    assert_within,
    attention_oracle,
    label,
    numpy,
    random,
    randomize,
    refused,
)
from keras import ops

from keras_sam import CrossAttention

B, H, T, S = 2, 3, 5, 7
WIDTH, VALUE_WIDTH, KEY_WIDTH = 11, 6, 4
QUERY_PADDING = np.arange(T) < np.array([[T], [2]])
VALUE_PADDING = np.arange(S) < np.array([[3], [S]])
KEY_PADDING = np.arange(S) > np.array([[1], [0]])
PAIRS = np.random.default_rng(1).random((B, T, S)) < 0.6
PAIRS[0, 1] = False  # a row with nothing to attend to
BIAS = random(B, H, T, S, seed=3)


def inputs(key=False):
    tensors = [random(B, T, WIDTH), random(B, S, VALUE_WIDTH, seed=1)]
    return [*tensors, random(B, S, KEY_WIDTH, seed=2)] if key else tensors


def built(key=False, dtype=None, **arguments):
    arguments = {"num_heads": H, "key_dim": 2, "block_size": None, **arguments}
    layer = CrossAttention(**arguments, dtype=dtype)
    layer.build(*(array.shape for array in inputs(key)))
    return randomize(layer)


def check(layer, key=False, dtype="float32", allowed=True, bias=0.0, **call):
    query, value, *rest = inputs(key)
    expected = attention_oracle(
        layer, dtype, query, rest[0] if rest else value, value, allowed, bias
    )
    call = {**call, "return_attention_scores": True}
    outputs, weights = layer(query, value, *rest, **call)
    assert_within(outputs, expected[0])
    assert_within(weights, expected[1])
    np.testing.assert_array_equal(numpy(weights)[expected[1][0] == 0], 0.0)
    call["return_attention_scores"] = False
    assert_within(layer(query, value, *rest, **call), expected[0])


@pytest.mark.parametrize("key", [False, True], ids=["value", "key and value"])
@pytest.mark.parametrize("score", SCORES)
def test_matches_the_oracle(score, key):
    normalizers = list(NORMALIZERS)
    normalizer = normalizers[SCORES.index(score) % len(normalizers)]
    check(built(key, score=score, normalizer=normalizer), key)


@pytest.mark.parametrize("dtype", DTYPES)
def test_matches_the_oracle_in_every_precision(dtype):
    check(built(dtype=dtype), dtype=dtype)


MASKS = {
    "queries": ({"query_mask": QUERY_PADDING}, QUERY_PADDING[:, None, :, None], 0),
    "values": ({"value_mask": VALUE_PADDING}, VALUE_PADDING[:, None, None], 0),
    "keys": ({"key_mask": KEY_PADDING}, KEY_PADDING[:, None, None], 0),
    "pairs": ({"attention_mask": PAIRS}, PAIRS[:, None], 0),
    "bias": ({"attention_bias": BIAS}, True, BIAS),
    "all": (
        {
            "query_mask": QUERY_PADDING,
            "value_mask": VALUE_PADDING,
            "key_mask": KEY_PADDING,
            "attention_mask": PAIRS,
            "attention_bias": BIAS,
        },
        QUERY_PADDING[:, None, :, None]
        & (VALUE_PADDING & KEY_PADDING)[:, None, None]
        & PAIRS[:, None],
        BIAS,
    ),
}


@pytest.mark.parametrize("key", [False, True], ids=["value", "key and value"])
@pytest.mark.parametrize("name", MASKS)
def test_masks_and_biases(name, key):
    """A mask of the keys counts as well when the keys are the values."""
    call, allowed, bias = MASKS[name]
    check(built(key), key, allowed=allowed, bias=bias, **call)


@pytest.mark.parametrize(
    "arguments",
    [
        {"key_dim": None, "num_heads": 11},
        {"num_heads": 4, "num_key_value_heads": 2},
        {"value_dim": 5, "use_bias": False},
        {"causal": True},
        {"sliding_window": 2},
        {"block_size": "auto"},
        {"causal": True, "sliding_window": 2, "block_size": 2},
        {"block_size": 3, "score": "cosine", "normalizer": "sigmoid"},
    ],
    ids=label,
)
def test_arguments(arguments):
    check(built(**arguments))


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_nothing_to_attend_to(normalizer, dtype):
    layer = built(normalizer=normalizer, dtype=dtype)
    query, value = inputs()
    call = {"value_mask": np.array([[True] * S, [False] * S])}
    outputs, weights = layer(query, value, **call, return_attention_scores=True)
    np.testing.assert_array_equal(numpy(weights)[1], 0.0)
    bias = np.tile(numpy(ops.cast(layer.output_dense.bias, dtype)), (T, 1))
    for result in (outputs, layer(query, value, **call)):
        np.testing.assert_array_equal(numpy(result)[1], bias)
    _, found = gradients.value_and_gradients(
        lambda *x: ops.cast(layer(*x, **call), "float32"), query, value
    )
    for gradient in found:
        assert np.isfinite(gradient).all()
        np.testing.assert_array_equal(gradient[1], 0.0)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_nothing_there_to_attend_to(normalizer):
    layer = built(normalizer=normalizer)
    query, value = inputs()
    outputs, weights = layer(query, value[:, :0], return_attention_scores=True)
    assert tuple(weights.shape) == (B, H, T, 0)
    bias = np.tile(numpy(layer.output_dense.bias), (B, T, 1))
    np.testing.assert_array_equal(numpy(outputs), bias)


def test_masks_of_embeddings_are_used_and_that_of_the_query_passed_on():
    source = keras.Input((S,), dtype="int32")
    target = keras.Input((T,), dtype="int32")
    embed = keras.layers.Embedding(9, WIDTH, mask_zero=True)
    attended, weights = CrossAttention(H, 2)(
        embed(target), embed(source), return_attention_scores=True
    )
    assert keras.src.backend.get_keras_mask(attended).shape == (None, T)
    assert keras.src.backend.get_keras_mask(weights) is None
    tokens = (QUERY_PADDING * 3, VALUE_PADDING * 5)
    found = numpy(keras.Model([target, source], weights)(tokens))
    allowed = QUERY_PADDING[:, None, :, None] & VALUE_PADDING[:, None, None]
    np.testing.assert_array_equal(found > 0, np.broadcast_to(allowed, found.shape))


ONES = {name: np.ones(shape, bool) for name, shape in {"T": (B, T), "S": (B, S)}.items()}
WRONG_CALLS = {
    "another length": (
        lambda q, v, k: (q, v, k[:, :-1]),
        {},
        "`key` and `value` must have the same batch size and length",
    ),
    "another batch": (
        lambda q, v, k: (q[:1], v),
        {},
        "`query` and `value` must have the same batch size",
    ),
    "another batch of keys": (
        lambda q, v, k: (q, v, k[:1]),
        {},
        "`key` and `value` must have the same batch size and length",
    ),
    "a mask of queries for values": (
        lambda q, v, k: (q, v),
        {"value_mask": ONES["T"]},
        "`value_mask` must have the shape (2, 7)",
    ),
    "a mask of values for queries": (
        lambda q, v, k: (q, v),
        {"query_mask": ONES["S"]},
        "`query_mask` must have the shape (2, 5)",
    ),
    "a mask of keys that are not there": (
        lambda q, v, k: (q, v),
        {"key_mask": ONES["T"]},
        "`key_mask` must have the shape (2, 7)",
    ),
    "pairs the wrong way round": (
        lambda q, v, k: (q, v),
        {"attention_mask": np.ones((B, S, T), bool)},
        "`attention_mask` must have the shape (batch, 5, 7) or (batch, 3, 5, 7)",
    ),
    "too many heads": (
        lambda q, v, k: (q, v),
        {"attention_bias": np.ones((B, H + 1, T, S), "float32")},
        "`attention_bias` must have the shape (batch, 5, 7) or (batch, 3, 5, 7)",
    ),
    "no batch of pairs, and the wrong way round": (
        lambda q, v, k: (q, v),
        {"attention_mask": np.ones((S, T), bool)},
        "`attention_mask` must have the shape (batch, 5, 7) or (batch, 3, 5, 7)",
    ),
}


@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@pytest.mark.parametrize("name", WRONG_CALLS)
def test_wrong_calls(name, symbolic):
    choose, call, message = WRONG_CALLS[name]
    tensors = choose(*inputs(key=True))
    if symbolic:
        tensors = [keras.Input(batch_shape=array.shape) for array in tensors]
        call = {
            name: keras.Input(batch_shape=array.shape, dtype=str(array.dtype))
            for name, array in call.items()
        }
    with refused(message, "CrossAttention 'ours'", "Received: "):
        CrossAttention(H, 2, name="ours")(*tensors, **call)


def test_another_width_than_built_for():
    layer = built()
    query, value = inputs()
    with refused("`value` must have the shape (batch, length, channels) with 6 channels"):
        layer(query, value[..., :4])
    with refused("`query` must have the shape (batch, length, channels) with 11 channels"):
        layer(value, value)


def test_build_takes_shapes_one_by_one_or_as_a_list():
    shapes = [array.shape for array in inputs(key=True)]
    for count in (2, 3):
        one_by_one, listed = CrossAttention(H, 2), CrossAttention(H, 2)
        one_by_one.build(*shapes[:count])
        listed.build(shapes[:count])
        assert [w.shape for w in one_by_one.weights] == [w.shape for w in listed.weights]
    with refused("`value_shape` must be given"):
        CrossAttention(H, 2).build(shapes[0])


@pytest.mark.parametrize(
    "shapes",
    [
        ((2, 5, 6), (3, 7, 4)),
        ((2, 5, 6), (2, 7, 4), (2, 6, 3)),
        ((2, 5, 6), (2, 7, 4), (3, 7, 3)),
        ((2, 5, 6),),
    ],
    ids=str,
)
@pytest.mark.parametrize("together", [False, True], ids=["one by one", "as a list"])
def test_output_shapes_are_checked_as_calls_are(shapes, together):
    layer = CrossAttention(2, name="ours")
    with refused("must", "in CrossAttention 'ours'", "Received: "):
        layer.compute_output_shape(*([shapes] if together else shapes))
    assert layer.compute_output_shape((2, 5, 6), (2, 7, 4)) == (2, 5, 6)
    assert layer.compute_output_shape([(2, 5, 6), (2, 7, 4), (2, 7, 3)]) == (2, 5, 6)
