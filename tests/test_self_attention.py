import gradients
import keras
import numpy as np
import oracles
import pytest
from common import (
    BACKEND,
    DTYPES,
    HALVES,
    NORMALIZERS,
    SCORES,
    assert_rounded_alike,
    assert_within,
    attention_oracle,
    dtype_of,
    label,
    numpy,
    random,
    randomize,
    refused,
)
from keras import ops

from keras_sam import SelfAttention, scores

B, H, T, C = 2, 3, 5, 7
PADDING = np.arange(T) < np.array([[T], [2]])  # (B, T)
PAIRS = np.random.default_rng(1).random((B, T, T)) < 0.6
PAIRS[0, 1] = False  # a row with nothing to attend to
PER_HEAD = np.random.default_rng(2).random((B, H, T, T)) < 0.6
BIAS = random(B, H, T, T, seed=3)


def built(dtype=None, shape=(B, T, C), **arguments):
    """A layer with random weights. Dense, where nothing else is asked for: compiling."""
    arguments = {"num_heads": H, "key_dim": 2, "block_size": None, **arguments}
    layer = SelfAttention(**arguments, dtype=dtype)
    layer.build((None, *shape[1:]))
    return randomize(layer)


def check(layer, dtype="float32", allowed=True, bias=0.0, **call):
    """Compares the output, with and without weights returned, with the oracle."""
    inputs = random(B, T, C, dtype="float64").astype(
        "float32" if dtype in HALVES else dtype
    )
    expected = attention_oracle(layer, dtype, inputs, inputs, inputs, allowed, bias)
    outputs, weights = layer(inputs, return_attention_scores=True, **call)
    assert_within(outputs, expected[0])
    assert_within(weights, expected[1])
    assert_within(layer(inputs, **call), expected[0])
    np.testing.assert_array_equal(numpy(weights)[expected[1][0] == 0], 0.0)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("score", SCORES)
def test_matches_the_oracle(score, normalizer):
    check(
        built(score=score, normalizer=normalizer),
        mask=PADDING,
        attention_mask=PAIRS,
        allowed=PAIRS[:, None] & both_ways(PADDING),
    )


def both_ways(padding):
    return padding[:, None, :, None] & padding[:, None, None, :]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score", SCORES)
def test_matches_the_oracle_in_every_precision(score, dtype):
    layer = built(score=score, dtype=dtype)
    check(layer, dtype, mask=PADDING, allowed=both_ways(PADDING))
    if BACKEND != "jax":
        assert dtype_of(layer(random(B, T, C, dtype="float64"))) == dtype


MASKS = {
    "none": ({}, True, 0.0),
    "padding": ({"mask": PADDING}, both_ways(PADDING), 0.0),
    "pairs": ({"attention_mask": PAIRS}, PAIRS[:, None], 0.0),
    "per head": ({"attention_mask": PER_HEAD}, PER_HEAD, 0.0),
    "one for all heads": ({"attention_mask": PER_HEAD[:, :1]}, PER_HEAD[:, :1], 0.0),
    "one for the batch": ({"attention_mask": PAIRS[:1]}, PAIRS[:1, None], 0.0),
    "keys only": ({"attention_mask": PAIRS[:, :1]}, PAIRS[:, None, :1], 0.0),
    "queries only": ({"attention_mask": PAIRS[:, :, :1]}, PAIRS[:, None, :, :1], 0.0),
    "integers": ({"attention_mask": PAIRS.astype("int32")}, PAIRS[:, None], 0.0),
    "floats": ({"attention_mask": PAIRS.astype("float32")}, PAIRS[:, None], 0.0),
    "padding, integers": ({"mask": PADDING.astype("int8")}, both_ways(PADDING), 0.0),
    "tensor": ({"attention_mask": ops.array(PAIRS)}, PAIRS[:, None], 0.0),
    "lists": ({"attention_mask": PAIRS.tolist()}, PAIRS[:, None], 0.0),
    "bias": ({"attention_bias": BIAS}, True, BIAS),
    "bias, lists": ({"attention_bias": BIAS.tolist()}, True, BIAS),
    "bias for all heads": ({"attention_bias": BIAS[:, 0]}, True, BIAS[:, :1]),
    "bias of keys": ({"attention_bias": BIAS[:1, :, :1]}, True, BIAS[:1, :, :1]),
    "bias and masks": (
        {"attention_bias": BIAS, "attention_mask": PAIRS, "mask": PADDING},
        PAIRS[:, None] & both_ways(PADDING),
        BIAS,
    ),
}


