"""Kernels of libraries and of Pallas give what the reference formula gives.

No accelerator is needed: XLA's formula stands in for cuDNN, Pallas kernels are interpreted,
and the policy gets its device as an argument.
"""

import dataclasses
import pathlib
import runpy
import sys

import keras
import numpy as np
import pytest
import test_attention as table
from common import BACKEND, numpy, random, refused
from gradients import hessian_vector_product, in_float64, value_and_gradients
from keras import ops

import keras_sam
from keras_sam import normalizers
from keras_sam.attention import explain, library
from keras_sam.attention.plan import Device
from keras_sam.attention.policy import DEFAULT, Policy
from keras_sam.attention.positions import Positions
from keras_sam.attention.request import Request, Sizes, Traits
from keras_sam.backend import libraries
from keras_sam.gates import convolution
from keras_sam.scores.base import DotProduct

B, H, D, DV = table.B, table.H, table.D, table.DV
needs_library = pytest.mark.skipif(BACKEND == "tensorflow", reason="has no library")
needs_torch = pytest.mark.skipif(BACKEND != "torch", reason="needs PyTorch")
needs_jax = pytest.mark.skipif(BACKEND != "jax", reason="needs JAX")
LIBRARY = {"policy": Policy(kernel="library")}
PALLAS = {"policy": Policy(kernel="pallas")}
EVEN, UNEVEN = (24, 24), (23, 19)


def padding(length, at_the_end=False, empty=False):
    """A key mask; one example has no key at all if `empty`."""
    mask = np.random.default_rng(1).random((B, length)) > 0.4
    if at_the_end:
        mask = np.arange(length) < np.array([[9], [length]])
    mask[1] &= not empty
    return mask


LIBRARY_MASKS = {
    "none": (UNEVEN, {}),
    "causal": (EVEN, {"causal": True}),
    "causal window": (EVEN, {"causal": True, "sliding_window": 5}),
    "padding": (UNEVEN, {"key_mask": padding(19)}),
    "padding of all keys": (UNEVEN, {"key_mask": padding(19, empty=True)}),
    "causal, padding at the end": (EVEN, {"causal": True, "key_mask": padding(24, True)}),
    "causal, padding": (EVEN, {"causal": True, "key_mask": padding(24)}),
    "causal, padding of all": (EVEN, {"causal": True, "key_mask": padding(24, empty=True)}),
    "pairs": (UNEVEN, table.masks(*UNEVEN)["pairs"]),
    "pairs of heads": (UNEVEN, table.masks(*UNEVEN)["pairs_of_heads"]),
    "causal pairs": (EVEN, {**table.masks(*EVEN)["pairs"], "causal": True}),
    "nothing": (UNEVEN, table.masks(*UNEVEN)["nothing"]),
    "query mask": (UNEVEN, table.masks(*UNEVEN)["padding"]),
}


def tensors(lengths, depth=D):
    """Query, key and value of one depth, as cuDNN wants them."""
    query, key, _, bias = table.tensors(*lengths)
    return query, key, random(B, H, lengths[1], depth, seed=2), bias


def compare(arrays, way, **arguments):
    with_own_depth = table.DV
    table.DV = arrays[2].shape[3]
    try:
        table.compare_ways(arrays, way=way, **{"normalizer": "softmax", **arguments})
    finally:
        table.DV = with_own_depth


@needs_library
@pytest.mark.parametrize("name", LIBRARY_MASKS)
def test_library(name):
    lengths, arguments = LIBRARY_MASKS[name]
    if BACKEND == "torch" and "window" in name:
        pytest.skip("is not asked for it")
    compare(tensors(lengths)[:3], LIBRARY, **arguments)


@needs_library
@pytest.mark.parametrize("mask", ["none", "pairs"])
@pytest.mark.parametrize("shape", [(1, H, 24, 24), (1, 1, 1, 24), (1, H, 24, 1)], ids=str)
def test_library_with_a_bias(shape, mask):
    arrays = (*tensors(EVEN)[:3], random(*shape, seed=5))
    compare(arrays, LIBRARY, **table.masks(*EVEN)[mask])


