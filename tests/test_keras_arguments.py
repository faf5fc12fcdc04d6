"""What users of Keras's attention layers expect of the layers that replace them."""

import inspect
import re

import keras
import numpy as np
import oracles
import pytest
from common import assert_rounded_alike, label, numpy, random, randomize, refused
from keras import ops
from keras.layers import GroupQueryAttention as GroupedQueryAttention
from keras.layers import MultiHeadAttention

import keras_sam
from keras_sam import CrossAttention, SelfAttention
from keras_sam.layers import _multi_head

B, H, T, S, C, D = 2, 3, 5, 7, 6, 4
MULTI = {"num_heads": H, "key_dim": D}
GROUPED = {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": D}
OURS_GROUPED = {"num_heads": 4, "key_dim": D, "num_key_value_heads": 2}


def pairs(*shape):
    mask = np.random.default_rng(7).random(shape) < 0.6
    mask.reshape(*shape[:-1], -1)[..., 0] = True  # Keras promises nothing without any
    return mask


SEQUENCES = (T, S)
IMAGES = ((3, T), (3, S))  # with one axis beside the positions, or two of positions
VOLUMES = ((2, 3, T), (2, 3, S))
PLANE = {"attention_axes": (2, 3)}

# The sizes between batch and channels, the arguments, and those of the call.
WITH_KERAS = {
    "gate": (SEQUENCES, {"use_gate": True}, {}),
    "gate, value_dim": (SEQUENCES, {"use_gate": True, "value_dim": 5}, {}),
    "gate, no bias": (SEQUENCES, {"use_gate": True, "use_bias": False}, {}),
    "number of outputs": (SEQUENCES, {"output_shape": 5}, {}),
    "shape of outputs": (SEQUENCES, {"output_shape": (5, 2)}, {}),
    "causal": (SEQUENCES, {}, {"use_causal_mask": True}),
    "pairs": (SEQUENCES, {}, {"attention_mask": pairs(T, S)}),
    "pairs of examples": (SEQUENCES, {}, {"attention_mask": pairs(B, T, S)}),
    "pairs of heads": (SEQUENCES, {}, {"attention_mask": pairs(B, H, T, S)}),
    "pairs, broadcast": (SEQUENCES, {}, {"attention_mask": pairs(B, 1, S)}),
    "causal pairs": (
        SEQUENCES,
        {},
        {"attention_mask": pairs(T, S), "use_causal_mask": True},
    ),
    "causal and padding": (
        SEQUENCES,
        {},
        {
            "value_mask": np.arange(S) < np.array([[4], [S]]),
            "attention_mask": pairs(B, T, S),
            "use_causal_mask": True,
        },
    ),
    "rows of images": (IMAGES, {"attention_axes": 2}, {}),
    "rows of images from the end": (IMAGES, {"attention_axes": (-2,)}, {}),
    "columns of images": (((T, 3), (S, 3)), {"attention_axes": 1}, {}),
    "rows, pairs": (IMAGES, {"attention_axes": 2}, {"attention_mask": pairs(T, S)}),
    "rows, pairs of examples": (
        IMAGES,
        {"attention_axes": 2},
        {"attention_mask": pairs(B, T, S)},
    ),
    "rows, pairs of each": (
        IMAGES,
        {"attention_axes": 2},
        {"attention_mask": pairs(B, 3, T, S)},
    ),
    "rows, pairs of each and of heads": (
        IMAGES,
        {"attention_axes": 2},
        {"attention_mask": pairs(B, 3, H, T, S)},
    ),
    "gated rows to two axes": (
        IMAGES,
        {"attention_axes": 2, "use_gate": True, "output_shape": (5, 2)},
        {},
    ),
    "images": (IMAGES, {}, {}),
    "images, pairs of all axes": (IMAGES, {}, {"attention_mask": pairs(B, 3, T, 3, S)}),
    "images, pairs of all axes alike": (IMAGES, {}, {"attention_mask": pairs(3, T, 3, S)}),
    "frames": (VOLUMES, PLANE, {}),
    "frames, pairs of all axes": (
        VOLUMES,
        PLANE,
        {"attention_mask": pairs(B, 3, T, 3, S)},
    ),
    "frames, pairs of each": (
        VOLUMES,
        PLANE,
        {"attention_mask": pairs(B, 2, 3, T, 3, S)},
    ),
}


@pytest.mark.parametrize("name", WITH_KERAS)
def test_equals_multi_head_attention(name):
    sizes, arguments, call = WITH_KERAS[name]
    theirs = MultiHeadAttention(**MULTI, **arguments)
    ours = CrossAttention(**MULTI, **arguments)
    shapes = [(B, *(n if isinstance(n, tuple) else (n,)), C) for n in sizes]
    inputs = [random(*shape, seed=i) for i, shape in enumerate(shapes)]
    theirs.build(*shapes)
    ours.build(*shapes)
    ours.set_weights(randomize(theirs).get_weights())
    assert [w.path.split("/")[1:] for w in ours.weights] == [
        w.path.split("/")[1:] for w in theirs.weights
    ]
    expected, weights = theirs(*inputs, **call, return_attention_scores=True)
    expected, weights = numpy(expected), numpy(weights)
    found, ours_weights = ours(*inputs, **call, return_attention_scores=True)
    assert_rounded_alike(numpy(found), expected)
    # Positions of several axes are one axis of ours.
    assert_rounded_alike(numpy(ours_weights).reshape(weights.shape), weights)
    assert_rounded_alike(numpy(ours(*inputs, **call)), expected)
    assert ours.compute_output_shape(*shapes) == expected.shape
    symbols = [keras.Input(shape[1:], batch_size=B) for shape in shapes]
    specs = ours(*symbols, **call, return_attention_scores=True)
    assert [spec.shape for spec in specs] == [found.shape, ours_weights.shape]


@pytest.mark.parametrize("use_gate", [False, True])
def test_equals_grouped_query_attention(use_gate):
    theirs = GroupedQueryAttention(**GROUPED, use_gate=use_gate)
    ours = CrossAttention(**OURS_GROUPED, use_gate=use_gate)
    inputs = [random(B, T, C), random(B, S, C, seed=1)]
    theirs.build(*(x.shape for x in inputs))
    ours.build(*(x.shape for x in inputs))
    ours.set_weights(randomize(theirs).get_weights())
    assert len(ours.weights) == (10 if use_gate else 8)
    call = {"attention_mask": pairs(T, S), "use_causal_mask": True}
    assert_rounded_alike(numpy(ours(*inputs, **call)), numpy(theirs(*inputs, **call)))


def test_the_gate_is_the_formula():
    """In float64, with its weights between those of keys and values."""
    layer = SelfAttention(H, use_gate=True, value_dim=D, dtype="float64", block_size=None)
    layer.build((B, T, C))
    randomize(layer)
    paths = [weight.path.split("/")[-2] for weight in layer.weights]
    names = ("query", "key", "gate", "value", "attention_output")
    assert paths == [name for name in names for _ in range(2)]
    x = random(B, T, C, dtype="float64")
    weights = [numpy(weight) for weight in layer.weights]
    q, k, g, v = (
        np.einsum("btc,chd->bhtd", x, kernel) + bias[:, None]
        for kernel, bias in zip(weights[:8:2], weights[1:8:2], strict=True)
    )
    scores = np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(C // H)
    heads = oracles.softmax(scores) @ v / (1 + np.exp(-g))
    expected = np.einsum("bhtd,hdc->btc", heads, weights[8]) + weights[9]
    tolerance = 1e-5 if keras.backend.backend() == "jax" else 1e-12
    np.testing.assert_allclose(numpy(layer(x)), expected, rtol=tolerance, atol=tolerance)


# Masks of pairs -----------------------------------------------------------------------


@pytest.mark.parametrize("block_size", [None, "auto", 2])
@pytest.mark.parametrize("kind", ["mask", "bias"])
def test_pairs_without_examples_and_heads(kind, block_size):
    """`(T, S)` is what it is repeated for each example and each head, to the bit."""
    layer = randomize_built(SelfAttention(H, block_size=block_size), (B, T, C))
    inputs = random(B, T, C)
    given = np.tril(np.ones((T, T), "float32"))  # as from `ops.tril`, of any dtype
    if kind == "bias":
        given = random(T, T)
    name = f"attention_{kind}"
    expected = numpy(layer(inputs, **{name: np.tile(given, (B, H, 1, 1))}))
    for same in (given, ops.convert_to_tensor(given), given.tolist(), given[None]):
        np.testing.assert_array_equal(numpy(layer(inputs, **{name: same})), expected)
    symbol = keras.Input((None, C))
    model = keras.Model(symbol, layer(symbol, **{name: ops.convert_to_tensor(given)}))
    np.testing.assert_array_equal(numpy(model(inputs)), expected)


def randomize_built(layer, *shapes):
    layer.build(*shapes)
    return randomize(layer)


@pytest.mark.parametrize("block_size", [None, "auto", 2])
def test_causal_in_the_call(block_size):
    inputs = [random(B, T, C), random(B, S, C, seed=1)]
    for cls, count in ((SelfAttention, 1), (CrossAttention, 2)):
        shapes = [x.shape for x in inputs[:count]]
        layer = randomize_built(cls(H, block_size=block_size), *shapes)
        causal = cls.from_config({**layer.get_config(), "causal": True})
        causal.build(*shapes)
        causal.set_weights(layer.get_weights())
        expected = numpy(causal(*inputs[:count]))
        found = numpy(layer(*inputs[:count], use_causal_mask=True))
        np.testing.assert_array_equal(found, expected)
        both = causal(*inputs[:count], use_causal_mask=True)
        np.testing.assert_array_equal(numpy(both), expected)
        assert (numpy(layer(*inputs[:count])) != expected).any()
        flagged = layer(*inputs[:count], use_causal_mask=1)  # as Keras takes it
        np.testing.assert_array_equal(numpy(flagged), expected)
        for wrong in (2, "yes", None):
            with refused("`use_causal_mask` must be True or False. Received: "):
                layer(*inputs[:count], use_causal_mask=wrong)


# Axes ---------------------------------------------------------------------------------


@pytest.mark.parametrize("unknown", [False, True], ids=["known", "unknown"])
@pytest.mark.parametrize("axes", [1, 2, (2, 3), (-2, 1), (3,)], ids=label)
def test_free_axes_are_examples(axes, unknown):
    """Each index of the other axes is an example of its own, to the bit."""
    shape = (B, 2, 3, 5, C)
    layer = randomize_built(SelfAttention(H, attention_axes=axes, causal=True), shape)
    inputs, mask = random(*shape), random(*shape[:-1], seed=3) < 0.5
    run = layer
    if unknown:
        symbol = keras.Input((None, None, None, C))
        symbol_mask = keras.Input((None, None, None), dtype="bool")
        model = keras.Model(
            [symbol, symbol_mask],
            layer(symbol, mask=symbol_mask, return_attention_scores=True),
        )

        def run(inputs, mask, return_attention_scores):
            return model([inputs, mask])

    outputs, weights = map(numpy, run(inputs, mask=mask, return_attention_scores=True))
    given = axes if isinstance(axes, tuple) else (axes,)
    attended = sorted(axis % 5 for axis in given)
    free = [axis for axis in (1, 2, 3) if axis not in attended]
    plain = SelfAttention.from_config({**layer.get_config(), "attention_axes": None})
    length = int(np.prod([shape[axis] for axis in attended]))
    plain.build((None, length, C))
    plain.set_weights(layer.get_weights())
    order = (0, *free, *attended)
    flat = inputs.transpose(*order, 4).reshape(-1, length, C)
    flat_mask = mask.transpose(order).reshape(-1, length)
    expected = [
        [numpy(x)[0] for x in plain(row[None], mask=m[None], return_attention_scores=True)]
        for row, m in zip(flat, flat_mask, strict=True)
    ]
    sizes = [shape[axis] for axis in free]
    moved = outputs.transpose(*order, 4).reshape(flat.shape)
    assert_rounded_alike(moved, np.stack([row[0] for row in expected]))
    assert weights.shape == (B, *sizes, H, length, length)
    flat_weights = weights.reshape(-1, H, length, length)
    assert_rounded_alike(flat_weights, np.stack([row[1] for row in expected]))


def test_recorded_maps_of_free_axes_keep_the_examples():
    layer = SelfAttention(H, attention_axes=(2, 3), name="frames")
    inputs = random(B, 2, 3, 5, C)
    _, weights = layer(inputs, return_attention_scores=True)
    with keras_sam.record_attention() as maps:
        layer(inputs)
    (recorded,) = maps.values()
    np.testing.assert_array_equal(numpy(recorded), numpy(weights).reshape(B, -1, 15, 15))
    (details,) = maps.details.values()
    assert (details.kind, details.query_grid, details.key_grid) == ("self", (3, 5), (3, 5))


def test_an_image_attends_to_a_sequence():
    layer = CrossAttention(H, D)
    image, text = random(B, 3, 5, C), random(B, S, 4, seed=1)
    outputs, weights = layer(image, text, return_attention_scores=True)
    flat = layer(image.reshape(B, 15, C), text, return_attention_scores=True)
    np.testing.assert_array_equal(numpy(outputs).reshape(B, 15, C), numpy(flat[0]))
    np.testing.assert_array_equal(numpy(weights), numpy(flat[1]))
    with keras_sam.record_attention() as maps:
        layer(image, text)
    (details,) = maps.details.values()
    assert (details.query_grid, details.key_grid) == ((3, 5), None)


# Initializers, regularizers, constraints -----------------------------------------------


def test_penalties_are_those_of_keras():
    l2 = keras.regularizers.L2
    arguments = {
        **MULTI,
        "kernel_regularizer": l2(0.1),
        "bias_regularizer": l2(0.2),
        "activity_regularizer": l2(0.3),
        "use_gate": True,
    }
    inputs = [random(B, T, C), random(B, S, C, seed=1)]
    theirs, ours = MultiHeadAttention(**arguments), CrossAttention(**arguments)
    for layer in (theirs, ours):
        layer.build(*(x.shape for x in inputs))
    ours.set_weights(randomize(theirs).get_weights())
    theirs(*inputs)
    ours(*inputs)
    found, expected = ([float(numpy(x)) for x in layer.losses] for layer in (ours, theirs))
    assert len(found) == len(expected) == 15
    np.testing.assert_allclose(sorted(found), sorted(expected), rtol=1e-5)
    assert ours.activity_regularizer is None  # that would be one more, of the output


def test_constraints_and_initializers_reach_every_projection():
    layer = SelfAttention(
        H,
        use_gate=True,
        bias_initializer=keras.initializers.RandomNormal(seed=1),
        kernel_constraint=keras.constraints.MaxNorm(2.0),
        bias_constraint=keras.constraints.NonNeg(),
    )
    layer.build((None, T, C))
    denses = [d for d in layer._flatten_layers() if isinstance(d, keras.layers.EinsumDense)]
    assert len(denses) == len(_multi_head.PROJECTIONS) == 5
    for dense in denses:
        assert isinstance(dense.kernel.constraint, keras.constraints.MaxNorm)
        assert isinstance(dense.bias.constraint, keras.constraints.NonNeg)
    biases = [numpy(dense.bias).tobytes() for dense in denses]
    assert len(set(biases)) == 5  # each begins with numbers of its own
    model = keras.Sequential([keras.Input((T, C)), layer])
    model.compile(keras.optimizers.SGD(1.0), "mse")
    model.fit(random(4, T, C), random(4, T, C, seed=1), verbose=0)
    assert all((numpy(dense.bias) >= 0).all() for dense in denses)


# Errors -------------------------------------------------------------------------------

WRONG_ARGUMENTS = [
    {"output_shape": 0},
    {"output_shape": ()},
    {"output_shape": (2, 2, 2, 2)},
    {"output_shape": "wide"},
    {"attention_axes": 1.0},
    {"attention_axes": ()},
    {"attention_axes": "all"},
    {"use_gate": 1},
    {"bias_initializer": "no such"},
    {"bias_initializer": lambda shape, dtype: 0},
    {"bias_regularizer": "no such"},
    {"activity_regularizer": 3},
    {"kernel_constraint": "no such"},
    {"bias_constraint": lambda weights: weights},
]


@pytest.mark.parametrize("cls", [SelfAttention, CrossAttention])
@pytest.mark.parametrize("argument", WRONG_ARGUMENTS, ids=label)
def test_wrong_arguments(argument, cls):
    ((name, _),) = argument.items()
    with refused(f"`{name}` must be ", f"Received: {name}="):
        cls(H, **argument)


@pytest.mark.parametrize("axes", [0, 3, -1, -4, (1, 1), (1, -3), (2, 3)], ids=label)
def test_axes_that_are_not_there(axes):
    expected = "`attention_axes` must be different axes between batch and channels, in "
    received = f"Received: attention_axes={axes}"
    with refused(expected + "SelfAttention 'ours'", received):
        SelfAttention(H, attention_axes=axes, name="ours")(random(B, 3, T, C))
    with refused(expected + "CrossAttention 'ours'", received):
        layer = CrossAttention(H, D, attention_axes=axes, name="ours")
        layer(random(B, 3, T, C), random(B, 3, S, C))


@pytest.mark.parametrize("shape", [(3, S, T), (B, 3, H, T, T), (B, 2, T, S), (S,)])
def test_pairs_that_do_not_fit_free_axes(shape):
    layer = CrossAttention(H, D, attention_axes=2, name="ours")
    inputs = random(B, 3, T, C), random(B, 3, S, C)
    with refused(
        "`attention_mask` must have the shape (batch, 3, 5, 7) or (batch, 3, 3, 5, 7)",
        "in CrossAttention 'ours'",
        f"Received: attention_mask.shape={shape}",
    ):
        layer(*inputs, attention_mask=np.ones(shape, bool))


# Signatures ---------------------------------------------------------------------------

MULTI_HEAD = set(inspect.signature(MultiHeadAttention.__init__).parameters)


@pytest.mark.parametrize("layer", [SelfAttention, CrossAttention, *(
    getattr(keras_sam.layers, name)
    for name in keras_sam.layers.__all__
    if name not in ("SelfAttention", "CrossAttention")
)], ids=lambda layer: layer.__name__)  # fmt: skip
def test_signatures_name_every_argument(layer):
    parameters = inspect.signature(layer).parameters
    kinds = {parameter.kind for parameter in parameters.values()}
    assert inspect.Parameter.VAR_POSITIONAL not in kinds
    assert set(parameters) - {"kwargs"} <= set(inspect.getfullargspec(layer).args) | set(
        inspect.getfullargspec(layer).kwonlyargs
    )
    own = set(parameters) - {"kwargs"}
    if layer in (SelfAttention, CrossAttention):
        by_keyword = inspect.Parameter.KEYWORD_ONLY
        named = {n for n, p in parameters.items() if p.kind is by_keyword} - {
            "selective",
            "memory_loss",
            "mask",
        }
        assert named <= MULTI_HEAD
        for name in named:
            described = rf"(?m)^ +[\w, ]*\b{name}\b[\w, ]*:"
            assert re.search(described, inspect.getdoc(SelfAttention)), name
        # Keras's too, though they may be given without a name.
        own -= named | {"kernel_initializer", "kernel_regularizer"}
    assert len(own) <= 15
