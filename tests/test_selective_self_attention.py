"""`SelfAttention(causal=True, selective=True)`: one head takes off scores for all."""

import re

import gradients
import numpy as np
import oracles
import pytest
from common import (
    BACKEND,
    DTYPES,
    HALVES,
    NORMALIZERS,
    SCORES,
    assert_within,
    attention_oracle,
    numpy,
    random,
    randomize,
)
from keras import ops

from keras_sam import CrossAttention, SelfAttention, normalizers, record_attention
from keras_sam.attention import penalty, reference, selective
from keras_sam.attention.blocks import Blocks
from keras_sam.attention.plan import Plan
from keras_sam.attention.positions import Positions
from keras_sam.attention.request import Constants, Inputs, Request
from keras_sam.backend.xla import compiled
from keras_sam.scores.pure import DotProduct

B, H, T, C = 2, 3, 7, 5
RIGHT = np.arange(T) < np.array([[T], [3]])  # (B, T), with padding on the right
LEFT = RIGHT[:, ::-1]
PAIRS = np.random.default_rng(1).random((B, T, T)) < 0.7
PER_HEAD = np.random.default_rng(2).random((B, H, T, T)) < 0.7
BIAS = random(B, H, T, T, seed=3)


def built(dtype=None, shape=(B, T, C), **arguments):
    """A layer with random weights. Dense, where nothing else is asked for: compiling."""
    arguments = {"causal": True, "selective": True, "block_size": None, **arguments}
    layer = SelfAttention(num_heads=H, key_dim=2, **arguments, dtype=dtype)
    layer.build((None, *shape[1:]))
    return randomize(layer)


def both_ways(padding):
    return padding[:, None, :, None] & padding[:, None, None, :]


CALLS = {
    "none": ({}, True, 0.0, [0, 0]),
    "padding": ({"mask": RIGHT}, both_ways(RIGHT), 0.0, [0, 0]),
    "padding on the left": ({"mask": LEFT}, both_ways(LEFT), 0.0, [0, T - 3]),
    "pairs": ({"attention_mask": PAIRS}, PAIRS[:, None], 0.0, [0, 0]),
    "pairs of heads": ({"attention_mask": PER_HEAD}, PER_HEAD, 0.0, [0, 0]),
    "bias": ({"attention_bias": BIAS}, True, BIAS, [0, 0]),
    "bias of keys": ({"attention_bias": BIAS[:1, :, :1]}, True, BIAS[:1, :, :1], [0, 0]),
    "all": (
        {"attention_bias": BIAS, "attention_mask": PER_HEAD, "mask": LEFT},
        PER_HEAD & both_ways(LEFT),
        BIAS,
        [0, T - 3],
    ),
}


def check(layer, name="none", dtype="float32"):
    """Compares the output, with and without weights returned, with the oracle."""
    call, allowed, bias, first = CALLS[name]
    inputs = random(B, T, C, dtype="float64").astype(
        "float32" if dtype in HALVES else dtype
    )
    of_oracle = (layer, dtype, inputs, inputs, inputs, allowed, bias, first)
    expected = attention_oracle(*of_oracle)
    outputs, weights = layer(inputs, return_attention_scores=True, **call)
    assert_within(outputs, expected[0])
    assert_within(weights, expected[1])
    assert_within(layer(inputs, **call), expected[0])


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("score", SCORES)
def test_matches_the_oracle(score, normalizer):
    check(built(score=score, normalizer=normalizer), "padding")


@pytest.mark.parametrize("sliding_window", [None, 3])
@pytest.mark.parametrize("name", CALLS)
def test_masks_and_biases(name, sliding_window):
    check(built(sliding_window=sliding_window), name)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("score", ["scaled_dot", "additive"])
def test_every_precision(score, dtype):
    check(built(score=score, dtype=dtype), "padding on the left", dtype)


@pytest.mark.parametrize(
    "arguments",
    [
        {"num_key_value_heads": 1},
        {"value_dim": 11, "use_bias": False},
        {"block_size": 2},
        {"block_size": "auto", "normalizer": "entmax"},
    ],
    ids=str,
)
def test_arguments(arguments):
    check(built(**arguments), "all")


