"""What built layers should return, from the formulas of `oracles.py` and their weights.

Each function takes a built layer and a `convert` of `common.wide_and_narrow`, which chooses
the precision, and returns the output and the weights.
"""

import ml_dtypes
import numpy as np
import oracles
from common import (
    NORMALIZERS,
    numpy_dtype,
    projections,
    score_oracle,
    wide_and_narrow,
)

import keras_sam

# How many times the effect of rounding all inputs and weights once a result may be off.
ROUNDINGS = 8


def expected(compute, dtype):
    """Returns for each result what is expected, in float64, and the error allowed.

    The error is that of `oracles.allowance`, or a few times what changes when inputs and
    weights are rounded: where large numbers cancel, a naive way may be right by luck.

    Args:
        compute: A function of `convert` that returns a tuple of arrays.
        dtype: The dtype that the layer computes in.
    """
    widely, narrowly = wide_and_narrow(dtype)
    wide, narrow = compute(widely), compute(narrowly)
    rounding = float(ml_dtypes.finfo(numpy_dtype(dtype)).eps)
    largest = [0.0] * len(wide)
    for seed in range(2):
        generator = np.random.default_rng(seed)

        def rounded(array, generator=generator):
            array = widely(array)
            return array * (1 + rounding * generator.uniform(-1, 1, array.shape))

        for index, (one, other) in enumerate(zip(compute(rounded), wide, strict=True)):
            error = np.abs(one - other).max(initial=0)
            largest[index] = max(largest[index], ROUNDINGS * error)
    return [
        (one, max(oracles.allowance(one, other), error))
        for one, other, error in zip(wide, narrow, largest, strict=True)
    ]


def normalizer_of(layer):
    """The oracle of a layer's normalizer."""
    return next(
        oracle
        for name, oracle in NORMALIZERS.items()
        if keras_sam.normalizers.get(name) == layer.normalizer
    )


def attention(layer, convert, query, key, value, allowed, bias, first):
    """Any of the three attention layers, for inputs `(B, T, C)`; see `oracles`."""
    query, key, value = map(convert, (query, key, value))
    if hasattr(layer, "query_dense"):
        parameters = projections(layer, convert)
    else:  # as if projected by an identity
        parameters = {}
        for name, array in {"query": query, "key": key, "value": value}.items():
            width = array.shape[-1]
            identity = np.eye(width, dtype=array.dtype)
            parameters[name] = identity[:, None], np.zeros((1, width), array.dtype)
        width = value.shape[-1]
        identity = np.eye(width, dtype=value.dtype)[None]
        parameters["output"] = identity, np.zeros(width, value.dtype)
    allowed = allowed & oracles.allowed_positions(
        query.shape[1], key.shape[1], layer.causal, layer.sliding_window
    )
    if layer.mask is not None:
        allowed = allowed & layer.mask.as_array(query.shape[1], key.shape[1])
    return oracles.multi_head_attention(
        query,
        key,
        value,
        parameters,
        score_oracle(layer.score, convert),
        normalizer_of(layer),
        allowed,
        bias,
        first if getattr(layer, "selective", False) else None,
    )


def importance(layer, convert, inputs, query=None, mask=None):
    """The scores `(B, H, T)` of the parts `(B, T, C)` in a `SelectiveAttention`."""
    value = {w.path.split("/", 1)[1]: convert(w) for w in layer.weights}
    inputs = convert(inputs)
    batch, length, _ = inputs.shape
    mask = np.ones((batch, length), bool) if mask is None else mask
    result = np.zeros((batch, layer.num_heads, length), inputs.dtype)
    score = None if layer.score is None else score_oracle(layer.score, convert)
    for b, h in np.ndindex(result.shape[:2]):
        keys = inputs[b] @ value["parts/kernel"][:, h] + value["parts/bias"][h]
        if layer.relation == "context":
            result[b, h] = np.tanh(keys) @ value["context_vector"][h]
            continue
        sources = inputs[b] if layer.relation == "self" else convert(query)[b][None]
        queries = sources @ value["query/kernel"][:, h] + value["query/bias"][h]
        scores = oracles.every_pair(
            lambda q, k, _, h=h: score(q, k, h), queries[None, None], keys[None, None]
        )[0, 0]
        if layer.relation == "query":
            result[b, h] = scores[0]
            continue
        allowed = mask[b][:, None] & mask[b]
        received = oracles.attention_weights(scores, oracles.softmax, allowed).sum(axis=0)
        with np.errstate(divide="ignore"):
            result[b, h] = np.log(received)
    return result


def selection(layer, convert, inputs, query=None, mask=None):
    """`SelectiveAttention` over positions, without `top_k`."""
    scores = importance(layer, convert, inputs, query, mask)
    mask = np.ones(inputs.shape[:2], bool) if mask is None else mask
    weights = oracles.attention_weights(scores, normalizer_of(layer), mask[:, None])
    inputs = convert(inputs)
    batch, _, width = inputs.shape
    if layer.pool:
        kept = np.where(mask[..., None], inputs, 0)
        pooled = oracles.product(weights, kept.astype(weights.dtype))
        return pooled.reshape(batch, layer.num_heads * width), weights
    sums = weights.sum(axis=-1, keepdims=True)
    count = mask.sum(axis=-1)[:, None, None]
    shares = np.divide(count * weights, sums, out=np.zeros_like(weights), where=sums > 0)
    factors = shares.mean(axis=1)[..., None].astype(inputs.dtype)
    kept = np.where(mask[..., None], inputs, 0).astype(inputs.dtype)
    return kept * factors, weights


def spatial(layer, convert, features, mask=None):
    """`SpatialAttention`, for features with their channels last."""
    return oracles.spatial_attention(
        convert(features),
        convert(layer.convolution.kernel),
        convert(layer.convolution.bias) if layer.use_bias else 0,
        layer.pooling,
        normalizer_of(layer),
        layer.convolution.dilation_rate,
        mask,
    )


def pointwise(layer, convert, features, mask=None):
    """`PointwiseSpatialAttention`, for features with their channels last."""
    return oracles.pointwise_spatial_attention(
        convert(features),
        convert(layer.convolution.kernel),
        convert(layer.convolution.bias) if layer.use_bias else 0,
        layer.convolution.dilation_rate,
        mask,
    )


def perceptron(layer, convert):
    """Kernels and biases of a built `ChannelAttention`, as the oracle wants them."""
    return [
        (convert(dense.kernel), convert(dense.bias) if layer.use_bias else 0)
        for dense in (layer.hidden_dense, layer.output_dense)
    ]


def channels(layer, convert, features, mask=None):
    """`ChannelAttention`, for features with their channels last."""
    return oracles.channel_attention(
        convert(features),
        *perceptron(layer, convert),
        layer.pooling,
        normalizer_of(layer),
        mask,
    )


def cbam(layer, convert, features, mask=None):
    """`CBAM` in any order; weights are those of channels and then of positions."""
    gates = {
        "channel": lambda x: channels(layer.channel_attention, convert, x, mask),
        "spatial": lambda x: spatial(layer.spatial_attention, convert, x, mask),
    }
    if layer.order == "parallel":
        found = {name: gate(features)[1] for name, gate in gates.items()}
        return convert(features) * found["channel"] * found["spatial"], *found.values()
    output, found = features, {}
    for name in layer.order:
        output, found[name] = gates[name](output)
    return output, found["channel"], found["spatial"]
