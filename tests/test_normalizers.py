import dataclasses

import gradients
import keras
import numpy as np
import oracles
import pytest
from keras import ops

from keras_sam import normalizers
from keras_sam.normalizers.entmax import entmax
from keras_sam.normalizers.masking import MASKED

ALPHAS = (1.0, 1.01, 1.2, 1.5, 1.7, 2.0, 2.5, 3.0)

# Each normalizer, with its oracle.
SIMPLEX = [
    (normalizers.Softmax(), oracles.softmax),
    (normalizers.Softmax(temperature=0.5), lambda s: oracles.softmax(s, 0.5)),
    (normalizers.Sparsemax(), oracles.sparsemax),
    (normalizers.Entmax(), oracles.entmax15),
    (normalizers.Entmax(alpha=1), oracles.softmax),
    *(
        (normalizers.Entmax(alpha=alpha), lambda s, alpha=alpha: oracles.entmax(s, alpha))
        for alpha in ALPHAS[1:]
    ),
]
ELEMENTWISE = [
    (normalizers.Sigmoid(), oracles.sigmoid),
    (normalizers.Sigmoid(bias=-1.5), lambda s: oracles.sigmoid(s, -1.5)),
    (
        normalizers.Sigmoid(bias="-log(length)"),
        lambda s: oracles.sigmoid(s, -np.log(s.shape[-1])),
    ),
]
EVERY = SIMPLEX + ELEMENTWISE
# The same, one of each kind of code.
KINDS = [
    normalizers.Softmax(temperature=2.0),
    normalizers.Sigmoid(bias="-log(length)"),
    normalizers.Sparsemax(),
    normalizers.Entmax(),
    normalizers.Entmax(alpha=1.3),
    normalizers.Entmax(alpha=3),
]


def named(cases):
    """Makes each case a pytest parameter that is named after its normalizer."""
    first = [case[0] if isinstance(case, tuple) else case for case in cases]
    return [
        pytest.param(*(case if isinstance(case, tuple) else (case,)), id=repr(normalizer))
        for case, normalizer in zip(cases, first, strict=True)
    ]


every = pytest.mark.parametrize(("normalizer", "oracle"), named(EVERY))
simplex = pytest.mark.parametrize("normalizer", named([n for n, _ in SIMPLEX]))
kinds = pytest.mark.parametrize("normalizer", named(KINDS))


def random(*shape, scale=1.0, seed=0, dtype="float32"):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def apply(normalizer, scores):
    return ops.convert_to_numpy(normalizer(ops.convert_to_tensor(scores)))


def scaled(normalizer, factor):
    """Returns `normalizer` times `factor`, whose sum has a gradient other than zero."""
    return lambda scores: normalizer(scores) * ops.convert_to_tensor(factor)


def tolerance(normalizer, values):
    """Returns how far `values` may be from the oracle, in their own precision."""
    return 20 * np.finfo(values.dtype).eps


@every
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("scale", [0.02, 1.0, 30.0])
def test_matches_the_oracle(normalizer, oracle, scale, dtype):
    scores = random(2, 5, 67, scale=scale, dtype=dtype)
    weights = apply(normalizer, scores)
    # JAX computes in float32, unless it is told otherwise.
    seen = ops.convert_to_numpy(ops.convert_to_tensor(scores))
    assert weights.dtype == seen.dtype
    np.testing.assert_allclose(
        weights, oracle(seen), rtol=0, atol=tolerance(normalizer, weights)
    )


@pytest.mark.parametrize("scale", [0.001, 1.0])
@pytest.mark.parametrize(
    ("normalizer", "oracle"),
    [
        (normalizers.Sparsemax(), oracles.sparsemax),
        (normalizers.Entmax(), oracles.entmax15),
    ],
)
def test_long_rows(normalizer, oracle, scale):
    scores = random(3, 4099, scale=scale)
    weights = apply(normalizer, scores)
    np.testing.assert_allclose(weights, oracle(scores), rtol=0, atol=2e-7)


@simplex
@pytest.mark.parametrize("shape", [(7,), (3, 7), (2, 3, 5, 11), (4, 1), (1,)])
def test_rows_of_any_rank_sum_to_one(normalizer, shape):
    weights = apply(normalizer, random(*shape, scale=2.0))
    assert weights.shape == shape
    assert (weights >= 0).all()
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0, atol=1e-6)


