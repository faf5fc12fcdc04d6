"""SelectiveAttention against its formula, in float64 NumPy."""

import inspect

import keras
import numpy as np
import oracles
import pytest
from common import BACKEND, NORMALIZERS, numpy, random, randomize, refused
from gradients import value_and_gradients
from keras import ops

import keras_sam

RELATIONS = ("context", "self", "query")
BATCH, LENGTH, WIDTH, QUERY = 2, 7, 5, 3


def call(layer, inputs, **arguments):
    """Calls a layer that has random weights, and returns NumPy outputs and weights."""
    query = {}
    if layer.relation == "query":
        query = {"query": random(len(inputs), QUERY, seed=9)}
    if not layer.built:
        layer(inputs, **query)
        randomize(layer)
    outputs, weights = layer(inputs, return_attention_scores=True, **query, **arguments)
    return numpy(outputs), numpy(weights), query.get("query")


def importance(layer, inputs, query, mask):
    """The scores of the parts `(B, H, T)` of inputs `(B, T, C)`, parts by parts."""
    value = {w.path.split("/", 1)[1]: numpy(w).astype("float64") for w in layer.weights}
    inputs = inputs.astype("float64")
    batch, length, _ = inputs.shape
    heads = layer.num_heads
    result = np.zeros((batch, heads, length))
    for b, h in np.ndindex(batch, heads):
        keys = inputs[b] @ value["parts/kernel"][:, h] + value["parts/bias"][h]
        if layer.relation == "context":
            result[b, h] = np.tanh(keys) @ value["context_vector"][h]
            continue
        sources = inputs[b] if layer.relation == "self" else query[b][None]
        queries = sources.astype("float64") @ value["query/kernel"][:, h]
        queries += value["query/bias"][h]
        scores = queries @ keys.T / np.sqrt(keys.shape[-1])
        if layer.relation == "query":
            result[b, h] = scores[0]
            continue
        received = np.zeros(length)
        for i in np.flatnonzero(mask[b]):
            row = np.where(mask[b], scores[i], -np.inf)
            received += np.exp(row - row.max()) / np.exp(row - row.max()).sum()
        with np.errstate(divide="ignore"):
            result[b, h] = np.log(received)
    return result


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("heads", [1, 3])
@pytest.mark.parametrize("relation", RELATIONS)
def test_formula(relation, heads, masked):
    layer = keras_sam.SelectiveAttention(num_heads=heads, relation=relation, units=11)
    inputs = random(BATCH, LENGTH, WIDTH)
    mask = np.ones((BATCH, LENGTH), bool)
    mask[0, 4:] = not masked
    outputs, weights, query = call(layer, inputs, mask=mask if masked else None)
    scores = importance(layer, inputs, query, mask)
    expected = oracles.softmax(np.where(mask[:, None], scores, -np.inf))
    np.testing.assert_allclose(weights, expected, rtol=2e-5, atol=1e-7)
    assert (weights[~np.repeat(mask[:, None], heads, 1)] == 0).all()
    pooled = np.concatenate(
        [np.einsum("bt,btc->bc", expected[:, h], inputs) for h in range(heads)], axis=-1
    )
    np.testing.assert_allclose(outputs, pooled, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_normalizers_and_scaling(normalizer):
    layer = keras_sam.SelectiveAttention(normalizer=normalizer, pool=False)
    inputs = random(BATCH, LENGTH, WIDTH)
    outputs, weights, _ = call(layer, inputs)
    scores = importance(layer, inputs, None, None)
    np.testing.assert_allclose(
        weights, NORMALIZERS[normalizer](scores), rtol=2e-5, atol=2e-6
    )
    factors = LENGTH * weights / weights.sum(axis=-1, keepdims=True)
    np.testing.assert_allclose(
        outputs, inputs * factors[:, 0, :, None], rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("normalizer", NORMALIZERS)
@pytest.mark.parametrize("heads", [1, 2])
def test_equal_weights_leave_the_input_unchanged(normalizer, heads):
    layer = keras_sam.SelectiveAttention(
        normalizer=normalizer, num_heads=heads, pool=False, kernel_initializer="zeros"
    )
    inputs = random(BATCH, LENGTH, WIDTH)
    np.testing.assert_allclose(numpy(layer(inputs)), inputs, rtol=1e-5)


@pytest.mark.parametrize("relation", RELATIONS)
@pytest.mark.parametrize(("top_k", "kept"), [(1, 1), (3, 3), (50, 7), (0.3, 3), (0.99, 7)])
def test_top_k_keeps_the_largest(relation, top_k, kept):
    layer = keras_sam.SelectiveAttention(relation=relation, top_k=top_k)
    inputs = random(BATCH, LENGTH, WIDTH)
    _, weights, query = call(layer, inputs)
    assert ((weights > 0).sum(axis=-1) == kept).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1, rtol=1e-6)
    scores = importance(layer, inputs, query, np.ones((BATCH, LENGTH), bool))
    smallest = np.sort(scores, axis=-1)[..., -kept][..., None]
    np.testing.assert_array_equal(weights > 0, scores >= smallest)


def test_a_share_is_of_the_unmasked_parts():
    layer = keras_sam.SelectiveAttention(top_k=0.5)
    mask = np.arange(LENGTH) < np.array([[4], [0]])
    _, weights, _ = call(layer, random(BATCH, LENGTH, WIDTH), mask=mask)
    assert (weights > 0).sum(axis=-1).ravel().tolist() == [2, 0]


@pytest.mark.parametrize("relation", RELATIONS)
def test_what_is_masked_changes_nothing(relation):
    layer = keras_sam.SelectiveAttention(relation=relation, top_k=3)
    inputs = random(BATCH, LENGTH, WIDTH)
    mask = np.arange(LENGTH) < np.array([[4], [7]])
    outputs, weights, _ = call(layer, inputs, mask=mask)
    inputs[0, 4:] = 100.0
    again, same, _ = call(layer, inputs, mask=mask)
    np.testing.assert_array_equal(outputs, again)
    np.testing.assert_array_equal(weights, same)


@pytest.mark.parametrize("relation", RELATIONS)
def test_permuted_parts_have_permuted_weights(relation):
    layer = keras_sam.SelectiveAttention(relation=relation, num_heads=2)
    inputs = random(BATCH, LENGTH, WIDTH)
    order = np.random.default_rng(1).permutation(LENGTH)
    outputs, weights, _ = call(layer, inputs)
    permuted, same, _ = call(layer, inputs[:, order])
    np.testing.assert_allclose(same, weights[:, :, order], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(permuted, outputs, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("relation", RELATIONS)
def test_a_row_without_parts_is_zero(relation, dtype):
    layer = keras_sam.SelectiveAttention(relation=relation, dtype=dtype)
    outputs, weights, _ = call(
        layer, random(BATCH, LENGTH, WIDTH), mask=np.zeros((BATCH, LENGTH), bool)
    )
    assert (outputs == 0).all()
    assert (weights == 0).all()


@pytest.mark.parametrize(
    ("shape", "axis", "parts", "pooled"),
    [
        ((3, 4, 5), None, 12, (5,)),
        ((3, 4, 5), 1, 3, (4, 5)),
        ((3, 4, 5), -2, 4, (3, 5)),
        ((3, 4, 5), -1, 5, (3, 4, 1)),
        ((2, 3, 4, 5), None, 24, (5,)),
        ((7, 5), 1, 7, (5,)),
        ((7, 5), 2, 5, (7, 1)),
        ((6,), -1, 6, (1,)),
    ],
)
def test_axes(shape, axis, parts, pooled):
    inputs = random(BATCH, *shape)
    layer = keras_sam.SelectiveAttention(axis=axis)
    outputs, weights, _ = call(layer, inputs)
    assert weights.shape == (BATCH, 1, parts)
    assert outputs.shape == (BATCH, *pooled)
    assert layer.compute_output_shape(inputs.shape) == outputs.shape
    # Summed by hand, over the axis or over all positions at once.
    if axis is None:
        flat = inputs.reshape(BATCH, parts, -1)
        expected = np.einsum("bt,btc->bc", weights[:, 0], flat)
    else:
        expected = np.stack(
            [
                np.tensordot(weight[0], example, (0, axis - 1 if axis > 0 else axis))
                for weight, example in zip(weights, inputs, strict=True)
            ]
        )
    expected = expected.reshape(outputs.shape)
    np.testing.assert_allclose(outputs, expected, rtol=1e-5, atol=1e-6)
    scaled = keras_sam.SelectiveAttention(axis=axis, pool=False)
    outputs, weights, _ = call(scaled, inputs)
    assert outputs.shape == inputs.shape


def test_features_are_told_apart_by_their_place():
    layer = keras_sam.SelectiveAttention(axis=-1)
    _, weights, _ = call(layer, np.ones((1, 6), "float32"))
    assert len(np.unique(weights)) == 6


def test_select_drops_what_the_call_sets_to_zero():
    layer = keras_sam.SelectiveAttention(top_k=3, pool=False)
    inputs = random(BATCH, LENGTH, WIDTH)
    mask = np.arange(LENGTH) < np.array([[7], [2]])
    outputs, _, _ = call(layer, inputs, mask=mask)
    parts, indices = map(numpy, layer.select(inputs, mask=mask))
    assert parts.shape == (BATCH, 3, WIDTH)
    assert indices[1].tolist() == [0, 1, -1]
    assert (parts[1, 2] == 0).all()
    for b, k in np.ndindex(indices.shape):
        if indices[b, k] >= 0:
            np.testing.assert_array_equal(parts[b, k], outputs[b, indices[b, k]])
    assert (np.diff(indices[0]) > 0).all()
    untouched = np.setdiff1d(np.arange(LENGTH), indices[0])
    assert (outputs[0, untouched] == 0).all()


def test_the_scorer_learns_through_the_selection():
    layer = keras_sam.SelectiveAttention(top_k=1)
    inputs = random(BATCH, LENGTH, WIDTH)
    call(layer, inputs)
    _, (gradient,) = value_and_gradients(lambda x: layer(x), inputs)
    # Parts that were left out would have no gradient but for the straight-through one.
    assert (np.abs(gradient).sum(axis=-1) > 0).all()


def test_a_model_learns_which_feature_counts():
    keras.utils.set_random_seed(1)
    x = random(256, 6)
    layer = keras_sam.SelectiveAttention(axis=-1, pool=False)
    model = keras.Sequential([keras.Input((6,)), layer, keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(0.02), "mse")
    model.fit(x, 3 * x[:, 2:3], epochs=12, batch_size=32, verbose=0)
    _, weights = layer(x, return_attention_scores=True)
    assert numpy(weights).mean(axis=(0, 1)).argmax() == 2


def test_the_mask_is_passed_on_unless_pooled():
    tokens = keras.Input((None,), dtype="int32")
    embedded = keras.layers.Embedding(9, WIDTH, mask_zero=True)(tokens)
    pooled = keras_sam.SelectiveAttention()(embedded)
    scaled = keras_sam.SelectiveAttention(pool=False)(embedded)
    assert getattr(pooled, "_keras_mask", None) is None
    assert scaled._keras_mask is not None
    model = keras.Model(tokens, [pooled, scaled])
    rows = np.array([[3, 5, 0, 0], [3, 5, 8, 0]])
    one, _ = model(rows)
    short, _ = model(rows[:, :3])
    np.testing.assert_allclose(numpy(one), numpy(short), rtol=1e-6)


@pytest.mark.parametrize(
    ("axis", "expected"), [(1, [1, 0, 1]), (2, [1, 1]), (-1, [[1, 0, 1], [1, 0, 0]])]
)
def test_what_is_left_of_the_mask_is_passed_on(axis, expected):
    mask = np.array([[[1, 0, 1], [1, 0, 0]]], bool)
    outputs = keras_sam.SelectiveAttention(axis=axis)(random(1, 2, 3, WIDTH), mask=mask)
    assert numpy(outputs._keras_mask)[0].astype(int).tolist() == expected


@pytest.mark.parametrize("axis", [1, 2, None])
def test_padding_inside_of_a_part_is_not_summed_up(axis):
    layer = keras_sam.SelectiveAttention(axis=axis)
    inputs = random(BATCH, 3, 4, WIDTH)
    mask = np.ones((BATCH, 3, 4), bool)
    mask[0, 1, 2] = False
    outputs, _, _ = call(layer, inputs, mask=mask)
    inputs[0, 1, 2] = 100.0
    np.testing.assert_array_equal(call(layer, inputs, mask=mask)[0], outputs)


@pytest.mark.parametrize("top_k", [None, 0.5])
def test_many_parts_in_float16(top_k):
    """Weights of 1/T and counts of T, which float16 has but few bits for or none."""
    layer = keras_sam.SelectiveAttention(
        pool=False, top_k=top_k, kernel_initializer="zeros", dtype="float16"
    )
    outputs, weights = layer(np.ones((1, 70_000, 1)), return_attention_scores=True)
    assert (numpy(weights) > 0).sum() == (35_000 if top_k else 70_000)
    kept = numpy(outputs)[0, numpy(weights)[0, 0] > 0]
    np.testing.assert_allclose(kept, 1, rtol=2e-3)


def test_integers_are_weighed_as_numbers():
    table = np.arange(12).reshape(2, 6)
    layer = keras_sam.SelectiveAttention(axis=-1)
    np.testing.assert_array_equal(
        numpy(layer(table)), numpy(layer(table.astype("float32")))
    )


def test_recorded():
    layer = keras_sam.SelectiveAttention(num_heads=2)
    inputs = random(BATCH, 3, 4, WIDTH)
    with keras_sam.record_attention() as maps:
        _, weights = layer(inputs, return_attention_scores=True)
    np.testing.assert_array_equal(numpy(maps[layer.path]), numpy(weights))
    details = maps.details[layer.path]
    assert (details.kind, details.key_grid) == ("selective", (3, 4))


GOOD = {"relation": "query", "score": "additive", "top_k": 2}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"units": 0}, "`units` must be a positive integer or None. Received: units=0"),
        ({"num_heads": 0}, "`num_heads` must be a positive integer"),
        ({"relation": "other"}, "`relation` must be one of 'context', 'self', 'query'"),
        ({"score": "dot", "relation": "context"}, "`score` must be None with relation"),
        ({"score": "nope"}, "Unknown score"),
        ({"normalizer": lambda x: x}, "`normalizer` must be an instance of"),
        ({"top_k": 0}, "`top_k` must be a positive integer, a share in (0, 1) or None"),
        ({"top_k": -2}, "Received: top_k=-2"),
        ({"top_k": 1.5}, "Received: top_k=1.5"),
        ({"top_k": 0.0}, "Received: top_k=0.0"),
        ({"top_k": True}, "Received: top_k=True"),
        ({"top_k": "all"}, "Received: top_k='all'"),
        ({"pool": 1}, "`pool` must be True or False"),
        ({"axis": 1.5}, "`axis` must be an integer or None"),
        ({"dropout": 1.5}, "`dropout` must be"),
    ],
)
def test_bad_arguments(arguments, message):
    keras_sam.SelectiveAttention(**GOOD)
    with refused(message):
        keras_sam.SelectiveAttention(**{**GOOD, **arguments})


