"""The programs of `pallas`: what one block of rows, or of keys, computes on a GPU.

A block of rows goes through its keys tile by tile, and back once more for each thing that
has to be known of a whole row before. Scores are computed again each time: they are one
product on the matrix units, and never leave the chip. With `s` the scores::

                 known of a row         weight                     slope of the weight
    softmax      m, log sum exp(s - m)  exp(s - m - log sum)       w
    sigmoid      its bias b             sigmoid(s + b)             w (1 - w)
    sparsemax    m, largest weight p    [p + s - m]_+              w > 0
    1.5-entmax   m, largest weight p    [sqrt(p) + (s - m) / 2]_+² sqrt(w)

The largest weight of a row is found by Newton's method, as in `normalizers.entmax`: one
pass over the keys for each step, about eight of them. All four have one gradient::

    ds = slope * (do @ v^T - delta)        dq = ds @ k    dk = ds^T @ q    dv = w^T @ do

    delta = sum(slope * (do @ v^T)) / sum(slope), and 0 for sigmoid

A program for a block of rows finds delta and dq, one for a block of keys dk and dv, so that
no two programs add to the same numbers.
"""

import dataclasses
import functools

import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.experimental import pallas as pl

NEVER = -1e30  # the score of a pair that does not count
MOST_STEPS = 40  # of Newton's method, as a guard: see `normalizers.entmax`


@dataclasses.dataclass(frozen=True)
class Program:
    """What is compiled in.

    Args:
        kind: `"softmax"`, `"sigmoid"`, `"sparsemax"` or `"entmax"`, which is 1.5-entmax.
        bias: A number for the bias of sigmoid, or `"-log(length)"`.
        causal: See `Positions`.
        window: See `Positions.sliding_window`.
        rows: The rows of a block or a tile, a power of two.
        keys: The keys of a block or a tile, a power of two.
        all_rows: The number of rows, with those that fill up the last block.
        all_keys: The number of keys, likewise.
        length: The number of keys without those.
        tf32: Whether float32 is multiplied as TF32.
        names: The names of the tensors that a program gets, in their order.
    """

    kind: str
    bias: float | str
    causal: bool
    window: int | None
    rows: int
    keys: int
    all_rows: int
    all_keys: int
    length: int
    tf32: bool
    names: tuple = ()

    def tiles_of_rows(self, first):
        """Returns the first and the last tile of keys, less one, that rows may see."""
        begin, end = 0, self.all_keys // self.keys
        ahead = 0 if self.causal else self.window and self.window - 1
        if self.window is not None:
            begin = lax.div(jnp.maximum(first - self.window + 1, 0), self.keys)
        if ahead is not None:
            last = lax.div(first + self.rows - 1 + ahead, self.keys) + 1
            end = jnp.minimum(last, end)
        return begin, end

    def tiles_of_keys(self, first):
        """Returns the first and the last tile of rows, less one, that may see keys."""
        begin, end = 0, self.all_rows // self.rows
        behind = 0 if self.causal else self.window and self.window - 1
        if behind is not None:
            begin = lax.div(jnp.maximum(first - behind, 0), self.rows)
            begin = jnp.minimum(begin, end)
        if self.window is not None:
            last = lax.div(first + self.keys + self.window - 2, self.rows) + 1
            end = jnp.minimum(last, end)
        return begin, end

    def dot(self, x, y, trans_a=False, trans_b=False):
        """Returns the product of two matrices, with float32 sums."""
        return lax.dot_general(
            x,
            y,
            (((0 if trans_a else 1,), (1 if trans_b else 0,)), ((), ())),
            precision=lax.Precision.HIGH if self.tf32 else lax.Precision.HIGHEST,
            preferred_element_type=jnp.float32,
        )


