"""Softmax of dot products by the kernels of cuDNN (on JAX) and of PyTorch.

They are tuned by hand for each device, and no loop comes near them. They are asked only for
what they compute as `reference` does. Around them:

* The kernels may return NaN for a row whose keys are all masked. Such a row is unmasked
  before the kernel, and its output is set to zero after it; so are its gradients.
* cuDNN knows lengths, but no padding. Where every row sees all keys, their order does not
  matter, so padding is moved behind the other keys, and the number of the others is the
  length. Where rows are causal, lengths are used if all padding is at the end; otherwise
  padding is a mask of all pairs, as it is in Keras.

The gradient is the library's own; derivatives of higher order are those of `reference`.
"""

import keras
from keras import ops

from keras_sam.attention.reference import pair_mask
from keras_sam.attention.request import Inputs, Sizes
from keras_sam.backend.libraries import attention_library
from keras_sam.normalizers.masking import both, unmasked

HALVES = ("float16", "bfloat16")


def objection(request, sizes, device, traits, policy):
    """Returns why the library does not compute a request, or None if it does.

    Args:
        request: `Request`.
        sizes: `Sizes`.
        device: `plan.Device`.
        traits: `Traits`.
        policy: `policy.Policy`, for its constants.
    """
    if device.library is None:
        return "there is no library with a kernel of attention"
    if not request.is_softmax_of_dot_products:
        return "libraries compute softmax of dot products only"
    if not request.is_plain or not traits.in_a_row:
        return "libraries know causality and windows only"
    if request.dropout:
        return "what a library drops depends on the device"
    check = {"cudnn": _objection_of_cudnn, "sdpa": _objection_of_sdpa}
    return check[device.library](request, sizes, device, traits, policy)


def _objection_of_cudnn(request, sizes, device, traits, policy):
    if traits.dtype not in HALVES:
        return f"cuDNN has no {traits.dtype}"
    if sizes.depth % 8 or traits.value_depth != sizes.depth:
        return "cuDNN wants equal depths of keys and values, multiples of 8"
    positions, pairs = request.positions, (traits.mask, traits.bias)
    if not positions.allow_all and sizes.rows != sizes.keys:
        return "cuDNN is asked for causality of equal lengths only"
    if positions.sliding_window is not None:
        if not positions.causal:
            return "cuDNN has no window on both sides"
        if traits.key_mask or pairs != (None, None):
            return "cuDNN is asked for a window without masks only"
    if pairs != (None, None) and (sizes.rows % 2 or sizes.keys % 2):
        return "cuDNN has no mask of odd lengths"
    if traits.bias is None:
        return None
    one_batch = traits.bias[0] == 1 and (traits.mask is None or traits.mask[0] == 1)
    if not one_batch or traits.key_mask:
        return "cuDNN has no gradient of a bias of some examples"
    return None


def _objection_of_sdpa(request, sizes, device, traits, policy):
    if traits.dtype == "float64" and not device.cpu:
        return "PyTorch has no fast kernel of float64"
    positions = request.positions
    if positions.sliding_window is not None:
        return "PyTorch computes all pairs of a window"
    pairs = sizes.rows * sizes.keys
    is_pairwise = positions.causal or (traits.mask is not None and traits.mask[2] > 1)
    has_mask = traits.key_mask or traits.mask is not None
    if has_mask and is_pairwise and sizes.batch * pairs > policy.library_masked_pairs:
        return "PyTorch needs a mask of all pairs"
    few = sizes.batch * sizes.heads * pairs <= policy.autodiff_pairs
    if traits.bias is not None and not few:
        return "PyTorch keeps all weights for the gradient of a bias"
    return None


def refusal(inputs, constants, request, device):
    """Returns what the library says against a call, or None if it takes it.

    The call is traced with its gradient, and not computed.
    """
    if device.library != "cudnn":
        return None
    import jax

    def differentiate(given):
        def run(given):
            return attend(Inputs(**given), constants, request)

        return jax.vjp(run, given)[0]

    given = {name: x for name, x in inputs._asdict().items() if x is not None}
    try:
        jax.eval_shape(differentiate, given)
    except (NotImplementedError, RuntimeError, TypeError, ValueError) as error:
        return str(error).splitlines()[0]
    return None


def attend(inputs, constants, request):
    """Returns the output `(B, H, T, Dv)`, which the backend differentiates once.

    Args:
        inputs: `Inputs`; there may be fewer heads of keys than of queries.
        constants: `Constants`. The query mask is left to the caller.
        request: `Request`.
    """
    constants = constants._replace(query_mask=None)
    seeing = rows_that_see(inputs, constants, request)
    if keras.backend.backend() == "torch":
        output = _attend_with_torch(inputs, constants, request)
    else:
        output = _attend_with_jax(inputs, constants, request)
    return output if seeing is None else ops.where(seeing, output, 0.0)


def rows_that_see(inputs, constants, request):
    """Returns which rows have something to attend to, `(B, H, T, 1)` with sizes of 1.

    None stands for all of them. Positions alone leave no row without a key where lengths
    are equal.
    """
    key_mask, mask = constants.key_mask, constants.mask
    if mask is None and inputs.bias is None:
        if key_mask is None:
            return None
        if not request.positions.causal:
            return ops.any(key_mask, axis=1)[:, None, None, None]
        if inputs.query.shape[2] == inputs.key.shape[2]:
            so_far = ops.cumsum(ops.cast(key_mask, "int32"), axis=1)
            return ops.greater(so_far, 0)[:, None, :, None]
    return ops.any(_allowed(inputs, constants, request), axis=-1, keepdims=True)