POSITIONS = [{}, {"causal": True}, {"sliding_window": 2}]


@pytest.mark.parametrize(
    ("name", "positions"),
    [(name, POSITIONS[index % 3]) for index, name in enumerate(MASKS)]  # by turns
    + [("none", POSITIONS[1]), ("bias and masks", POSITIONS[0])],
)
def test_masks_and_biases(name, positions):
    call, allowed, bias = MASKS[name]
    check(built(**positions), allowed=allowed, bias=bias, **call)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_heads": 7, "key_dim": None},
        {"value_dim": 11},
        {"use_bias": False},
        {"num_heads": 6, "num_key_value_heads": 2},
        {"num_heads": 3, "num_key_value_heads": 1, "score": "additive"},
        {"causal": True, "sliding_window": 3},
        {"sliding_window": 1},
        {"sliding_window": 100},
        {"causal": True, "selective": True},
        {"score": scores.ScaledDot(scale=-1.5)},
        {"score": scores.Additive(units=11, use_bias=False)},
        {"score": scores.LowRankBilinear(rank=11)},
        {"block_size": "auto"},
        {"block_size": 2},
        {"block_size": 2, "score": "additive", "causal": True},
        {"block_size": 3, "normalizer": "sparsemax", "sliding_window": 2},
    ],
    ids=label,
)
def test_arguments(arguments):
    check(built(**arguments))


def test_a_bias_of_minus_infinity_masks():
    bias = np.where(PER_HEAD, BIAS, -np.inf)
    bias[..., 0] = BIAS[..., 0]  # each row has a key to attend to
    allowed = np.isfinite(bias)
    layer = built()
    check(layer, allowed=allowed, bias=np.where(allowed, bias, 0), attention_bias=bias)
    layer = built(dtype="float16")
    weights = layer(random(B, T, C), attention_bias=bias, return_attention_scores=True)[1]
    np.testing.assert_array_equal(numpy(weights)[~allowed], 0.0)


@pytest.mark.parametrize("dtype", ["float32", *HALVES])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_nothing_to_attend_to(normalizer, dtype):
    """Zero weights, the output bias as output, and finite gradients."""
    layer = built(normalizer=normalizer, score="cosine", dtype=dtype)
    inputs = random(B, T, C)
    mask = np.array([[True] * T, [False] * T])  # one sequence is all padding
    pairs = np.ones((B, T, T), bool)
    pairs[0, 3] = False
    call = {"mask": mask, "attention_mask": pairs}
    empty = ~(pairs & mask[:, :, None] & mask[:, None, :]).any(axis=-1)
    outputs, weights = layer(inputs, **call, return_attention_scores=True)
    np.testing.assert_array_equal(np.moveaxis(numpy(weights), 1, 2)[empty], 0.0)
    for result in (outputs, layer(inputs, **call)):
        bias = numpy(ops.cast(layer.output_dense.bias, dtype))
        np.testing.assert_array_equal(numpy(result)[empty], np.tile(bias, (T + 1, 1)))
    for returned in (False, True):
        value, (gradient,) = gradients.value_and_gradients(
            lambda x, returned=returned: ops.cast(
                keras.tree.flatten(layer(x, **call, return_attention_scores=returned))[0],
                "float32",
            ),
            inputs,
        )
        assert np.isfinite(value).all()
        assert np.isfinite(gradient).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("score", SCORES)
def test_padding_changes_nothing(score, normalizer):
    layer = built(score=score, normalizer=normalizer)
    inputs = random(B, T, C)
    other = np.where(PADDING[..., None], inputs, 1e3 * random(B, T, C, seed=5))
    for first, second in zip(
        layer(inputs, mask=PADDING, return_attention_scores=True),
        layer(other, mask=PADDING, return_attention_scores=True),
        strict=True,
    ):
        # A vectorized tanh rounds by where in memory a number lies: not quite equal.
        error = oracles.allowance(numpy(first), numpy(first))
        np.testing.assert_allclose(numpy(first), numpy(second), rtol=0, atol=error)
    # And without the padding at all it is the same.
    np.testing.assert_allclose(
        numpy(layer(inputs, mask=PADDING))[1, :2],
        numpy(layer(inputs[1:, :2]))[0],
        atol=oracles.allowance(inputs, inputs) * 10,
    )