@needs_library
@pytest.mark.parametrize("value", [-np.inf, -1e9])
def test_library_with_a_bias_that_masks(value):
    bias = np.zeros((1, 1, 24, 24), "float32")
    bias[:, :, 3] = value
    bias[:, :, :, 5] = value
    query, key, rows, _ = tensors(EVEN)
    output = keras_sam.attend(query, key, rows, bias=bias, **LIBRARY)
    expected = keras_sam.attend(query, key, rows, bias=bias, block_size=None)
    np.testing.assert_allclose(numpy(output), numpy(expected), atol=2e-6)
    assert not numpy(output)[:, :, 3].any()


@pytest.mark.parametrize("way", ["library", "pallas"])
@pytest.mark.parametrize("causal", [False, True])
def test_heads_that_share_keys(causal, way):
    if BACKEND == "tensorflow" or (way == "pallas" and BACKEND != "jax"):
        pytest.skip("there is no such kernel")
    query = random(2, 6, 24, 8)
    key, value = (random(2, 2, 24, 8, seed=seed) for seed in (1, 2))
    upstream = ops.convert_to_tensor(random(2, 6, 24, 8, seed=3))

    def differentiate(**arguments):
        def call(*tensors):
            return keras_sam.attend(*tensors, causal=causal, **arguments) * upstream

        return value_and_gradients(call, query, key, value)

    output, gradients = differentiate(policy=Policy(kernel=way))
    expected, slopes = differentiate(block_size=None)
    np.testing.assert_allclose(output, expected, atol=5e-6)
    for one, other in zip(gradients, slopes, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


@needs_library
@pytest.mark.parametrize("arguments", [{}, {"key_mask": padding(19, empty=True)}], ids=str)
def test_second_derivatives_of_a_library(arguments):
    arrays = [x.astype("float64") for x in tensors(UNEVEN)[:3]]
    along = [random(*x.shape, seed=7, dtype="float64") for x in arrays]

    def function(**way):
        return lambda *tensors: ops.square(keras_sam.attend(*tensors, **arguments, **way))

    with in_float64():
        found = hessian_vector_product(function(**LIBRARY), arrays, along)
        expected = hessian_vector_product(function(block_size=None), arrays, along)
    # The formula of XLA that stands in for cuDNN computes softmax in float32.
    allowed = 1e-5 if BACKEND == "jax" else 1e-12
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=allowed)


# Pallas

NORMALIZERS = {
    "softmax": normalizers.Softmax(),
    "sigmoid": normalizers.Sigmoid(),
    "sigmoid with a bias": normalizers.Sigmoid(-0.5),
    "sigmoid by length": normalizers.Sigmoid("-log(length)"),
    "sparsemax": normalizers.Sparsemax(),
    "entmax": normalizers.Entmax(1.5),
}


@needs_jax
@pytest.mark.parametrize("mask", ["none", "causal", "window", "padding", "nothing", "all"])
@pytest.mark.parametrize("normalizer", NORMALIZERS)
def test_pallas(normalizer, mask):
    arrays = table.tensors(*UNEVEN)[:3]
    mask = table.masks(*UNEVEN)[mask]
    compare(arrays, PALLAS, normalizer=NORMALIZERS[normalizer], **mask)


@needs_jax
@pytest.mark.parametrize("mask", ["causal", "causal_window", "pairs_of_heads"])
@pytest.mark.parametrize("normalizer", ["softmax", "entmax"])
def test_pallas_with_several_blocks(normalizer, mask):
    lengths = 150, 131
    arrays = table.tensors(*lengths)[:3]
    mask = table.masks(*lengths)[mask]
    compare(arrays, PALLAS, normalizer=NORMALIZERS[normalizer], **mask)


