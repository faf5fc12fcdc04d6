"""Every kernel gives what the reference formula gives, in float64."""

import dataclasses
import functools
import re
import sys
import textwrap

import keras
import numpy as np
import oracles
import pytest
from common import BACKEND, NORMALIZERS, SCORES, numpy, random, randomize
from fresh_process import run_python
from gradients import in_float64, value_and_gradients
from keras import ops
from kernels import LARGE, OnAccelerator

import keras_sam
from keras_sam import normalizers, scores
from keras_sam.attention import flash
from keras_sam.attention.blocks import Block, Blocks
from keras_sam.attention.dropout import dropout_mask
from keras_sam.attention.plan import Device, Plan
from keras_sam.attention.policy import DEFAULT, Policy
from keras_sam.attention.positions import Positions
from keras_sam.attention.request import Constants, Inputs, Request, Sizes
from keras_sam.backend.cores import shares
from keras_sam.masks import Global, Prefix, Segments, Window
from keras_sam.scores.additive import additive_scores
from keras_sam.scores.pure import DotProduct

B, H, D, DV = 2, 3, 5, 7
BLOCK = 8
LENGTHS = [(1, 5), (BLOCK - 1, 11), (BLOCK, 13), (BLOCK + 1, 3), (23, 19)]
HALF = {"float16": 2**-10, "bfloat16": 2**-7}


# Policies under which sizes of tests are large, and blocks small.
SMALL = {"graph_pairs": 150, "pairs": 150, "pairs_backward": 70, "selective_pairs": 150}
BLOCKS = Policy(**LARGE, **SMALL)
TILES = Policy(
    **LARGE, kernel="flash", flash_rows=16, flash_rows_at_an_edge=8, flash_keys=5
)


ACCELERATOR = OnAccelerator(**LARGE, accelerator_pairs=6 * 13 * 8, accelerator_keys=13)
# The arguments of `attend` for each way to compute a request.
WAYS = {
    "rows": {"block_size": BLOCK},
    "blocks": {"policy": BLOCKS},
    "accelerator": {"policy": ACCELERATOR},
}


def tensors(rows, keys, dtype="float32"):
    """Query, key, value and bias."""
    shapes = ((B, H, rows, D), (B, H, keys, D), (B, H, keys, DV), (1, H, rows, keys))
    return [random(*s, seed=i, dtype=dtype) for i, s in enumerate(shapes)]


def masks(rows, keys):
    """A table of masks: arguments of both ways to attend."""
    generator = np.random.default_rng(1)
    pairs = generator.random((B, 1, rows, keys)) > 0.3
    key_mask = generator.random((B, keys)) > 0.3
    query_mask = generator.random((B, rows)) > 0.3
    return {
        "none": {},
        "causal": {"causal": True},
        "window": {"sliding_window": 3},
        "causal_window": {"causal": True, "sliding_window": 3},
        "padding": {"key_mask": key_mask, "query_mask": query_mask},
        "pairs": {"mask": pairs},
        "pairs_of_heads": {"mask": generator.random((B, H, rows, keys)) > 0.3},
        "nothing": {"mask": np.zeros((B, 1, rows, 1), bool)},
        "all": {
            "mask": pairs,
            "key_mask": key_mask,
            "query_mask": query_mask,
            "causal": True,
            "sliding_window": 4,
        },
        "selective": {"causal": True, "selective": True},
        "selective_padding": {
            "key_mask": key_mask,
            "query_mask": query_mask,
            "causal": True,
            "selective": True,
        },
        "selective_all": {
            "mask": generator.random((B, H, rows, keys)) > 0.3,
            "key_mask": key_mask,
            "query_mask": query_mask,
            "causal": True,
            "sliding_window": 5,
            "selective": True,
        },
    }


def attend(query, key, value, bias, *, score="dot", weights=(), **arguments):
    """`keras_sam.attend` of queries and keys that are projected, with weights given."""
    if not isinstance(score, str):
        variables = score.trainable_variables
        with keras.StatelessScope(list(zip(variables, weights, strict=True))):
            return keras_sam.attend(
                query, key, value, bias=bias, score=Projected(score), **arguments
            )
    return keras_sam.attend(query, key, value, bias=bias, score=score, **arguments)


@keras.saving.register_keras_serializable(package="tests")
class Projected(scores.Score):
    """Another score without its projections."""

    def __init__(self, score, **kwargs):
        super().__init__(**kwargs)
        self.score = score
        self.built = True

    def compare(self, query, key):
        return self.score.compare(query, key)

    def get_config(self):
        score = keras.saving.serialize_keras_object(self.score)
        return {"name": self.name, "score": {**score["config"], "name": None}}


def densely(*tensors, **arguments):
    return attend(*tensors, block_size=None, **arguments)


