"""Properties of every layer for whatever shapes, dtypes, masks, scores and blocks.

Hypothesis draws a few calls of each family, the same in every run. Many more, and others
each time, with

    pytest tests/test_properties.py --hypothesis-profile=long
"""

import numpy as np
import pytest
from common import BACKEND, SCORES
from gradients import value_and_gradients
from hypothesis import assume, given, note
from hypothesis import strategies as st
from keras import ops
from property_cases import FAMILIES, SEEDS, STEPS, attention, flat, gates, selection

from keras_sam.layers import (
    CrossAttention,
    SelfAttention,
    SpatialGate,
    UnprojectedAttention,
)

FILLERS = st.sampled_from([np.nan, np.inf, -np.inf, 1e30])
TRUE = st.just(True)
LENGTHS = st.tuples(st.integers(2, 7))
OWN = ("mask", "query_mask", "features_mask")  # masks of the first input
ATTENTION = (SelfAttention, CrossAttention, UnprojectedAttention)


@pytest.fixture(scope="module", autouse=True)
def uncompiled():
    """Runs kernels operation by operation: each call has shapes of its own."""
    if BACKEND != "tensorflow":
        yield
        return
    import tensorflow as tf

    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def calls(**options):
    """Calls of any layer."""
    return st.one_of(*(family(**options) for family in FAMILIES.values()))


def drawn(data, strategy):
    call = data.draw(strategy)
    note(repr(call))
    return call


def assert_bits(found, expected, where=...):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one[where], other[where])


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_equal_to_the_oracle(family, data):
    call = drawn(data, FAMILIES[family]())
    for found, (expected, error) in zip(call.run(), call.expected(), strict=False):
        assert found.size == expected.size, (found.shape, expected.shape)
        np.testing.assert_allclose(
            found.astype("float64"), expected.reshape(found.shape), rtol=0, atol=error
        )


@pytest.mark.parametrize("family", FAMILIES)
@given(data=st.data())
def test_padding_never_leaks(family, data):
    """Not a bit of it, be it infinite or not a number, into results or gradients."""
    options = {"kinds": SCORES + STEPS} if family == "attention" else {}
    call = drawn(data, FAMILIES[family](**options))
    assume(call.masks)
    filler = data.draw(FILLERS)
    own = call.padded[0]
    found = [
        outputs_and_gradients(call, filled(call.inputs, call.padded, value), own)
        for value in (3.0, filler)
    ]
    assert all(np.isfinite(x).all() for x in found[0])
    assert_bits(found[1], found[0])


def filled(arrays, masks, filler):
    """Arrays with `filler` behind the mask of each, if it has one."""
    return [
        x if mask is None else np.where(mask[..., None], x, np.float32(filler))
        for x, mask in zip(arrays, masks, strict=True)
    ]


def outputs_and_gradients(call, inputs, mask=None, factor=None):
    """What a call returns, and the gradients of its output by its inputs.

    Args:
        call: A `Call`.
        inputs: Its inputs.
        mask: Where the output counts if it has the positions of the first input, or None.
        factor: What the output is multiplied by before it is summed up, or None.
    """
    layer = call.layer
    shape = call.inputs[0].shape[:-1]

    def output(*tensors):
        if call.channels_first:
            tensors = [ops.moveaxis(x, -1, 1) for x in tensors]
        result = ops.cast(layer(*tensors, **call.arguments), "float32")
        if call.channels_first:
            result = ops.moveaxis(result, 1, -1)
        if mask is not None and tuple(result.shape[:-1]) == shape:
            result = ops.where(mask[..., None], result, ops.zeros_like(result))
        if factor is not None:
            result = result * factor
        return result

    value, gradients = value_and_gradients(output, *inputs)
    weights = call.run(*inputs)[1:]
    return [value, *gradients, *weights]


