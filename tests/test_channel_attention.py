"""ChannelAttention and CBAM against the formulas of the papers, and against PyTorch."""

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
from keras_sam.layers import CBAM, ChannelAttention, SpatialAttention

# Arguments and the shape of the features, whose sizes are different primes.
CASES = {
    "sequence": ({"reduction": 2}, (2, 7, 5)),
    "image": ({"reduction": 3}, (2, 5, 3, 11)),
    "volume": ({"reduction": 1}, (2, 3, 2, 5, 7)),
    "squeeze and excite": ({"reduction": 2, "pooling": "mean"}, (2, 5, 3, 7)),
    "max, no bias": ({"reduction": 7, "pooling": "max", "use_bias": False}, (2, 5, 3, 7)),
    "softmax": ({"reduction": 2, "normalizer": "softmax"}, (2, 5, 3, 7)),
    "hard sigmoid": ({"reduction": 2, "normalizer": "hard_sigmoid"}, (2, 5, 3, 7)),
    "hidden units": ({"hidden_units": 11}, (2, 5, 3, 7)),
    "1 x 1": ({"reduction": 2}, (2, 1, 1, 5)),
}
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def built(layer, features):
    layer.build(features.shape)
    return randomize(layer)


def perceptron(layer, convert):
    """Kernels and biases of a built layer, as the oracle wants them."""
    return [
        (convert(dense.kernel), convert(dense.bias) if layer.use_bias else 0)
        for dense in (layer.hidden_dense, layer.output_dense)
    ]


def expected(layer, features, mask=None, dtype="float32"):
    """What a built layer should return, and how far from it it may be."""
    name = next(n for n in NORMALIZERS if keras_sam.normalizers.get(n) == layer.normalizer)
    results = [
        oracles.channel_attention(
            convert(features),
            *perceptron(layer, convert),
            layer.pooling,
            NORMALIZERS[name],
            mask,
        )
        for convert in wide_and_narrow(dtype)
    ]
    return [
        (wide, oracles.allowance(wide, narrow))
        for wide, narrow in zip(*results, strict=True)
    ]


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@pytest.mark.parametrize("format_", ["channels_last", "channels_first"])
@every
def test_values(case, format_, masked):
    arguments, shape = case
    features = random(*shape)
    move = channels_first if format_ == "channels_first" else np.asarray
    layer = built(ChannelAttention(data_format=format_, **arguments), move(features))
    mask = some_of(features) if masked else None
    results = layer(move(features), mask=mask, return_attention_scores=True)
    output, weights = expected(layer, features, mask)
    assert_within(results[0], (move(output[0]), output[1]))
    assert_within(results[1], weights)


@pytest.mark.parametrize("dtype", HALVES)
def test_half_precision(dtype):
    features = random(2, 11, 13, 6)
    layer = built(ChannelAttention(2, dtype=f"mixed_{dtype}"), features)
    results = layer(features, return_attention_scores=True)
    for result, value in zip(results, expected(layer, features, dtype=dtype), strict=True):
        assert_within(result, value)


