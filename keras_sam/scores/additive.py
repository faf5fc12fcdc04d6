"""The additive score, and its kernel, which never makes the hidden layer.

The hidden layer has one number for each query row, key and unit. The kernel makes it for
a few units at a time, in the backward pass once more, and from less than one division
each::

    tanh(a + b) = 1 - 2 / d,    d = e^(2a) e^(2b) + 1

    v / d + w / e = (v e + w d) / (d e)                  (going forward)
    1 / d = e / (d e),    1 / e = d / (d e)              (going backward)

Divisions are what takes the time. `d` is limited, so that no product of four can overflow,
where the hidden number is 1 to the last digit. The exponentials are taken once for each row
and each key, and inside of the loop over the units: XLA does not make a kernel of its own
of them otherwise, and then finds no vector code for what reads them. A pair whose row or
key is so large that its exponential could overflow has a plain tanh instead.

On a GPU divisions cost little, and a kernel for a block of rows by a block of keys is the
better form: see `additive_pallas`.
"""

import functools
import math
from collections.abc import Callable

import keras
from keras import ops

from keras_sam import _validation as check
from keras_sam.backend.derivatives import vjp, with_gradient
from keras_sam.backend.libraries import has_fused_kernels
from keras_sam.backend.portable import is_portable, target
from keras_sam.backend.precision import matmul, minimum, wide
from keras_sam.backend.reductions import fused_sum
from keras_sam.scores.base import Score, add_kernel, heads_of, transform

# e^(2 x) and its reciprocal are finite numbers; infinity times zero never comes up.
LARGEST = 40.0
# From here on 1 - 2 / d is 1, rounded.
LARGEST_DENOMINATOR = {"float32": 2.0**26, "float64": 2.0**56}
# So many units share a division going forward.
UNITS = 4
# The backward pass holds at most this many numbers at a time: 1 MiB of float32.
AT_A_TIME = 2**18
# A hidden layer of so many numbers (4 MiB of float32) is made at once: a loop over its
# units would be most of the work.
FEW_HIDDEN = 2**20


@keras.saving.register_keras_serializable(package="keras_sam")
class Additive(Score):
    """A one-layer network of query and key.

    ```
    score(q, k) = v . tanh(W_q q + W_k k + b)
    ```

    The projections are done once for all rows. The `(T, S, units)` hidden layer is
    never all there: it is made a few units at a time, in the backward pass once more.

    Args:
        units: Width of the hidden layer; None is the width of the query.
        use_bias: Whether there is a `b`.
        kernel_initializer: For `W_q`, `W_k` and `v`.

    Reference:
        Bahdanau et al., 2015, "Neural Machine Translation by Jointly Learning to Align
        and Translate" (https://arxiv.org/abs/1409.0473), appendix A.1.2. It has no `b`,
        which is an addition of later implementations.

    Example:

    >>> import numpy as np, keras_sam
    >>> score = keras_sam.scores.Additive(units=8)
    >>> score(np.ones((2, 3, 4)), np.ones((2, 5, 4))).shape
    TensorShape([2, 3, 5])
    """

    def __init__(
        self,
        units: int | None = None,
        use_bias: bool = True,
        kernel_initializer: str | Callable = "glorot_uniform",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.units = check.positive_integer("units", units, optional=True)
        self.use_bias = check.boolean("use_bias", use_bias)
        self.kernel_initializer = check.initializer(
            "kernel_initializer", kernel_initializer
        )

    def build(self, query_shape, key_shape):
        heads = heads_of(query_shape)
        units = self.units or query_shape[-1]
        self.query_kernel = add_kernel(self, "query_kernel", heads, query_shape[-1], units)
        self.key_kernel = add_kernel(self, "key_kernel", heads, key_shape[-1], units)
        self.bias = None
        if self.use_bias:
            self.bias = self.add_weight(
                name="bias", shape=(*heads, 1, units), initializer="zeros"
            )
        self.vector = add_kernel(self, "vector", heads, units, 1)

    def project(self, query, key):
        query = transform(query, self.query_kernel)
        if self.bias is not None:
            query = query + ops.cast(self.bias, query.dtype)
        return query, transform(key, self.key_kernel)

    def compare(self, query, key):
        return additive_scores(query, key, ops.squeeze(self.vector, axis=-1))

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "use_bias": self.use_bias,
            "kernel_initializer": keras.initializers.serialize(self.kernel_initializer),
        }


