import gradients
import keras
import numpy as np
import oracles
import pytest
from common import (
    BACKEND,
    DTYPES,
    SCORES,
    assert_within,
    dtype_of,
    numpy,
    random,
    randomize,
    refused,
    score_oracle,
    wide_and_narrow,
)
from keras import ops

from keras_sam import SelfAttention, scores

B, H, T, S, D = 2, 3, 5, 7, 11

# Beside the named ones, the arguments that change what is computed.
CASES = {
    **{name: scores.get(name) for name in SCORES},
    "scale": scores.ScaledDot(scale=0.3),
    "learned scale": scores.ScaledDot(learn_scale=True),
    "tanh sum": scores.TanhSum(),
    "tanh sum, one number": scores.TanhSum("one", learn_scale=True),
    "tanh sum, no weights": scores.TanhSum(None),
    "temperature": scores.Cosine(temperature=2.0, min_temperature=0.5),
    "units": scores.Additive(units=13),
    "no bias": scores.Additive(use_bias=False),
    "rank": scores.LowRankBilinear(rank=13),
}
every = pytest.mark.parametrize("score", CASES.values(), ids=CASES)


def built(score, dtype=None, shape=(B, H, T, D), key_shape=(B, H, S, D)):
    config = score.get_config()
    if dtype is not None:
        config["dtype"] = dtype
    score = type(score).from_config(config)
    score.build(shape, key_shape)
    return randomize(score)


def inputs(dtype="float32"):
    return random(B, H, T, D, dtype=dtype), random(B, H, S, D, seed=1, dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_matches_the_oracle(score, dtype):
    score = built(score, dtype)
    query, key = inputs("float32" if dtype.endswith("16") else dtype)
    wide, narrow = (
        oracles.every_pair(score_oracle(score, convert), convert(query), convert(key))
        for convert in wide_and_narrow(dtype)
    )
    found = score(query, key)
    if BACKEND != "jax":
        assert dtype_of(found) == dtype
    assert_within(found, (wide, oracles.allowance(wide, narrow)))


@every
def test_a_row_of_scores_depends_on_that_query_only(score):
    score = built(score)
    query, key = score.project(*map(ops.convert_to_tensor, inputs()))
    whole = numpy(score(query, key, projected=True))
    slabs = [
        numpy(score(query[:, :, start : start + 2], key, projected=True))
        for start in range(0, T, 2)
    ]
    np.testing.assert_allclose(
        np.concatenate(slabs, axis=2), whole, atol=oracles.allowance(whole, whole)
    )
    np.testing.assert_array_equal(whole, numpy(score(*inputs())))


@every
def test_gradients_are_slopes(score):
    exact = BACKEND != "jax"
    dtype, step, error = ("float64", 1e-6, 1e-6) if exact else ("float32", 1e-2, 1e-2)
    score = built(score, dtype)
    arrays = [*inputs(dtype), *map(numpy, score.trainable_variables)]
    factor = random(B, H, T, S, seed=2, dtype=dtype)

    def function(query, key, *weights):
        scores = score.stateless_call(weights, [], query, key)[0]
        return scores * ops.convert_to_tensor(factor)

    _, found = gradients.value_and_gradients(function, *arrays)
    for index, gradient in enumerate(found):  # of queries, keys and each weight
        direction = random(*gradient.shape, seed=3 + index, dtype=dtype)

        def total(sign, index=index, direction=direction):
            moved = list(arrays)
            moved[index] = moved[index] + sign * step * direction
            moved = map(ops.convert_to_tensor, moved)
            return numpy(function(*moved)).astype("float64").sum()

        slope = (total(1) - total(-1)) / (2 * step)
        assert (gradient * direction).sum() == pytest.approx(slope, rel=error, abs=error)


@every
def test_comes_back_from_its_configuration(score):
    config = score.get_config()
    again = type(score).from_config(config)
    assert again.get_config() == config
    loaded = scores.deserialize(scores.serialize(built(score)))
    assert loaded.get_config() == {**config, "name": loaded.name}
    assert [w.shape for w in loaded.weights] == [w.shape for w in built(score).weights]


class Turned(scores.ScaledDot):
    """A score that scales queries, and more."""

    def project(self, query, key):
        return super().project(query[..., ::-1], key)


@pytest.mark.parametrize(
    ("score", "scale"),
    [
        (scores.Dot(), 1),
        (scores.ScaledDot(), D**-0.5),
        (scores.ScaledDot(scale=0.3), 0.3),
        (scores.Chain([scores.Rotary(), scores.ScaledDot(), scores.Sinks()]), D**-0.5),
        (scores.ScaledDot(learn_scale=True), None),
        (Turned(), None),
        (scores.Cosine(), None),
        (scores.Chain([scores.Bilinear(), scores.SoftCap(2.0)]), None),
    ],
)
def test_what_a_library_may_multiply_by(score, scale):
    found = score.fixed_scale(D)
    assert found == scale
    if scale is not None:
        query, key = inputs()
        projected = score.project(query, key)
        np.testing.assert_allclose(numpy(projected[0]), query * scale, rtol=1e-6)
        np.testing.assert_array_equal(numpy(projected[1]), key)


@pytest.mark.parametrize("shape", [(B, T, D), (B, 2, H, T, D)])
@every
def test_any_axes_between_batch_and_rows(score, shape):
    key_shape = (*shape[:-2], S, D)
    found = built(score, shape=shape, key_shape=key_shape)(
        random(*shape), random(*key_shape, seed=1)
    )
    assert tuple(found.shape) == (*shape[:-1], S)


@pytest.mark.parametrize("score", [scores.Bilinear(), scores.LowRankBilinear(rank=2)])
def test_keys_of_another_width(score):
    score.build((B, T, D), (B, S, 13))
    assert tuple(score(random(B, T, D), random(B, S, 13)).shape) == (B, T, S)


@pytest.mark.parametrize("kernel_initializer", ["glorot_uniform", "seeded"])
@pytest.mark.parametrize(
    "score", [scores.Additive, scores.LowRankBilinear], ids=lambda score: score.__name__
)
def test_the_kernels_of_queries_and_keys_begin_different(score, kernel_initializer):
    if kernel_initializer == "seeded":
        kernel_initializer = keras.initializers.GlorotUniform(seed=7)
    score = score(kernel_initializer=kernel_initializer)
    score.build((B, H, T, D), (B, H, S, D))
    kernels = numpy(score.query_kernel), numpy(score.key_kernel)
    assert (kernels[0] != kernels[1]).all()
    assert (kernels[0][0] != kernels[0][1]).all()  # and those of the heads


def test_heads_begin_as_wide_as_one_matrix():
    """As the projections of Keras's attention, not as kernels of a convolution."""
    score = scores.Bilinear()
    score.build((B, 31, T, 37), (B, 31, S, 37))
    limit = np.sqrt(6 / (37 + 31 * 37))
    kernel = numpy(score.kernel)
    assert kernel.shape == (31, 37, 37)
    assert 0.99 * limit < np.abs(kernel).max() <= limit


def test_a_cosine_of_nothing_is_zero():
    score = built(scores.Cosine())
    query, key = inputs()
    query[0, 0, 0] = 0
    key[0, 0, 1] = 0
    value, (of_query, of_key) = gradients.value_and_gradients(score, query, key)
    np.testing.assert_array_equal(value[0, 0, 0], 0.0)
    np.testing.assert_array_equal(value[0, 0, :, 1], 0.0)
    assert np.isfinite(of_query).all()
    assert np.isfinite(of_key).all()


def test_a_cosine_at_its_least_temperature_goes_on_learning():
    score = scores.Cosine(temperature=0.1, min_temperature=0.1)
    query, key = keras.Input((T, D)), keras.Input((S, D))
    model = keras.Model([query, key], score(query, key))
    model.compile(keras.optimizers.SGD(1.0), lambda y, scores: ops.mean(scores * y))
    x = [random(B, T, D), random(B, S, D, seed=1)]
    sign = np.sign(numpy(model(x)))
    model.fit(x, -sign, verbose=0)  # wants larger scores: a lower temperature
    least = numpy(score.log_temperature)
    np.testing.assert_allclose(np.exp(least), 0.1, rtol=1e-6)
    model.fit(x, sign, verbose=0)  # wants smaller ones
    assert numpy(score.log_temperature).item() > least.item()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: scores.ScaledDot(learn_scale=1), "`learn_scale` must be True or False"),
        (lambda: scores.TanhSum("all"), "`vector` must be one of None, 'one', 'each'"),
        (lambda: scores.TanhSum(learn_scale=1), "`learn_scale` must be True or False"),
        (lambda: scores.TanhSum(initializer=3), "`initializer` must be the name"),
        (lambda: scores.ScaledDot(scale="x"), "`scale` must be a number. "),
        (lambda: scores.ScaledDot(scale=float("nan")), "`scale` must be a number. "),
        (lambda: scores.Cosine(temperature=0), "at least `min_temperature` (0.01)"),
        (lambda: scores.Cosine(min_temperature=0), "must be a positive number"),
        (lambda: scores.Cosine(temperature=0.1, min_temperature=0.2), "at least"),
        (lambda: scores.Additive(units=0), "Received: units=0"),
        (lambda: scores.Additive(units=2.0), "Received: units=2.0"),
        (lambda: scores.Additive(use_bias=1), "Received: use_bias=1"),
        (lambda: scores.LowRankBilinear(rank=-1), "Received: rank=-1"),
        (lambda: scores.LowRankBilinear(rank=True), "Received: rank=True"),
        (
            lambda: scores.Bilinear(kernel_initializer=lambda shape, dtype: 0),
            "`kernel_initializer` must be the name or an instance",
        ),
    ],
)
def test_wrong_arguments(make, message):
    with refused(message):
        make()


