"""Naive float64 NumPy versions of the formulas, written to be read and not to be fast."""

import ml_dtypes
import numpy as np


def softmax(scores, temperature=1.0):
    scores = np.asarray(scores, "float64") / temperature
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weights / weights.sum(axis=-1, keepdims=True)


def hard_sigmoid(scores):
    return np.clip((np.asarray(scores, "float64") + 3) / 6, 0, 1)


def sigmoid(scores, bias=0.0):
    return 1 / (1 + np.exp(-(np.asarray(scores, "float64") + bias)))


def sparsemax(scores):
    """Martins & Astudillo 2016, algorithm 1: sort, and find the size of the support."""
    return _row_by_row(_sparsemax_row, scores)


def entmax15(scores):
    """Peters et al. 2019, algorithm 2: as sparsemax, from a mean and a variance."""
    return _row_by_row(_entmax15_row, scores)


def entmax(scores, alpha):
    """Peters et al. 2019, algorithm 1: bisection for the threshold, any alpha > 1."""
    return _row_by_row(lambda row: _entmax_row(row, alpha), scores)


def entmax_gradient(weights, upstream, alpha):
    """Peters et al. 2019, proposition 2, from weights in float64."""
    positive = weights > 0
    slopes = np.where(positive, np.where(positive, weights, 1.0) ** (2.0 - alpha), 0.0)
    mean = (slopes * upstream).sum(-1, keepdims=True) / slopes.sum(-1, keepdims=True)
    return slopes * (upstream - mean)


def _row_by_row(function, scores):
    return np.apply_along_axis(function, -1, np.asarray(scores, "float64"))


def _sparsemax_row(row):
    falling = np.sort(row)[::-1]
    sizes = np.arange(1, len(row) + 1)
    size = sizes[1 + sizes * falling > np.cumsum(falling)].max()
    threshold = (falling[:size].sum() - 1) / size
    return np.maximum(row - threshold, 0)


def _entmax15_row(row):
    row = (row - row.max()) / 2
    falling = np.sort(row)[::-1]
    for size in range(1, len(row) + 1):
        support = falling[:size]
        left = (1 - size * support.var()) / size
        if left < 0:
            continue
        threshold = support.mean() - np.sqrt(left)
        below = falling[size] if size < len(row) else -np.inf
        if below <= threshold <= support[-1]:
            return np.maximum(row - threshold, 0) ** 2
    raise AssertionError("No support fits.")


def _entmax_row(row, alpha):
    row = (alpha - 1) * (row - row.max())
    low, high = -1.0, 0.0  # The threshold; the weights sum to 1 or more at low.
    for _ in range(200):
        middle = (low + high) / 2
        total = (np.maximum(row - middle, 0) ** (1 / (alpha - 1))).sum()
        low, high = (middle, high) if total >= 1 else (low, middle)
    weights = np.maximum(row - low, 0) ** (1 / (alpha - 1))
    return weights / weights.sum()


# Scores of one query and one key. They compute in the precision that they are given.


def product(one, other):
    """A product in the precision of `one`; NumPy multiplies bfloat16 in float32."""
    return (one @ other).astype(one.dtype)


def dot(query, key):
    return product(query, key)


def scaled_dot(query, key, scale=None):
    scale = 1 / np.sqrt(len(query)) if scale is None else scale
    return product(query * query.dtype.type(scale), key)


def cosine(query, key, temperature):
    lengths = np.sqrt(product(query, query) * product(key, key))
    return product(query, key) / (lengths * temperature) if lengths else 0 * lengths


def tanh_sum(query, key, scale, vector):
    return np.sum(vector * np.tanh(scale * query + scale * key))


def additive(query, key, query_kernel, key_kernel, bias, vector):
    hidden = product(query, query_kernel) + product(key, key_kernel) + bias
    return product(np.tanh(hidden), vector)


def bilinear(query, key, kernel):
    return product(product(query, kernel), key)


