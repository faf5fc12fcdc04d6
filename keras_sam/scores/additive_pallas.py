"""The additive score and its gradient as kernels for a GPU.

A program adds up the units of a block of rows by a block of keys, and the hidden layer
never leaves its registers. With `r` from one exponential and one reciprocal::

    r = 1 / (1 + e^(2 (q + k)))            tanh(q + k) = 1 - 2 r

    score = sum(v) - 2 sum(v r)            d tanh / dq = 4 r (1 - r)

An exponential that is infinite makes `r` zero, which is right. Going backward, a program
has some units of a block of rows and goes through the keys, and another one the other way
around, so that no two add to the same numbers.

On a CPU the kernels are interpreted, which is slow, and is how they are tested.
"""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.experimental import pallas as pl
from jax.experimental.pallas import triton

from keras_sam.backend.xla import on_cpu

# The rows and the keys of a program going forward, and of a tile going backward. A thread
# has 32 scores, or 8 of each of 4 units.
BLOCK, TILE, UNITS = 64, 32, 4
# Exponentials are taken to the base of 2.
SCALE = 2.0 * math.log2(math.e)


def forward(inputs, constants):
    """Returns a list of the scores, `(B, ..., T, S)`, and no residuals."""
    query, key, vector = inputs
    rows, keys = query.shape[-2], key.shape[-2]
    query, key, vector = _units_first(query), _units_first(key), _of_heads(vector)
    count, units, all_rows = query.shape
    all_keys, (heads, filled) = key.shape[2], vector.shape
    scores = pl.pallas_call(
        _scores,
        grid=(all_rows // BLOCK, all_keys // BLOCK, count),
        in_specs=[
            pl.BlockSpec((None, units, BLOCK), lambda row, key, n: (n, 0, row)),
            pl.BlockSpec((None, units, BLOCK), lambda row, key, n: (n, 0, key)),
            pl.BlockSpec((None, filled), lambda row, key, n: (lax.rem(n, heads), 0)),
        ],
        out_specs=pl.BlockSpec((None, BLOCK, BLOCK), lambda row, key, n: (n, row, key)),
        out_shape=jax.ShapeDtypeStruct((count, all_rows, all_keys), "float32"),
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=on_cpu(),
    )(query, key, vector)
    shape = (*inputs[0].shape[:-1], keys)
    return [scores[:, :rows, :keys].reshape(shape)], ()


def _scores(query, key, vector, scores):
    def add(group, total):
        for unit in range(UNITS):
            unit = group * UNITS + unit
            total += vector[unit] * _reciprocals(query[unit, :], key[unit, :])
        return total

    weights = jnp.sum(vector[...])
    nothing = jnp.zeros((BLOCK, BLOCK), jnp.float32)
    total = lax.fori_loop(0, query.shape[0] // UNITS, add, nothing)
    scores[...] = weights - 2.0 * total


def _reciprocals(query, key):
    """`r` of some rows and keys, which are scaled already."""
    return 1.0 / (1.0 + jnp.exp2(query[:, None] + key[None, :]))


def backward(inputs, constants, outputs, residuals, upstream):
    """Returns the gradients of query, key and vector."""
    query, key, vector = inputs
    (upstream,) = upstream
    rows, keys = upstream.shape[-2:]
    slopes = jnp.pad(
        upstream.reshape((-1, rows, keys)),
        ((0, 0), (0, -rows % BLOCK), (0, -keys % BLOCK)),
    )
    query, key = _units_first(query), _units_first(key)
    d_query, weighted = _sums(query, key, slopes)
    d_key, _ = _sums(key, query, jnp.swapaxes(slopes, 1, 2))
    factor = 4.0 * vector[..., None, :]
    total = jnp.sum(upstream, axis=(0, -2, -1))[..., None]
    weighted = _units_last(weighted, inputs[0].shape)
    return [
        factor * _units_last(d_query, inputs[0].shape),
        factor * _units_last(d_key, inputs[1].shape),
        total - 2.0 * jnp.sum(weighted, axis=(0, -2)),
    ]


def _sums(query, key, slopes):
    """Returns the sums over the keys of `slopes r (1 - r)` and of `slopes r`."""
    count, units, rows = query.shape
    keys = key.shape[2]
    own = pl.BlockSpec((None, UNITS, TILE), lambda row, group, n: (n, group, row))
    like_query = jax.ShapeDtypeStruct((count, units, rows), "float32")
    return pl.pallas_call(
        _sums_of_rows,
        grid=(rows // TILE, units // UNITS, count),
        in_specs=[
            own,
            pl.BlockSpec((None, UNITS, keys), lambda row, group, n: (n, group, 0)),
            pl.BlockSpec((None, TILE, keys), lambda row, group, n: (n, row, 0)),
        ],
        out_specs=[own, own],
        out_shape=[like_query, like_query],
        compiler_params=triton.CompilerParams(num_warps=4, num_stages=1),
        interpret=on_cpu(),
    )(query, key, slopes)


def _sums_of_rows(query, key, slopes, d_query, weighted):
    rows = [query[unit, :] for unit in range(UNITS)]

    def add(tile, sums):
        keys = pl.ds(tile * TILE, TILE)
        of_tile, new = slopes[:, keys], []
        for unit, (slope, total) in enumerate(sums):
            r = _reciprocals(rows[unit], key[unit, keys])
            part = of_tile * r
            new.append((slope + part * (1.0 - r), total + part))
        return new

    nothing = jnp.zeros((TILE, TILE), jnp.float32)
    sums = [(nothing, nothing)] * UNITS
    sums = lax.fori_loop(0, slopes.shape[1] // TILE, add, sums)
    for unit, (slope, total) in enumerate(sums):
        d_query[unit, :] = jnp.sum(slope, axis=1)
        weighted[unit, :] = jnp.sum(total, axis=1)


def _units_first(tensor):
    """Makes `(B, ..., length, units)` into `(n, units, length)`, scaled and filled up."""
    *lead, length, units = tensor.shape
    tensor = SCALE * tensor.reshape((math.prod(lead), length, units))
    margin = ((0, 0), (0, -units % UNITS), (0, -length % BLOCK))
    return jnp.pad(jnp.swapaxes(tensor, 1, 2), margin)


def _units_last(tensor, shape):
    """Undoes `_units_first`, but for the scale."""
    *_, length, units = shape
    return jnp.swapaxes(tensor, 1, 2)[:, :length, :units].reshape(shape)


def _of_heads(vector):
    """Makes `(..., units)` into `(heads, units)`, filled up to a power of two."""
    *heads, units = vector.shape
    filled = 2 ** max((units - 1).bit_length(), 2)
    vector = vector.reshape((math.prod(heads), units))
    return jnp.pad(vector, ((0, 0), (0, filled - units)))