@pytest.mark.parametrize("dtype", HALVES)
def test_padding_is_counted_in_float32(dtype):
    """A half cannot count to 3001: the mean of ones would not be one."""
    layer = ChannelAttention(1, pooling="mean", use_bias=False, dtype=dtype)
    features = np.ones((1, 4001, 1))
    layer.build(features.shape)
    for dense in (layer.hidden_dense, layer.output_dense):
        dense.kernel.assign([[1.0]])
    mask = np.arange(4001)[None] < 3001
    _, weights = layer(features, mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(numpy(weights)[0, 0, 0], oracles.sigmoid(1), rtol=0.005)


@pytest.mark.parametrize("layer", [ChannelAttention, SpatialAttention])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_means_of_halves_whose_sum_is_too_large(layer, masked):
    """The sum of 3001 times 30 is beyond float16, their mean is not."""
    is_channel = layer is ChannelAttention
    features = np.full((1, 3001, 2) if is_channel else (1, 2, 3001), 30.0)
    layer = layer(1, pooling="mean", use_bias=False, dtype="float16")
    layer.build(features.shape)
    for weight, scale in zip(layer.trainable_weights, (0.01, 1.0), strict=False):
        eye = np.eye(2) if is_channel else np.ones((1, 1, 1))
        weight.assign(scale * eye)
    mask = np.ones(features.shape[:-1], bool) if masked else None
    _, weights = layer(features, mask=mask, return_attention_scores=True)
    np.testing.assert_allclose(numpy(weights), oracles.sigmoid(0.3), rtol=0.002)


@pytest.mark.skipif(BACKEND == "torch", reason="Keras finds no maximum of nothing there")
@pytest.mark.parametrize("layer", [ChannelAttention(2), SpatialAttention(3), CBAM(2)])
def test_an_empty_batch(layer):
    features = np.zeros((0, 5, 7, 6), "float32")
    mask = np.ones((0, 5, 7), bool)
    assert numpy(layer(features)).shape == features.shape
    assert numpy(layer(features, mask=mask)).shape == features.shape
    assert numpy(layer(features, training=True)).shape == features.shape


@pytest.mark.parametrize("training", [False, True], ids=["steps", "fused"])
@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
def test_gradients(training, masked):
    """Of features and all weights, against differences of the float64 oracle."""
    features = random(2, 3, 5, 4)
    layer = built(ChannelAttention(2, normalizer="softmax"), features)
    mask = some_of(features) if masked else None
    upstream, upstream_weights = random(2, 3, 5, 4, seed=1), random(2, 1, 1, 4, seed=2)
    variables = layer.trainable_weights

    def total(features, *values):
        with keras.StatelessScope(list(zip(variables, values, strict=True))):
            output, weights = layer(
                features, mask=mask, training=training, return_attention_scores=True
            )
        parts = ops.multiply(output, upstream), ops.multiply(weights, upstream_weights)
        return ops.sum(parts[0]) + ops.sum(parts[1])

    def oracle(features, *weights):
        output, weights = oracles.channel_attention(
            features, weights[:2], weights[2:], layer.pooling, oracles.softmax, mask
        )
        return (output * upstream).sum() + (weights * upstream_weights).sum()

    values = [features, *(numpy(variable) for variable in variables)]
    _, gradients = value_and_gradients(total, *values)
    values = [value.astype("float64") for value in values]
    for i, gradient in enumerate(gradients):

        def of_one(array, i=i):
            return oracle(*values[:i], array, *values[i + 1 :])

        np.testing.assert_allclose(
            gradient, numerical_gradient(of_one, values[i]), rtol=1e-4, atol=1e-4
        )


@pytest.mark.parametrize("training", [False, True])
def test_padding_and_nothing_else(training):
    features = random(2, 5, 4)
    mask = np.array([[False] * 5, [True] * 5])
    layer = built(ChannelAttention(2), features)

    def weights(features):
        output, weights = layer(
            features, mask=mask, training=training, return_attention_scores=True
        )
        return weights + 0 * ops.sum(output)

    found, (gradient,) = value_and_gradients(weights, features)
    _, empty = oracles.channel_attention(
        features * 0, *perceptron(layer, numpy), layer.pooling, oracles.sigmoid
    )
    np.testing.assert_allclose(found[0], empty[0], rtol=1e-6)
    assert (gradient[0] == 0).all()
    assert np.isfinite(gradient).all()


# CBAM ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "order", [("channel", "spatial"), ["spatial", "channel"], "parallel"]
)
@pytest.mark.parametrize("format_", ["channels_last", "channels_first"])
def test_cbam(order, format_):
    features = random(2, 5, 7, 6)
    move = channels_first if format_ == "channels_first" else np.asarray
    layer = CBAM(reduction=2, kernel_size=3, order=order, data_format=format_)
    built(layer, move(features))
    wide = features.astype("float64")

    def channel(inputs):
        denses = perceptron(layer.channel_attention, numpy)
        return oracles.channel_attention(inputs, *denses, ("max", "mean"), oracles.sigmoid)

    def spatial(inputs):
        kernel = numpy(layer.spatial_attention.convolution.kernel)
        return oracles.spatial_attention(
            inputs, kernel, 0, ("max", "mean"), oracles.sigmoid, (1, 1)
        )

    if order == "parallel":
        output, by_channel = channel(wide)
        by_place = spatial(wide)[1]
        output = output * by_place
    elif order[0] == "channel":
        refined, by_channel = channel(wide)
        output, by_place = spatial(refined)
    else:
        refined, by_place = spatial(wide)
        output, by_channel = channel(refined)
    with keras_sam.record_attention() as maps:
        found, weights = layer(move(features), return_attention_scores=True)
    np.testing.assert_allclose(numpy(found), move(output), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(numpy(weights["channel"]), by_channel, rtol=1e-5)
    np.testing.assert_allclose(numpy(weights["spatial"]), by_place, rtol=1e-5)
    assert {maps.details[path].kind for path in maps} == {"channel", "spatial"}
    for path, recorded in maps.items():
        kind = maps.details[path].kind
        np.testing.assert_array_equal(numpy(recorded), numpy(weights[kind]))
        assert path == f"{layer.name}/{kind}_attention"


def test_cbam_symbolic_weights():
    inputs = keras.Input((None, 7, 6))
    outputs, weights = CBAM(reduction=2)(inputs, return_attention_scores=True)
    assert outputs.shape == (None, None, 7, 6)
    assert weights["channel"].shape == (None, 1, 1, 6)
    assert weights["spatial"].shape == (None, None, 7, 1)
    model = keras.Model(inputs, {"output": outputs, **weights})
    found = model(random(2, 5, 7, 6))
    assert tuple(found["spatial"].shape) == (2, 5, 7, 1)


def test_cbam_masks():
    """Padding changes nothing for either part."""
    features = random(2, 9, 6)
    layer = built(CBAM(reduction=2, kernel_size=3), features)
    mask = np.stack([np.arange(9) < 5] * 2)
    padded = numpy(layer(features, mask=mask))
    np.testing.assert_allclose(padded[:, :5], numpy(layer(features[:, :5])), rtol=1e-5)
    assert (padded[:, 5:] == 0).all()


@pytest.mark.parametrize(
    ("order", "shape", "masked"),
    [
        (order, shape, (i + j) % 2 == 1)
        for i, order in enumerate([("channel", "spatial"), ("spatial", "channel")])
        for j, shape in enumerate([(2, 8, 6, 16), (2, 7, 5, 3), (2, 12, 8)])
    ],
    ids=str,
)
def test_cbam_is_compiled_in_one(order, shape, masked):
    """Rectified features have many equal maxima, and each has its share of the gradient.

    Called eagerly and not in training, no kernel is compiled and Keras differentiates.
    """
    features = np.maximum(random(*shape), 0)
    upstream = ops.convert_to_tensor(random(*shape, seed=1))
    mask = np.arange(shape[1]) < np.array([[shape[1]], [3]])
    if len(shape) == 4:
        mask = np.broadcast_to(mask[:, :, None], shape[:3])
    layer = built(
        CBAM(reduction=2 if shape[-1] > 2 else 1, kernel_size=3, order=order), features
    )
    variables = [numpy(variable) for variable in layer.trainable_variables]

    def weighted(training):
        def call(x, *weights):
            others = [v.value for v in layer.non_trainable_variables]
            options = {"training": training, "mask": mask if masked else None}
            options["return_attention_scores"] = True
            (output, maps), _ = layer.stateless_call(weights, others, x, **options)
            total = ops.sum(maps["channel"]) + ops.sum(maps["spatial"])
            return upstream * output + total / output.shape[1]

        return call

    value, gradients = value_and_gradients(weighted(True), features, *variables)
    plain, slopes = value_and_gradients(weighted(False), features, *variables)
    np.testing.assert_allclose(value, plain, rtol=0, atol=2e-6 * np.abs(plain).max())
    for one, other in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5 * np.abs(other).max())