def compare_ways(arrays, weights=(), way="rows", **arguments):
    """Checks values and gradients against those of all rows at once, in float64.

    The error may be twice that of all rows at once in the same precision, and a rounding
    more of what the gradient of a score is a small difference of: two products of the
    upstream gradient and values, which a query or key is then multiplied by. (The error
    of a row that sees one key is that alone, and all rows at once make it zero.)
    """
    count = len(arrays)
    upstream = random(B, H, len(arrays[0][0, 0]), DV, seed=9)

    def differentiate(dtype, **way):
        def weighted(*tensors):
            more = {**arguments, **way, "weights": tensors[count:]}
            given = tensors[:count] if count == 4 else (*tensors[:count], None)
            output = attend(*given, **more)
            return output * ops.convert_to_tensor(np.asarray(upstream, dtype))

        given = [np.asarray(array, dtype) for array in (*arrays, *weights)]
        value, gradients = value_and_gradients(weighted, *given)
        return value, *gradients

    with in_float64():
        expected = differentiate("float64", block_size=None)
    naive = differentiate("float32", block_size=None)
    actual = differentiate("float32", **(WAYS[way] if isinstance(way, str) else way))
    query, key, value = map(np.abs, arrays[:3])
    products = np.einsum("bhtd,bhsd->bhts", np.abs(upstream), value).max(initial=0)
    cancelled = np.finfo("float32").eps * products * max(query.max(), key.max())
    for one, plain, exact in zip(actual, naive, expected, strict=True):
        assert one.shape == exact.shape
        assert np.isfinite(one).all()
        size = max(np.abs(exact).max(initial=0), 1.0)
        error = 2 * np.abs(plain - exact).max(initial=0)
        allowed = error + max(1e-6 * size, 0 if one is actual[0] else cancelled)
        np.testing.assert_allclose(one, exact, rtol=0, atol=allowed)


def turns(*tables):
    """Every row of the last table with every row of the others, which take turns.

    All pairs of a row of the last table and one of the first are there, and the others
    change with both.
    """
    first, *middle, last = map(list, tables)
    rows = []
    for i, one in enumerate(first):
        for j, other in enumerate(last):
            rows.append((one, *(table[(i + j) % len(table)] for table in middle), other))
    return rows


@pytest.mark.parametrize(
    ("lengths", "normalizer", "mask"),
    turns(LENGTHS, ["softmax", "sigmoid"], masks(1, 1)),
    ids=str,
)
def test_rows_of_a_given_number(normalizer, mask, lengths, uncompiled):
    mask = masks(*lengths)[mask]
    compare_ways(tensors(*lengths), normalizer=normalizer, **mask)


@pytest.mark.parametrize(
    ("normalizer", "way", "mask"),
    turns(["softmax", "sigmoid"], ["blocks", "accelerator"], masks(1, 1)),
)
def test_blocks_of_some_examples_and_heads(way, normalizer, mask, uncompiled):
    mask = masks(23, 19)[mask]
    compare_ways(tensors(23, 19), way=way, normalizer=normalizer, **mask)


TILED = [name for name in masks(1, 1) if "sel" not in name]


@pytest.mark.parametrize(
    ("mask", "scale"),
    [("all", 1.0), ("none", 1.0)]  # the other masks by turns
    + [(mask, (40.0, 1.0)[i % 2]) for i, mask in enumerate(TILED)],
)
def test_tiles(mask, scale, uncompiled):
    """With and without the search for the largest score; see `flash`."""
    query, key, value, _ = tensors(23, 19)
    arrays = query * np.float32(scale), key, value
    longest = [np.square(x).sum(-1).max() for x in arrays[:2]]
    assert (np.prod(longest) > flash.SMALL_SCORE**2) == (scale > 1)
    way = {"policy": TILES}
    compare_ways(arrays, way=way, normalizer="softmax", **masks(23, 19)[mask])


@pytest.mark.parametrize("mask", ["none", "all"])
def test_tiles_with_a_bias(mask, uncompiled):
    way = {"policy": TILES}
    compare_ways(tensors(23, 19), way=way, normalizer="softmax", **masks(23, 19)[mask])


# The kernels as they are compiled, with several blocks and tiles.
COMPILED = {
    "flash": dataclasses.replace(TILES, compiled=True),
    "chunked": dataclasses.replace(BLOCKS, kernel="chunked", compiled=True),
    "selective": dataclasses.replace(BLOCKS, compiled=True),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("kernel", "mask", "dropout", "with_bias"),
    [  # each value of one with each value of another; all would take minutes
        ("flash", "none", 0.0, False),
        ("flash", "all", 0.4, True),
        ("chunked", "none", 0.4, True),
        ("chunked", "all", 0.0, False),
        ("selective", "none", 0.4, False),
        ("selective", "all", 0.0, True),
    ],
)
def test_compiled_kernels(kernel, mask, dropout, with_bias):
    arrays = tensors(23, 19)[: 4 if with_bias else 3]
    arguments = {**masks(23, 19)[mask], "dropout": dropout, "seed": 3}
    if kernel == "selective":
        arguments |= {"causal": True, "selective": True}
    way = {"policy": COMPILED[kernel]}
    compare_ways(arrays, way=way, normalizer="softmax", **arguments)


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("name", "normalizer"), [("dot", "sparsemax"), ("additive", "sigmoid")]
)
def test_compiled_scores_and_normalizers(name, normalizer):
    score, arrays, weights = projected(name, 11, 13)
    mask = masks(11, 13)["all"]
    way = {"policy": COMPILED["chunked"]}
    compare_ways(arrays, weights, way, score=score, normalizer=normalizer, **mask)


