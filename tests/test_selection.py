"""Hard selection: exactly k, ties by position, and a gradient straight through."""

import numpy as np
import pytest
from common import numpy, random
from gradients import value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from keras_sam.ops.selection import keep, top_k_mask


def top_k_by_sorting(row, k, mask):
    """The indices of the k largest unmasked scores, the earlier first among equals."""
    order = sorted((i for i in range(len(row)) if mask[i]), key=lambda i: (-row[i], i))
    return set(order[:k])


@st.composite
def rows(draw):
    shape = draw(st.tuples(st.integers(1, 3), st.integers(1, 11)))
    few = st.sampled_from([-1e4, -2.5, 0.0, 1.0, 1.0000001, 300.0])  # ties are likely
    scores = draw(arrays.arrays("float32", shape, elements=few))
    mask = draw(arrays.arrays("bool", shape))
    return scores, mask, draw(st.integers(1, 13))


@given(rows())
@settings(max_examples=60, deadline=None)
def test_top_k_is_what_sorting_gives(case):
    scores, mask, k = case
    marked = numpy(top_k_mask(ops.convert_to_tensor(scores), k, mask))
    for row, allowed, result in zip(scores, mask, marked, strict=True):
        assert set(np.flatnonzero(result)) == top_k_by_sorting(row, k, allowed)


@given(rows())
@settings(max_examples=60, deadline=None)
def test_exactly_the_marked_keep_weight(case):
    scores, mask, k = case
    weights = np.exp(scores - scores.max(axis=-1, keepdims=True))
    weights /= weights.sum(axis=-1, keepdims=True)  # some have underflowed to zero
    marked = top_k_mask(ops.convert_to_tensor(scores), k, mask)
    kept = numpy(keep(ops.convert_to_tensor(weights.astype("float32")), marked))
    np.testing.assert_array_equal(kept > 0, numpy(marked))
    assert (kept[~numpy(marked)] == 0).all()
    some = mask.any(axis=-1)
    np.testing.assert_allclose(kept[some].sum(axis=-1), 1, rtol=1e-6)


def test_each_row_may_have_its_own_k():
    scores = random(3, 7)
    k = np.array([[1], [4], [9]])
    marked = numpy(top_k_mask(ops.convert_to_tensor(scores), ops.convert_to_tensor(k)))
    assert marked.sum(axis=-1).tolist() == [1, 4, 7]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_smallest_weight_is_kept(dtype):
    weights = ops.convert_to_tensor(np.array([[1.0, 0.0, 0.0]], dtype))
    kept = numpy(keep(weights, ops.convert_to_tensor([[True, True, False]])))
    assert kept[0, 0] == 1
    assert kept[0, 1] > 0
    assert kept[0, 2] == 0


def test_the_gradient_is_that_of_the_weights_before_selection():
    weights = np.array([[0.5, 0.3, 0.2]], "float32")
    upstream = np.array([[3.0, 5.0, 7.0]], "float32")
    marked = ops.convert_to_tensor([[True, False, True]])
    value, (gradient,) = value_and_gradients(lambda w: keep(w, marked) * upstream, weights)
    np.testing.assert_allclose(value, [[3 * 0.5 / 0.7, 0, 7 * 0.2 / 0.7]], rtol=1e-6)
    np.testing.assert_array_equal(gradient, upstream)
