"""What the documentation of Keras's attention layers promises, of the layers of ours."""

import keras
import numpy as np
import pytest
from common import numpy, random, refused
from keras import ops

from keras_sam.layers import CrossAttention, SelfAttention, UnprojectedAttention

B, H, T, S, C = 2, 3, 5, 7, 6
LAYERS = {
    "cross": lambda **kw: CrossAttention(H, **kw),
    "unprojected": UnprojectedAttention,
}
every = pytest.mark.parametrize("name", LAYERS)
PADDING = np.arange(S) < np.array([[4], [S]])
CAUSAL = np.tri(T, S, dtype=bool)


def inputs():
    return random(B, T, C), random(B, S, C, seed=1)


def assert_equal(found, expected):
    np.testing.assert_array_equal(numpy(found), numpy(expected))


@every
def test_the_value_is_the_key(name):
    layer, (query, value) = LAYERS[name](), inputs()
    assert_equal(layer(query, value), layer(query, value, value))


# "Broadcasting can happen for the missing batch dimensions and the head dimension."
SHAPES = [(T, S), (1, S), (T, 1), (1, T, S), (B, T, S), (B, 1, S), (B, T, 1)]
SHAPES_OF_HEADS = [(B, 1, T, S), (B, H, T, S), (1, H, T, S), (1, 1, T, S)]
PAIRS = [(name, shape) for name in LAYERS for shape in SHAPES]
PAIRS += [("cross", shape) for shape in SHAPES_OF_HEADS]


@pytest.mark.parametrize("dtype", ["bool", "int32", "float32"])
@pytest.mark.parametrize(("name", "shape"), PAIRS)
def test_shapes_of_masks(name, shape, dtype):
    """Of one mask, alone and with the causal mask and that of the values."""
    layer, given = LAYERS[name](), inputs()
    mask = np.random.default_rng(5).random(shape) < 0.6
    whole = np.broadcast_to(mask, (*mask.shape[:-2], T, S))
    if name == "cross" and mask.ndim == 3:
        whole = whole[:, None]
    whole = np.broadcast_to(whole, (B, H, T, S) if name == "cross" else (B, T, S))
    mask = mask.astype(dtype)
    assert_equal(layer(*given, attention_mask=mask), layer(*given, attention_mask=whole))
    masks = {"value_mask": PADDING, "use_causal_mask": True}
    padding = PADDING[:, None, None] if name == "cross" else PADDING[:, None]
    found = layer(*given, attention_mask=mask, **masks)
    assert_equal(found, layer(*given, attention_mask=whole & padding & CAUSAL))


@every
def test_masked_queries_and_values(name):
    """Values that are masked do not contribute, and queries get what nothing gives."""
    layer, (query, value) = LAYERS[name](), inputs()
    query_mask = np.arange(T) < np.array([[3], [T]])
    masks = {"query_mask": query_mask, "value_mask": PADDING}
    output, weights = layer(query, value, **masks, return_attention_scores=True)
    weights = numpy(weights).reshape(B, -1, T, S)
    assert (weights[0, :, :, 4:] == 0).all()
    assert (weights[0, :, 3:] == 0).all()
    np.testing.assert_allclose(weights[1].sum(axis=-1), 1.0, atol=1e-6)
    assert (numpy(output)[0, 3:] == 0).all()  # the output bias begins at zero
    other = np.where(PADDING[..., None], value, 100.0).astype("float32")
    assert_equal(layer(query, other, **masks), output)


@every
def test_dropout(name):
    """In training only, which a model tells its layers, and alike for equal seeds."""
    given = inputs()
    layers = [LAYERS[name](dropout=0.5, seed=seed) for seed in (1, 1, 2)]
    symbols = [keras.Input(x.shape[1:]) for x in given]
    models = [keras.Model(symbols, layer(*symbols)) for layer in layers]
    for model in models[1:]:
        model.set_weights(models[0].get_weights())
    still = numpy(models[0](list(given)))
    assert_equal(layers[0](*given), still)
    first, same, other = (numpy(model(list(given), training=True)) for model in models)
    np.testing.assert_array_equal(first, same)
    assert (first != other).any()
    assert (first != still).any()