@pytest.mark.parametrize(
    ("name", "mask", "normalizer"),
    turns(SCORES, ["padding", "selective_padding"], NORMALIZERS),
)
def test_every_score_with_every_normalizer(name, normalizer, mask, uncompiled):
    score, arrays, weights = projected(name, 11, 13)
    mask = masks(11, 13)[mask]
    compare_ways(arrays, weights, score=score, normalizer=normalizer, **mask)


def projected(name, rows, keys):
    """A score, projected tensors, and the weights with which it compares them."""
    score = scores.get(name)
    score.build((B, H, rows, D), (B, H, keys, D))
    randomize(score)
    query, key, value, bias = tensors(rows, keys)
    query, key = map(numpy, score.project(query, key))
    if score.is_dot_product:
        return "dot", (query, key, value, bias), ()
    weights = tuple(map(numpy, score.trainable_variables))
    return score, (query, key, value, bias), weights


@pytest.mark.parametrize(
    ("normalizer", "shape"),
    [
        ("softmax", (1, 1, 1, 11)),
        ("softmax", (B, 1, 9, 11)),
        ("softmax", (B, H, 9, 11)),
        # Softmax does not change when all scores of a row do.
        ("sigmoid", (1, 1, 1, 1)),
        ("sigmoid", (1, H, 9, 1)),
        ("sigmoid", (B, 1, 1, 11)),
    ],
)
@pytest.mark.parametrize("way", WAYS)
def test_the_gradient_of_a_bias_has_its_shape(normalizer, shape, way, uncompiled):
    bias = random(*shape, seed=5)
    compare_ways((*tensors(9, 11)[:3], bias), way=way, normalizer=normalizer)


@pytest.mark.parametrize("dtype", HALF)
@pytest.mark.parametrize("mask", ["none", "all", "selective_all"])
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
def test_half_precision_is_computed_in_float32(normalizer, mask, dtype, uncompiled):
    arrays = [ops.cast(array, dtype) for array in tensors(9, 11)]
    arguments = {"normalizer": normalizer, **masks(9, 11)[mask]}
    output = attend(*arrays, block_size=BLOCK, **arguments)
    wide = [ops.cast(array, "float32") for array in arrays]
    expected = densely(*wide, **arguments)
    assert keras.backend.standardize_dtype(output.dtype) == dtype
    np.testing.assert_allclose(
        numpy(output), numpy(expected), rtol=HALF[dtype], atol=HALF[dtype]
    )


def test_values_of_the_formula(uncompiled):
    query, key, value, bias = tensors(9, 11, "float64")
    allowed = oracles.allowed_positions(9, 11, causal=True)
    weights = oracles.attention_weights(
        oracles.every_pair(lambda q, k, h: q @ k / 2 + 0, query, key) + bias / 2,
        oracles.softmax,
        allowed,
    )
    single = [array.astype("float32") for array in (query, key, value)]
    softmax = normalizers.Softmax(temperature=2.0)
    output = attend(*single, bias, causal=True, normalizer=softmax, block_size=BLOCK)
    np.testing.assert_allclose(numpy(output), weights @ value, rtol=0, atol=2e-6)


def test_a_bias_that_reaches_rows_that_fill_up_a_block(uncompiled):
    """The bias is the same for all rows, also for those that fill up the last block."""
    bias = np.zeros((1, 1, 1, 11), "float32")
    bias[..., 4:] = 100.0
    compare_ways((*tensors(9, 11)[:3], bias), way={"policy": TILES}, normalizer="softmax")


@pytest.mark.parametrize("size", [-np.inf, -1e6, 1e6])
def test_rows_whose_scores_are_all_large(size, uncompiled):
    """The sum of the largest score and a logarithm would lose the logarithm."""
    bias = np.zeros((1, 1, 9, 11), "float32")
    bias[:, :, 2:5] = size
    query, key, value, _ = tensors(9, 11)
    upstream = ops.convert_to_tensor(random(B, H, 9, DV, seed=9))

    def weighted(**arguments):
        def call(*tensors):
            return attend(*tensors, bias, normalizer="softmax", **arguments) * upstream

        return value_and_gradients(call, query, key, value)

    value_of, gradients = weighted(policy=TILES)
    expected, slopes = weighted(block_size=None)
    np.testing.assert_allclose(value_of, expected, atol=2e-6)
    for one, other in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-6)


def test_small_scores_of_huge_values(uncompiled):
    query, key, value, _ = tensors(9, 11)
    output = attend(query, key, value * 1e36, None, policy=TILES)
    expected = densely(query, key, value, None, normalizer="softmax")
    np.testing.assert_allclose(numpy(output) / 1e36, numpy(expected), atol=2e-6)


