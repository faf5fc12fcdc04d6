"""How much weight each key receives: column sums of weights that are never all there.

For a slab of query rows, with `s` the scores, `L` the logarithm of the sum of their
exponentials and `g` the gradient of the sums, the same for all rows::

    w = exp(s - L)                 ds = w * (g - w @ g)
    received += sum_i w_ij         dq, dk, ... = what the score makes of ds

Softmax is differentiated by hand, the score by the backend. The rows are shared out over
the processors, one compiled loop each.
"""

import functools
import math

from keras import ops

from keras_sam.ops.any_score import operands_of
from keras_sam.ops.attention import MASKED
from keras_sam.ops.blockwise import dot_product, run
from keras_sam.ops.compiled import compiled, graph, processors, vjp
from keras_sam.ops.precision import wide

# What has query rows; other tensors are the same for all of them.
OF_ROWS = ("query", "kept", "counted")
# So few rows are not shared out.
FEW_ROWS = 512
# A slab has so many pairs of a row and a key, 4 MiB of float32: measured from 2**17 to
# 2**21 on two cores. Unknown sizes count as usual ones.
PAIRS = 2**20
USUAL = (8, 1, 1024)


def received_weight(query, key, *, compare=None, operands=(), mask=None):
    """Sums the weight that each key receives from all queries.

    ::

        received_j = sum_i softmax_j(compare(query, key))_ij

    Args:
        query: Float tensor `(B, H, T, D)`.
        key: Float tensor `(B, H, T, D)`.
        compare: A function `(operands, query, key) -> (B, H, rows, T)`, or None for dot
            products. Equal ones are compiled once.
        operands: A tuple of float tensors, the weights of the score.
        mask: Boolean `(B, T)` or None; False is padding, which neither gives nor
            receives weight.

    Returns:
        The sums over queries, `(B, H, T)`, at least float32.
    """
    dtype = wide(query.dtype)
    inputs = {"query": query, "key": key}
    inputs |= {f"operand{i}": tensor for i, tensor in enumerate(operands)}
    inputs = {name: ops.cast(tensor, dtype) for name, tensor in inputs.items()}
    if query.shape[2] == 0:  # compiled loops need a row
        return ops.zeros_like(inputs["key"][..., 0])
    batch, _, length, _ = ops.shape(query)
    counted = ops.ones((batch, 1, length, 1), dtype)
    if mask is not None:
        mask = ops.cast(mask, "bool")[:, None, None, :]
        counted = ops.cast(ops.swapaxes(mask, 2, 3), dtype)
    constants = {"counted": counted, "mask": mask}
    return run(_passes(compare or dot_product), inputs, constants)


@functools.lru_cache(maxsize=64)
def _passes(compare):
    """The forward and the backward pass, compiled once for all layers."""
    forward_share = compiled(functools.partial(_forward, compare=compare))
    backward_share = compiled(functools.partial(_backward, compare=compare))

    def forward(tensors):
        sums, log_sums = zip(*map(forward_share, _shares(tensors)), strict=True)
        return sum(sums[1:], sums[0]), ops.concatenate(log_sums, axis=2)

    def backward(tensors):
        parts = list(map(backward_share, _shares(tensors)))
        query = ops.concatenate([part.pop("query") for part in parts], axis=2)
        names = parts[0]
        return {"query": query, **{name: sum(p[name] for p in parts) for name in names}}

    return graph(forward), graph(backward)