class Tile:
    """Some rows by some keys: their scores, and which pairs count.

    Args:
        program: `Program`.
        refs: A dictionary of references.
        query: `(rows, depth)`.
        first_row, first_key: Positions.
    """

    def __init__(self, program, refs, query, first_row, first_key):
        self.program, self.refs = program, refs
        self.rows = pl.ds(first_row, program.rows)
        self.keys = pl.ds(first_key, program.keys)
        self.key = refs["key"][self.keys, :]
        self.allowed = self._allowed(first_row, first_key)
        scores = program.dot(query, self.key, trans_b=True)
        self.scores = self._where_allowed(scores, NEVER)

    def _allowed(self, first_row, first_key):
        program, refs = self.program, self.refs
        shape, window = (program.rows, program.keys), program.window
        row = first_row + lax.broadcasted_iota(jnp.int32, shape, 0)
        key = first_key + lax.broadcasted_iota(jnp.int32, shape, 1)
        each = []
        if program.length < program.all_keys:
            each.append(key < program.length)
        if program.causal:
            each.append(key <= row)
        if window is not None:
            each += [row - key < window, key - row < window]
        if "key_mask" in refs:
            each.append(refs["key_mask"][self.keys] != 0)
        if "mask" in refs:
            mask = refs["mask"]
            rows = self.rows if mask.shape[0] > 1 else pl.ds(0, 1)
            keys = self.keys if mask.shape[1] > 1 else pl.ds(0, 1)
            each.append(mask[rows, keys] != 0)
        if not each:
            return None
        each = [jnp.broadcast_to(one, shape) for one in each]
        return functools.reduce(jnp.logical_and, each)

    def _where_allowed(self, numbers, other):
        return numbers if self.allowed is None else jnp.where(self.allowed, numbers, other)

    def count(self):
        """Returns how many keys each row may attend to."""
        ones = jnp.ones((self.program.rows, self.program.keys), jnp.float32)
        return jnp.sum(self._where_allowed(ones, 0.0), axis=1)

    def weights(self, first, second):
        """Returns the weights from what is known of the rows, two columns."""
        first, second = first[:, None], second[:, None]
        kind = self.program.kind
        if kind == "softmax":
            return self._where_allowed(jnp.exp(self.scores - first - second), 0.0)
        if kind == "sigmoid":
            return self._where_allowed(1.0 / (1.0 + jnp.exp(-(self.scores + first))), 0.0)
        return _powers(kind, self.roots(first[:, 0], second[:, 0]))

    def roots(self, largest, peak):
        """Returns the weights of sparsemax, or the roots of those of entmax."""
        scores = self._where_allowed(self.scores - largest[:, None], NEVER)
        if self.program.kind == "sparsemax":
            return jnp.maximum(scores + peak[:, None], 0.0)
        return jnp.maximum(0.5 * scores + jnp.sqrt(peak)[:, None], 0.0)


def _powers(kind, roots):
    return roots if kind == "sparsemax" else roots * roots


def _slopes(kind, weights):
    """Returns the slopes of the weights."""
    if kind == "softmax":
        return weights
    if kind == "sigmoid":
        return weights * (1.0 - weights)
    if kind == "sparsemax":
        return jnp.where(weights > 0.0, 1.0, 0.0)
    return jnp.sqrt(weights)


def forward(program, *refs):
    """Computes the output of a block of rows, and what is known of its rows."""
    refs = dict(zip(program.names, refs, strict=True))
    first_row = pl.program_id(0) * program.rows
    query = refs["query"][...]
    span = program.tiles_of_rows(first_row)

    def each_tile(step, carry):
        def body(index, carry):
            tile = Tile(program, refs, query, first_row, index * program.keys)
            return step(tile, carry)

        return lax.fori_loop(*span, body, carry)

    nothing = jnp.zeros((program.rows,), jnp.float32)
    output = jnp.zeros(refs["output"].shape, jnp.float32)
    if program.kind == "softmax":
        first, second, output = _softmax(program, refs, each_tile, nothing, output)
    else:
        find = _bias if program.kind == "sigmoid" else _largest_weights
        first, second = find(program, each_tile, nothing)

        def add(tile, output):
            weights = tile.weights(first, second).astype(tile.key.dtype)
            return output + program.dot(weights, refs["value"][tile.keys, :])

        output = each_tile(add, output)
    refs["output"][...] = output.astype(refs["output"].dtype)
    refs["first"][...] = first
    refs["second"][...] = second


def _softmax(program, refs, each_tile, nothing, output):
    def add(tile, carry):
        largest, total, output = carry
        larger = jnp.maximum(largest, jnp.max(tile.scores, axis=1))
        shrink = jnp.exp(largest - larger)
        weights = tile.weights(larger, nothing)
        total = total * shrink + jnp.sum(weights, axis=1)
        weights = weights.astype(tile.key.dtype)
        part = program.dot(weights, refs["value"][tile.keys, :])
        return larger, total, output * shrink[:, None] + part

    largest, total, output = each_tile(add, (nothing + NEVER, nothing, output))
    total = jnp.where(total > 0.0, total, 1.0)  # a row that sees nothing is zero
    return largest, jnp.log(total), output / total[:, None]


def _bias(program, each_tile, nothing):
    if program.bias != "-log(length)":
        return nothing + program.bias, nothing
    # Counted in float32, which is exact for any length.
    count = each_tile(lambda tile, count: count + tile.count(), nothing)
    return -jnp.log(jnp.maximum(count, 1.0)), nothing