def low_rank_bilinear(query, key, query_kernel, key_kernel, vector):
    queries = np.tanh(product(query, query_kernel))
    return product(queries * np.tanh(product(key, key_kernel)), vector)


def every_pair(score, query, key):
    """Scores `(B, H, T, D)` against `(B, H, S, D)`; `score` takes the head last."""
    batch, heads, rows, keys = *query.shape[:3], key.shape[2]
    scores = np.zeros((batch, heads, rows, keys), query.dtype)
    for b, h, i, j in np.ndindex(scores.shape):
        scores[b, h, i, j] = score(query[b, h, i], key[b, h, j], h)
    return scores


def allowed_positions(rows, keys, causal=False, sliding_window=None):
    """Which key `j` each row `i` may attend to by its position."""
    allowed = np.ones((rows, keys), bool)
    for i, j in np.ndindex(rows, keys):
        if causal and j > i:
            allowed[i, j] = False
        if sliding_window is not None and abs(i - j) >= sliding_window:
            allowed[i, j] = False
    return allowed


def attention_weights(scores, normalizer, allowed):
    """Normalizes the allowed scores of each row, as if there were no others."""
    allowed = np.broadcast_to(allowed, scores.shape)
    weights = np.zeros_like(scores)
    for row in np.ndindex(scores.shape[:-1]):
        chosen = allowed[row]
        if chosen.any():
            weights[row][chosen] = normalizer(scores[row][chosen])
    return weights


def taken_off(logits, allowed, first):
    """Leviathan et al. 2024, section 3: what rows before `i` take off key `j` in sum.

    Args:
        logits: Of the head that selects, `(B, T, S)`.
        allowed: Boolean of the same shape.
        first: For each example the position that is never selected.
    """
    taken = np.zeros_like(logits)
    for b, i, j in np.ndindex(logits.shape):
        for k in range(j + 1, i):
            if allowed[b, k, j] and j != first[b]:
                taken[b, i, j] += max(logits[b, k, j], 0)
    return taken


def multi_head_attention(
    query, key, value, parameters, score, normalizer, allowed, bias=0, first=None
):
    """What `SelfAttention` and `CrossAttention` compute, from `(B, T, C)` inputs.

    Args:
        parameters: Kernels and biases of the projections, by `query`, `key`, `value` and
            `output`, as Keras's `EinsumDense` has them: `(C, H, D)`, and `(H, Dv, C)`
            for the output.
        score: Takes a query, a key and the head.
        allowed: Boolean, broadcasts to `(B, H, T, S)`.
        bias: Added to the scores.
        first: None, or that of `taken_off`: the first head takes off scores then.

    Returns:
        The output and the weights.
    """

    def project(name, inputs):
        kernel, offset = parameters[name]
        heads = [
            product(inputs, kernel[:, head]) + offset[head]
            for head in range(kernel.shape[1])
        ]
        repeats = parameters["query"][0].shape[1] // kernel.shape[1]
        return np.repeat(np.stack(heads, axis=1), repeats, axis=1)  # (B, H, T, D)

    query, key = project("query", query), project("key", key)
    value = project("value", value)
    scores = (every_pair(score, query, key) + bias).astype(query.dtype)
    if first is not None:
        allowed = np.broadcast_to(allowed, scores.shape)
        scores = scores - taken_off(scores[:, 0], allowed[:, 0], first)[:, None]
    weights = attention_weights(scores, normalizer, allowed)
    kernel, offset = parameters["output"]
    heads = product(weights, value)
    outputs = sum(product(heads[:, head], kernel[head]) for head in range(len(kernel)))
    return outputs + offset, weights


def allowance(expected, naive):
    """How far a result may be from `expected`, given what a naive way gives.

    Args:
        expected: The float64 result.
        naive: The same computed naively in the precision that is tested.

    Returns:
        Twice the largest error of the naive way, or four roundings of the largest number
        where the naive way is luckier than that: attention is four products in a row.
    """
    error = np.abs(naive.astype("float64") - expected).max(initial=0)
    rounding = float(ml_dtypes.finfo(naive.dtype).eps) * np.abs(expected).max(initial=0)
    return max(2 * error, 4 * rounding)