def additive_scores(query, key, vector):
    """Returns `sum(vector * tanh(query + key))` for each query row and key.

    Args:
        query: Float tensor `(B, ..., T, units)`.
        key: Float tensor `(B, ..., S, units)`.
        vector: Float tensor `(..., units)`.

    Returns:
        The scores, `(B, ..., T, S)`, in the dtype of `query`.
    """
    given = query.dtype
    dtype = wide(given)
    shape = (*query.shape[1:-2], query.shape[-1])
    vector = ops.broadcast_to(ops.cast(vector, dtype), shape)
    tensors = [ops.cast(query, dtype), ops.cast(key, dtype), vector]
    run = _fused() if dtype == "float32" and has_fused_kernels() else _unit_by_unit
    hidden = math.prod(n or math.inf for n in (*query.shape, key.shape[-2]))
    if is_portable() or hidden <= FEW_HIDDEN:
        return ops.cast(_plain(*tensors), given)
    return ops.cast(run([*map(_fill_up, tensors)], ())[0], given)


def _fill_up(tensor):
    """Appends zeros for units that weigh nothing, to full groups of units."""
    missing = -tensor.shape[-1] % UNITS
    margin = [(0, 0)] * (len(tensor.shape) - 1) + [(0, missing)]
    return ops.pad(tensor, margin) if missing else tensor


def _plain(query, key, vector):
    """The formula, with its whole hidden layer."""
    if target() == "litert" and len(query.shape) == 4:
        return _in_four_axes(query, key, vector)
    hidden = ops.tanh(ops.expand_dims(query, -2) + ops.expand_dims(key, -3))
    vector = ops.expand_dims(vector, (-3, -1))
    return ops.squeeze(matmul(hidden, vector), axis=-1)


def _in_four_axes(query, key, vector):
    """`_plain` without tensors of more axes, which LiteRT (2.3) may compute wrongly."""
    batch, heads, rows, units = ops.shape(query)
    keys = ops.shape(key)[2]
    query = ops.reshape(query, (-1, rows, 1, units))
    key = ops.reshape(key, (-1, 1, keys, units))
    hidden = ops.reshape(ops.tanh(query + key), (batch, heads, rows * keys, units))
    scores = ops.sum(hidden * ops.expand_dims(vector, (0, 2)), axis=-1)
    return ops.reshape(scores, (batch, heads, rows, keys))


def _forward(inputs, constants):
    return [_by_range(_sum_units, *inputs)], ()


def _backward(inputs, constants, outputs, residuals, upstream):
    return list(_by_range(_gradients, *inputs, *upstream))


def _again(inputs, constants, upstream):
    return vjp(lambda given: [_plain(*given)], inputs, upstream)


_unit_by_unit = with_gradient(_forward, _backward, _again)


@functools.cache
def _fused():
    """Returns the same as `_unit_by_unit`, of kernels for GPUs."""
    from keras_sam.scores import additive_pallas

    return with_gradient(additive_pallas.forward, additive_pallas.backward, _again)


def _by_range(run, query, key, vector, *upstream):
    """Runs with products of exponentials where they are in range, and with tanh elsewhere.

    Each pair has its own formula by its own row and key, so that no other position
    changes a bit of its score. Where all are in range, tanh is left out.
    """
    largest = ops.max(ops.abs(query), initial=0.0), ops.max(ops.abs(key), initial=0.0)
    all_in_range = ops.logical_and(largest[0] < LARGEST, largest[1] < LARGEST)
    kinds = (_Quotients, _Mixed)
    ways = [lambda kind=kind: run(kind, query, key, vector, *upstream) for kind in kinds]
    return ops.cond(all_in_range, *ways)


class _Quotients:
    """The hidden layer as `1 - 2 / d`."""

    @staticmethod
    def weigh(query, key, vector):
        """Sums up the hidden units, times `vector`, of a group of units."""
        vector = [vector[j] for j in range(UNITS)]
        fractions = list(zip(vector, _denominators(query, key), strict=True))
        while len(fractions) > 1:
            pairs = zip(fractions[::2], fractions[1::2], strict=True)
            fractions = [(v * e + w * d, d * e) for (v, d), (w, e) in pairs]
        ((numerator, denominator),) = fractions
        return sum(vector[1:], vector[0]) - 2.0 * (numerator / denominator)

    @staticmethod
    def reciprocals(query, key):
        """`1 / d` of each of one or two units."""
        parts = _denominators(query, key)
        if len(parts) == 1:
            return 1.0 / ops.stack(parts)
        inverse = 1.0 / (parts[0] * parts[1])
        return ops.stack([inverse * parts[1], inverse * parts[0]])


