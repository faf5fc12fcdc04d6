"""What tests say over and over."""

import contextlib
import re

import keras
import ml_dtypes
import numpy as np
import oracles
import pytest
from keras import ops

import keras_sam

DTYPES = ("float32", "float64", "float16", "bfloat16")
HALVES = ("float16", "bfloat16")
SCORES = ("dot", "scaled_dot", "cosine", "additive", "bilinear", "low_rank_bilinear")
NORMALIZERS = {
    "softmax": oracles.softmax,
    "sigmoid": oracles.sigmoid,
    "hard_sigmoid": oracles.hard_sigmoid,
    "sparsemax": oracles.sparsemax,
    "entmax": oracles.entmax15,
}
BACKEND = keras.backend.backend()


def random(*shape, seed=0, scale=1.0, dtype="float32"):
    return (scale * np.random.default_rng(seed).normal(size=shape)).astype(dtype)


def stored_arrays(path):
    """Returns the arrays of an `.npz` file, and closes it."""
    with np.load(path) as file:
        return dict(file)


def numpy(tensor):
    """Returns a tensor as NumPy floats, whatever its dtype."""
    if keras.backend.standardize_dtype(tensor.dtype) == "bfloat16":
        tensor = ops.cast(tensor, "float32")
    return ops.convert_to_numpy(tensor)


def dtype_of(tensor):
    return keras.backend.standardize_dtype(tensor.dtype)


def numpy_dtype(name):
    """The NumPy dtype that tensors of the dtype `name` have on this backend."""
    if name == "float64" and BACKEND == "jax":
        name = "float32"  # JAX has no float64 unless it is told to
    return np.dtype(getattr(ml_dtypes, name) if name == "bfloat16" else name)


def randomize(layer):
    """Gives every weight of a built layer random values, zeros of biases included."""
    for index, weight in enumerate(layer.trainable_weights):
        weight.assign(random(*weight.shape, seed=index, scale=0.5))
    return layer


def label(value):
    """The name of a value in a test's name: the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


@contextlib.contextmanager
def refused(*messages):
    """Expects a `ValueError` that contains all `messages`."""
    with pytest.raises(ValueError, match=re.escape(messages[0])) as error:
        yield
    for message in messages[1:]:
        assert message in str(error.value)


def wide_and_narrow(dtype):
    """Two ways to bring an array to what the oracle computes in.

    Both start from the numbers that a layer of this dtype sees. The first goes on in
    float64, the second in the dtype itself: how naively it may be done.
    """
    narrow = numpy_dtype(dtype)
    return (
        lambda array: numpy(array).astype(narrow).astype("float64"),
        lambda array: numpy(array).astype(narrow),
    )


def score_oracle(score, convert):
    """The oracle of a built score: a function of a query, a key and the head."""
    weights = {weight.name: convert(weight) for weight in score.weights}
    name = type(score).__name__
    if name == "Dot":
        return lambda q, k, h: oracles.dot(q, k)
    if name == "ScaledDot" and score.learn_scale:
        return lambda q, k, h: oracles.dot(q, k) * weights["scale"][h, 0, 0]
    if name == "ScaledDot":
        return lambda q, k, h: oracles.scaled_dot(q, k, score.scale)
    if name == "TanhSum":
        scale, vector = weights.get("scale"), weights.get("vector")
        return lambda q, k, h: oracles.tanh_sum(
            q,
            k,
            1 if scale is None else scale[h, 0, 0],
            np.ones(1, q.dtype) if vector is None else vector[h],
        )
    if name == "Cosine":
        temperature = np.exp(weights["log_temperature"])
        return lambda q, k, h: oracles.cosine(q, k, temperature[h, 0, 0])
    if name == "Additive":
        bias = weights.get("bias", np.zeros_like(weights["query_kernel"][:, :1]))
        return lambda q, k, h: oracles.additive(
            q,
            k,
            weights["query_kernel"][h],
            weights["key_kernel"][h],
            bias[h, 0],
            weights["vector"][h, :, 0],
        )
    if name == "Bilinear":
        return lambda q, k, h: oracles.bilinear(q, k, weights["kernel"][h])
    assert name == "LowRankBilinear"
    return lambda q, k, h: oracles.low_rank_bilinear(
        q, k, weights["query_kernel"][h], weights["key_kernel"][h], weights["vector"][h, 0]
    )


def projections(layer, convert):
    """The weights of an attention layer's projections, as the oracle wants them."""
    denses = {
        "query": layer.query_dense,
        "key": layer.key_dense,
        "value": layer.value_dense,
        "output": layer.output_dense,
    }
    found = {}
    for name, dense in denses.items():
        kernel = convert(dense.kernel)
        shape = kernel.shape[-1:] if name == "output" else kernel.shape[1:]
        bias = np.zeros(shape, kernel.dtype) if dense.bias is None else convert(dense.bias)
        found[name] = (kernel, bias)
    return found


def attention_oracle(layer, dtype, query, key, value, allowed=True, bias=0.0, first=None):
    """What an attention layer should return, and how far from it it may be.

    Args:
        layer: A built `SelfAttention` or `CrossAttention`.
        dtype: The dtype that it computes in.
        query, key, value: NumPy arrays `(B, T, C)`.
        allowed: Boolean, broadcasts to `(B, H, T, S)`; positions are added here.
        bias: Added to the scores.
        first: For each example the position that is never selected, if not the first.

    Returns:
        A pair for the output and one for the weights: what is expected, in float64, and
        the largest error that is allowed.
    """
    allowed = allowed & oracles.allowed_positions(
        query.shape[1], key.shape[1], layer.causal, layer.sliding_window
    )
    name = next(
        name for name in NORMALIZERS if keras_sam.normalizers.get(name) == layer.normalizer
    )
    if first is None and getattr(layer, "selective", False):
        first = [0] * len(query)
    results = []
    for convert in wide_and_narrow(dtype):
        results.append(
            oracles.multi_head_attention(
                *map(convert, (query, key, value)),
                projections(layer, convert),
                score_oracle(layer.score, convert),
                NORMALIZERS[name],
                allowed,
                bias,
                first,
            )
        )
    return [
        (wide, oracles.allowance(wide, narrow))
        for wide, narrow in zip(*results, strict=True)
    ]


def assert_within(actual, expected_and_error):
    expected, error = expected_and_error
    actual = actual if isinstance(actual, np.ndarray) else numpy(actual)
    assert actual.shape == expected.shape
    np.testing.assert_allclose(actual.astype("float64"), expected, rtol=0, atol=error)


def assert_rounded_alike(found, expected):
    """Compares two ways to compute the same formula in float32, of which neither is right.

    The cases of the contract are up to 7 roundings of the largest number away from the
    same model in float64 (sparsemax is; the others up to 3). So two ways may be 14 apart,
    and twice that is allowed, for machines that add in another order than the one on
    which this was measured.
    """
    rounding = np.finfo("float32").eps * np.abs(expected).max(initial=0)
    np.testing.assert_allclose(found, expected, rtol=0, atol=28 * rounding)