@needs_jax
def test_pallas_finds_the_largest_weight_of_large_scores():
    query, key, value, _ = table.tensors(*UNEVEN)
    compare((50 * query, key, value), PALLAS, normalizer="sparsemax")


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize("mask", ["none", "padding", "nothing"])
@pytest.mark.parametrize("way", ["library", "pallas", "flash", "chunked", "dense"])
def test_narrow_products_have_wide_sums(way, mask, dtype):
    """The error is that of rounding queries, keys, values, weights and the output once."""
    if BACKEND != "jax" and (way != "library" or BACKEND != "torch"):
        pytest.skip("products are wide")
    if (BACKEND, way, dtype) == ("jax", "library", "float16"):
        pytest.skip("XLA's formula has no such product on a CPU")
    policy = Policy(kernel=way)
    if way in ("flash", "chunked", "dense"):
        policy = table.OnAccelerator(
            **table.LARGE, kernel=way, accelerator_pairs=6 * 13 * 8, accelerator_keys=13
        )
    arrays = [ops.cast(x, dtype) for x in tensors(EVEN)[:3]]
    mask = table.masks(*EVEN)[mask]
    upstream = ops.cast(random(B, H, 24, D, seed=9), dtype)

    def differentiate(dtype, **way):
        def call(*tensors):
            tensors = [ops.cast(x, dtype) for x in tensors]
            output = keras_sam.attend(*tensors, **mask, **way)
            return ops.cast(output, "float32") * ops.cast(upstream, "float32")

        return value_and_gradients(call, *(numpy(x).astype("float32") for x in arrays))

    value, gradients = differentiate(dtype, policy=policy)
    expected, slopes = differentiate("float32", block_size=None)
    unit = {"float16": 2**-11, "bfloat16": 2**-8}[dtype]
    for one, other in zip((value, *gradients), (expected, *slopes), strict=True):
        assert np.isfinite(one).all()
        np.testing.assert_allclose(one, other, rtol=0, atol=5 * unit * np.abs(other).max())


# What is chosen

