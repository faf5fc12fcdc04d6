"""Dot products with softmax, sigmoid, sparsemax or 1.5-entmax, fused for a GPU by Pallas.

The kernels stand in `pallas_kernels`. Here their tensors are filled up to whole blocks, and
the programs laid out: one for each block of each head of each example. No weight is ever
written to memory; two numbers a row are kept for the gradient.

On a CPU the kernels are interpreted, which is slow, and is how they are tested.
"""

import functools

from keras import ops

from keras_sam import normalizers
from keras_sam.attention.positions import ceil
from keras_sam.attention.request import Inputs
from keras_sam.backend.precision import is_wide, widened
from keras_sam.backend.xla import on_cpu

DTYPES = ("float32", "float16", "bfloat16")
# Rows and keys of a tile, and the warps of a program, by the bytes of a key: what a program
# holds fits the registers and 227 KiB of shared memory of a multiprocessor.
FORWARD = {128: (128, 64, 4), 256: (128, 64, 8), 512: (64, 32, 8), 1024: (64, 16, 8)}
BACKWARD = {128: (64, 64, 4), 256: (64, 64, 8), 512: (32, 32, 8), 1024: (32, 16, 8)}
MOST_DEPTH = 256
LEAST_DEPTH = 16  # of a product on the matrix units
MOST_PROGRAMS = 2**16 - 1  # along the second and third axis of a grid


def objection(request, sizes, device, traits, policy):
    """Returns why these kernels do not compute a request; see `library.objection`."""
    if not device.fused:
        return "Pallas needs JAX on one NVIDIA GPU"
    if not request.score.is_dot_product or kind_of(request.normalizer) is None:
        return "there is no fused kernel of this score and normalizer"
    if not request.is_bare or not traits.in_a_row:
        return "the fused kernels know causality and windows only"
    if request.selective or request.dropout:
        return "the fused kernels neither select nor drop"
    if traits.bias is not None:
        return "the fused kernels have no gradient of a bias"
    if traits.dtype not in DTYPES or max(sizes.depth, traits.value_depth) > MOST_DEPTH:
        return f"the fused kernels have no {traits.dtype} of this depth"
    if sizes.rows * sizes.keys < policy.fused_pairs:
        return "the pairs are few"
    if max(sizes.batch, sizes.heads) > MOST_PROGRAMS:
        return "there are too many examples"
    return None


def kind_of(normalizer):
    """Returns the name and the bias of a normalizer that has a kernel, or None."""
    if isinstance(normalizer, normalizers.Sigmoid):
        return "sigmoid", normalizer.bias or 0.0
    names = {
        normalizers.Softmax(): "softmax",
        normalizers.Sparsemax(): "sparsemax",
        normalizers.Entmax(2.0): "sparsemax",
        normalizers.Entmax(1.5): "entmax",
    }
    return (names[normalizer], 0.0) if normalizer in names else None


@functools.lru_cache(maxsize=64)
def passes(request, plan):
    """Returns the forward and the backward pass."""
    return functools.partial(forward, request), functools.partial(backward, request)


def forward(request, inputs, constants):
    """Returns the output `(B, H, T, Dv)`, and two numbers a row, `(2, B, H, T)`."""
    call = _Call(request, inputs, constants, FORWARD)
    call.add_rows(query=inputs.query)
    numbers = (*inputs.query.shape[:2], call.all_rows), "float32"
    made = {"output": call.like_rows(inputs.value), "first": numbers, "second": numbers}
    output, *known = call.run("forward", made)
    depth = inputs.value.shape[3]
    return output[:, :, : call.length, :depth], ops.stack(known)[..., : call.length]


def backward(request, inputs, constants, output, known, upstream):
    """Returns the gradients as `Inputs`."""
    call = _Call(request, inputs, constants, BACKWARD)
    call.add_rows(query=inputs.query, upstream=upstream, first=known[0], second=known[1])
    made = {"d_query": call.like_rows(inputs.query)}
    if call.kind == "softmax":
        call.add_rows(delta=ops.sum(widened(output) * widened(upstream), axis=-1))
    elif call.kind == "sigmoid":
        call.add_rows(delta=ops.zeros_like(known[0]))
    else:  # the first program finds it for the second
        made["delta"] = call.like_rows(known[0])
    d_query, *delta = call.run("backward_of_rows", made)
    for each in delta:
        call.of_rows["delta"] = each
    made = {f"d_{name}": call.like_keys(getattr(inputs, name)) for name in ("key", "value")}
    d_key, d_value = call.run("backward_of_keys", made)
    return Inputs(
        query=d_query[:, :, : call.length, : inputs.query.shape[3]],
        key=call.sum_heads(d_key, inputs.key),
        value=call.sum_heads(d_value, inputs.value),
    )