@pytest.mark.parametrize("score", ["dot", "bilinear"])
def test_scores_beyond_float16(score):
    layer = built(score=score, dtype="float16")
    value, (gradient,) = gradients.value_and_gradients(
        lambda x: ops.cast(layer(x), "float32"), 3e3 * random(B, T, C)
    )
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("score", SCORES)
def test_gradients_are_slopes(score, normalizer):
    layer = built(score=score, normalizer=normalizer, dtype="float64")
    call = {"mask": PADDING, "attention_mask": PAIRS, "attention_bias": BIAS}
    slope, difference, error = gradients.slope_and_difference(layer, random(B, T, C), call)
    assert slope == pytest.approx(difference, rel=error, abs=error)


GRIDS = {"image": (3, 5), "volume": (2, 3, 2)}


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_grids_are_sequences_of_their_positions(grid):
    positions = int(np.prod(grid))
    on_grid = built(shape=(B, *grid, C), causal=True, sliding_window=4)
    in_row = built(shape=(B, positions, C), causal=True, sliding_window=4)
    inputs = random(B, *grid, C)
    flat = inputs.reshape(B, positions, C)
    mask = np.random.default_rng(4).random((B, *grid)) < 0.7
    outputs, weights = on_grid(inputs, mask=mask, return_attention_scores=True)
    expected = in_row(flat, mask=mask.reshape(B, -1), return_attention_scores=True)
    assert outputs.shape == inputs.shape
    np.testing.assert_array_equal(numpy(outputs).reshape(flat.shape), numpy(expected[0]))
    np.testing.assert_array_equal(numpy(weights), numpy(expected[1]))
    pairs = np.random.default_rng(5).random((B, H, positions, positions)) < 0.7
    np.testing.assert_array_equal(
        numpy(on_grid(inputs, attention_mask=pairs)).reshape(flat.shape),
        numpy(in_row(flat, attention_mask=pairs)),
    )


def test_grouped_queries_share_keys_and_values():
    shared = built(num_heads=6, num_key_value_heads=2)
    full = built(num_heads=6)
    for name in ("query", "key", "value", "output"):
        for kind in ("kernel", "bias"):
            weight = numpy(getattr(getattr(shared, f"{name}_dense"), kind))
            if name in ("key", "value"):
                weight = np.repeat(weight, 3, axis=-2)
            getattr(getattr(full, f"{name}_dense"), kind).assign(weight)
    inputs = random(B, T, C)
    expected = full(inputs, return_attention_scores=True)
    for result, other in zip(
        shared(inputs, return_attention_scores=True), expected, strict=True
    ):
        assert_rounded_alike(numpy(result), numpy(other))


EMPTY = {
    "no positions": (B, 0, C),
    "no batch": (0, T, C),
    "no rows of an image": (B, 0, 3, C),
    "no images": (0, 2, 3, C),
}


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("shape", EMPTY.values(), ids=EMPTY)
def test_of_nothing_comes_nothing(shape, normalizer):
    layer = built(shape=(None, *(n or 1 for n in shape[1:])), normalizer=normalizer)
    outputs, weights = layer(np.zeros(shape, "float32"), return_attention_scores=True)
    positions = int(np.prod(shape[1:-1]))
    assert tuple(outputs.shape) == shape
    assert tuple(weights.shape) == (shape[0], H, positions, positions)


def test_masks_of_embeddings_are_used_and_passed_on():
    tokens = np.array([[3, 1, 4, 1, 5], [2, 6, 0, 0, 0]])
    embed = keras.layers.Embedding(7, C, mask_zero=True)
    layer = built()
    inputs = keras.Input((T,), dtype="int32")
    embedded = embed(inputs)
    attended = layer(embedded)
    with_pairs = layer(embedded, attention_mask=keras.Input((T, T), dtype="bool"))
    for tensor in (attended, with_pairs):
        assert keras.src.backend.get_keras_mask(tensor).shape == (None, T)
    model = keras.Model(inputs, attended)
    expected = layer(numpy(embed(tokens)), mask=PADDING)
    np.testing.assert_array_equal(numpy(model(tokens)), numpy(expected))
    # Beside an explicit mask, the implicit one is used as well.
    embedded = embed(ops.array(tokens))
    np.testing.assert_array_equal(
        numpy(layer(embedded, attention_mask=PAIRS)),
        numpy(layer(numpy(embedded), mask=PADDING, attention_mask=PAIRS)),
    )


def with_dropout(**arguments):
    return built(dropout=0.4, **arguments)