NVIDIA = Device("jax", False, False, 1, library="cudnn", fused=True)
SHARDED = dataclasses.replace(NVIDIA, fused=False)
TPU = Device("jax", False, False, 1)
JAX_CPU = Device("jax", True, False, 1)
TORCH = Device("torch", True, True, 1, library="sdpa")
TORCH_GPU = dataclasses.replace(TORCH, cpu=False)
TF_GPU = Device("tensorflow", False, False, 1)
SIZES = (4, 8, 4096, 4096)
UNKNOWN = np.int32(4)  # sizes that are no `int` are unknown yet, as in `jax.export`
HALF = {"dtype": "bfloat16"}
CAUSAL, WINDOW = Positions(causal=True), Positions(sliding_window=256)
BOTH = Positions(True, 256)
PAIRS, OF_ROWS = (4, 1, 4096, 4096), (1, 8, 4096, 4096)
CHOICES = [
    # device, sizes, request, traits, kernel
    (NVIDIA, SIZES, {}, HALF, "library"),
    (NVIDIA, (1, 8, 65536, 65536), {}, HALF, "library"),
    (NVIDIA, (2, 8, 64, 64), {}, HALF, "library"),
    (NVIDIA, SIZES, {"positions": CAUSAL}, HALF, "library"),
    (NVIDIA, SIZES, {"positions": CAUSAL}, {**HALF, "key_mask": True}, "library"),
    (NVIDIA, SIZES, {}, {**HALF, "key_mask": True}, "library"),
    (NVIDIA, SIZES, {}, {**HALF, "mask": PAIRS}, "library"),
    (NVIDIA, SIZES, {}, {**HALF, "bias": OF_ROWS}, "library"),
    (NVIDIA, SIZES, {}, {**HALF, "bias": PAIRS}, "flash"),
    (NVIDIA, (1, 8, 8192, 8192), {"positions": BOTH}, HALF, "library"),
    (NVIDIA, (1, 8, 8192, 8192), {"positions": WINDOW}, HALF, "pallas"),
    (NVIDIA, (1, 8, 8192, 8192), {"positions": BOTH}, {**HALF, "key_mask": True}, "pallas"),
    (NVIDIA, (4, 8, 4096, 4097), {}, {**HALF, "mask": PAIRS}, "pallas"),
    (NVIDIA, (4, 8, 4096, 2048), {"positions": CAUSAL}, HALF, "pallas"),
    (NVIDIA, SIZES, {}, {**HALF, "value_depth": 128}, "pallas"),
    (NVIDIA, SIZES, {}, {}, "pallas"),
    (NVIDIA, (1, 8, 128, 128), {}, {}, "dense"),
    (NVIDIA, SIZES, {}, {"bias": OF_ROWS}, "flash"),
    (NVIDIA, SIZES, {}, {"dtype": "float64"}, "flash"),
    (NVIDIA, SIZES, {"dropout": 0.1}, HALF, "flash"),
    (NVIDIA, SIZES, {"normalizer": "sparsemax"}, HALF, "pallas"),
    (NVIDIA, SIZES, {"normalizer": "entmax"}, {}, "pallas"),
    (NVIDIA, SIZES, {"normalizer": "sigmoid"}, HALF, "pallas"),
    (NVIDIA, SIZES, {"normalizer": normalizers.Entmax(1.3)}, HALF, "chunked"),
    (NVIDIA, SIZES, {"normalizer": "sigmoid", "dropout": 0.1}, HALF, "chunked"),
    (NVIDIA, SIZES, {"selective": True, "positions": CAUSAL}, HALF, "selective"),
    (SHARDED, SIZES, {}, HALF, "library"),
    (SHARDED, SIZES, {"normalizer": "sigmoid"}, HALF, "chunked"),
    (TPU, SIZES, {}, HALF, "flash"),
    (JAX_CPU, SIZES, {}, HALF, "flash"),
    (TORCH, SIZES, {}, {}, "library"),
    (TORCH, (1, 8, 64, 64), {}, {}, "library"),
    (TORCH, SIZES, {}, {"dtype": "float64"}, "library"),
    (TORCH, SIZES, {"positions": CAUSAL}, {}, "library"),
    (TORCH, SIZES, {"positions": CAUSAL}, {"key_mask": True}, "library"),
    (TORCH, (32, *SIZES[1:]), {"positions": CAUSAL}, {"key_mask": True}, "chunked"),
    (TORCH, SIZES, {"positions": WINDOW}, {}, "chunked"),
    (TORCH, SIZES, {}, {"bias": OF_ROWS}, "chunked"),
    (TORCH, (1, 8, 64, 64), {}, {"bias": (1, 8, 64, 64)}, "library"),
    (TORCH, SIZES, {"dropout": 0.1}, {}, "chunked"),
    (TORCH, SIZES, {"normalizer": "sigmoid"}, {}, "chunked"),
    (TORCH_GPU, SIZES, {}, HALF, "library"),
    (TORCH_GPU, SIZES, {}, {"dtype": "float64"}, "chunked"),
    (TF_GPU, SIZES, {}, HALF, "flash"),
    (NVIDIA, (UNKNOWN, *SIZES[1:]), {}, HALF, "flash"),
    (NVIDIA, (UNKNOWN, *SIZES[1:]), {"normalizer": "sigmoid"}, HALF, "chunked"),
    (TORCH, (UNKNOWN, *SIZES[1:]), {}, HALF, "library"),
]


def request_of(normalizer="softmax", **options):
    return Request(DotProduct(), normalizers.get(normalizer), **options)


@pytest.mark.parametrize("number", range(len(CHOICES)))
def test_choices(number):
    device, sizes, request, traits, kernel = CHOICES[number]
    traits = Traits(**{"value_depth": 64, **traits})
    plan = DEFAULT.choose(request_of(**request), Sizes(*sizes, 64), device, traits=traits)
    assert plan.kernel == kernel
    fused = kernel in ("library", "pallas")
    on_jax = device.backend == "jax" and not device.cpu and kernel != "selective"
    assert plan.narrow == (fused or on_jax)
    assert plan.reason


@pytest.mark.parametrize("depth", [60, 80, 512])
def test_choices_by_depth(depth):
    sizes = Sizes(4, 8, 4096, 4096, depth)
    traits = Traits("bfloat16", depth)
    plan = DEFAULT.choose(request_of(), sizes, NVIDIA, traits=traits)
    assert plan.kernel == {60: "pallas", 80: "library", 512: "library"}[depth]


