"""SpatialAttention and PointwiseSpatialAttention against the formulas of the papers."""

import keras
import numpy as np
import oracles
import pytest
from common import (
    BACKEND,
    HALVES,
    NORMALIZERS,
    assert_within,
    numpy,
    random,
    randomize,
    refused,
    wide_and_narrow,
)
from features import channels_first, some_of
from gradients import numerical_gradient, value_and_gradients
from keras import ops

import keras_sam
from keras_sam.gates import convolution
from keras_sam.layers import PointwiseSpatialAttention, SpatialAttention

# Arguments and the shape of the features, whose sizes are different primes.
CASES = {
    "sequence": ({"kernel_size": 3}, (2, 17, 5)),
    "image": ({}, (2, 11, 13, 5)),
    "volume": ({"kernel_size": 3}, (2, 3, 5, 11, 7)),
    "mean": ({"pooling": "mean", "kernel_size": 5}, (2, 7, 11, 3)),
    "mean, max": ({"pooling": ("mean", "max"), "use_bias": True}, (2, 7, 11, 3)),
    "even": ({"kernel_size": (4, 2)}, (2, 7, 11, 3)),
    "even, wide": ({"kernel_size": 20}, (2, 19, 3)),
    "1 x 1 taps": ({"kernel_size": 1}, (2, 7, 11, 3)),
    "1 x N taps": ({"kernel_size": (1, 9)}, (2, 7, 11, 3)),
    "dilated": ({"kernel_size": 3, "dilation_rate": (2, 5)}, (2, 7, 13, 3)),
    "dilated volume": ({"kernel_size": (1, 1, 3), "dilation_rate": 2}, (2, 3, 2, 11, 5)),
    "1 x 1": ({}, (2, 1, 1, 5)),
    "1 x N": ({}, (2, 1, 11, 5)),
    "N x 1": ({}, (2, 11, 1, 5)),
    "one step": ({}, (2, 1, 5)),
    "softmax": ({"normalizer": "softmax"}, (2, 5, 7, 3)),
    "sparsemax": ({"normalizer": "sparsemax"}, (2, 5, 7, 3)),
    "entmax": ({"normalizer": "entmax"}, (2, 5, 7, 3)),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def built(layer, features):
    layer.build(features.shape)
    return randomize(layer)


def expected(layer, features, mask=None, dtype="float32"):
    """What a built layer should return, and how far from it it may be."""
    name = next(n for n in NORMALIZERS if keras_sam.normalizers.get(n) == layer.normalizer)
    results = []
    for convert in wide_and_narrow(dtype):
        bias = convert(layer.convolution.bias) if layer.use_bias else 0
        results.append(
            oracles.spatial_attention(
                convert(features),
                convert(layer.convolution.kernel),
                bias,
                layer.pooling,
                NORMALIZERS[name],
                layer.convolution.dilation_rate,
                mask,
            )
        )
    return [
        (wide, oracles.allowance(wide, narrow))
        for wide, narrow in zip(*results, strict=True)
    ]


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@every
def test_values(case, masked):
    arguments, shape = case
    features = random(*shape)
    layer = built(SpatialAttention(**arguments), features)
    mask = some_of(features) if masked else None
    results = layer(features, mask=mask, return_attention_scores=True)
    for result, value in zip(results, expected(layer, features, mask), strict=True):
        assert_within(result, value)
    if masked:
        assert (numpy(results[1])[~mask] == 0).all()


@pytest.mark.parametrize("name", ["sequence", "image", "volume", "dilated", "softmax"])
def test_channels_first(name):
    arguments, shape = CASES[name]
    features = random(*shape)
    layer = SpatialAttention(data_format="channels_first", **arguments)
    built(layer, channels_first(features))
    mask = some_of(features)
    results = layer(channels_first(features), mask=mask, return_attention_scores=True)
    output, weights = expected(layer, features, mask)
    assert_within(results[0], (channels_first(output[0]), output[1]))
    assert_within(results[1], weights)  # the map has the same axes in both formats


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype):
    features = random(2, 11, 13, 5)
    layer = built(SpatialAttention(dtype=f"mixed_{dtype}"), features)
    results = layer(features, return_attention_scores=True)
    for result, value in zip(results, expected(layer, features, dtype=dtype), strict=True):
        assert_within(result, value)


def test_the_convolution_is_that_of_keras():
    """Blocks of neighbors as channels are another way to compute the same."""
    maps = random(2, 9, 21, 3)
    for size, rate in ((7, 1), (4, 3), (1, 1), (6, (1, 4))):
        layer = keras.layers.Conv2D(
            1, size, padding="same", dilation_rate=rate, data_format="channels_last"
        )
        layer.build(maps.shape)
        found = convolution.convolve(
            ops.convert_to_tensor(maps), layer.kernel, layer.dilation_rate
        )
        np.testing.assert_allclose(numpy(found), numpy(layer(maps)), atol=2e-6)