def test_by_hand():
    """Five positions of one head: what is selected, and what it takes off."""
    logits = np.array(
        [
            [1, 0, 0, 0, 0],
            [2, 1, 0, 0, 0],
            [3, 4, 1, 0, 0],
            [5, -6, 7, 1, 0],
            [8, 9, 2, 3, 1],
        ],
        "float32",
    )
    positions = ops.arange(5)
    selected = penalty.select(
        ops.convert_to_tensor(logits[None, None]),
        ops.ones((5, 5), "bool"),
        penalty.selectable_keys(5),
        positions,
        positions,
    )
    np.testing.assert_array_equal(
        numpy(selected)[0, 0],
        [
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 4, 0, 0, 0],
            [0, 0, 7, 0, 0],
            [0, 9, 2, 3, 0],
        ],
    )
    np.testing.assert_array_equal(
        numpy(penalty.accumulate(selected))[0, 0],
        [
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 0, 0, 0, 0],
            [0, 4, 0, 0, 0],
            [0, 4, 7, 0, 0],
        ],
    )


def logits_of(layer, inputs):
    """Logits as the weights of softmax show them: less than the one of the row itself."""
    weights = numpy(layer(inputs, return_attention_scores=True)[1]).astype("float64")
    logits = np.log(np.where(weights > 0, weights, 1))
    return logits - np.diagonal(logits, axis1=-2, axis2=-1)[..., None]


def test_all_heads_lose_what_the_first_head_selects():
    plain, selective = built(selective=False, dtype="float64"), built(dtype="float64")
    inputs = random(B, T, C, dtype="float64")
    before = np.tril(np.ones((T, T), bool))
    lost = np.where(before, logits_of(plain, inputs) - logits_of(selective, inputs), 0)
    error = 1e-12 if BACKEND != "jax" else 1e-4
    for head in range(1, H):
        np.testing.assert_allclose(lost[:, head], lost[:, 0], rtol=0, atol=error)
    assert lost.max() > 0.1
    assert lost.min() > -error
    assert (np.diff(lost, axis=2)[:, :, before[:-1]] > -error).all()  # it only grows
    np.testing.assert_allclose(lost[..., 0], 0, rtol=0, atol=error)  # the first key
    for offset in (0, -1):  # a row itself, and the one before, which none has selected
        diagonal = np.diagonal(lost, offset, -2, -1)
        np.testing.assert_allclose(diagonal, 0, rtol=0, atol=error)