def test_grouped_keys_are_repeated(uncompiled):
    query, key, value, _ = tensors(9, 11)
    one = attend(query, key[:, :1], value[:, :1], None, block_size=BLOCK)
    repeated = [np.repeat(x[:, :1], H, axis=1) for x in (key, value)]
    all_of_them = attend(query, *repeated, None, block_size=BLOCK)
    np.testing.assert_allclose(numpy(one), numpy(all_of_them), atol=1e-6)


@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid"])
def test_rows_with_nothing_to_attend_to_are_zero(normalizer, uncompiled):
    mask = np.ones((B, 1, 9, 11), bool)
    mask[:, :, 3] = False
    output = attend(
        *tensors(9, 11)[:3], None, normalizer=normalizer, mask=mask, block_size=BLOCK
    )
    assert not numpy(output)[:, :, 3].any()
    assert numpy(output)[:, :, 2].all()


@pytest.mark.parametrize("block_size", [BLOCK, "auto"])
@pytest.mark.parametrize("lengths", [(0, 5), (5, 0), (0, 0)], ids=str)
def test_empty_sequences(lengths, block_size, uncompiled):
    output = attend(*tensors(*lengths)[:3], None, block_size=block_size)
    assert output.shape == (B, H, lengths[0], DV)
    assert not numpy(output).any()


# Dropout


def dropping(query, key, value, rate=0.4, seed=3, **arguments):
    arguments = {"block_size": BLOCK, **arguments}
    return attend(query, key, value, None, dropout=rate, seed=seed, **arguments)


@pytest.mark.parametrize(
    "arguments",
    [{}, {"normalizer": normalizers.Sigmoid()}, {"causal": True, "selective": True}],
    ids=["softmax", "sigmoid", "selective"],
)
def test_the_backward_pass_drops_what_the_forward_pass_dropped(arguments, uncompiled):
    with in_float64():
        check_slopes(arguments)


def check_slopes(arguments):
    """Compares gradients with differences."""
    query, key, value, _ = tensors(9, 11, "float64")
    upstream = ops.convert_to_tensor(random(B, H, 9, DV, seed=9, dtype="float64"))

    def total(query, key, value):
        return dropping(query, key, value, **arguments) * upstream

    at, gradients = value_and_gradients(total, query, key, value)
    step = 1e-6
    for index, gradient in enumerate(gradients):
        along = random(*gradient.shape, seed=7, dtype="float64")
        ends = []
        for sign in (1, -1):
            moved = [query, key, value]
            moved[index] = moved[index] + sign * step * along
            ends.append(numpy(total(*map(ops.convert_to_tensor, moved))).sum())
        slope = (ends[0] - ends[1]) / (2 * step)
        np.testing.assert_allclose((gradient * along).sum(), slope, rtol=1e-7, atol=1e-7)
    assert np.isfinite(at).all()


def test_what_is_dropped_does_not_depend_on_the_blocks(uncompiled):
    query, key, value, _ = tensors(23, 19)
    some = [numpy(dropping(query, key, value, block_size=n)) for n in (8, 64, "auto", None)]
    for policy in (BLOCKS, TILES, ACCELERATOR):
        some.append(numpy(dropping(query, key, value, block_size="auto", policy=policy)))
    for other in some[1:]:
        np.testing.assert_allclose(some[0], other, atol=1e-5)


def test_dropped_weights_are_spread_evenly():
    rate, count = 0.3, 128
    arguments = np.arange(4)[:, None], np.arange(3), np.arange(count), np.arange(count)
    kept = numpy(dropout_mask(ops.convert_to_tensor([5, 6]), *arguments, rate))
    assert kept.shape == (4, 3, count, count)
    assert set(np.unique(kept)) == {0, np.float32(1 / (1 - rate))}
    kept = kept > 0
    for axes in ((0, 1, 2, 3), (2, 3), (1, 3), (1, 2), (0, 2)):
        share = kept.mean(axis=axes)
        samples = kept.size / share.size
        deviation = np.sqrt(rate * (1 - rate) / samples)
        assert np.abs(share - (1 - rate)).max() < 5 * deviation
    # Neighbors along each axis have nothing to do with each other.
    centered = kept - kept.mean()
    for axis in range(4):
        product = centered * np.roll(centered, 1, axis)
        assert abs(product.mean()) < 5 * rate * (1 - rate) / np.sqrt(kept.size)
    other = numpy(dropout_mask(ops.convert_to_tensor([5, 7]), *arguments, rate)) > 0
    correlation = (centered * (other - other.mean())).mean()
    assert abs(correlation) < 5 * rate * (1 - rate) / np.sqrt(kept.size)


# Which keys a block reads