@keras.saving.register_keras_serializable(package="test_scores")
class Distance(scores.Score):
    """A score of one's own: the distance, to a power that is an argument."""

    def __init__(self, power=1.0, **kwargs):
        super().__init__(**kwargs)
        self.power = power

    def build(self, query_shape, key_shape):
        self.factor = self.add_weight(name="factor", shape=(), initializer="ones")

    def compare(self, query, key):
        difference = ops.abs(query[..., :, None, :] - key[..., None, :, :])
        return -self.factor * ops.sum(difference**self.power, axis=-1)

    def get_config(self):
        return {**super().get_config(), "power": self.power}


def test_a_score_of_ones_own(reload):
    query, key = inputs()
    score = Distance(power=2.0)
    score.build(query.shape, key.shape)
    expected = oracles.every_pair(
        lambda q, k, h: -np.sum((q - k) ** 2), *(x.astype("float64") for x in (query, key))
    )
    found = numpy(score(query, key))
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    layer = SelfAttention(2, score=Distance(2.0), block_size=None)
    model = keras.Sequential([keras.Input((None, 4)), layer])
    model.compile("adam", "mse")
    x = random(B, T, 4)
    model.fit(x, x, verbose=0)
    loaded = reload(model)
    assert loaded.layers[0].score.power == 2.0
    assert numpy(loaded.layers[0].score.factor) != 1.0
    np.testing.assert_array_equal(numpy(loaded(x)), numpy(model(x)))