# Gradients ----------------------------------------------------------------------------

GRADIENTS = {
    "image": ({"use_bias": True, "kernel_size": (3, 5)}, (2, 3, 5, 3)),
    "sparsemax, masked": (
        {"normalizer": "sparsemax", "pooling": ("mean", "max"), "kernel_size": 3},
        (2, 11, 3),
    ),
    "channels first": (
        {"data_format": "channels_first", "kernel_size": 3, "pooling": "max"},
        (2, 3, 5, 7),
    ),
}


@pytest.mark.parametrize("training", [False, True], ids=["steps", "fused"])
@pytest.mark.parametrize("name", GRADIENTS)
def test_gradients(name, training):
    """Of features, kernel and bias, against differences of the float64 oracle."""
    arguments, shape = GRADIENTS[name]
    features = random(*shape)
    layer = built(SpatialAttention(**arguments), features)
    first = layer.data_format == "channels_first"
    last = (lambda array: np.moveaxis(array, 1, -1)) if first else (lambda array: array)
    mask = some_of(last(features)) if "masked" in name else None
    upstream = random(*shape, seed=1)
    upstream_weights = random(*last(features).shape[:-1], 1, seed=2)
    variables = layer.trainable_weights

    def total(features, *values):
        scope = keras.StatelessScope(list(zip(variables, values, strict=True)))
        with scope:
            output, weights = layer(
                features, mask=mask, training=training, return_attention_scores=True
            )
        parts = ops.multiply(output, upstream), ops.multiply(weights, upstream_weights)
        return ops.sum(parts[0]) + ops.sum(parts[1])

    values = [features, *(numpy(variable) for variable in variables)]
    _, gradients = value_and_gradients(total, *values)
    values = [value.astype("float64") for value in values]
    normalizer = {"sigmoid": oracles.sigmoid, "sparsemax": oracles.sparsemax}[
        arguments.get("normalizer", "sigmoid")
    ]

    def oracle(features, kernel, bias=0.0):
        output, weights = oracles.spatial_attention(
            last(features),
            kernel,
            bias,
            layer.pooling,
            normalizer,
            layer.convolution.dilation_rate,
            mask,
        )
        return (output * last(upstream)).sum() + (weights * upstream_weights).sum()

    for i, gradient in enumerate(gradients):

        def of_one(array, i=i):
            return oracle(*values[:i], array, *values[i + 1 :])

        np.testing.assert_allclose(
            gradient, numerical_gradient(of_one, values[i]), rtol=1e-4, atol=1e-4
        )


def test_equal_channels_share_the_gradient_of_the_maximum():
    """After a ReLU whole places are zero, and all their channels are the maximum."""
    features = np.zeros((1, 3, 4), "float32")
    features[0, 0] = [2, 1, 2, 0]
    layer = built(SpatialAttention(3, pooling="max"), features)
    found = []
    for training in (False, True):
        _, (gradient,) = value_and_gradients(
            lambda x, training=training: layer(x, training=training), features
        )
        found.append(gradient)
    np.testing.assert_allclose(found[1], found[0], rtol=1e-6, atol=1e-6)
    assert found[1][0, 0, 0] == found[1][0, 0, 2]


# What is around it --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("normalizer", "training"), [("sigmoid", False), ("softmax", False), ("softmax", True)]
)
def test_padding_changes_no_result(normalizer, training):
    """A sequence gives the same whether it is padded or not, whatever the padding is."""
    features = random(2, 9, 5)
    layer = built(SpatialAttention(5, normalizer=normalizer), features)
    short = numpy(layer(features[:, :6]))
    mask = np.arange(9) < 6
    padded = numpy(layer(features, mask=np.stack([mask, mask]), training=training))
    np.testing.assert_allclose(padded[:, :6], short, rtol=1e-5, atol=1e-7)
    assert (padded[:, 6:] == 0).all()


def test_nothing_but_padding():
    features = random(2, 5, 3)
    mask = np.array([[False] * 5, [True] * 5])
    for normalizer in NORMALIZERS:
        layer = built(SpatialAttention(3, normalizer=normalizer), features)

        def total(features, layer=layer):
            return layer(features, mask=mask)

        output, (gradient,) = value_and_gradients(total, features)
        assert (output[0] == 0).all()
        assert (gradient[0] == 0).all()
        assert np.isfinite(gradient).all()