@pytest.mark.parametrize("sliding_window", [None, 1, 2, 9, 40])
@pytest.mark.parametrize("causal", [False, True])
def test_blocks_read_all_keys_that_they_may(causal, sliding_window):
    sizes = (1, 1, 8), (7, 30, 8), (30, 7, 8), (37, 37, 5), (64, 64, 16), (4099, 4099, 99)
    for rows, keys, block in sizes:
        plan = Positions(causal, sliding_window).plan(rows, keys, block)
        size, count, groups = plan
        assert size * count >= rows
        at = np.arange(rows)[:, None], np.arange(keys)
        distance = at[0] - at[1]
        allowed = (distance >= 0) | (not causal)
        allowed &= np.abs(distance) < (sliding_window or keys + rows)
        seen = 0
        for group in groups:
            for number in range(group.first, group.first + group.count):
                start = int(group.first_key(number * size))
                assert 0 <= start <= start + group.width <= keys
                of_block = allowed[number * size : (number + 1) * size]
                seen += of_block[:, start : start + group.width].sum()
        assert seen == allowed.sum()


@pytest.mark.skipif(BACKEND == "jax", reason="the positions are read in the loop")
@pytest.mark.parametrize("sliding_window", [None, 1, 2, 9, 40])
@pytest.mark.parametrize("causal", [False, True])
def test_tiles_hold_each_pair_once(causal, sliding_window):
    for rows, keys, size in ((1, 1, 8), (7, 30, 8), (30, 7, 8), (37, 37, 5), (64, 64, 16)):
        key = random(1, 1, keys, D)
        inputs = Inputs(random(1, 1, rows, D), key, key)
        positions = Positions(causal, sliding_window)
        request = Request(DotProduct(), normalizers.Softmax(), positions)
        blocks = Blocks(pairs=1, rows=size, keys=5)
        cut = flash.Tiles(inputs, Constants(), request, blocks)
        times = np.zeros((cut.all_rows, keys), int)

        def count(tile, carry, cut=cut, times=times):
            _, _, row, key = map(int, tile.start)
            assert 0 <= key <= key + tile.size[3] <= times.shape[1]
            allowed = cut.allowed(tile)
            here = np.ones((), int) if allowed is None else numpy(allowed)
            here = np.broadcast_to(here, (1, 1, *tile.size[2:]))[0, 0]
            times[row : row + tile.size[2], key : key + tile.size[3]] += here
            return carry

        for row in range(0, cut.all_rows, cut.rows):
            block = Block((0, 0, row, 0), (1, 1, cut.rows, keys))
            cut.for_each_tile(block, count, ops.zeros(()))
        allowed = oracles.allowed_positions(rows, keys, causal, sliding_window)
        np.testing.assert_array_equal(times[:rows], np.broadcast_to(allowed, (rows, keys)))


def test_the_work_of_a_window_grows_with_the_rows_only():
    def pairs(length):
        rows, count, (group,) = Positions(True, 256).plan(length, length, 256)
        return rows * count * group.width

    assert pairs(2**15) == 8 * pairs(2**12)
    assert pairs(2**15) <= 2**15 * 512


def test_causal_blocks_skip_masked_keys():
    rows, _, groups = Positions(causal=True).plan(8192, 8192, 256)
    pairs = sum(rows * group.count * group.width for group in groups)
    assert pairs < 0.6 * 8192**2


# Which kernel answers

CPU = Device("tensorflow", cpu=True, eager=False, cores=2)
EAGER = dataclasses.replace(CPU, eager=True)
GPU = dataclasses.replace(CPU, cpu=False)
JAX = dataclasses.replace(CPU, backend="jax", cores=1)
TORCH = Device("torch", cpu=True, eager=True, cores=1)


def request_of(normalizer="softmax", **options):
    return Request(DotProduct(), normalizers.get(normalizer), **options)


CAUSAL = {"positions": Positions(causal=True)}
SELECTIVE = {"selective": True, **CAUSAL}
SIGMOID = {"normalizer": "sigmoid"}
CHOICES = {
    # Weights are kept while they are few, or no more than a row keeps anyway.
    "few": ((1, 8, 512, 512), {}, CPU, "dense", False),
    "many": ((16, 8, 512, 512), {}, CPU, "chunked", False),
    "a few keys": ((999, 8, 256, 256), {}, CPU, "dense", False),
    "a few keys, any batch": ((None, 8, 256, 256), {}, CPU, "dense", False),
    # XLA compiles where lengths are known and long.
    "long": ((1, 8, 4096, 4096), {}, CPU, "flash", True),
    "long, any batch": ((None, 8, 1024, 1024), {}, CPU, "flash", True),
    "long, causal": ((1, 8, 4096, 4096), CAUSAL, CPU, "flash", True),
    "long, eager": ((1, 8, 4096, 4096), {}, EAGER, "chunked", False),
    "long, sigmoid": ((1, 8, 4096, 4096), {"normalizer": "sigmoid"}, CPU, "chunked", True),
    "short, sigmoid": (
        (1, 8, 128, 128),
        {"normalizer": "sigmoid"},
        CPU,
        "reference",
        False,
    ),
    "one head, sigmoid": ((1, 1, 1024, 1024), SIGMOID, CPU, "chunked", True),
    "unknown length": ((1, 8, None, 512), {}, CPU, "chunked", False),
    "unknown lengths": ((None, 8, None, None), {}, CPU, "chunked", False),
    "selective": (
        (1, 8, 4096, 4096),
        {"selective": True, **CAUSAL},
        CPU,
        "selective",
        True,
    ),
    "empty": ((2, 8, 0, 5), {}, CPU, "reference", False),
    "accelerator": ((4, 8, 4096, 4096), {}, GPU, "flash", True),
    "JAX": ((4, 8, 4096, 4096), {}, JAX, "flash", False),
    "JAX, sigmoid": ((4, 8, 4096, 4096), SIGMOID, JAX, "chunked", False),
    "PyTorch": ((4, 8, 4096, 4096), {}, TORCH, "chunked", False),
}