@pytest.mark.parametrize("make", [random, lambda *shape: keras.Input(shape[1:])])
def test_bad_inputs(make):
    layer = keras_sam.SelectiveAttention(relation="query")
    with refused("`query` must be a tensor (batch, channels)"):
        layer(make(2, 7, 5))
    with refused("`query` must be None with relation='self'"):
        keras_sam.SelectiveAttention(relation="self")(make(2, 7, 5), query=make(2, 3))
    with refused("Received: query=a tensor of shape"):
        layer(make(2, 7, 5), query=make(2, 4, 3))
    with refused("`inputs` must have the shape"):
        keras_sam.SelectiveAttention()(make(2, 5))
    for axis in (0, 3, -4):
        with refused("`axis` must be None or an axis of `inputs` after the batch"):
            keras_sam.SelectiveAttention(axis=axis)(make(2, 7, 5))
    with refused("`mask` must have the shape (2, 7)"):
        keras_sam.SelectiveAttention()(random(2, 7, 5), mask=np.ones((2, 6), bool))


@pytest.mark.parametrize("top_k", [3, 0.3])
def test_select_in_a_compiled_model(top_k):
    class Short(keras.Model):
        def __init__(self):
            super().__init__()
            self.attend = keras_sam.SelectiveAttention(top_k=top_k)

        def build(self, shape):
            self.attend.build(shape)

        def call(self, inputs):
            return self.attend.select(inputs)

    model, inputs = Short(), random(BATCH, LENGTH, WIDTH)
    model.build(inputs.shape)  # or PyTorch is asked to compile that, too
    model.compile(jit_compile=BACKEND != "torch")
    parts, indices = model.predict(inputs, verbose=0)
    assert parts.shape == (BATCH, 3, WIDTH)
    expected, at = model(inputs)
    np.testing.assert_allclose(parts, numpy(expected), rtol=1e-6)
    np.testing.assert_array_equal(indices, numpy(at))