def _allowed(inputs, constants, request):
    """Returns which pairs count, or None for all of them."""
    pairs = pair_mask(constants, request, Sizes.of(inputs))
    return both(pairs, unmasked(inputs.bias))


def _attend_with_torch(inputs, constants, request):
    import torch

    bias, depth = inputs.bias, inputs.value.shape[3]
    query, key, value = _as_torch_wants(*inputs[:3])
    is_plain = constants.mask is None and constants.key_mask is None and bias is None
    mask = None
    if not is_plain:
        mask = _allowed(inputs, constants, request)
        mask = mask | ~mask.any(dim=-1, keepdim=True)  # no row without a key
        if bias is not None:
            mask = torch.where(mask, bias, -torch.inf).to(query.dtype)
    causal = is_plain and request.positions.causal
    if query.is_cuda and not _is_for_flash(query, key, mask, causal):
        _, key, value, *_ = Inputs(query, key, value).repeated()
    output = torch.nn.functional.scaled_dot_product_attention(
        query,
        key,
        value,
        attn_mask=mask,
        is_causal=causal,
        scale=request.scale,
        enable_gqa=query.shape[1] != key.shape[1],
    )
    return output[..., :depth]


def _as_torch_wants(*tensors):
    """Returns tensors of one depth, whose channels lie side by side in memory.

    PyTorch falls back on a formula that keeps all weights otherwise; on CUDA also where
    there is a mask and the depth is no multiple of 8. Zeros change no dot product.
    """
    import torch

    depth = max(x.shape[3] for x in tensors)
    if tensors[0].is_cuda:
        depth = -(-depth // 8) * 8

    def change(tensor):
        missing = depth - tensor.shape[3]
        if missing:
            return torch.nn.functional.pad(tensor, (0, missing))
        # Otherwise as it lies: a copy costs more than it saves.
        return tensor if tensor.stride(3) == 1 else tensor.contiguous()

    return map(change, tensors)


def _is_for_flash(query, key, mask, causal):
    """Returns whether CUDA has a flash kernel, the only one for heads that share keys."""
    is_half = keras.backend.standardize_dtype(query.dtype) in HALVES
    is_aligned = not causal or query.shape[2] == key.shape[2]
    return mask is None and is_half and is_aligned and query.shape[3] <= 256


def _attend_with_jax(inputs, constants, request):
    import jax

    # XLA's own formula is there for tests, on devices without cuDNN.
    implementation = attention_library() or "xla"
    window, causal = request.positions.sliding_window, request.positions.causal
    only_keys = constants.mask is None and inputs.bias is None
    key_mask, lengths = constants.key_mask, None
    query, key, value = inputs[:3]
    if key_mask is not None and only_keys:
        lengths = ops.cast(ops.sum(ops.cast(key_mask, "int32"), axis=1), "int32")
        lengths = ops.maximum(lengths, 1)
        if not causal:
            key, value = _behind(key_mask, key, value)

    def run(lengths, mask):
        swapped = (ops.swapaxes(x, 1, 2) for x in (query, key, value))
        output = jax.nn.dot_product_attention(
            *swapped,
            bias=bias,
            mask=mask,
            scale=request.scale,
            is_causal=causal,
            key_value_seq_lengths=lengths,
            local_window_size=None if window is None else (window - 1, 0),
            implementation=implementation,
        )
        return ops.swapaxes(output, 1, 2)

    pairs, bias, counted = (query.shape[2], key.shape[2]), inputs.bias, None
    if bias is not None:
        counted = unmasked(bias)
        bias = ops.cast(ops.where(counted, bias, 0.0), query.dtype)
        # The gradient of a bias for all heads is that of every version of cuDNN.
        bias = ops.broadcast_to(bias, (bias.shape[0], query.shape[1], *pairs))

    def of_all_pairs():
        mask = both(constants.mask, counted)
        if key_mask is not None:
            mask = both(mask, key_mask[:, None, None, :])
        if mask is not None:
            mask = ops.broadcast_to(mask, (*mask.shape[:2], *pairs))
        return run(None, mask)

    if not only_keys or key_mask is None:
        return of_all_pairs()
    if not causal:
        return run(lengths, None)
    is_at_the_end = ops.all(key_mask[:, 1:] <= key_mask[:, :-1])
    return jax.lax.cond(is_at_the_end, lambda: run(lengths, None), of_all_pairs)


def _behind(key_mask, *tensors):
    """Returns tensors `(B, heads, S, depth)` with padding behind the other keys."""
    import jax
    import jax.numpy as jnp

    padding = jnp.logical_not(key_mask)
    kept, dropped = (jnp.cumsum(x, axis=1, dtype="int32") for x in (key_mask, padding))
    back = jnp.where(key_mask, kept - 1, kept[:, -1:] + dropped - 1)
    keys = jnp.arange(key_mask.shape[1], dtype="int32")

    # Counted and put in place: a GPU sorts in dozens of steps.
    def invert(back):
        return jnp.zeros_like(keys).at[back].set(keys, unique_indices=True)

    order = jax.vmap(invert)(back)
    return [_permute(x, order, back) for x in tensors]


def _permute(tensor, order, back):
    """Takes keys in an order, whose gradient takes them back: no sums are needed."""
    import jax

    def take(tensor, order):
        return ops.take_along_axis(tensor, order[:, None, :, None], axis=2)

    @jax.custom_vjp
    def permute(tensor, order, back):
        return take(tensor, order)

    permute.defvjp(
        lambda tensor, order, back: (take(tensor, order), back),
        lambda back, upstream: (take(upstream, back), None, None),
    )
    return permute(tensor, order, back)