@pytest.mark.parametrize("name", CHOICES)
def test_choices(name):
    shape, options, device, kernel, compiled = CHOICES[name]
    sizes = Sizes(*(size if size is not None else UNKNOWN for size in shape), 64)
    plan = DEFAULT.choose(request_of(**options), sizes, device)
    assert (plan.kernel, plan.compiled) == (kernel, compiled)
    has_choice = None in (shape[2], shape[3])
    assert plan.few_kernel == ("dense" if has_choice else None)
    assert plan.any_sizes == (
        kernel == "chunked" and not compiled and device in (CPU, EAGER)
    )


UNKNOWN = object()  # stands for an integer tensor

# The rows and keys of tiles, for T = 4096.
TILE_SIZES = {
    "all": (Positions(), (512, 256)),
    "causal": (Positions(causal=True), (256, 256)),
    "window": (Positions(sliding_window=256), (128, 128)),
    "causal window": (Positions(True, 256), (128, 128)),
    "narrow window": (Positions(True, 33), (64, 64)),
    "global": (Positions.of(Window(256) | Global(16)), (128, 128)),
    "prefix": (Positions.of(Prefix(512)), (256, 256)),
    "segments": (Positions.of(Segments()), (256, 256)),
}


@pytest.mark.parametrize("name", TILE_SIZES)
def test_sizes_of_tiles_follow_the_mask(name):
    positions, expected = TILE_SIZES[name]
    request, sizes = request_of(positions=positions), Sizes(1, 8, 4096, 4096, 64)
    blocks = DEFAULT.choose(request, sizes, CPU).blocks
    assert (blocks.rows, blocks.keys) == expected
    blocks = DEFAULT.choose(request, sizes, CPU, 96).blocks
    assert (blocks.rows, blocks.keys) == (96, 256)


def test_the_caller_chooses():
    sizes = Sizes(1, 8, 128, 128, 64)
    assert DEFAULT.choose(request_of(), sizes, CPU, None) == Plan("reference")
    plan = DEFAULT.choose(request_of(), sizes, CPU, 64)
    assert (plan.kernel, plan.compiled, plan.blocks.rows) == ("flash", True, 64)
    assert DEFAULT.choose(request_of(), sizes, EAGER, 64).kernel == "chunked"


@pytest.mark.tensorflow
def test_sizes_of_blocks_do_not_run_over():
    """Of 32 million pairs or more in an int32, as of 16384 rows and 16384 keys."""
    for length in (16384, 23170, 32768, 46341, 2**20):
        sizes = [ops.convert_to_tensor(n, "int32") for n in (3, length, length)]
        for together in (False, True):
            blocks = Blocks(DEFAULT.graph_pairs, together=together)
            unknown = Sizes(sizes[0], 8, *sizes[1:], 64)
            found = [int(n) for n in blocks.sizes(unknown)]
            assert found == list(blocks.sizes(Sizes(3, 8, length, length, 64)))
            assert 0 < found[0] <= 1024


@pytest.mark.parametrize("mask", masks(1, 1))
def test_few_weights_that_are_kept(mask, uncompiled):
    compare_ways(tensors(9, 11), way={}, normalizer="softmax", **masks(9, 11)[mask])


# Additive scores


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["products", "tanh"])
@pytest.mark.parametrize("units", [3, 8, 12])
def test_additive_scores(units, scale):
    query, key = random(B, H, 6, units, scale=scale), random(B, H, 5, units, seed=1)
    vector = random(H, units, seed=2)
    upstream = ops.convert_to_tensor(random(B, H, 6, 5, seed=3))

    def fast(query, key, vector):
        return additive_scores(query, key, vector) * upstream

    def plain(query, key, vector):
        hidden = ops.tanh(query[..., :, None, :] + key[..., None, :, :])
        return ops.sum(hidden * vector[:, None, None, :], axis=-1) * upstream

    value, gradients = value_and_gradients(fast, query, key, vector)
    expected, slopes = value_and_gradients(plain, query, key, vector)
    np.testing.assert_allclose(value, expected, rtol=0, atol=5e-6)
    for one, other in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=5e-6 * max(1, scale))