def test_select_refuses_what_it_cannot_do():
    with refused("`inputs` must be a tensor; in a functional model, call `select`"):
        keras_sam.SelectiveAttention(top_k=2).select(keras.Input((7, 5)))
    asks = keras_sam.SelectiveAttention(top_k=2, relation="query")
    asks.select(random(2, 7, 5), query=random(2, 3))
    with refused("`query` must be a tensor"):
        asks.select(random(2, 7, 5))
    for arguments in ({}, {"top_k": 2, "num_heads": 2}, {"top_k": 2, "axis": -1}):
        with refused("`select` needs `top_k`, one head and `axis=None`"):
            keras_sam.SelectiveAttention(**arguments).select(random(2, 7, 5))


def test_shapes_of_outputs_are_known_before():
    inputs = keras.Input((None, WIDTH))
    outputs, weights = keras_sam.SelectiveAttention(num_heads=3)(
        inputs, return_attention_scores=True
    )
    assert outputs.shape == (None, 3 * WIDTH)
    assert weights.shape == (None, 3, None)
    assert ops.shape(keras_sam.SelectiveAttention(pool=False)(inputs))[-1] == WIDTH


# The first argument -------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "received", "expected"),
    [((4,), "num_heads=4", (4, None)), ((4, 2), "num_heads=4, units=2", (4, 2))],
)
def test_the_first_argument_is_named_in_a_warning(arguments, received, expected):
    """It was `units` once: what it means now is said where the layer is made."""
    with pytest.warns(FutureWarning, match="It was `units` before keras_sam 0.2.0") as seen:
        layer = keras_sam.SelectiveAttention(*arguments)
    assert str(seen[0].message).endswith(f"Received: {received}")
    assert seen[0].filename == __file__
    assert (layer.num_heads, layer.units) == expected
    keras_sam.SelectiveAttention(num_heads=4, units=2)  # warnings are errors here
    with pytest.warns(FutureWarning), refused("`num_heads` must be"):
        keras_sam.SelectiveAttention(0)


def test_the_first_argument_is_the_same_in_the_family():
    for name in ("SelfAttention", "CrossAttention", "SelectiveAttention"):
        first, *_ = inspect.signature(getattr(keras_sam, name)).parameters
        assert first == "num_heads", name


def test_a_configuration_of_version_0_1_0_means_what_it_meant():
    config = {
        "name": "select",
        "trainable": True,
        "dtype": "float32",
        "units": 4,
        "num_heads": 3,
        "relation": "context",
        "score": None,
        "normalizer": {
            "module": "keras_sam.normalizers.softmax",
            "class_name": "Softmax",
            "config": {"temperature": 1.0},
            "registered_name": "keras_sam>Softmax",
        },
        "top_k": None,
        "pool": True,
        "axis": None,
        "dropout": 0.0,
        "use_bias": True,
        "kernel_initializer": "glorot_uniform",
        "seed": None,
    }
    layer = keras.saving.deserialize_keras_object(
        {
            "module": "keras_sam.layers.selective_attention",
            "class_name": "SelectiveAttention",
            "config": config,
            "registered_name": "keras_sam>SelectiveAttention",
        }
    )
    layer.build((None, LENGTH, WIDTH))
    assert layer.parts_dense.kernel.shape == (WIDTH, 3, 4)