def _largest_weights(program, each_tile, nothing):
    """Returns the largest score and the largest weight of each row."""

    def larger(tile, largest):
        return jnp.maximum(largest, jnp.max(tile.scores, axis=1))

    largest = each_tile(larger, nothing + NEVER)

    def newton(peak):
        """One step: where the total would be 1 if its slope stayed as it is."""

        def add(tile, carry):
            total, slope = carry
            roots = tile.roots(largest, peak)
            total += jnp.sum(_powers(program.kind, roots), axis=1)
            if program.kind == "sparsemax":
                roots = jnp.where(roots > 0.0, 1.0, 0.0)
            return total, slope + jnp.sum(roots, axis=1)

        total, slope = each_tile(add, (nothing, nothing))
        if program.kind == "entmax":
            slope = slope / jnp.sqrt(peak)
        return peak - (total - 1.0) / jnp.maximum(slope, 1.0)

    def step(carry):
        peak, falling, _, count = carry
        lower = newton(peak)
        # A row that has come to rest stays there, however long others take.
        fell = jnp.where(lower < (1.0 - 1e-6) * peak, falling, 0.0)
        peak = jnp.where(falling > 0.0, lower, peak)
        return peak, fell, jnp.max(fell), count + 1

    one = nothing + 1.0
    carry = one, one, np.float32(1.0), np.int32(0)

    def goes_on(carry):
        return (carry[2] > 0.0) & (carry[3] < MOST_STEPS)

    return largest, lax.while_loop(goes_on, step, carry)[0]


def backward_of_rows(program, *refs):
    """Computes the gradient of a block of rows, and their delta."""
    refs = dict(zip(program.names, refs, strict=True))
    first_row = pl.program_id(0) * program.rows
    query, upstream = refs["query"][...], refs["upstream"][...]
    known = refs["first"][...], refs["second"][...]
    span = program.tiles_of_rows(first_row)

    def slopes_and_gradients(index):
        tile = Tile(program, refs, query, first_row, index * program.keys)
        slopes = _slopes(program.kind, tile.weights(*known))
        value = refs["value"][tile.keys, :]
        return tile, slopes, program.dot(upstream, value, trans_b=True)

    def sums(index, carry):
        total, weighted = carry
        _, slopes, d_weights = slopes_and_gradients(index)
        weighted += jnp.sum(slopes * d_weights, axis=1)
        return total + jnp.sum(slopes, axis=1), weighted

    nothing = jnp.zeros((program.rows,), jnp.float32)
    if program.kind in ("softmax", "sigmoid"):
        delta = refs["delta"][...]
    else:
        total, weighted = lax.fori_loop(*span, sums, (nothing, nothing))
        delta = weighted / jnp.where(total > 0.0, total, 1.0)

    def add(index, d_query):
        tile, slopes, d_weights = slopes_and_gradients(index)
        d_scores = (slopes * (d_weights - delta[:, None])).astype(query.dtype)
        return d_query + program.dot(d_scores, tile.key)

    d_query = lax.fori_loop(*span, add, jnp.zeros(query.shape, jnp.float32))
    refs["d_query"][...] = d_query.astype(refs["d_query"].dtype)
    if program.kind in ("sparsemax", "entmax"):
        refs["delta"][...] = delta


def backward_of_keys(program, *refs):
    """Computes the gradients of a block of keys and values."""
    refs = dict(zip(program.names, refs, strict=True))
    first_key = pl.program_id(0) * program.keys
    value = refs["value"][pl.ds(first_key, program.keys), :]

    def add(index, carry):
        d_key, d_value = carry
        first_row = index * program.rows
        rows = pl.ds(first_row, program.rows)
        query, upstream = refs["query"][rows, :], refs["upstream"][rows, :]
        tile = Tile(program, refs, query, first_row, first_key)
        weights = tile.weights(refs["first"][rows], refs["second"][rows])
        rounded = weights.astype(query.dtype)
        d_value += program.dot(rounded, upstream, trans_a=True)
        d_weights = program.dot(upstream, value, trans_b=True)
        delta = refs["delta"][rows][:, None]
        slopes = _slopes(program.kind, weights)
        d_scores = (slopes * (d_weights - delta)).astype(query.dtype)
        return d_key + program.dot(d_scores, query, trans_a=True), d_value

    shapes = refs["d_key"].shape, refs["d_value"].shape
    nothing = tuple(jnp.zeros(shape, jnp.float32) for shape in shapes)
    d_key, d_value = lax.fori_loop(*program.tiles_of_keys(first_key), add, nothing)
    refs["d_key"][...] = d_key.astype(refs["d_key"].dtype)
    refs["d_value"][...] = d_value.astype(refs["d_value"].dtype)