def test_a_given_block_size_is_kept():
    sizes, traits = Sizes(4, 8, 4096, 4096, 64), Traits("bfloat16", 64)
    for device, kernel in ((NVIDIA, "flash"), (TORCH, "chunked")):
        plan = DEFAULT.choose(request_of(), sizes, device, 64, traits)
        assert (plan.kernel, plan.blocks.rows) == (kernel, 64)


def test_what_a_library_refuses_goes_to_the_next_kernel(monkeypatch):
    """cuDNN takes nothing on this machine, which it says when it is called."""
    if BACKEND != "jax":
        pytest.skip("needs JAX")
    monkeypatch.setattr(Device, "current", lambda: dataclasses.replace(NVIDIA, fused=False))
    monkeypatch.setattr(library, "attention_library", lambda: "cudnn")
    arrays = [ops.cast(random(1, 2, 256, 8, seed=i), "bfloat16") for i in range(3)]
    (found,) = explain(keras_sam.attend, *arrays)
    assert found.kernel != "library"
    assert found.reason.startswith("cudnn refused: ")


def test_tiles_on_an_accelerator_stay_within_their_budget():
    for length in (1024, 4096, 16384, 65536):
        sizes = Sizes(4, 8, length, length, 64)
        for device in (TF_GPU, TPU):
            plan = DEFAULT.choose(request_of(), sizes, device)
            rows, examples, heads = plan.blocks.sizes(sizes)
            keys = min(plan.blocks.keys, length)
            assert rows * examples * heads * keys <= DEFAULT.accelerator_pairs
            assert rows >= min(length, 4096)


@needs_torch
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    "options",
    [{"causal": True}],
    ids=str,
)
def test_compiled_by_torch(options):
    """As Keras compiles with `jit_compile=True`, but for the last step, to machine code."""
    import torch

    layer = keras_sam.SelfAttention(2, **options)
    x = ops.convert_to_tensor(random(2, 9, 8)).requires_grad_()

    def slopes(call):
        output = call(x)
        return output, *torch.autograd.grad(
            output.sum(), [x, layer.query_dense.kernel.value]
        )

    layer.build(x.shape)
    compiled = torch.compile(layer, backend="aot_eager")
    for one, other in zip(slopes(compiled), slopes(layer), strict=True):
        np.testing.assert_allclose(numpy(one.detach()), numpy(other.detach()), atol=1e-5)


def channels_last(*shape, seed):
    """Returns a tensor whose channels do not lie side by side in memory."""
    batch, heads, length, depth = shape
    tensor = ops.convert_to_tensor(random(batch, heads, depth, length, seed=seed))
    return ops.swapaxes(tensor, 2, 3)


@needs_torch
@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("key_heads", [4, 2])
@pytest.mark.parametrize("value_depth", [3, 8, 13])
def test_torch_never_falls_back_on_all_weights(value_depth, key_heads, causal):
    """Only the flash kernel is allowed, and it takes no such tensors as they are."""
    from torch.nn import attention

    query = channels_last(2, 4, 7, 8, seed=0)
    key = channels_last(2, key_heads, 5, 8, seed=1)
    value = channels_last(2, key_heads, 5, value_depth, seed=2)

    def differentiate(**way):
        def call(*tensors):
            return ops.square(keras_sam.attend(*tensors, causal=causal, **way))

        return value_and_gradients(call, *map(numpy, (query, key, value)))

    with attention.sdpa_kernel([attention.SDPBackend.FLASH_ATTENTION]):
        keras_sam.attend(query, key, value, causal=causal, key_mask=padding(5))
        output, gradients = differentiate()
    expected, slopes = differentiate(block_size=None)
    for one, other in zip((output, *gradients), (expected, *slopes), strict=True):
        assert one.shape == other.shape
        np.testing.assert_allclose(one, other, atol=1e-5)


@needs_torch
@pytest.mark.parametrize(
    ("dtype", "depth", "keys", "masked", "causal", "is_taken"),
    [
        ("bfloat16", 64, 9, False, False, True),
        ("float16", 256, 9, False, True, True),
        ("bfloat16", 64, 5, False, False, True),
        ("bfloat16", 64, 5, False, True, False),
        ("bfloat16", 64, 9, True, False, False),
        ("bfloat16", 264, 9, False, False, False),
        ("float32", 64, 9, False, False, False),
    ],
)
def test_what_flash_takes_on_cuda(dtype, depth, keys, masked, causal, is_taken):
    """Where it does not, heads of keys are repeated: no other kernel shares them."""
    query, key = (ops.zeros((1, 1, n, depth), dtype) for n in (9, keys))
    mask = ops.ones((1, 1, 9, keys), "bool") if masked else None
    assert library._is_for_flash(query, key, mask, causal) == is_taken