def test_implicit_mask():
    model = keras.Sequential(
        [
            keras.layers.Embedding(7, 4, mask_zero=True),
            SpatialAttention(3, name="attend"),
            keras.layers.GlobalAveragePooling1D(),
        ]
    )
    tokens = np.array([[3, 1, 4, 0, 0], [2, 6, 5, 3, 1]])
    with keras_sam.record_attention() as maps:
        averages = numpy(model(tokens))
    (weights,) = (numpy(tensor) for tensor in maps.values())
    assert (weights[0, 3:] == 0).all()
    assert (weights[0, :3] > 0).all()
    # The mask has come through to the average.
    np.testing.assert_allclose(averages[:1], numpy(model(tokens[:1, :3])), rtol=1e-6)


def test_distributions():
    """What the docstring says of softmax: the sum is the weighted mean."""
    features = random(2, 3, 5, 4)
    layer = built(SpatialAttention(3, normalizer="softmax"), features)
    output, weights = layer(features, return_attention_scores=True)
    weights = numpy(weights)
    np.testing.assert_allclose(weights.sum((1, 2, 3)), 1, rtol=1e-6)
    mean = (features * weights).sum((1, 2)) / weights.sum((1, 2))
    np.testing.assert_allclose(numpy(output).sum((1, 2)), mean, atol=1e-6)


@pytest.mark.parametrize("jit_compile", [False, True])
def test_unknown_height_and_width(jit_compile):
    if BACKEND == "torch" and jit_compile:
        pytest.skip("torch.compile takes a minute, and Keras has it off")
    inputs = keras.Input((None, None, 3))
    layer = SpatialAttention(use_bias=True)
    model = randomize(keras.Model(inputs, layer(inputs)))
    model.compile("sgd", "mse", jit_compile=jit_compile)
    for height, width in ((5, 19), (8, 3), (1, 1)):
        features = random(2, height, width, 3)
        found = model.predict_on_batch(features)
        assert_within(found, expected(layer, features)[0])
    before = numpy(layer.convolution.kernel)
    model.train_on_batch(features, features)
    assert (numpy(layer.convolution.kernel) != before).any()


@pytest.mark.skipif(BACKEND == "torch", reason="Keras normalizes no masked batch there")
def test_batch_norm():
    features = random(8, 5, 7, 3)
    layer = SpatialAttention(3, use_batch_norm=True)
    layer.build(features.shape)
    mask = some_of(features)
    maps = np.stack([features.max(-1), features.mean(-1)], -1) * mask[..., None]
    kernel = numpy(layer.convolution.kernel)
    scores = oracles.same_convolution(maps.astype("float64"), kernel, (1, 1))
    mean, variance = scores[mask].mean(), scores[mask].var()
    _, weights = layer(features, mask=mask, training=True, return_attention_scores=True)
    normal = oracles.sigmoid((scores - mean) / np.sqrt(variance + 1e-5))
    np.testing.assert_allclose(numpy(weights)[mask], normal[mask], rtol=1e-5)
    moving = numpy(layer.batch_norm.moving_mean)
    np.testing.assert_allclose(moving, 0.01 * mean, rtol=1e-4)


def test_recorded():
    features = random(2, 7, 11, 6)
    layers = [
        SpatialAttention(3, name="last"),
        SpatialAttention(3, data_format="channels_first", name="first"),
        PointwiseSpatialAttention(name="pointwise"),
        PointwiseSpatialAttention(data_format="channels_first", name="pointwise_first"),
    ]
    with keras_sam.record_attention() as maps:
        for layer in layers:
            layer(features)
    found = {
        name: (
            tuple(maps[name].shape),
            maps.details[name].kind,
            maps.details[name].key_grid,
        )
        for name in maps
    }
    assert found == {
        "last": ((2, 7, 11, 1), "spatial", (7, 11)),
        "first": ((2, 11, 6, 1), "spatial", (11, 6)),
        "pointwise": ((2, 7, 11, 6), "pointwise_spatial", (7, 11)),
        "pointwise_first": ((2, 11, 6, 7), "pointwise_spatial", (11, 6)),
    }


@pytest.mark.skipif(BACKEND != "tensorflow", reason="compiled by itself there only")
def test_the_gradient_keeps_no_second_copy_of_the_features():
    """What makes training fast: nothing of their size but the output is kept."""
    import tensorflow as tf

    features = tf.zeros((2, 8, 16, 64))
    layer = built(SpatialAttention(), features)

    @tf.function
    def step(features):
        with tf.GradientTape() as tape:
            tape.watch(features)
            output = layer(features, training=True)
        return tape.gradient(output, features)

    graph = step.get_concrete_function(features).graph
    calls = [op for op in graph.get_operations() if "Call" in op.type]
    large = [sum(o.shape == features.shape for o in op.outputs) for op in calls]
    assert large == [1, 1]  # the output of the one, the gradient of the other