@pytest.mark.parametrize("block_size", [None, 2])
def test_later_positions_change_nothing(block_size):
    layer = built(block_size=block_size)
    inputs = random(B, T, C)
    other = inputs.copy()
    other[:, 4:] = random(B, T - 4, C, seed=8)
    found, expected = (numpy(layer(x))[:, :4] for x in (other, inputs))
    error = oracles.allowance(expected, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("padding", [LEFT, RIGHT], ids=["left", "right"])
def test_padding_is_as_if_it_were_not_there(padding, block_size):
    """It selects nothing, and the first position after it is the first one."""
    layer = built(block_size=block_size)
    inputs = np.where(padding[..., None], random(B, T, C), 1e2 * random(B, T, C, seed=5))
    found = numpy(layer(inputs.astype("float32"), mask=padding))[1, padding[1]]
    expected = numpy(layer(random(B, T, C)[1:, padding[1]]))[0]
    error = 4 * oracles.allowance(expected, expected)
    np.testing.assert_allclose(found, expected, rtol=0, atol=error)


@pytest.mark.parametrize("block_size", [None, 2])
@pytest.mark.parametrize("name", ["none", "all"])
def test_gradients_are_slopes(name, block_size):
    layer = built(block_size=block_size, dtype="float64", sliding_window=5)
    inputs = random(B, T, C)
    slope, difference, error = gradients.slope_and_difference(layer, inputs, CALLS[name][0])
    assert slope == pytest.approx(difference, rel=error, abs=error)


def test_the_selecting_head_learns_to_select():
    """Even where its own values are not used, its queries and keys have a gradient."""
    layer = built()
    kernel = numpy(layer.output_dense.kernel).copy()
    kernel[0] = 0  # the output does not see the first head
    layer.output_dense.kernel.assign(kernel)
    weights = [numpy(v) for v in layer.trainable_variables]
    paths = [v.path for v in layer.trainable_variables]

    def output(x, *weights):
        factor = random(B, T, C, seed=9)
        return ops.multiply(factor, layer.stateless_call(weights, [], x)[0])

    _, (_, *slopes) = gradients.value_and_gradients(output, random(B, T, C), *weights)
    for path, slope in zip(paths, slopes, strict=True):
        if path.endswith(("query/kernel", "key/kernel")):
            assert np.abs(slope[:, 0]).max() > 1e-3, path
        if path.endswith("value/kernel"):
            assert not slope[:, 0].any()


def test_nothing_to_attend_to():
    """Zero weights and finite gradients, also where minus infinity is a bias."""
    bias = np.where(PER_HEAD, BIAS, -np.inf).astype("float32")
    mask = np.array([[True] * T, [False] * T])
    for block_size in (None, 2):
        layer = built(block_size=block_size)
        value, (slope,) = gradients.value_and_gradients(
            lambda x, layer=layer: layer(x, mask=mask, attention_bias=bias),
            3e3 * random(B, T, C),
        )
        assert np.isfinite(value).all()
        assert np.isfinite(slope).all()
        np.testing.assert_array_equal(
            value[1], np.tile(numpy(layer.output_dense.bias), (T, 1))
        )


def test_grids_are_sequences_of_their_positions():
    on_grid = built(shape=(B, 2, 3, C))
    in_row = built(shape=(B, 6, C))
    inputs = random(B, 2, 3, C)
    outputs = numpy(on_grid(inputs)).reshape(B, 6, C)
    np.testing.assert_array_equal(outputs, numpy(in_row(inputs.reshape(B, 6, C))))


def test_recorded_weights_are_those_returned():
    layer = built(block_size=2)
    inputs = random(B, T, C)
    with record_attention() as maps:
        outputs = layer(inputs)
    expected = layer(inputs, return_attention_scores=True)
    np.testing.assert_array_equal(numpy(maps[layer.path]), numpy(expected[1]))
    np.testing.assert_array_equal(numpy(outputs), numpy(expected[0]))


def test_it_adds_no_weights():
    plain, selective = built(selective=False), built()
    shapes = [[tuple(w.shape) for w in layer.weights] for layer in (plain, selective)]
    assert shapes[0] == shapes[1]
    assert selective.get_config()["selective"] is True


def test_cross_attention_has_no_such_argument():
    with pytest.raises(ValueError, match="selective"):
        CrossAttention(num_heads=H, causal=True, selective=True)


@pytest.mark.tensorflow
def test_no_tensor_is_as_large_as_a_matrix_of_pairs():
    """Neither forward nor backward; all rows at once would have some."""
    length = 211
    shape = (1, 2, length, 3)
    inputs = Inputs(*(ops.ones(shape) for _ in range(3)))
    request = Request(
        DotProduct(), normalizers.Softmax(), Positions(causal=True), selective=True
    )

    def largest(run, inputs, *of_rows):
        program = compiled(lambda inputs, *of_rows: run(inputs, Constants(), *of_rows))
        ir = program.experimental_get_compiler_ir(inputs, *of_rows)(stage="hlo")
        shapes = re.findall(r"\w\[([\d,]+)\]", ir)
        return max(np.prod([int(n) for n in s.split(",")]) for s in shapes)

    output = ops.ones(shape)
    plan = Plan("selective", Blocks(pairs=8 * length, rows=8, together=True))
    forward, backward = selective.passes(request, plan)
    assert largest(forward, inputs) < length**2 / 4
    assert largest(backward, inputs, output, (), output) < length**2 / 4
    forward, backward = reference.passes(request, Plan("reference"))
    assert largest(forward, inputs) >= length**2
    assert largest(backward, inputs, output, (), output) >= length**2