@given(data=st.data())
def test_examples_never_mix(data):
    call = drawn(data, calls())
    generator = np.random.default_rng(data.draw(SEEDS))
    filler = data.draw(FILLERS | st.none())
    chosen = data.draw(st.integers(0, len(call.inputs[0]) - 1))
    others = [x.copy() for x in call.inputs]
    for x in others:
        kept = x[chosen].copy()
        x[:] = 100 * generator.normal(size=x.shape) if filler is None else filler
        x[chosen] = kept
    assert_bits(call.run(*others), call.run(), chosen)


@given(data=st.data())
def test_the_future_never_leaks(data):
    """No bit of it, and the gradient by it is exactly zero."""
    causal = attention(causal=TRUE, kinds=SCORES + STEPS, grids=LENGTHS)
    call = drawn(data, causal)
    length = call.inputs[0].shape[1]
    assume(length > 1)
    now = data.draw(st.integers(0, length - 2))
    later = [x.copy() for x in call.inputs]
    scale = data.draw(st.sampled_from([1.0, -30.0, 1e4]))
    for x in later:
        x[:, now + 1 :] *= scale
        x[:, now + 1 :] += scale
    past = np.arange(length) <= now
    expected = outputs_and_gradients(call, call.inputs, past[None])
    found = call.run(*later)
    np.testing.assert_array_equal(found[0][:, : now + 1], call.run()[0][:, : now + 1])
    for gradient in expected[1 : 1 + len(call.inputs)]:
        assert (gradient[:, now + 1 :] == 0).all()
    rows = found[1][..., : now + 1, now + 1 :]
    assert (rows == 0).all()


@given(data=st.data())
def test_permuted_positions_give_permuted_results(data):
    call = drawn(data, st.one_of(attention(ordered=False), selection(), gates()))
    assume(not call.ordered)
    generator = np.random.default_rng(data.draw(SEEDS))
    positions = call.inputs[0].shape[1:-1]
    order = generator.permutation(int(np.prod(positions)))
    is_cross = len(call.inputs) == 3
    moved = list(call.inputs)
    masks = dict(call.masks)

    def permute(array, order=order):
        return flat(array, len(positions))[:, order].reshape(array.shape)

    moved[0] = permute(moved[0])
    if "query_mask" in masks or not is_cross:
        masks = {n: permute(m) if n in OWN else m for n, m in masks.items()}
    if is_cross:  # keys and values, in another order
        keys = generator.permutation(moved[1].shape[1])
        moved[1:] = [x[:, keys] for x in moved[1:]]
        masks = {n: m if n in OWN else m[:, keys] for n, m in masks.items()}
    elif "features_mask" in call.masks or isinstance(call.layer, SpatialGate):
        moved[1] = permute(moved[1])
    output, error = call.expected()[0]
    output = output.reshape(call.run()[0].shape)
    if output.ndim == moved[0].ndim and output.shape[1:-1] == positions:  # not pooled
        output = permute(output)
    found = call.run(*moved, **masks)[0]
    np.testing.assert_allclose(found.astype("float64"), output, rtol=0, atol=error)


LIMITS = {"float32": 3e38, "float16": 6e4, "bfloat16": 3e38, "float64": 1e300}


@given(data=st.data())
def test_finite_up_to_the_limits(data):
    """Weights too are shares as long as scores are numbers of the dtype."""
    call = drawn(data, calls())
    limit = LIMITS[call.dtype]
    width = max(x.shape[-1] for x in call.inputs)
    # Scores are products of two projected numbers, each a sum of at most 5 products, and a
    # gate is multiplied by its features.
    multiplies = isinstance(call.layer, (*ATTENTION, SpatialGate))
    multiplies = multiplies or getattr(call.layer, "score", None)
    largest = np.sqrt(limit) if multiplies else limit
    scale = largest / (200 * width)
    dtype = "float64" if call.dtype == "float64" else "float32"
    inputs = [(scale * x.astype("float64")).astype(dtype) for x in call.inputs]
    found = call.run(*inputs)
    for array in found:
        assert np.isfinite(array.astype("float64")).all()
    for weights in found[1:]:
        assert (weights >= 0).all()
        assert (weights <= 1.01).all()