@pytest.mark.parametrize("use_batch_norm", [False, True])
def test_weights_of_pytorch(use_batch_norm):
    """The paper's formula written in PyTorch gives the same with the same weights."""
    torch = pytest.importorskip("torch")
    channels, reduction = 8, 4

    class Transcription(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.hidden = torch.nn.Conv2d(channels, channels // reduction, 1)
            self.outer = torch.nn.Conv2d(channels // reduction, channels, 1)
            self.convolution = torch.nn.Conv2d(2, 1, 7, padding=3, bias=False)
            self.norm = torch.nn.BatchNorm2d(1) if use_batch_norm else torch.nn.Identity()

        def forward(self, x):
            def mlp(x):
                return self.outer(torch.relu(self.hidden(x)))

            largest, mean = x.amax((2, 3), keepdim=True), x.mean((2, 3), keepdim=True)
            x = x * torch.sigmoid(mlp(largest) + mlp(mean))
            maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], dim=1)
            return x * torch.sigmoid(self.norm(self.convolution(maps)))

    torch.manual_seed(0)
    module = Transcription()
    if use_batch_norm:
        module(torch.randn(16, channels, 9, 11))  # statistics that are not 0 and 1
    module.eval()
    layer = CBAM(reduction=reduction, use_batch_norm=use_batch_norm)
    features = random(3, 9, 11, channels)
    layer.build(features.shape)
    dense = layer.channel_attention
    pairs = (dense.hidden_dense, module.hidden), (dense.output_dense, module.outer)
    for ours, theirs in pairs:
        kernel = theirs.weight.detach().numpy()[:, :, 0, 0].T
        ours.set_weights([kernel, theirs.bias.detach().numpy()])
    kernel = module.convolution.weight.detach().numpy().transpose(2, 3, 1, 0)
    layer.spatial_attention.convolution.set_weights([kernel])
    if use_batch_norm:
        norm = module.norm
        layer.spatial_attention.batch_norm.set_weights(
            [
                tensor.detach().numpy()
                for tensor in (norm.weight, norm.bias, norm.running_mean, norm.running_var)
            ]
        )
    with torch.inference_mode():
        theirs = module(torch.from_numpy(channels_first(features).copy())).numpy()
    ours = channels_first(numpy(layer(features)))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@pytest.mark.tensorflow
@pytest.mark.parametrize("cls", [ChannelAttention, CBAM])
def test_quantized(cls, reload):
    """What Keras can quantize, the two dense layers, comes back as it was saved."""
    inputs = keras.Input((5, 7, 8))
    model = randomize(keras.Model(inputs, cls(reduction=2)(inputs)))
    features = random(2, 5, 7, 8)
    before = numpy(model(features))
    model.quantize("int8")
    after = numpy(model(features))
    loaded = reload(model)
    np.testing.assert_array_equal(numpy(loaded(features)), after)
    layer = loaded.layers[-1]
    layer = layer if cls is ChannelAttention else layer.channel_attention
    assert layer.hidden_dense.quantization_mode == "int8"
    assert np.dtype(layer.output_dense.kernel.dtype) == "int8"
    assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()
    model(features, training=True)  # by the layers, not by their former kernels


def test_an_activation_with_weights():
    """It trains, though no compiled function can hold it."""
    inputs = keras.Input((5, 8))
    layer = ChannelAttention(2, activation=keras.layers.PReLU())
    model = keras.Model(inputs, layer(inputs))
    model.compile("sgd", "mse", jit_compile=False)
    alpha = layer.activation.alpha
    alpha.assign(ops.full(alpha.shape, 0.1))
    features = random(4, 5, 8)
    model.train_on_batch(features, features)
    assert (numpy(alpha) != 0.1).any()


@pytest.mark.tensorflow
def test_derivatives_outside_of_training_are_those_of_keras():
    """Also second ones, in a graph for one size as well as eagerly."""
    import tensorflow as tf

    layer = built(CBAM(2, 3), random(2, 4, 4, 4))

    def penalty(x):
        with tf.GradientTape() as outer:
            outer.watch(x)
            with tf.GradientTape() as inner:
                inner.watch(x)
                output = layer(x, training=False)
            slope = ops.sum(inner.gradient(output, x) ** 2)
        return outer.gradient(slope, x)

    features = ops.convert_to_tensor(random(2, 4, 4, 4))
    eager = penalty(features)
    in_graph = tf.function(penalty)(features)
    np.testing.assert_allclose(numpy(in_graph), numpy(eager), rtol=0, atol=1e-5)
    assert np.abs(numpy(eager)).max() > 0.1


@pytest.mark.skipif(BACKEND == "torch", reason="Keras knows no maximum of nothing there")
@pytest.mark.parametrize("training", [False, True])
def test_gradients_of_an_empty_batch(training):
    layer = built(CBAM(2, 3), random(2, 4, 6, 4))

    def call(x):
        return layer(x, training=training)

    _, (gradient,) = value_and_gradients(call, np.zeros((0, 4, 6, 4), "float32"))
    assert gradient.shape == (0, 4, 6, 4)


# Bad input ----------------------------------------------------------------------------


@pytest.mark.parametrize("layer", [ChannelAttention, CBAM])
@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("reduction", 0, "a positive integer"),
        ("reduction", 2.5, "a positive integer"),
        ("hidden_units", 0, "a positive integer or None"),
        ("normalizer", "no such", "Expected one of"),
        ("use_bias", 1, "True or False"),
        ("pooling", "median", '"max" or "mean"'),
        ("data_format", "NCHW", "'channels_last', 'channels_first'"),
        ("kernel_initializer", lambda shape: 0, "initializer"),
        ("kernel_regularizer", lambda kernel: 0, "regularizer"),
    ],
)
def test_bad_arguments(layer, name, value, expected):
    with pytest.raises(ValueError, match="Received: ") as error:
        layer(**{name: value})
    assert name in str(error.value)
    assert expected in str(error.value)


