"""Statistics of attention weights, in float32, over the rows that attend to something.

Every function takes recorded weights, a boolean array like them that says what may have
weight at all, and their `AttentionDetails`. It returns, by name, `(values, counted)`:
one value for each row, `(B, H, T)`, and which rows count.
"""

import numpy as np

_TINY = np.finfo(np.float32).tiny

# What TensorBoard says of each.
MEANINGS = {
    "entropy": "Mean entropy of the attention rows, divided by the logarithm of the "
    "number of keys that any head gives weight to (with softmax, all that are not "
    "masked): 0 looks at one key, 1 at all alike.",
    "distance": "Mean distance, in positions, between a query and what it attends to "
    "(Euclidean between the places of a picture).",
    "max": "Mean over the rows of their largest weight.",
    "effective_parts": "Mean of exp(entropy): how many parts the weights amount to.",
    "mean": "Mean of the weights.",
    "above_half": "Share of the weights above one half.",
}


def summarize(values, counted):
    """The mean over the rows that count, of the whole layer and of each head.

    Args:
        values: Float array `(B, H, T)`.
        counted: Boolean array `(B, H, T)`: which rows count.

    Returns:
        `(mean, means of the heads)`; None for a mean of no rows.
    """

    def mean(heads):
        rows = values[:, heads][counted[:, heads]]
        return float(rows.mean()) if rows.size else None

    return mean(slice(None)), [mean(head) for head in range(values.shape[1])]


def pair_statistics(weights, allowed, details):
    """Entropy, distance and maximum of rows of weights `(B, H, T, S)`.

    Rows are divided by their sum first, which matters for sigmoid attention alone,
    whose rows do not sum to one. Rows without any weight (padding) do not count.

    * entropy: `-sum_j w_j log w_j / log n` with `n` the number of keys that the row is
      allowed: 0 looks at one key, 1 at all alike. Rows with `n = 1` do not count.
    * distance: `sum_j w_j |i - j|`; between places of grids, the Euclidean distance.
    * max: `max_j w_j`.
    """
    total, counted, nats = _entropy(weights)
    keys = allowed.sum(-1)
    rows = {
        "entropy": (_share(nats, keys), counted & (keys > 1)),
        "max": (weights.max(-1) / total, counted),
    }
    distances = _distances(weights.shape[-2:], details)
    if distances is not None:
        # Row by row of distances, a matrix product: (T, B * H, S) @ (T, S, 1).
        by_query = np.moveaxis(weights, 2, 0)
        sums = np.einsum("tbhs,ts->bht", by_query, distances)
        rows["distance"] = (sums / total, counted)
    return rows


def part_statistics(weights, allowed, details):
    """Entropy, effective number of parts `exp(entropy)` and maximum of `(B, H, T)`."""
    weights = weights[:, :, None, :]
    total, counted, nats = _entropy(weights)
    keys = allowed.sum(-1)[:, :, None]
    return {
        "entropy": (_share(nats, keys), counted & (keys > 1)),
        "effective_parts": (np.exp(nats), counted),
        "max": (weights.max(-1) / total, counted),
    }


def gate_statistics(weights, allowed, details):
    """Mean, share above one half and maximum of gates `(B, ..., C)`."""
    gates = weights.reshape(len(weights), 1, 1, -1)
    counted = np.ones(gates.shape[:-1], bool)
    return {
        "mean": (gates.mean(-1), counted),
        "above_half": ((gates > 0.5).mean(-1), counted),
        "max": (gates.max(-1), counted),
    }


def place_statistics(weights, allowed, details):
    """Those of gates, and the entropy over the places, of maps `(B, *spatial, C)`."""

    def rows(array):
        return array.reshape(len(array), 1, -1, array.shape[-1]).swapaxes(2, 3)

    _, counted, nats = _entropy(rows(weights))
    keys = rows(allowed).sum(-1)
    entropy = (_share(nats, keys), counted & (keys > 1))
    return {**gate_statistics(weights, allowed, details), "entropy": entropy}


def _entropy(weights):
    """Sums of rows (1 for 0), which rows have one, and their entropies in nats."""
    total = weights.sum(-1)
    counted = total != 0
    total = np.where(counted, total, 1)
    # log(sum w) - sum(w log w) / sum(w): no second matrix of normalized weights.
    logs = np.log(np.maximum(weights, _TINY))
    nats = np.log(total) - np.einsum("...s,...s->...", weights, logs) / total
    return total, counted, np.maximum(nats, 0)


def _share(nats, keys):
    """Entropy as a share of what it is when all keys are alike."""
    return np.minimum(nats / np.log(np.maximum(keys, 2)).astype(np.float32), 1)


def _distances(shape, details):
    """The distances between the positions of queries and keys, `(T, S)`, or None."""
    places = []
    for length, grid in zip(shape, (details.query_grid, details.key_grid), strict=True):
        grid = tuple(grid or (length,))
        if np.prod(grid) != length:
            return None
        places.append(np.indices(grid).reshape(len(grid), length).astype(np.float32))
    query, key = places
    if len(query) != len(key):
        return None  # a sequence over a picture: there is no distance between them
    return np.sqrt(((query[:, :, None] - key[:, None, :]) ** 2).sum(0))