def test_dropout_is_for_training_only():
    inputs = random(B, T, C)
    layer = with_dropout(seed=11)
    plain = numpy(built()(inputs))
    np.testing.assert_array_equal(numpy(layer(inputs)), plain)
    np.testing.assert_array_equal(numpy(layer(inputs, training=False)), plain)
    assert (numpy(layer(inputs, training=True)) != plain).any()


def test_dropout_by_seed():
    inputs = random(B, T, C)
    first, same, other = (with_dropout(seed=seed) for seed in (11, 11, 12))
    once, again = (numpy(first(inputs, training=True)) for _ in range(2))
    assert (once != again).any()
    np.testing.assert_array_equal(once, numpy(same(inputs, training=True)))
    assert (once != numpy(other(inputs, training=True))).any()


def test_dropout_keeps_the_mean():
    trials = 4096
    inputs = np.repeat(random(1, T, C), trials, axis=0)
    layer = with_dropout(seed=11)
    dropped = numpy(layer(inputs, training=True)).astype("float64")
    deviation = dropped.std(axis=0) / np.sqrt(trials)
    difference = np.abs(dropped.mean(axis=0) - numpy(layer(inputs[:1]))[0])
    assert (difference < 5 * deviation).all()


def test_returned_weights_are_from_before_dropout():
    inputs = random(B, T, C)
    layer = with_dropout(seed=11)
    weights = [
        numpy(layer(inputs, training=training, return_attention_scores=True)[1])
        for training in (False, True)
    ]
    np.testing.assert_array_equal(*weights)


def test_projections_begin_different():
    """Also from a seed, which gives the same numbers whenever it is used."""
    for initializer in (
        "glorot_uniform",
        keras.initializers.GlorotUniform(seed=5),
        keras.initializers.RandomNormal(seed=keras.random.SeedGenerator(5)),
    ):
        layer = SelfAttention(H, 2, kernel_initializer=initializer)
        layer.build((B, T, C))
        kernels = [
            numpy(dense.kernel)
            for dense in (layer.query_dense, layer.key_dense, layer.value_dense)
        ]
        assert not np.array_equal(kernels[0], kernels[1])
        assert not np.array_equal(kernels[0], kernels[2])
        assert not np.array_equal(kernels[1], kernels[2])


def test_a_seeded_initializer_begins_the_same_each_time():
    kernels = []
    for _ in range(2):
        layer = SelfAttention(
            H, 2, kernel_initializer=keras.initializers.GlorotUniform(seed=5)
        )
        layer.build((B, T, C))
        kernels.append(numpy(layer.key_dense.kernel))
    np.testing.assert_array_equal(*kernels)


def test_a_score_with_a_dtype_of_its_own():
    layer = built(score=scores.Bilinear(dtype="float32"), dtype="float16")
    inputs = random(B, T, C)
    symbolic = layer(keras.Input((T, C)), return_attention_scores=True)
    eager = layer(inputs, return_attention_scores=True)
    assert list(map(dtype_of, eager)) == list(map(dtype_of, symbolic)) == ["float16"] * 2


def test_layers_do_not_share_the_score_they_are_given():
    score = scores.Bilinear(name="ours")
    first, second = built(score=score), built(score=score, num_heads=2, key_dim=5)
    assert first.score is not second.score
    assert first.score.name == second.score.name == "ours"
    assert tuple(first.score.kernel.shape) == (H, 2, 2)
    assert tuple(second.score.kernel.shape) == (2, 5, 5)
    with refused("`score` must not have weights yet"):
        SelfAttention(H, score=first.score)


def test_a_frozen_layer_has_nothing_to_train():
    layer = built(score="additive")
    assert len(layer.trainable_weights) == 8 + 4
    layer.trainable = False
    assert layer.trainable_weights == []


def test_regularizers_count_once_for_each_projection():
    layer = SelfAttention(H, 2, kernel_regularizer=keras.regularizers.L2(0.1))
    layer(random(B, T, C))
    expected = sum(
        0.1 * (numpy(dense.kernel) ** 2).sum()
        for dense in (
            layer.query_dense,
            layer.key_dense,
            layer.value_dense,
            layer.output_dense,
        )
    )
    assert len(layer.losses) == 4
    assert float(sum(map(numpy, layer.losses))) == pytest.approx(expected, rel=1e-5)