# PointwiseSpatialAttention ------------------------------------------------------------

POINTWISE = {
    "sequence": ({"kernel_size": 3}, (2, 7, 3)),
    "image": ({}, (2, 5, 7, 3)),
    "volume": ({"use_bias": False}, (2, 3, 2, 5, 3)),
    "even, dilated": ({"kernel_size": (2, 4), "dilation_rate": (3, 1)}, (2, 7, 5, 3)),
    "1 x 1": ({"kernel_size": 5}, (2, 1, 1, 3)),
}


@pytest.mark.parametrize("format_", ["channels_last", "channels_first"])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("case", POINTWISE.values(), ids=POINTWISE)
def test_pointwise(case, masked, format_):
    arguments, shape = case
    features = random(*shape)
    move = channels_first if format_ == "channels_first" else np.asarray
    layer = PointwiseSpatialAttention(data_format=format_, **arguments)
    built(layer, move(features))
    mask = some_of(features) if masked else None
    output, weights = layer(move(features), mask=mask, return_attention_scores=True)
    results = [
        oracles.pointwise_spatial_attention(
            convert(features),
            convert(layer.convolution.kernel),
            convert(layer.convolution.bias) if layer.use_bias else 0,
            layer.convolution.dilation_rate,
            mask,
        )
        for convert in wide_and_narrow("float32")
    ]
    (wide, wide_weights), (narrow, narrow_weights) = results
    assert_within(output, (move(wide), oracles.allowance(wide, narrow)))
    assert_within(weights, (wide_weights, oracles.allowance(wide_weights, narrow_weights)))


def test_pointwise_batch_norm():
    features = random(4, 5, 7, 3)
    layer = PointwiseSpatialAttention(use_batch_norm=True)
    _, weights = layer(features, training=True, return_attention_scores=True)
    logits = numpy(weights).astype("float64")
    logits = np.log(logits / (1 - logits))
    np.testing.assert_allclose(logits.mean((0, 1, 2)), 0, atol=1e-5)
    np.testing.assert_allclose(logits.var((0, 1, 2)), 1, rtol=1e-3)


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [SpatialAttention, PointwiseSpatialAttention])
@pytest.mark.parametrize("name", ["kernel_size", "dilation_rate"])
@pytest.mark.parametrize("value", [0, -3, 1.5, True, "7", None, (), (3, 0), (1, 2, 3, 4)])
def test_bad_sizes(layer, name, value):
    with refused(f"`{name}` must be a positive integer, or a tuple"):
        layer(**{name: value})


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("pooling", "sum", '"max" or "mean"'),
        ("pooling", (), '"max" or "mean"'),
        ("pooling", ("max", "max"), "different"),
        ("pooling", ("max", ["mean"]), '"max" or "mean"'),
        ("pooling", None, '"max" or "mean"'),
        ("data_format", "NHWC", "'channels_last', 'channels_first'"),
        ("use_bias", 1, "True or False"),
        ("use_batch_norm", None, "True or False"),
        ("normalizer", "hard", "Unknown normalizer"),
        ("kernel_initializer", lambda shape: 0, "initializer"),
        ("kernel_regularizer", lambda kernel: 0, "regularizer"),
    ],
)
def test_bad_arguments(name, value, expected):
    with pytest.raises(ValueError, match="Received: ") as error:
        SpatialAttention(**{name: value})
    assert expected in str(error.value)


@pytest.mark.parametrize("layer", [SpatialAttention, PointwiseSpatialAttention])
def test_bad_shapes(layer):
    for format_ in ("channels_last", "channels_first"):
        for shape in ((2, 3), (2, 3, 4, 5, 6, 7)):
            with refused(f"with data_format='{format_}'. Received: inputs.shape={shape}"):
                layer(data_format=format_)(np.ones(shape))
    with refused("`inputs` must have the shape (batch, channels, *spatial)"):
        layer(data_format="channels_first")(keras.Input((None, 3, 3)))
    with refused("`kernel_size` must be an integer or have as many"):
        layer(kernel_size=(3, 3))(np.ones((2, 5, 7)))
    with refused("`dilation_rate` must be an integer or have as many"):
        layer(dilation_rate=(2, 2))(np.ones((2, 5, 7)))
    for mask in (np.ones((2, 5)), np.ones((2, 5, 7, 1)), np.ones((2, 7, 5))):
        with refused("`mask` must have the shape (2, 5, 7)"):
            layer()(np.ones((2, 5, 7, 3)), mask=mask)