def _shares(tensors):
    """Shares out the query rows over the processors."""
    length = ops.shape(tensors["query"])[2]
    count = processors()
    if isinstance(length, int) and length <= FEW_ROWS:
        count = 1
    for i in range(count):
        rows = slice(i * length // count, (i + 1) * length // count)
        yield {
            name: tensor[:, :, rows] if name in OF_ROWS else tensor
            for name, tensor in tensors.items()
        }


class _Slabs:
    """The query rows of one share, some at a time."""

    def __init__(self, tensors, compare):
        self.tensors, self.compare = tensors, compare
        batch, heads, self.length, _ = ops.shape(tensors["query"])
        sizes = batch, heads, ops.shape(tensors["key"])[2]
        sizes = (n if isinstance(n, int) else m for n, m in zip(sizes, USUAL, strict=True))
        # With fewer, adding to the gradients of all keys would be most of the work.
        self.rows = min(max(PAIRS // max(math.prod(sizes), 1), 64), 1024)
        self.count = -(-self.length // self.rows)
        self.padded = {name: self.pad(tensors[name]) for name in OF_ROWS if name in tensors}

    def pad(self, tensor):
        """Fills up the last slab with zeros, which `counted` says do not count."""
        more = self.count * self.rows - self.length
        return ops.pad(tensor, ((0, 0), (0, 0), (0, more), (0, 0)))

    def of(self, name, index):
        """The rows of one slab, `(B, H, rows, ...)`."""
        tensor = self.padded[name]
        batch, heads, _, depth = ops.shape(tensor)
        start = (0, 0, index * self.rows, 0)
        return ops.slice(tensor, start, (batch, heads, self.rows, depth))

    def put(self, tensor, index, part):
        """Returns `tensor` with other rows."""
        return ops.slice_update(tensor, (0, 0, index * self.rows, 0), part)

    def inputs(self, index):
        """What the scores of a slab are differentiated by."""
        names = [name for name in self.tensors if name.startswith(("key", "operand"))]
        shared = {name: self.tensors[name] for name in names}
        return {"query": self.of("query", index), **shared}

    def scores(self, inputs):
        scores = self.compare(operands_of(inputs), inputs["query"], inputs["key"])
        return ops.cast(scores, inputs["query"].dtype)

    def masked(self, scores, value):
        mask = self.tensors["mask"]
        return scores if mask is None else ops.where(mask, scores, value)


def _forward(tensors, compare):
    """Returns the sums `(B, H, T)` and the log sums of the rows `(B, H, rows, 1)`."""
    slabs = _Slabs(tensors, compare)

    def one_slab(index, carry):
        scores = slabs.masked(slabs.scores(slabs.inputs(index)), MASKED)
        largest = ops.max(scores, axis=-1, keepdims=True)
        weights = slabs.masked(ops.exp(scores - largest), 0.0)
        total = ops.sum(weights, axis=-1, keepdims=True)
        total = ops.where(total > 0.0, total, 1.0)
        weights = weights * (slabs.of("counted", index) / total)
        return {
            "sums": carry["sums"] + ops.sum(weights, axis=2),
            "log_sums": slabs.put(carry["log_sums"], index, largest + ops.log(total)),
        }

    carry = {
        "sums": ops.zeros_like(tensors["key"][..., 0]),
        "log_sums": ops.zeros_like(slabs.padded["query"][..., :1]),
    }
    carry = ops.fori_loop(0, slabs.count, one_slab, carry)
    return carry["sums"], carry["log_sums"][:, :, : slabs.length]


def _backward(tensors, compare):
    """Returns the gradients of query, key and operands."""
    slabs = _Slabs(tensors, compare)
    upstream = tensors["upstream"][:, :, None, :]

    def one_slab(index, carry):
        inputs = slabs.inputs(index)
        scores = slabs.masked(slabs.scores(inputs), MASKED)
        weights = slabs.masked(ops.exp(scores - slabs.of("kept", index)), 0.0)
        weights = weights * slabs.of("counted", index)
        of_row = ops.sum(weights * upstream, axis=-1, keepdims=True)
        parts = vjp(slabs.scores, inputs, weights * (upstream - of_row))
        query = slabs.put(carry["query"], index, parts.pop("query"))
        return {"query": query, **{name: carry[name] + parts[name] for name in parts}}

    carry = {name: ops.zeros_like(tensor) for name, tensor in slabs.inputs(0).items()}
    carry["query"] = ops.zeros_like(slabs.padded["query"])
    carry = ops.fori_loop(0, slabs.count, one_slab, carry)
    return {**carry, "query": carry["query"][:, :, : slabs.length]}