@needs_jax
def test_a_jax_without_triton_has_no_fused_kernels(monkeypatch):
    monkeypatch.setattr(libraries, "_has_cuda", lambda: True)
    assert libraries._has_triton.__wrapped__()
    monkeypatch.setitem(sys.modules, "jax.experimental.pallas.triton", None)
    assert not libraries._has_triton.__wrapped__()


# The benchmark


@pytest.mark.parametrize(
    ("found", "is_right"), [([1.0, 1.0], True), ([1.0, 1.1], False), ([1.0, np.nan], False)]
)
def test_the_benchmark_sees_what_is_wrong(found, is_right):
    path = pathlib.Path(__file__).parents[1] / "benchmarks" / "gpu.py"
    error_row = runpy.run_path(str(path))["error_row"]
    arrays = [np.array(x) for x in found]
    row = error_row({"dtype": "float32"}, "any", arrays, [np.array(1.0)] * 2)
    assert row["is_right"] == is_right


# explain


def test_explain_tells_what_is_decided_later():
    if BACKEND != "tensorflow":
        pytest.skip("sizes are known")
    import tensorflow as tf

    layer = keras_sam.SelfAttention(2)
    layer.build((None, None, 8))
    traced = tf.function(layer, input_signature=[tf.TensorSpec((None, None, 8))])
    (found,) = explain(traced.get_concrete_function)
    assert found.shape == (None, 2, None, None)
    assert found.kernel == "chunked"
    assert "dense instead where there are at most" in found.reason


def test_explain_names_kernel_reason_and_shape():
    layer = keras_sam.SelfAttention(2)
    found = explain(keras.Sequential([layer, keras_sam.SelfAttention(2)]), random(3, 5, 8))
    assert [each.shape for each in found] == [(3, 2, 5, 5)] * 2
    kernel = {"tensorflow": "dense", "jax": "dense", "torch": "library"}[BACKEND]
    assert [each.kernel for each in found] == [kernel] * 2
    assert all(each.reason for each in found)
    assert explain(lambda: None) == []


def test_explain_of_weights_that_are_returned():
    layer = keras_sam.SelfAttention(2)
    (found,) = explain(layer, random(3, 5, 8), return_attention_scores=True)
    assert found.kernel == "reference"


def test_the_log_names_the_kernel(caplog):
    with caplog.at_level("DEBUG", logger="keras_sam"):
        keras_sam.attend(*(random(1, 2, 5, 4, seed=i) for i in range(3)), block_size=None)
    assert "attention by reference for scores (1, 2, 5, 5)" in caplog.text


def test_explain_after_an_error():
    with refused("`score` must be"):
        explain(keras_sam.attend, *[random(1, 2, 5, 4)] * 3, score=3)
    assert explain(lambda: None) == []


# Gates


@pytest.mark.parametrize(
    ("kernel_size", "dilation", "places"),
    [
        ((7, 7), (1, 1), (9, 11)),
        ((4, 3), (2, 1), (5, 13)),
        ((5,), (3,), (7,)),
        ((13, 13), (1, 1), (5, 7)),
    ],
    ids=str,
)
def test_convolution_on_an_accelerator(kernel_size, dilation, places):
    maps, kernel = random(2, *places, 2), random(*kernel_size, 2, 1, seed=1)
    upstream = ops.convert_to_tensor(random(2, *places, 1, seed=2))
    pairs = [
        value_and_gradients(lambda *x, way=way: way(*x, dilation) * upstream, maps, kernel)
        for way in (convolution.convolve, convolution.convolve_on_accelerator)
    ]
    (value, slopes), (expected, gradients) = pairs
    for one, other in zip((value, *slopes), (expected, *gradients), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-4)