@simplex
def test_adding_to_all_scores_changes_nothing(normalizer):
    scores = np.round(random(5, 13) * 64) / 64  # So that the sums below are exact.
    shifted = apply(normalizer, scores + np.float32(1024))
    np.testing.assert_allclose(shifted, apply(normalizer, scores), atol=1e-6)


@pytest.mark.parametrize("alpha", ALPHAS[2:])
def test_zeros_are_exact_and_more_with_alpha(alpha):
    scores = random(5, 61, scale=3.0)
    weights = apply(normalizers.Entmax(alpha), scores)
    expected = oracles.entmax(scores, alpha)
    np.testing.assert_array_equal(weights == 0, expected == 0)
    fewer = apply(normalizers.Entmax(alpha - 0.15), scores)
    assert (weights == 0).sum() >= (fewer == 0).sum() > 0


def test_sparsemax_where_keras_is_wrong():
    weights = apply(normalizers.Sparsemax(), np.array([1.0, 0.9, -3.0], "float32"))
    np.testing.assert_allclose(weights, [0.55, 0.45, 0.0], atol=1e-7)
    assert weights[2] == 0


@pytest.mark.parametrize(
    ("normalizer", "scores", "expected"),
    [
        (normalizers.Sparsemax(), [2.0, 2.0, 2.0, 2.0], [0.25] * 4),
        (normalizers.Sparsemax(), [1.0, 1.0, 0.0], [0.5, 0.5, 0.0]),
        (normalizers.Sparsemax(), [0.5, -0.5], [1.0, 0.0]),  # Just at the edge.
        (normalizers.Entmax(), [3.0, 3.0, -3.0], [0.5, 0.5, 0.0]),
        (normalizers.Entmax(), [1.0, -1.0], [1.0, 0.0]),  # Just at the edge.
        (normalizers.Entmax(alpha=3), [1.0, 1.0, 0.0], [0.5, 0.5, 0.0]),
        (normalizers.Entmax(alpha=30), [5.0, 5.0, 5.0, 4.0], [1 / 3] * 3 + [0.0]),
        (normalizers.Entmax(alpha=1.3), [7.0] * 5, [0.2] * 5),
    ],
)
def test_ties_and_edges(normalizer, scores, expected):
    value, (gradient,) = gradients.value_and_gradients(
        normalizer, np.array(scores, "float32")
    )
    np.testing.assert_allclose(value, expected, atol=1e-6)
    assert np.isfinite(gradient).all()


@kinds
@pytest.mark.parametrize(
    "scores",
    [
        np.full((2, 7), MASKED),
        np.full((2, 7), 3 * MASKED),
        np.array([[1e4, -1e4, 0.0], [-1e4, -1e4, 1e4], [1e4, 1e4, 1e4]]),
        np.array([[0.5], [MASKED], [-1e4]]),
        np.zeros((2, 300)),
    ],
    ids=["masked", "below masked", "large", "one entry", "equal"],
)
def test_extreme_rows_stay_finite(normalizer, scores):
    factor = np.arange(1, 1 + scores.shape[-1], dtype="float32")
    value, (gradient,) = gradients.value_and_gradients(
        scaled(normalizer, factor), scores.astype("float32")
    )
    assert np.isfinite(value).all()
    assert np.isfinite(gradient).all()


@every
def test_padding_changes_nothing(normalizer, oracle):
    scores = random(4, 7, scale=2.0)
    padded = np.concatenate([scores, np.full((4, 6), MASKED, "float32")], axis=-1)
    weights = apply(normalizer, padded)
    np.testing.assert_array_equal(weights[:, 7:], 0.0)
    np.testing.assert_allclose(weights[:, :7], apply(normalizer, scores), atol=1e-6)


def test_sigmoid_counts_the_unmasked_entries_of_each_row():
    scores = np.where(np.tri(5, dtype=bool), 0.0, MASKED).astype("float32")
    weights = apply(normalizers.Sigmoid("-log(length)"), scores)
    expected = np.tri(5) / (1 + np.arange(1, 6)[:, None])
    np.testing.assert_allclose(weights, expected, rtol=1e-6)


