"""Statistics of attention weights, in float32, from blocks of rows of one example.

Whole matrices are never needed: hand `PairStatistics` one block of rows after another.
Rows count that attend to something and have at least two allowed keys: a row with one
key is always 1. Each row is divided by its sum first, which matters for sigmoid
attention only, whose rows do not sum to 1.
"""

import dataclasses
import functools

import numpy as np

from keras_sam_viewer import distances

# In the order of the array `statistics` in a record.
STATISTICS = (
    "entropy",
    "keys_used",
    "largest",
    "first",
    "previous",
    "self",
    "distance",
    "top_key",
    "top_key_share",
    "twin",
    "twin_difference",
    "mean",
    "above_half",
    "low",
    "high",
)
# Pairs of heads are compared on at most so many weights of a head.
_COMPARED = 2**22
# A block has about so many weights.
_BLOCK = 2**20


@dataclasses.dataclass(frozen=True)
class Rows:
    """Some query rows of the weights of one example.

    Args:
        start: The position of the first of them.
        weights: Float32 array `(H, R, S)`.
        allowed: Boolean array `(1 or H, R, S)`, or None when all pairs are allowed.
    """

    start: int
    weights: np.ndarray
    allowed: np.ndarray | None = None

    @functools.cached_property
    def keys(self):
        """The number of allowed keys of each row, `(1 or H, R)`."""
        if self.allowed is None:
            return np.full((1, self.weights.shape[1]), self.weights.shape[2])
        return np.count_nonzero(self.allowed, axis=-1)

    @functools.cached_property
    def total(self):
        """The sum of each row, `(H, R)`."""
        return self.weights.sum(-1)

    @functools.cached_property
    def counted(self):
        """Which rows attend to something and have a choice, `(H, R)`."""
        return (self.total > 0) & (self.keys > 1)

    @functools.cached_property
    def normal(self):
        """The weights divided by the sum of their row; zero in rows that do not count."""
        factors = self.counted / np.where(self.counted, self.total, 1)
        return self.weights * factors[..., None].astype(np.float32)

    @functools.cached_property
    def multiples(self):
        """Weights in multiples of uniform, negative where masked, `(H, R, S)`."""
        multiples = self.weights * self.keys[..., None].astype(np.float32)
        if self.allowed is None:
            return multiples
        return np.where(self.allowed, multiples, np.float32(-1))