def test_the_share_that_is_dropped():
    layer = UnprojectedAttention(dropout=0.3, seed=1)
    query, value = np.zeros((1, 200, 2), "float32"), np.zeros((1, 50, 2), "float32")
    output = numpy(layer(query, np.ones_like(value) + value, training=True))
    # Each of 50 equal weights is kept with a chance of 0.7, and divided by it.
    np.testing.assert_allclose(output.mean(), 1.0, atol=0.02)
    np.testing.assert_allclose(output[..., 0].std(), np.sqrt(0.3 / 0.7 / 50), rtol=0.2)


@pytest.mark.parametrize("window", [1, 2, 3, 9])
def test_windows_are_bands(window):
    """Alone, and with the causal mask of the call."""
    rows, keys = np.arange(T)[:, None], np.arange(T)
    layer = SelfAttention(H, sliding_window=window)
    free = SelfAttention(H)
    layer.build((B, T, C))
    free.build((B, T, C))
    free.set_weights(layer.get_weights())
    x, _ = inputs()
    band = abs(rows - keys) < window
    assert_equal(layer(x), free(x, attention_mask=band))
    causal = layer(x, use_causal_mask=True)
    assert_equal(causal, free(x, attention_mask=band & (keys <= rows)))


@pytest.mark.parametrize("groups", [1, 2, 4])
def test_groups_are_repeated_heads(groups):
    """One group is multi-query attention; as many as heads are multi-head attention."""
    layer = CrossAttention(4, 3, num_key_value_heads=groups)
    whole = CrossAttention(4, 3)
    given = inputs()
    for each in (layer, whole):
        each.build(*(x.shape for x in given))
    weights = layer.get_weights()
    for index in (2, 3, 4, 5):  # kernels and biases of keys and values
        weights[index] = np.repeat(weights[index], 4 // groups, axis=-2)
    whole.set_weights(weights)
    outputs, scores = layer(*given, return_attention_scores=True)
    expected, all_scores = whole(*given, return_attention_scores=True)
    np.testing.assert_allclose(numpy(outputs), numpy(expected), atol=1e-6)
    np.testing.assert_allclose(numpy(scores), numpy(all_scores), atol=1e-6)


@pytest.mark.parametrize("key", [(), ((B, S, C),)], ids=["value", "key and value"])
@every
def test_shapes_one_by_one_or_as_a_list(name, key):
    shapes = [(B, T, C), (B, S, C), *key]
    one_by_one, together = LAYERS[name](), LAYERS[name]()
    one_by_one.build(*shapes)
    together.build(shapes)
    assert len(one_by_one.weights) == len(together.weights)
    for layer in (one_by_one, together):
        assert layer.compute_output_shape(*shapes) == (B, T, C)
        assert layer.compute_output_shape(shapes) == (B, T, C)
    with refused("`value_shape` must be given, in ", "Received: query_shape="):
        LAYERS[name]().compute_output_shape((B, T, C))


@every
def test_symbolic_and_functional(name):
    """Shapes, dtypes and masks of a symbolic call are those of an eager one."""
    embed = keras.layers.Embedding(9, C, mask_zero=True)
    words = [keras.Input((None,), dtype="int32") for _ in range(2)]
    layer = LAYERS[name](dtype="mixed_bfloat16")
    outputs = layer(*map(embed, words), return_attention_scores=True)
    rng = np.random.default_rng(0)
    ids = [rng.integers(0, 9, (B, length)).astype("int32") for length in (T, S)]
    ids[1][:, 0] = 1
    model = keras.Model(words, outputs)
    eager = layer(
        *(numpy(embed(x)) for x in ids),
        query_mask=ids[0] != 0,
        value_mask=ids[1] != 0,
        return_attention_scores=True,
    )
    for symbolic, one, other in zip(outputs, model(ids), eager, strict=True):
        assert symbolic.dtype == keras.backend.standardize_dtype(one.dtype) == "bfloat16"
        assert all(n in (None, m) for n, m in zip(symbolic.shape, one.shape, strict=True))
        assert_equal(one, other)
    np.testing.assert_array_equal(
        ops.convert_to_numpy(model(ids)[0]._keras_mask), ids[0] != 0
    )