def test_bad_order():
    for order in (("channel",), ("channel", "channel"), "sequential", None, 3):
        with refused("`order` must be one of ('channel', 'spatial')"):
            CBAM(order=order)


@pytest.mark.parametrize("layer", [ChannelAttention, CBAM])
def test_reduction_larger_than_the_channels(layer):
    with refused("Received: reduction=16, channels=8"):
        layer()(np.ones((2, 5, 8)))


def test_cbam_is_what_its_parts_are():
    """Made by hand and called in turn, the two do the same."""
    features = random(2, 5, 7, 6)
    both = built(CBAM(reduction=2), features)
    channel, spatial = ChannelAttention(2), SpatialAttention()
    spatial(channel(features))
    channel.set_weights(both.channel_attention.get_weights())
    spatial.set_weights(both.spatial_attention.get_weights())
    np.testing.assert_array_equal(numpy(both(features)), numpy(spatial(channel(features))))


def test_cbam_hands_on_what_its_parts_take():
    """The options that the authors and timm have."""
    features = random(2, 5, 7, 6)
    arguments = {"hidden_units": 4, "activation": "tanh", "use_bias": False}
    both = built(CBAM(normalizer="hard_sigmoid", **arguments), features)
    channel = ChannelAttention(normalizer="hard_sigmoid", **arguments)
    spatial = SpatialAttention(normalizer="hard_sigmoid")
    spatial(channel(features))
    assert len(channel.weights) == 2
    assert channel.hidden_dense.kernel.shape == (6, 4)
    channel.set_weights(both.channel_attention.get_weights())
    spatial.set_weights(both.spatial_attention.get_weights())
    np.testing.assert_array_equal(numpy(both(features)), numpy(spatial(channel(features))))