def blocks(weights, allowed=None, size=_BLOCK):
    """Yields the `Rows` of whole weights `(H, T, S)`, about `size` weights at a time."""
    heads, queries, keys = weights.shape
    step = max(1, size // max(1, heads * keys))
    for start in range(0, queries, step):
        stop = min(queries, start + step)
        part = None
        if allowed is not None:
            part = np.broadcast_to(allowed, (len(allowed), queries, keys))[:, start:stop]
        yield Rows(start, np.asarray(weights[:, start:stop], np.float32), part)


def pair_statistics(rows, shape, **arguments):
    """Returns the statistics of all heads of one example, from blocks of rows.

    Args:
        rows: Any iterable of `Rows`, such as `blocks(weights, allowed)`.
        shape: The sizes `(H, T, S)` of the weights.
        **arguments: See `PairStatistics`.

    Returns:
        A dictionary from names of `STATISTICS` to float32 arrays `(H,)`; NaN where a
        statistic does not apply.

    Example:

    >>> import numpy as np
    >>> weights = np.eye(5, dtype="float32")[None]
    >>> found = pair_statistics(blocks(weights), weights.shape, is_self=True)
    >>> {name: round(float(found[name][0]), 2) for name in ("entropy", "self", "keys_used")}
    {'entropy': 0.0, 'self': 1.0, 'keys_used': 5.0}
    """
    statistics = PairStatistics(shape, **arguments)
    for block in rows:
        statistics.add(block)
    return statistics.result()


class PairStatistics:
    """Statistics of rows that attend to keys, of which blocks come one by one.

    Args:
        shape: The sizes `(H, T, S)` of the weights.
        is_self: Whether queries and keys are the same positions.
        query_grid: The sizes behind the query axis, or None for a plain sequence.
        key_grid: The same for the key axis.
        is_row: Whether the one row is no position, as in selective attention.
    """

    def __init__(self, shape, is_self=False, query_grid=None, key_grid=None, is_row=False):
        heads, queries, keys = shape
        self._grids = query_grid, key_grid
        self._shape = shape
        self._is_self = is_self and queries == keys and not is_row
        self._is_sequence = key_grid is None and not is_row
        self._sums = {}
        self._rows = np.zeros(heads, int)
        self._rows_with_previous = np.zeros(heads, int)
        self._received = np.zeros((heads, keys))
        self._seen = np.zeros((heads, keys))
        self._compared = np.zeros((heads, heads), int)
        self._moved = np.zeros((heads, heads))
        self._stride = max(1, -(-queries * keys // _COMPARED))
        self._with_distance = (
            not is_row and distances.positions(shape[1:], *self._grids) is not None
        )

    @property
    def received(self):
        """The weight that each key has received so far, `(H, S)`."""
        return self._received

    def add(self, rows):
        """Takes the next block of rows."""
        weights, counted = rows.normal, rows.counted
        self._rows += counted.sum(1)
        logs = np.log(np.maximum(weights, np.finfo(np.float32).tiny))
        nats = -np.einsum("hrs,hrs->hr", weights, logs)
        shares = nats / np.log(np.maximum(rows.keys, 2)).astype(np.float32)
        self._sum("entropy", np.clip(shares, 0, 1).sum(1))
        self._sum("largest", weights.max(-1, initial=0).sum(1))
        self._received += weights.sum(1)
        self._add_seen(rows)
        if self._is_sequence and weights.shape[2]:
            self._sum("first", weights[:, :, 0].sum(1))
        if self._is_self:
            self._add_diagonals(rows)
        if self._with_distance:
            stop = rows.start + weights.shape[1]
            far = distances.between(rows.start, stop, self._shape[1:], *self._grids)
            self._sum("distance", weights.reshape(len(weights), -1) @ far.ravel())
        self._compare(rows)

    def _sum(self, name, values):
        self._sums[name] = self._sums.get(name, 0) + values.astype(np.float64)

    def _add_seen(self, rows):
        if rows.allowed is None:
            self._seen += rows.counted.sum(1)[:, None]
        else:
            counted = rows.counted.astype(np.float32)
            allowed = rows.allowed.astype(np.float32)
            if len(allowed) == 1:
                self._seen += counted @ allowed[0]
            else:
                self._seen += (counted[:, None] @ allowed)[:, 0]

    def _add_diagonals(self, rows):
        weights, count = rows.normal, rows.normal.shape[1]
        index = np.arange(count)
        self._sum("self", weights[:, index, rows.start + index].sum(1))
        if not self._is_sequence:
            return
        index = index[max(0, 1 - rows.start) :]  # the first position has none before it
        self._rows_with_previous += rows.counted[:, index].sum(1)
        self._sum("previous", weights[:, index, rows.start + index - 1].sum(1))

    def _compare(self, rows):
        """Adds up, for each two heads, how much of their weight differs."""
        chosen = slice(-rows.start % self._stride, None, self._stride)
        weights, counted = rows.normal[:, chosen], rows.counted[:, chosen]
        for step in range(1, len(weights)):
            both = counted[step:] & counted[:-step]
            moved = np.abs(weights[step:] - weights[:-step]).sum(-1) / 2
            index = np.arange(len(weights) - step)
            self._compared[index, index + step] += both.sum(1)
            self._moved[index, index + step] += (moved * both).sum(1)

    def result(self):
        """Returns a dictionary from names of `STATISTICS` to float32 arrays `(H,)`."""
        heads = self._shape[0]
        found = {name: np.full(heads, np.nan) for name in STATISTICS}
        some = self._rows > 0
        for name, sums in self._sums.items():
            rows = self._rows_with_previous if name == "previous" else self._rows
            found[name] = np.where(rows > 0, sums / np.maximum(rows, 1), np.nan)
        found["keys_used"] = np.where(some, keys_used(self._received), np.nan)
        # A key that few queries may see is no key of all: hence the half.
        seen = np.maximum(self._seen, self._rows[:, None] / 2)
        shares = self._received / np.where(seen > 0, seen, 1)
        if shares.shape[1]:
            found["top_key"] = np.where(some, shares.argmax(1), np.nan)
            found["top_key_share"] = np.where(some, shares.max(1), np.nan)
        if heads > 1:
            found["twin"], found["twin_difference"] = self._twins()
        return {name: values.astype(np.float32) for name, values in found.items()}

    def _twins(self):
        compared = self._compared + self._compared.T
        moved = self._moved + self._moved.T
        shares = np.where(compared > 0, moved / np.maximum(compared, 1), np.inf)
        np.fill_diagonal(shares, np.inf)
        nearest, twins = shares.min(1), shares.argmin(1).astype(float)
        alone = ~np.isfinite(nearest)
        nearest[alone], twins[alone] = np.nan, np.nan
        return twins, nearest


def keys_used(received):
    """Returns `exp(H(p))`, with `p` the weight that each key receives, `(H,)`."""
    total = received.sum(-1, keepdims=True)
    shares = received / np.where(total > 0, total, 1)
    logs = np.log(np.where(shares > 0, shares, 1))
    return np.exp(-(shares * logs).sum(-1))


def part_statistics(weights, allowed=None):
    """Returns the statistics of selective attention, weights `(H, T)` of one example.

    Args:
        weights: Float32 array `(H, T)`.
        allowed: Boolean array `(1 or H, T)`, or None when all parts are allowed.
    """
    weights = np.asarray(weights, np.float32)[:, None]
    allowed = None if allowed is None else allowed[:, None]
    rows = Rows(0, weights, allowed)
    return pair_statistics([rows], weights.shape, is_row=True)


def gate_statistics(weights, is_map=True):
    """Returns the statistics of the gates of one example, one head.

    Args:
        weights: Float32 array of any shape.
        is_map: Whether the gates are a map over positions, which has an entropy.
    """
    flat = np.asarray(weights, np.float32).ravel()
    found = {name: np.full(1, np.nan, np.float32) for name in STATISTICS}
    if not flat.size:
        return found
    values = {
        "mean": flat.mean(),
        "above_half": (flat > 0.5).mean(),
        "low": flat.min(),
        "high": flat.max(),
    }
    total = flat.sum()
    if is_map and flat.size > 1 and total > 0 and flat.min() >= 0:
        shares = flat / total
        nats = -(shares * np.log(np.where(shares > 0, shares, 1))).sum()
        values["entropy"] = np.clip(nats / np.log(flat.size), 0, 1)
    for name, value in values.items():
        found[name][0] = value
    return found