WRONG_ARGUMENTS = {
    "`num_heads` must be a positive integer. Received: num_heads=": [
        {"num_heads": value} for value in (0, -1, True, 2.0, "2", None)
    ],
    "`key_dim` must be a positive integer or None. Received: key_dim=": [
        {"key_dim": value} for value in (0, -3, 2.0, True)
    ],
    "`value_dim` must be a positive integer or None. Received: value_dim=": [
        {"value_dim": value} for value in (0, "x")
    ],
    "`num_key_value_heads` must be a positive integer or None. Received: ": [
        {"num_key_value_heads": value} for value in (0, 1.0)
    ],
    "`num_key_value_heads` must be a divisor of `num_heads` (3) or None. Received: ": [
        {"num_key_value_heads": value} for value in (2, 6)
    ],
    "`causal` must be True or False. Received: causal=": [{"causal": 1}, {"causal": None}],
    "`selective` must be True or False. Received: selective=": [
        {"selective": value, "causal": True} for value in (1, 0, None, "yes")
    ],
    "`causal` must be True where `selective` is, ": [
        {"selective": True},
        {"selective": True, "causal": False, "sliding_window": 3},
    ],
    "`sliding_window` must be a positive integer or None. Received: sliding_window=": [
        {"sliding_window": value} for value in (0, -1, 2.5, True, (1, 1))
    ],
    "`dropout` must be a number in the range [0, 1). Received: dropout=": [
        {"dropout": value} for value in (1.5, 1, -0.1, True, "x", None, float("nan"))
    ],
    "`use_bias` must be True or False. Received: use_bias=": [{"use_bias": None}],
    '`block_size` must be a positive integer, "auto" or None. Received: block_size=': [
        {"block_size": value} for value in (0, -1, "big", True, 2.5)
    ],
    "`seed` must be an integer or None. Received: seed=": [
        {"seed": value} for value in ("a", 1.5)
    ],
    "`kernel_initializer` must be the name or an instance of a Keras initializer. ": [
        {"kernel_initializer": value} for value in (None, lambda shape, dtype: 0, "x", 3)
    ],
    "`kernel_regularizer` must be the name or an instance of a Keras regularizer, or ": [
        {"kernel_regularizer": value} for value in (lambda kernel: 0.0, "x", 3)
    ],
}


@pytest.mark.parametrize(
    ("message", "arguments"),
    [(message, case) for message, cases in WRONG_ARGUMENTS.items() for case in cases],
    ids=lambda value: label(value) if isinstance(value, dict) else "",
)
def test_wrong_arguments(message, arguments):
    with refused(message):
        SelfAttention(**{"num_heads": H, **arguments})


def test_integers_of_numpy_are_integers():
    layer = SelfAttention(np.int64(3), np.int32(2), dropout=np.float32(0.5))
    config = layer.get_config()
    assert type(config["num_heads"]) is type(config["key_dim"]) is int
    assert type(config["dropout"]) is float


WRONG_CALLS = {
    "`attention_mask` must have the shape (batch, 5, 5) or (batch, 3, 5, 5)": [
        {"attention_mask": np.ones(shape, bool)}
        for shape in [(B, T, 4), (B, 4, T), (B, 2, T, T), (T, 4), (3, T, T), (B, T), (T,)]
    ],
    "`attention_bias` must have the shape (batch, 5, 5) or (batch, 3, 5, 5)": [
        {"attention_bias": np.ones(shape, "float32")}
        for shape in [(B, T, 4), (B, 2, T, T), (4, T), (T,)]
    ],
}


def name_and_shape(call):
    return "".join(f"{name}{array.shape}" for name, array in call.items())


@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@pytest.mark.parametrize(
    ("message", "call"),
    [(message, case) for message, cases in WRONG_CALLS.items() for case in cases],
    ids=lambda value: "" if isinstance(value, str) else name_and_shape(value),
)
def test_wrong_calls(message, call, symbolic):
    ((name, array),) = call.items()
    inputs = random(B, T, C)
    if symbolic:
        inputs = keras.Input(batch_shape=inputs.shape)
        call = {name: keras.Input(batch_shape=array.shape, dtype=str(array.dtype))}
    with refused(message, f"Received: {name}.shape={array.shape}"):
        SelfAttention(H, 2)(inputs, **call)


def test_heads_that_do_not_divide_the_width():
    message = "`num_heads` must divide the width of the input when `key_dim` is None. "
    with refused(message + "Received: num_heads=3, width=7"):
        SelfAttention(3)(keras.Input((T, C)))