class _Call:
    """One call, with its tensors filled up, that runs programs.

    Args:
        request: `Request`.
        inputs: `Inputs`; there may be fewer heads of keys than of queries.
        constants: `Constants`. The query mask is left to the caller.
        blocks: `FORWARD` or `BACKWARD`.
    """

    def __init__(self, request, inputs, constants, blocks):
        self.request = request
        self.kind, self.bias = kind_of(request.normalizer)
        self.batch, self.heads, self.length, depth = inputs.query.shape
        self.key_length, value_depth = inputs.value.shape[2:]
        self.groups = self.heads // inputs.key.shape[1]
        widest = max(map(_power_of_two, (depth, value_depth)))
        bytes_of_key = widest * (4 if is_wide(inputs.query) else 2)
        size = min(n for n in blocks if bytes_of_key <= n)
        self.rows, self.keys, self.warps = blocks[size]
        self.all_rows = ceil(self.length, self.rows) * self.rows
        self.all_keys = ceil(self.key_length, self.keys) * self.keys
        self.of_rows = {}
        self.of_keys = {
            name: _fill_up(x, (1, 1, self.all_keys, _power_of_two(x.shape[3])))
            for name, x in (("key", inputs.key), ("value", inputs.value))
        }
        if constants.key_mask is not None:
            mask = ops.cast(constants.key_mask, "int8")[:, None, :]
            self.of_keys["key_mask"] = _fill_up(mask, (1, 1, self.all_keys))
        if constants.mask is not None:
            mask, sizes = ops.cast(constants.mask, "int8"), (self.all_rows, self.all_keys)
            pairs = zip(mask.shape[2:], sizes, strict=True)
            sizes = [1 if n == 1 else size for n, size in pairs]
            self.of_keys["mask"] = _fill_up(mask, (1, 1, *sizes))

    def add_rows(self, **tensors):
        """Adds tensors `(B, H, T)` or `(B, H, T, depth)`."""
        for name, x in tensors.items():
            depth = [_power_of_two(n) for n in x.shape[3:]]
            self.of_rows[name] = _fill_up(x, (1, 1, self.all_rows, *depth))

    def like_rows(self, tensor):
        """Returns the shape and the dtype of rows as deep as a tensor."""
        depth = [_power_of_two(n) for n in tensor.shape[3:]]
        return (self.batch, self.heads, self.all_rows, *depth), tensor.dtype

    def like_keys(self, tensor):
        """Returns the shape and the dtype of gradients of keys, for each query head."""
        shape = (self.batch, self.heads, self.all_keys, _power_of_two(tensor.shape[3]))
        return shape, tensor.dtype if self.groups == 1 else "float32"

    def sum_heads(self, tensor, like):
        """Sums gradients of keys up over the query heads that share them."""
        batch, heads, length, depth = like.shape
        tensor = tensor[:, :, :length, :depth]
        if self.groups > 1:
            shape = (batch, heads, self.groups, length, depth)
            tensor = ops.sum(ops.reshape(tensor, shape), axis=2)
        return ops.cast(tensor, like.dtype)

    def run(self, name, made):
        """Runs a program for each block, and returns what the programs make.

        A program gets its own block of rows, and whole heads of all others; or, where it
        makes gradients of keys, whole heads of all.

        Args:
            name: That of a function of `pallas_kernels`.
            made: A dictionary of shapes and dtypes.
        """
        import jax
        from jax.experimental import pallas as pl
        from jax.experimental.pallas import triton

        from keras_sam.attention import pallas_kernels

        by_keys = name == "backward_of_keys"
        size = self.keys if by_keys else self.rows
        blocks = (self.all_keys if by_keys else self.all_rows) // size
        given = {**self.of_rows, **self.of_keys}
        program = pallas_kernels.Program(
            self.kind,
            self.bias,
            self.request.positions.causal,
            self.request.positions.sliding_window,
            self.rows,
            self.keys,
            self.all_rows,
            self.all_keys,
            self.key_length,
            _multiplies_tf32(),
            (*given, *made),
        )
        own = () if by_keys else self.of_rows
        return pl.pallas_call(
            functools.partial(getattr(pallas_kernels, name), program),
            grid=(blocks, self.heads, self.batch),
            in_specs=[
                self._spec(x.shape, size if n in own else 0) for n, x in given.items()
            ],
            out_specs=[self._spec(shape, size) for shape, _ in made.values()],
            out_shape=[jax.ShapeDtypeStruct(*each) for each in made.values()],
            compiler_params=triton.CompilerParams(num_warps=self.warps, num_stages=2),
            interpret=on_cpu(),
        )(*given.values())

    def _spec(self, shape, size):
        """Returns which part of a tensor a program gets: `size` rows of its own, or all."""
        from jax import lax
        from jax.experimental import pallas as pl

        _, heads, *rest = shape

        def index(block, head, example):
            if heads != self.heads:
                head = 0 if heads == 1 else lax.div(head, self.groups)
            example = 0 if shape[0] == 1 else example
            return example, head, block if size else 0, *[0] * (len(rest) - 1)

        return pl.BlockSpec((None, None, size or rest[0], *rest[1:]), index)


def _fill_up(tensor, sizes):
    """Appends zeros along the axes that are shorter than `sizes`."""
    pairs = zip(tensor.shape, sizes, strict=True)
    margin = [(0, max(size - n, 0)) for n, size in pairs]
    return ops.pad(tensor, margin) if any(more for _, more in margin) else tensor


def _power_of_two(n):
    return max(2 ** (n - 1).bit_length(), LEAST_DEPTH)


def _multiplies_tf32():
    """Returns whether float32 is multiplied as TF32, as XLA does unless told otherwise."""
    import jax

    return jax.config.jax_default_matmul_precision not in ("highest", "float32")