@pytest.mark.parametrize("scale", [1.0, 5.0, 12.0, 60.0])
def test_additive_scores_where_units_saturate(scale):
    """Against float64, from where no unit is 1 to where nearly all are."""
    query, key = random(1, 7, 9, scale=scale), random(1, 11, 9, seed=1, scale=scale)
    vector = random(9, seed=2)
    wide = [np.asarray(x, "float64") for x in (query, key, vector)]
    hidden = np.tanh(wide[0][:, :, None] + wide[1][:, None])
    upstream = random(1, 7, 11, seed=3)
    slope = upstream[..., None] * (1 - hidden**2) * wide[2]

    def weighted(*arrays):
        return additive_scores(*arrays) * ops.convert_to_tensor(upstream)

    value, gradients = value_and_gradients(weighted, query, key, vector)
    # Roundings of sums: of the units of a score, of the pairs that a gradient sums up. An
    # input of 40 is rounded by 2e-6 before anything is computed with it.
    rounding = 4 * np.finfo("float32").eps * max(1.0, np.abs(query).max())
    most = np.abs(upstream).max()
    weights = np.abs(wide[2])
    expected = upstream * (hidden @ wide[2])
    np.testing.assert_allclose(
        value, expected, rtol=0, atol=rounding * most * weights.sum()
    )
    expected = slope.sum(2), slope.sum(1), (upstream[..., None] * hidden).sum((0, 1, 2))
    for one, exact, pairs in zip(gradients, expected, (11, 7, 77), strict=True):
        allowed = rounding * most * pairs * max(1.0, weights.max())
        np.testing.assert_allclose(one, exact, rtol=0, atol=allowed)


# Compiled