@every
@pytest.mark.parametrize("masked", [0, 5])
def test_gradient_matches_the_oracle(normalizer, oracle, masked):
    # Seed and scale keep every score away from the edge of the support, where there is
    # no gradient to compare with.
    scores = random(3, 11, scale=0.7, seed=3, dtype="float64")
    factor = random(3, 11, seed=1, dtype="float64")
    padding = np.full((3, masked), MASKED)
    _, (gradient,) = gradients.value_and_gradients(
        scaled(lambda s: normalizer(s)[..., :11], factor),
        np.concatenate([scores, padding], axis=-1),
    )
    expected = gradients.numerical_gradient(lambda s: (oracle(s) * factor).sum(), scores)
    precise = gradient.dtype == "float64"
    np.testing.assert_allclose(gradient[:, :11], expected, atol=2e-8 if precise else 2e-4)
    np.testing.assert_array_equal(gradient[:, 11:], 0.0)


@pytest.mark.parametrize("scale", [0.3, 1.0, 3.0])
@pytest.mark.parametrize("length", [64, 512])
@pytest.mark.parametrize("alpha", [1.2, 1.5, 2, 3, 4, 6])
def test_entmax_in_float32(alpha, length, scale):
    """Also where a weight begins with a vertical slope, as all do beyond alpha = 2."""
    scores = random(32, length, scale=scale, seed=3)
    upstream = random(32, length, seed=9)
    _, (gradient,) = gradients.value_and_gradients(
        scaled(normalizers.Entmax(alpha), upstream), scores
    )
    expected = oracles.entmax(scores, alpha)
    weights = apply(normalizers.Entmax(alpha), scores)
    np.testing.assert_allclose(weights, expected, rtol=0, atol=4e-7)
    np.testing.assert_array_equal(weights > 0, expected > 0)
    slopes = oracles.entmax_gradient(expected, upstream.astype("float64"), alpha)
    size = np.abs(slopes).sum(axis=-1, keepdims=True)
    assert (np.abs(gradient - slopes) <= 4e-6 * size + 1e-6).all()
    total = gradient.sum(axis=-1, dtype="float64")
    assert (np.abs(total) <= 1e-6 * (size[:, 0] + 1)).all()


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@kinds
def test_half_precision_in_and_out(normalizer, dtype):
    scores = random(3, 300, scale=0.5)
    tensor = ops.cast(scores, dtype)
    weights = normalizer(tensor)
    assert keras.backend.standardize_dtype(weights.dtype) == dtype
    expected = apply(normalizer, ops.cast(tensor, "float32"))
    # A few roundings of scores as large as log(300).
    largest = 2**-4 if dtype == "bfloat16" else 2**-7
    np.testing.assert_allclose(
        ops.convert_to_numpy(ops.cast(weights, "float32")),
        expected,
        atol=largest * expected.max(),
    )


def mapped(normalizer):
    """Returns `normalizer` as the blockwise kernel uses it."""

    def function(scores):
        slabs = ops.reshape(scores, (-1, 2, ops.shape(scores)[-1]))
        weights = ops.map(keras.remat(normalizer), slabs)
        return ops.reshape(weights, ops.shape(scores))

    return function


@kinds
def test_inside_remat_inside_map(normalizer):
    scores, factor = random(6, 17), random(6, 17, seed=1)
    value, (gradient,) = gradients.value_and_gradients(
        scaled(mapped(normalizer), factor), scores
    )
    expected = gradients.value_and_gradients(scaled(normalizer, factor), scores)
    np.testing.assert_allclose(value, expected[0], atol=1e-6)
    np.testing.assert_allclose(gradient, expected[1][0], atol=1e-5)


@pytest.mark.skipif(
    keras.backend.backend() != "tensorflow", reason="compiles with TensorFlow"
)
@pytest.mark.parametrize("normalizer", named(KINDS[2:4] + KINDS[5:]))
def test_compiled_by_xla_with_an_unknown_length(normalizer):
    import tensorflow as tf

    @tf.function(
        jit_compile=True,
        autograph=False,
        input_signature=[tf.TensorSpec([None, None])] * 2,
    )
    def compiled(scores, factor):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            value = mapped(normalizer)(scores) * factor
        return value, tape.gradient(value, scores)

    scores, factor = random(4, 17), random(4, 17, seed=1)
    value, gradient = compiled(scores, factor)
    expected = gradients.value_and_gradients(scaled(normalizer, factor), scores)
    np.testing.assert_allclose(value, expected[0], atol=1e-6)
    np.testing.assert_allclose(gradient, expected[1][0], atol=1e-5)


@kinds
def test_traced_with_unknown_sizes(normalizer):
    class Layer(keras.layers.Layer):
        def call(self, scores):
            return normalizer(scores)

    assert Layer()(keras.Input((4, None))).shape == (None, 4, None)


