"""Derivatives of second order equal differences of the gradient, in float64.

Each row of a table is a function of some arrays: the inputs of a layer, the bias of its
scores and all its weights. For a random direction `v` through all of them together ::

    (gradient(x + h v) - gradient(x - h v)) / 2h = Hessian v + c h² + rounding / h

From the differences for `h` and `2h` follows one without the `c h²`. With `h = 1e-5` it is
some 1e-9 of the largest entry off, by rounding, and 1e-6 of it is allowed. The two
differences are far apart near kinks (equal maxima, the edge of the support of sparsemax,
relu at zero), and a row that comes near one says so.

The gradient of `top_k` is not in the tables. It is straight-through by definition: the
gradient of another function than the one that is computed.
"""

import dataclasses
import itertools
from collections.abc import Callable

import keras
import numpy as np
import pytest
from common import BACKEND, NORMALIZERS, SCORES, random, randomize
from gradients import difference, hessian_vector_product, in_float64, second_order
from keras import ops

from keras_sam import normalizers, scores
from keras_sam.layers import (
    CBAM,
    ChannelAttention,
    CrossAttention,
    PointwiseSpatialAttention,
    SelectiveAttention,
    SelfAttention,
    SpatialAttention,
    SpatialGate,
)

B, T, S, C = 2, 9, 7, 4
STEP, ALLOWED, KINK = 1e-5, 1e-6, 1e-4
BLOCK_SIZES = ("auto", 4, None)
EVERY_NORMALIZER = {
    **{name: name for name in NORMALIZERS},
    "entmax 1.3": normalizers.Entmax(1.3),
    "entmax 3": normalizers.Entmax(3.0),
}


@pytest.fixture
def uncompiled():
    """Runs operation by operation: compiling the whole table would take many minutes."""
    if BACKEND == "tensorflow":
        import tensorflow as tf

        tf.config.run_functions_eagerly(True)
        yield
        tf.config.run_functions_eagerly(False)
    else:
        yield


