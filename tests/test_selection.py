"""Hard selection: exactly k, ties by position, and a gradient straight through."""

import numpy as np
import pytest
from common import numpy, random
from gradients import value_and_gradients
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from keras import ops

from keras_sam.layers._top_k import count_of, gather_kept, keep, top_k_mask


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
    return scores, mask, draw(st.integers(0, 13))


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
    some = numpy(marked).any(axis=-1)
    np.testing.assert_allclose(kept[some].sum(axis=-1), 1, rtol=1e-6)


def test_each_row_may_have_its_own_k():
    scores = random(4, 7)
    k = np.array([[1], [4], [9], [0]])
    marked = numpy(top_k_mask(ops.convert_to_tensor(scores), ops.convert_to_tensor(k)))
    assert marked.sum(axis=-1).tolist() == [1, 4, 7, 0]


def test_rows_of_nothing():
    assert top_k_mask(ops.zeros((2, 0)), 3).shape == (2, 0)


@pytest.mark.parametrize(
    ("top_k", "count", "expected"),
    [
        (3, 100, 3),
        (0.1, 10, 1),
        (0.3, 10, 3),  # 0.3 * 10 is 3, but 0.7 * 10 is not 7 in floating point
        (0.7, 10, 7),
        (0.07, 100, 7),
        (1 / 3, 9, 3),
        (0.5, 0, 0),
        (0.5, 7, 4),
        (0.99999, 7, 7),
        (1e-05, 10, 1),
        (1e-05, 300_000, 3),
        (1e-300, 5, 1),
        (0.1234, 3_000_000, 370_200),
        (0.9999, 2_000_000_000, 1_999_800_000),
    ],
)
def test_shares_are_exact_and_rounded_up(top_k, count, expected):
    assert count_of(top_k, count) == expected
    tensor = ops.convert_to_tensor(np.array([[count]], "int32"))
    assert int(numpy(count_of(top_k, tensor) + 0 * tensor)[0, 0]) == expected


@given(st.integers(1, 999), st.integers(1, 1000), st.integers(0, 100_000))
@settings(max_examples=200, deadline=None)
def test_shares_are_the_fractions_they_stand_for(a, b, count):
    if a < b:
        assert count_of(a / b, count) == -(-a * count // b)


@given(rows())
@settings(max_examples=60, deadline=None)
def test_what_is_gathered(case):
    scores, mask, k = case
    marked = top_k_mask(ops.convert_to_tensor(scores), k, mask)
    values = np.arange(1.0, 1 + scores.size, dtype="float32").reshape(*scores.shape, 1)
    k = min(k, scores.shape[1])
    parts, indices = map(numpy, gather_kept(ops.convert_to_tensor(values), marked, k))
    assert parts.shape == (len(scores), k, 1)
    for row, found, at in zip(values[..., 0], parts[..., 0], indices, strict=True):
        some = at >= 0
        assert (found[some] == row[at[some]]).all()
        assert (found[~some] == 0).all()
        assert (np.diff(at[some]) > 0).all()
        assert (np.diff(some.astype(int)) <= 0).all()  # filled up behind
    assert ((indices >= 0).sum(axis=1) == numpy(marked).sum(axis=1)).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_the_smallest_weight_is_kept(dtype):
    weights = ops.convert_to_tensor(np.array([[1.0, 0.0, 0.0]], dtype))
    kept = numpy(keep(weights, ops.convert_to_tensor([[True, True, False]])))
    assert kept[0, 0] == 1
    assert kept[0, 1] > 0
    assert kept[0, 2] == 0


def test_weights_that_float16_rounds_to_zero_are_kept():
    weights = np.linspace(0, 2e-8, 50_000, dtype="float32")[None]
    marked = ops.convert_to_tensor(weights > 1e-8)
    kept = keep(ops.convert_to_tensor(weights), marked, "float16")
    np.testing.assert_array_equal(numpy(kept) > 0, numpy(marked))
    # In proportion to what they were, up to the steps of 6e-8 that float16 has there.
    expected = np.where(weights > 1e-8, weights, 0).astype("float64")
    expected /= expected.sum()
    np.testing.assert_allclose(numpy(kept), expected, rtol=0, atol=6e-8)


def test_the_gradient_is_that_of_the_weights_before_selection():
    weights = np.array([[0.5, 0.3, 0.2]], "float32")
    upstream = np.array([[3.0, 5.0, 7.0]], "float32")
    marked = ops.convert_to_tensor([[True, False, True]])

    def weighted(tensor):
        return keep(tensor, marked) * ops.convert_to_tensor(upstream)

    value, (gradient,) = value_and_gradients(weighted, weights)
    np.testing.assert_allclose(value, [[3 * 0.5 / 0.7, 0, 7 * 0.2 / 0.7]], rtol=1e-6)
    np.testing.assert_array_equal(gradient, upstream)