@pytest.mark.parametrize("length", [2, 50, 3000])
def test_few_passes_on_a_hard_row(length):
    # Geometric scores enter the support one by one: the worst case for Newton.
    scores = -(0.5 ** np.arange(length, dtype="float64"))[::-1] * 4
    weights = apply(lambda s: entmax(s, 2), scores)
    expected = oracles.sparsemax(ops.convert_to_numpy(ops.convert_to_tensor(scores)))
    np.testing.assert_allclose(weights, expected, atol=1e-6)


@kinds
def test_round_trip(normalizer):
    config = normalizers.serialize(normalizer)
    assert normalizers.deserialize(config) == normalizer
    assert normalizers.get(config) == normalizer
    assert keras.saving.deserialize_keras_object(config) == normalizer
    assert type(normalizer).from_config(normalizer.get_config()) == normalizer
    assert normalizer.get_config() == dataclasses.asdict(normalizer)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("softmax", normalizers.Softmax()),
        ("sigmoid", normalizers.Sigmoid()),
        ("sparsemax", normalizers.Sparsemax()),
        ("entmax", normalizers.Entmax(alpha=1.5)),
    ],
)
def test_names(name, expected):
    assert normalizers.get(name) == expected
    assert normalizers.get(expected) is expected


def test_numbers_of_numpy_are_stored_as_floats():
    config = normalizers.Softmax(np.float32(2)).get_config()
    assert config == {"temperature": 2.0}
    assert type(config["temperature"]) is float


@keras.saving.register_keras_serializable(package="test_normalizers")
@dataclasses.dataclass(frozen=True)
class Mean:
    """What a user may write without inheriting: all entries alike."""

    scale: float = 1.0

    def __call__(self, scores):
        return ops.ones_like(scores) * self.scale

    def get_config(self):
        return dataclasses.asdict(self)

    @classmethod
    def from_config(cls, config):
        return cls(**config)


@keras.saving.register_keras_serializable(package="test_normalizers")
@dataclasses.dataclass(frozen=True)
class Power(normalizers.Normalizer):
    """What a user may write with the base class."""

    exponent: float

    def __call__(self, scores):
        powers = ops.power(ops.abs(scores), self.exponent)
        return powers / ops.sum(powers, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable(package="test_normalizers")
class OneWay:
    """Keras registers and saves it, and cannot load it: it has no `from_config`."""

    def __call__(self, scores):
        return scores

    def get_config(self):
        return {}


class Unregistered:
    def __call__(self, scores):
        return scores


@pytest.mark.parametrize("normalizer", [Mean(2.0), Power(3.0)])
def test_accepts_what_a_user_registered(normalizer):
    assert normalizers.get(normalizer) is normalizer
    assert normalizers.get(normalizers.serialize(normalizer)) == normalizer


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: normalizers.Softmax(temperature=0), "positive.*temperature=0$"),
        (lambda: normalizers.Softmax(temperature=-1.0), "positive.*temperature=-1.0$"),
        (lambda: normalizers.Softmax(temperature="x"), "positive.*temperature='x'$"),
        (lambda: normalizers.Entmax(alpha=0.5), "at least 1.*alpha=0.5$"),
        (lambda: normalizers.Entmax(alpha=float("nan")), "at least 1.*alpha=nan$"),
        (lambda: normalizers.Entmax(alpha=True), "at least 1.*alpha=True$"),
        (lambda: normalizers.Entmax(alpha=None), "at least 1.*alpha=None$"),
        (lambda: normalizers.Sigmoid(bias="log"), "-log.length.*bias='log'$"),
        (lambda: normalizers.Sigmoid(bias=float("inf")), "-log.length.*bias=inf$"),
        (
            lambda: normalizers.get("sotfmax"),
            '"sigmoid", "hard_sigmoid", "sparsemax", "entmax".*normalizer=\'sotfmax\'$',
        ),
        (lambda: normalizers.get(lambda scores: scores), "registered.*<lambda>"),
        (lambda: normalizers.get(Unregistered()), "registered.*Unregistered"),
        (lambda: normalizers.get(OneWay()), "from_config.*OneWay"),
        (lambda: normalizers.get(normalizers.Softmax), "registered.*type type"),
        (lambda: normalizers.get(None), "registered.*normalizer=None"),
    ],
)
def test_bad_input(make, message):
    with pytest.raises(ValueError, match=message):
        make()