def some(*tables, step):
    """Rows of which each two tables see all pairs; what the last table adds, others choose.

    On JAX, where each takes a second to compile, every `step`-th of all combinations.
    """
    rows = list(itertools.product(*map(enumerate, tables)))
    if BACKEND == "jax":
        rows = rows[::step]
    else:
        rows = [row for row in rows if sum(i for i, _ in row) % len(tables[-1]) == 0]
    values = [tuple(value for _, value in row) for row in rows]
    return [pytest.param(*row, id="-".join(map(str, row))) for row in values]


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer and a call of it, to be differentiated.

    Args:
        layer: Makes the layer; takes `dtype`.
        shapes: Of the positional arguments, which are differentiated.
        named: Shapes of further arguments by name, which are differentiated.
        call: Other arguments.
    """

    layer: Callable
    shapes: tuple
    named: dict = dataclasses.field(default_factory=dict)
    call: dict = dataclasses.field(default_factory=dict)

    def function(self):
        """Returns a scalar function of arrays, and arrays to call it with."""
        shapes = (*self.shapes, *self.named.values())
        arrays = [random(*s, seed=i, dtype="float64") for i, s in enumerate(shapes)]
        count = len(self.shapes)
        layer = self.layer(dtype="float64")
        layer.build(*self.shapes)
        randomize(layer)
        arrays += [ops.convert_to_numpy(v) for v in layer.trainable_variables]
        call = {name: convert(value) for name, value in self.call.items()}
        # The state of the seeds is among them: the same dropout each time.
        others = [ops.convert_to_numpy(v) for v in layer.non_trainable_variables]

        def total(*tensors):
            inputs, weights = tensors[:count], tensors[len(shapes) :]
            named = dict(zip(self.named, tensors[count:], strict=False))
            output, _ = layer.stateless_call(
                weights,
                [convert(array) for array in others],
                *inputs,
                **named,
                **call,
            )
            factor = random(*output.shape, seed=20, dtype="float64")
            return convert(factor) * ops.square(output)

        return total, arrays


def convert(value):
    """Makes a tensor of an array, and leaves arguments that are none alone."""
    return ops.convert_to_tensor(value) if isinstance(value, np.ndarray) else value


def check(function, arrays, compiled=None):
    """Compares a Hessian times a direction with differences of the gradient."""
    directions = directions_for(arrays)
    derive = second_order(function, compiled)
    _, found = derive(arrays, directions)
    compare(found, lambda moved: derive(moved, directions)[0], arrays, directions)


def directions_for(arrays):
    return [random(*a.shape, seed=50 + i, dtype="float64") for i, a in enumerate(arrays)]


def compare(found, function, arrays, directions):
    """Compares a derivative along `directions` with central differences of `function`."""
    near = difference(function, arrays, directions, STEP)
    far = difference(function, arrays, directions, 2 * STEP)
    expected = [(4 * one - other) / 3 for one, other in zip(near, far, strict=True)]
    largest = max(np.abs(array).max() for array in expected)
    assert largest > 1e-3
    for one, other in zip(near, far, strict=True):
        assert np.abs(one - other).max() < KINK * largest, "near a kink"
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=ALLOWED * largest)


def check_row(row, compiled=None):
    with in_float64():
        check(*row.function(), compiled)


# Attention between positions


def attention(layer, *shapes, named=(), call=(), **arguments):
    def make(dtype):
        return layer(2, dtype=dtype, **arguments)

    return Row(make, shapes, dict(named), dict(call))


def self_attention(**more):
    return attention(SelfAttention, (B, T, C), **more)


def cross_attention(**more):
    return attention(CrossAttention, (B, T, C), (B, S, 3), **more)


def padding(length, seed=7):
    mask = np.random.default_rng(seed).random((B, length)) < 0.7
    mask[:, 0] = True
    return mask


PADDING = {"mask": padding(T)}
PAIRS = np.random.default_rng(3).random((B, 1, T, T)) < 0.6
WAYS = {
    "causal": self_attention(causal=True),
    "window": self_attention(sliding_window=3),
    "padding": self_attention(call=PADDING),
    "pairs": self_attention(call={"attention_mask": PAIRS}),
    "bias": self_attention(named={"attention_bias": (B, 2, T, T)}),
    "bias of the keys": self_attention(named={"attention_bias": (1, 1, 1, T)}),
    "dropout": self_attention(dropout=0.3, seed=5, call={"training": True}),
    "everything": self_attention(
        causal=True,
        sliding_window=5,
        dropout=0.3,
        seed=5,
        named={"attention_bias": (1, 2, T, T)},
        call={"training": True, "attention_mask": PAIRS, **PADDING},
    ),
    "grouped": self_attention(num_key_value_heads=1, key_dim=3, value_dim=5),
    "selective": self_attention(causal=True, selective=True),
    "selective, padding": self_attention(
        causal=True, selective=True, sliding_window=5, call=PADDING
    ),
    "cross": cross_attention(),
    "cross, padding": cross_attention(
        call={"query_mask": padding(T), "value_mask": padding(S, seed=8)}
    ),
}


def with_arguments(row, **arguments):
    def make(dtype):
        config = row.layer(dtype).get_config()
        kind = type(row.layer(dtype))
        return kind.from_config({**config, **arguments})

    return dataclasses.replace(row, layer=make)


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("normalizer", EVERY_NORMALIZER)
def test_every_normalizer(normalizer, block_size, uncompiled):
    normalizer = EVERY_NORMALIZER[normalizer]
    check_row(self_attention(normalizer=normalizer, block_size=block_size))


@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("score", SCORES)
def test_every_score(score, block_size, uncompiled):
    check_row(self_attention(score=score, block_size=block_size, call=PADDING))


@pytest.mark.parametrize("normalizer", ["sigmoid", "sparsemax"])
@pytest.mark.parametrize("score", ["cosine", "additive"])
def test_scores_with_other_normalizers(score, normalizer, uncompiled):
    check_row(self_attention(score=score, normalizer=normalizer, block_size=4))


@pytest.mark.parametrize(
    ("way", "normalizer", "block_size"),
    some(WAYS, ["softmax", "sigmoid", "entmax"], BLOCK_SIZES, step=7),
)
def test_every_way_to_attend(way, normalizer, block_size, uncompiled):
    row = with_arguments(
        WAYS[way],
        normalizer=normalizers.serialize(normalizers.get(normalizer)),
        block_size=block_size,
    )
    check_row(row)


# Attention to parts


@pytest.mark.parametrize(
    ("relation", "normalizer", "output", "parts"),
    some(
        ["context", "self", "query"],
        ["softmax", "sigmoid", "sparsemax"],
        ["pooled", "scaled"],
        ["all", "unmasked"],
        step=5,
    ),
)
def test_selective_attention(relation, normalizer, output, parts, uncompiled):
    def make(dtype):
        return SelectiveAttention(
            num_heads=2,
            units=3,
            relation=relation,
            normalizer=normalizer,
            pool=output == "pooled",
            dtype=dtype,
        )

    shapes = ((B, T, C), (B, 3)) if relation == "query" else ((B, T, C),)
    check_row(Row(make, shapes, call=PADDING if parts == "unmasked" else {}))


@pytest.mark.parametrize("score", SCORES)
def test_selective_attention_to_itself(score, uncompiled):
    def make(dtype):
        return SelectiveAttention(
            units=3, relation="self", score=score, dropout=0.3, seed=5, dtype=dtype
        )

    check_row(Row(make, ((B, T, C),), call={"training": True}))


# Attention to places


GATES = {
    "spatial": (SpatialAttention, {"kernel_size": 3}),
    "spatial, mean": (SpatialAttention, {"kernel_size": 3, "pooling": "mean"}),
    "spatial, softmax": (SpatialAttention, {"kernel_size": 3, "normalizer": "softmax"}),
    "spatial, sparsemax": (SpatialAttention, {"kernel_size": 3, "normalizer": "sparsemax"}),
    "spatial, batch norm": (
        SpatialAttention,
        {"kernel_size": 3, "use_batch_norm": True, "dilation_rate": 2},
    ),
    "pointwise": (PointwiseSpatialAttention, {"kernel_size": 3}),
    "pointwise, batch norm": (PointwiseSpatialAttention, {"use_batch_norm": True}),
    "channel": (ChannelAttention, {"reduction": 2}),
    "channel, mean": (ChannelAttention, {"reduction": 2, "pooling": "mean"}),
    "channel, entmax": (ChannelAttention, {"reduction": 2, "normalizer": "entmax"}),
    "cbam": (CBAM, {"reduction": 2, "kernel_size": 3}),
    "cbam, spatial first": (
        CBAM,
        {"reduction": 2, "kernel_size": 3, "order": ("spatial", "channel")},
    ),
    "cbam, parallel": (CBAM, {"reduction": 2, "kernel_size": 3, "order": "parallel"}),
    "cbam, batch norm": (CBAM, {"reduction": 2, "kernel_size": 3, "use_batch_norm": True}),
}


@pytest.mark.parametrize(
    ("gate", "phase", "places"),
    some(GATES, ["inference", "training"], ["all", "unmasked"], step=3),
)
def test_gates(gate, phase, places, uncompiled):
    kind, arguments = GATES[gate]
    training, masked = phase == "training", places == "unmasked"
    call = {"training": training}
    if BACKEND == "torch" and masked and training and "norm" in gate and gate[0] != "p":
        pytest.skip("Keras's batch normalization of one channel fails with a mask there")
    if masked:
        call["mask"] = np.random.default_rng(5).random((B, 3, 5)) < 0.7

    def make(dtype):
        return kind(**arguments, dtype=dtype)

    check_row(Row(make, ((B, 3, 5, C),), call=call))


@pytest.mark.parametrize("activation", [None, "relu", "tanh"])
@pytest.mark.parametrize("channels", [1, C])
def test_spatial_gate(channels, activation, uncompiled):
    def make(dtype):
        return SpatialGate(activation, broadcast=channels == 1, dtype=dtype)

    mask = np.random.default_rng(5).random((B, 3, 5)) < 0.7
    check_row(Row(make, ((B, 3, 5, C), (B, 3, 5, channels)), call={"features_mask": mask}))


# Normalizers and scores by themselves


@pytest.mark.parametrize("scale", [0.3, 1.0], ids=["many", "few"])
@pytest.mark.parametrize(
    "normalizer",
    [
        *EVERY_NORMALIZER.values(),
        normalizers.Softmax(temperature=0.5),
        normalizers.Sigmoid(bias="-log(length)"),
        normalizers.Entmax(1.0),
    ],
    ids=str,
)
def test_normalizers(normalizer, scale, uncompiled):
    """With weights on nearly all, and on a few only."""
    factor = random(5, 7, seed=20, dtype="float64")
    normalizer = normalizers.get(normalizer)

    def function(scores):
        return convert(factor) * ops.square(normalizer(scores))

    with in_float64():
        check(function, [random(5, 7, scale=scale, dtype="float64")])


@pytest.mark.parametrize("name", SCORES)
def test_scores(name, uncompiled):
    def make(dtype):
        return keras.saving.deserialize_keras_object(
            {
                **keras.saving.serialize_keras_object(scores.get(name)),
                "config": {**scores.get(name).get_config(), "dtype": dtype},
            }
        )

    check_row(Row(make, ((B, 2, 5, 3), (B, 2, 7, 3))))


# Compiled, once more, and forward mode


COMPILED = {
    "softmax": self_attention(block_size=4, causal=True),
    "sparsemax": self_attention(normalizer="sparsemax", causal=True),
    "additive": self_attention(score="additive", normalizer="sigmoid", block_size=4),
    "selective": self_attention(causal=True, selective=True),
    "cbam": Row(
        lambda dtype: CBAM(2, 3, dtype=dtype), ((B, 3, 5, C),), call={"training": True}
    ),
}


@pytest.mark.tensorflow
@pytest.mark.parametrize("compiled", [None, "graph", "xla"], ids=str)
@pytest.mark.parametrize("name", COMPILED)
def test_compiled(name, compiled):
    """None is an eager call, in which the kernel compiles itself."""
    check_row(COMPILED[name], compiled)


@pytest.mark.tensorflow
@pytest.mark.parametrize("block_size", ["auto", 4])
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax", "entmax"])
def test_third_order(normalizer, block_size, uncompiled):
    function, arrays = self_attention(
        normalizer=normalizer, block_size=block_size, causal=True
    ).function()
    directions = directions_for(arrays)

    def products(*tensors):
        """The Hessian times the directions, each entry times its direction, summed."""
        import tensorflow as tf

        along = [ops.convert_to_tensor(direction) for direction in directions]
        with tf.GradientTape() as outer:
            outer.watch(tensors)
            with tf.GradientTape() as inner:
                inner.watch(tensors)
                total = tf.reduce_sum(function(*tensors))
            slope = dot(inner.gradient(total, tensors, unconnected_gradients="zero"), along)
        return dot(outer.gradient(slope, tensors, unconnected_gradients="zero"), along)

    def curvature_slope(arrays):
        import tensorflow as tf

        tensors = [ops.convert_to_tensor(array) for array in arrays]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            curvature = products(*tensors)
        gradients = tape.gradient(curvature, tensors, unconnected_gradients="zero")
        return sum(
            (g.numpy() * d).sum() for g, d in zip(gradients, directions, strict=True)
        )

    def curvature(arrays):
        found = hessian_vector_product(function, arrays, directions)
        return [sum((p * d).sum() for p, d in zip(found, directions, strict=True))]

    compare([curvature_slope(arrays)], curvature, arrays, directions)


def dot(tensors, others):
    return ops.sum(
        ops.stack([ops.sum(a * b) for a, b in zip(tensors, others, strict=True)])
    )


@pytest.mark.tensorflow
@pytest.mark.parametrize("block_size", BLOCK_SIZES)
@pytest.mark.parametrize("normalizer", ["softmax", "sparsemax"])
@pytest.mark.parametrize("eagerly", [True, False], ids=["uncompiled", "compiled"])
def test_forward_mode(eagerly, normalizer, block_size, request):
    """It gives the slope, or an error that names it; None would count as zero."""
    import tensorflow as tf

    if eagerly:
        request.getfixturevalue("uncompiled")
    function, arrays = self_attention(
        normalizer=normalizer, block_size=block_size
    ).function()
    directions = directions_for(arrays)
    tensors = [ops.convert_to_tensor(array) for array in arrays]
    along = [ops.convert_to_tensor(direction) for direction in directions]
    slope, refusal = None, ""
    try:
        with tf.autodiff.ForwardAccumulator(tensors, along) as accumulator:
            output = function(*tensors)
        slope = accumulator.jvp(output)
    except Exception as error:
        refusal = str(error)
    if refusal:
        assert "forward mode" in refusal.lower()
        return
    assert slope is not None, "neither a slope nor an error"
    compare(
        [slope.numpy()],
        lambda moved: [function(*map(ops.convert_to_tensor, moved)).numpy()],
        arrays,
        directions,
    )