def one_step(attend):
    """Value and gradients, as a function to compile."""
    import tensorflow as tf

    def step(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = attend(*tensors)
        return output, *tape.gradient(output, tensors)

    return step


def assert_same(actual, expected):
    for one, other in zip(actual, expected, strict=True):
        np.testing.assert_allclose(numpy(one), numpy(other), rtol=0, atol=2e-5)


def attend_to_what_is_not_padding(attend, query, key, value, **arguments):
    """Causal attention whose mask comes from the keys, so that it has their length."""
    mask = ops.any(ops.not_equal(key[:, 0], 0.0), axis=-1)
    return attend(query, key, value, None, key_mask=mask, causal=True, **arguments)


@pytest.mark.tensorflow
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_shapes(jit_compile, normalizer):
    """On both sides of the choice that is made when it runs, as a graph and under XLA."""
    import tensorflow as tf

    policy = Policy(kept_pairs=1000, autodiff_pairs=1000, **SMALL)
    shapes = ((None, H, None, D), (None, H, None, D), (None, H, None, DV))
    options = {"normalizer": normalizer, "policy": policy}
    ours = functools.partial(attend_to_what_is_not_padding, attend, **options)
    options = {"normalizer": normalizer}
    expect = functools.partial(attend_to_what_is_not_padding, densely, **options)
    step = tf.function(
        one_step(ours),
        input_signature=[tf.TensorSpec(shape) for shape in shapes],
        jit_compile=jit_compile,
    )
    assert 7 * 7 * B * H <= 1000 < 19 * 19 * B * H
    for length in (7, 19):
        arrays = [ops.convert_to_tensor(x) for x in tensors(length, length)[:3]]
        assert_same(step(*arrays), one_step(expect)(*arrays))


@pytest.mark.tensorflow
def test_known_shapes_stay_known():
    """Also where the kernel was compiled for unknown ones before, as `fit` does."""
    import tensorflow as tf

    def step(query):
        return attend(query, query, query, None, block_size=5)

    def slope(query):
        return tf.gradients(step(query), query)[0]

    for function in (step, slope):
        known, unknown = ((size, H, 11, D) for size in (B, None))
        for shape in (unknown, known):
            spec = tf.TensorSpec(shape)
            traced = tf.function(function).get_concrete_function(spec)
            assert tuple(traced.outputs[0].shape) == shape


@pytest.mark.tensorflow
def test_compilation_by_the_caller():
    import tensorflow as tf

    options = {"normalizer": "sigmoid"}
    ours = functools.partial(attend_to_what_is_not_padding, attend, **options)
    expect = functools.partial(attend_to_what_is_not_padding, densely, **options)
    arrays = [ops.convert_to_tensor(x) for x in tensors(19, 19)[:3]]
    jitted = tf.function(one_step(ours), jit_compile=True)
    assert_same(jitted(*arrays), one_step(expect)(*arrays))


@pytest.mark.tensorflow
def test_saved_model_of_unknown_length(tmp_path):
    import tensorflow as tf

    policy = Policy(kept_pairs=1000, **SMALL)
    module = tf.Module()
    module.attend = tf.function(
        lambda query: attend(query, query, query, None, sliding_window=3, policy=policy),
        input_signature=[tf.TensorSpec((None, H, None, D))],
    )
    tf.saved_model.save(module, tmp_path)
    loaded = tf.saved_model.load(tmp_path)
    for length in (3, 29):
        query = ops.convert_to_tensor(random(B, H, length, D))
        expected = densely(
            query, query, query, None, normalizer="softmax", sliding_window=3
        )
        assert_same([loaded.attend(query)], [expected])


@pytest.mark.tensorflow
def test_equal_layers_are_compiled_once_for_every_batch(monkeypatch):
    import tensorflow as tf

    traced, forward = [], flash.forward

    def noted(inputs, constants, **options):
        traced.append(tuple(inputs.query.shape))
        return forward(inputs, constants, **options)

    monkeypatch.setattr(flash, "forward", noted)
    policy = dataclasses.replace(TILES, flash_rows=24, compiled=True)
    call = tf.function(lambda *x: attend(*x, None, policy=policy))
    for batch in (1, 2, 3, 5):
        for seed in range(2):
            call(*(random(batch, 2, 13, 5, seed=seed + i) for i in range(3)))
    # XLA compiles each function once for each shape that it is called with.
    assert set(traced) == {(1, size, 13, 5) for size in shares(2)}


@pytest.mark.tensorflow
def test_a_kernel_keeps_no_layer_alive():
    import gc
    import weakref

    for _ in range(2):
        layer = keras_sam.SelfAttention(2, score="additive", block_size=8)
        layer(random(2, 11, 4))
        score = weakref.ref(layer.score)
        del layer
        gc.collect()
        assert score() is None


@pytest.mark.tensorflow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
@pytest.mark.parametrize(
    ("arguments", "most"), [("", 256), ("causal=True, selective=True", 512)]
)
def test_training_never_holds_a_matrix_of_weights(arguments, most, tmp_path):
    script = textwrap.dedent(
        f"""
        import resource
        import keras, numpy as np, tensorflow as tf
        import keras_sam

        def peak():
            return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

        def fit(length):
            model = keras.Sequential(
                [keras.Input((length, 16)), keras_sam.SelfAttention(8, {arguments})]
            )
            model.compile("sgd", "mse")
            array = np.ones((1, length, 16), "float32")
            model.fit(array, array, verbose=0)

        fit(512)  # what a compiler needs is not the question
        before = peak()
        fit(4096)
        print("MiB", peak() - before)
        """
    )
    printed = run_python("-c", script, cwd=tmp_path)
    # 4096 x 4096 weights of 8 heads take 512 MiB; without blocks training keeps four.
    # Causal attention has four groups to compile, which 512 rows have not.
    assert int(printed.split("MiB")[1]) < most


@pytest.mark.tensorflow
def test_several_devices_train_as_one(tmp_path):
    script = textwrap.dedent(
        """
        import keras, numpy as np, tensorflow as tf
        import keras_sam

        cpu, = tf.config.list_physical_devices("CPU")
        two = [tf.config.LogicalDeviceConfiguration()] * 2
        tf.config.set_logical_device_configuration(cpu, two)

        def losses(strategy):
            keras.utils.set_random_seed(0)
            with strategy.scope():
                attend = keras_sam.SelfAttention(2, causal=True, block_size=8)
                model = keras.Sequential([keras.Input((19, 6)), attend])
                model.compile("sgd", "mse")
            x = np.random.default_rng(0).normal(size=(8, 19, 6)).astype("float32")
            fit = model.fit(x, x[:, ::-1], batch_size=4, epochs=2, verbose=0, shuffle=False)
            return fit.history["loss"]

        one = losses(tf.distribute.get_strategy())
        both = losses(tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"]))
        assert one[1] < one[0]
        np.testing.assert_allclose(one, both, rtol=1e-5)
        """
    )
    run_python("-c", script, cwd=tmp_path)


# The public function


def test_masks_and_biases_of_fewer_axes():
    arrays = tensors(9, 11)[:3]
    pairs = np.random.default_rng(2).random((9, 11)) > 0.3
    bias = random(B, 9, 11, seed=4)
    for few, full in ((pairs, pairs[None, None]), (bias, bias[:, None])):
        name = "mask" if few is pairs else "bias"
        one = keras_sam.attend(*arrays, **{name: few})
        other = keras_sam.attend(*arrays, **{name: full})
        np.testing.assert_array_equal(numpy(one), numpy(other))


REFUSED = {
    "rank": ({"query": np.ones((2, 5, 4), "float32")}, "`query` must have the shape"),
    "heads": ({"key": np.ones((2, 2, 5, 4), "float32")}, "a divisor of 3 heads"),
    "batch": ({"key": np.ones((3, 3, 5, 4), "float32")}, "`key` must have the shape"),
    "value": ({"value": np.ones((2, 3, 4, 4), "float32")}, "`value` must have the shape"),
    "mask": ({"mask": np.ones(5, bool)}, "`mask` must have the shape"),
    "window": ({"sliding_window": 0}, "`sliding_window` must be"),
    "dropout": ({"dropout": 1.5}, "`dropout` must be"),
    "selective": ({"selective": True}, "`selective` must be False where"),
    "normalizer": ({"normalizer": 3}, "`normalizer` must be"),
    "score": ({"score": 3}, "`score` must be"),
    "weights": ({"score": "additive"}, "`score` must be an instance, such as"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    changed, message = REFUSED[name]
    names = ("query", "key", "value")
    given = {each: np.ones((2, 3, 5, 4), "float32") for each in names} | changed
    with pytest.raises(ValueError, match=re.escape(message)):
        keras_sam.attend(**given)
