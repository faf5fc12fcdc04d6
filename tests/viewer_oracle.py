"""The statistics of the viewer in float64, by plain loops: slow, and easy to believe."""

import math

import numpy as np


def allowed_pairs(shape, causal=False, window=None, query=None, key=None, pairs=None):
    """Returns which pairs are allowed, `(B, H, T, S)`, one by one."""
    allowed = np.ones(shape, bool)
    for b, h, t, s in np.ndindex(*shape):
        allowed[b, h, t, s] = (
            (not causal or s <= t)
            and (window is None or abs(t - s) < window)
            and (query is None or query[b, t])
            and (key is None or key[b, s])
            and (pairs is None or pairs[b, t, s])
        )
    return allowed


def pair_statistics(weights, allowed, is_self, query_grid=None, key_grid=None, stride=1):
    """Returns the statistics of one head `(T, S)` that need no other head.

    Also the rows that count and their normalized weights, for `twins`.
    """
    queries, keys = weights.shape
    rows = [t for t in range(queries) if weights[t].sum() > 0 and allowed[t].sum() >= 2]
    normal = {t: weights[t].astype(float) / weights[t].astype(float).sum() for t in rows}
    found = {}
    if not rows:
        return found, normal
    received, seen = np.zeros(keys), np.zeros(keys)
    for t in rows:
        received += normal[t]
        seen += allowed[t]
    found["entropy"] = mean(
        min(1, entropy(normal[t]) / math.log(allowed[t].sum())) for t in rows
    )
    found["keys_used"] = math.exp(entropy(received / received.sum()))
    found["largest"] = mean(normal[t].max() for t in rows)
    shares = received / np.maximum(np.maximum(seen, len(rows) / 2), 1e-30)
    found["top_key"] = int(shares.argmax())
    found["top_key_share"] = shares.max()
    if key_grid is None:
        found["first"] = mean(normal[t][0] for t in rows)
    if is_self and queries == keys:
        found["self"] = mean(normal[t][t] for t in rows)
        later = [t for t in rows if t > 0]
        if key_grid is None and later:
            found["previous"] = mean(normal[t][t - 1] for t in later)
    where_query, where_key = places(queries, query_grid), places(keys, key_grid)
    if len(where_query[0]) == len(where_key[0]):
        found["distance"] = mean(
            sum(normal[t][s] * math.dist(where_query[t], where_key[s]) for s in range(keys))
            for t in rows
        )
    return found, normal


def twins(normals):
    """Returns, for each head, the most similar other one and the share that differs."""
    found = []
    for a, first in enumerate(normals):
        best = (math.nan, math.nan)
        for b, second in enumerate(normals):
            both = [t for t in first if t in second]
            if a == b or not both:
                continue
            differs = mean(np.abs(first[t] - second[t]).sum() / 2 for t in both)
            if math.isnan(best[1]) or differs < best[1]:
                best = (b, differs)
        found.append(best)
    return found


def places(length, grid):
    return list(np.ndindex(*(grid or (length,))))


def entropy(shares):
    return -sum(p * math.log(p) for p in shares if p > 0)


def mean(values):
    values = list(values)
    return sum(values) / len(values)