def attention_statistics(weights, allowed, distances):
    """Entropy, distance and maximum of one head `(T, S)`, row by row; NaN: no row.

    Means over the rows that have weight; of the entropy, over those with a choice.
    """
    entropies, lengths, largest = [], [], []
    for row, may, distance in zip(
        np.asarray(weights, "float64"), allowed, distances, strict=True
    ):
        if row.sum() == 0:
            continue
        row = row / row.sum()
        lengths.append((row * distance).sum())
        largest.append(row.max())
        if may.sum() > 1:
            some = row[row > 0]
            entropies.append(-(some * np.log(some)).sum() / np.log(may.sum()))
    return tuple(
        np.mean(values) if values else np.nan for values in (entropies, lengths, largest)
    )


def same_convolution(maps, kernel, rates):
    """A convolution padded with zeros to the same size, tap by tap.

    Args:
        maps: `(B, *spatial, n)`.
        kernel: `(*kernel_size, n, filters)`.
        rates: The distance of the taps along each spatial axis.
    """
    sizes = maps.shape[1:-1]
    outputs = np.zeros((*maps.shape[:-1], kernel.shape[-1]), maps.dtype)
    for tap in np.ndindex(kernel.shape[:-2]):
        for place in np.ndindex(sizes):
            source = tuple(
                at + rate * t - rate * (taps - 1) // 2
                for at, t, taps, rate in zip(
                    place, tap, kernel.shape[:-2], rates, strict=True
                )
            )
            if all(0 <= at < size for at, size in zip(source, sizes, strict=True)):
                outputs[:, *place] += maps[:, *source] @ kernel[tap]
    return outputs


def spatial_attention(features, kernel, bias, pooling, normalizer, rates, mask=None):
    """Woo et al. 2018, eq. 3, for features `(B, *spatial, C)`.

    Returns:
        The output, and the weights `(B, *spatial, 1)`.
    """
    if mask is None:
        mask = np.ones(features.shape[:-1], bool)
    pools = {"max": features.max, "mean": features.mean}
    maps = np.stack([pools[name](axis=-1) for name in pooling], axis=-1)
    scores = same_convolution(maps * mask[..., None], kernel, rates) + bias
    rows = [grid.reshape(len(scores), -1) for grid in (scores, mask)]
    weights = attention_weights(rows[0], normalizer, rows[1]).reshape(scores.shape)
    return features * weights, weights


def pointwise_spatial_attention(features, kernel, bias, rates, mask=None):
    """Bochkovskiy et al. 2020, figure 5b, for features `(B, *spatial, C)`."""
    mask = 1 if mask is None else mask[..., None]
    scores = same_convolution(features * mask, kernel, rates) + bias
    weights = (mask * sigmoid(scores)).astype(features.dtype)
    return features * weights, weights


def channel_attention(features, hidden, outer, pooling, normalizer, mask=None):
    """Woo et al. 2018, eq. 2, for features `(B, *spatial, C)`.

    Args:
        hidden, outer: Kernel and bias of the two layers of the perceptron.

    Returns:
        The output, and the weights `(B, 1, ..., C)`.
    """
    weights = np.zeros((len(features), features.shape[-1]), features.dtype)
    for example, places in enumerate(features):
        chosen = places.reshape(-1, places.shape[-1])
        if mask is not None:
            chosen = chosen[mask[example].reshape(-1)]
        if not len(chosen):
            chosen = np.zeros_like(places[:1].reshape(-1, places.shape[-1])[:1])
        pools = {"max": chosen.max, "mean": chosen.mean}
        scores = 0
        for name in pooling:
            inner = np.maximum(pools[name](axis=0) @ hidden[0] + hidden[1], 0)
            scores = scores + inner @ outer[0] + outer[1]
        weights[example] = normalizer(scores)
    ones = [1] * (features.ndim - 2)
    weights = weights.reshape(len(features), *ones, -1)
    return features * weights, weights