class _Tanh:
    """The hidden layer as it is defined."""

    @staticmethod
    def weigh(query, key, vector):
        hidden = [ops.tanh(a + b) for a, b in _pairs(query, key)]
        return sum(vector[j] * hidden[j] for j in range(UNITS))

    @staticmethod
    def reciprocals(query, key):
        sums = [a + b for a, b in _pairs(query, key)]
        return 0.5 - 0.5 * ops.tanh(ops.stack(sums))


class _Mixed:
    """Quotients where row and key are in range, and tanh elsewhere."""

    @staticmethod
    def weigh(query, key, vector):
        inside = _Quotients.weigh(_limited(query), _limited(key), vector)
        return ops.where(_in_range(query, key), inside, _Tanh.weigh(query, key, vector))

    @staticmethod
    def reciprocals(query, key):
        inside = _Quotients.reciprocals(_limited(query), _limited(key))
        return ops.where(_in_range(query, key), inside, _Tanh.reciprocals(query, key))


def _limited(numbers):
    return ops.clip(numbers, -LARGEST, LARGEST)


def _in_range(query, key):
    """Returns which pairs have all units of a group in range, `(..., T, S)`."""
    query, key = (ops.all(ops.abs(x) < LARGEST, axis=0) for x in (query, key))
    return ops.logical_and(query[..., :, None], key[..., None, :])


def _denominators(query, key):
    """`d` of each unit."""
    most = LARGEST_DENOMINATOR[keras.backend.standardize_dtype(query.dtype)]
    query, key = ops.exp(2.0 * query), ops.exp(2.0 * key)
    return [minimum(a * b, most) + 1.0 for a, b in _pairs(query, key)]


def _pairs(query, key):
    """The units of a group one by one, `(..., T, 1)` and `(..., 1, S)`."""
    count = query.shape[0]
    return [(query[j][..., :, None], key[j][..., None, :]) for j in range(count)]


def _units_first(tensor, count):
    """Makes `(..., units)` into `(units / count, count, ...)`."""
    tensor = ops.moveaxis(tensor, -1, 0)
    units, *shape = ops.shape(tensor)
    return ops.reshape(tensor, (units // count, count, *shape))


def _units_last(tensor):
    """Undoes `_units_first`."""
    steps, count, *shape = ops.shape(tensor)
    return ops.moveaxis(ops.reshape(tensor, (steps * count, *shape)), 0, -1)


def _grouped(query, key, vector, count):
    """Each of them with groups of units first."""
    grouped = [_units_first(x, count) for x in (query, key, vector)]
    return *grouped[:2], grouped[2][:, :, None, ..., None, None]  # batch, rows and keys


def _sum_units(kind, query, key, vector):
    shape = (*ops.shape(query)[:-1], ops.shape(key)[-2])
    query, key, vector = _grouped(query, key, vector, UNITS)

    def step(i, total):
        return total + kind.weigh(query[i], key[i], vector[i])

    nothing = ops.zeros(shape, query.dtype)
    return ops.fori_loop(0, ops.shape(query)[0], step, nothing)


def _gradients(kind, query, key, vector, upstream):
    """Returns the gradients of query, key and vector."""
    count = _units_at_a_time(query, key)
    rows, keys = len(upstream.shape) - 1, len(upstream.shape)  # with units first

    def step(inputs):
        query, key, vector = inputs
        r = kind.reciprocals(query, key)  # (count, B, ..., T, S)
        d_r = upstream * r
        d_sum = d_r * (1.0 - r)
        slope = 4.0 * vector[..., 0]
        d_query = slope * fused_sum(d_sum, (keys,))
        d_key = slope * fused_sum(d_sum, (rows,))
        return d_query, d_key, ops.sum(fused_sum(d_r, (keys,)), axis=(1, -1))

    gradients = ops.map(step, _grouped(query, key, vector, count))
    d_query, d_key, d_r = map(_units_last, gradients)
    total = ops.sum(upstream, axis=(0, -2, -1))[..., None]
    return d_query, d_key, total - 2.0 * d_r


def _units_at_a_time(query, key):
    """One or two, so that few numbers are there at a time."""
    pairs = math.prod(size or 1 for size in (*query.shape[:-1], key.shape[-2]))
    return 2 if 2 * pairs <= AT_A_TIME else 1
