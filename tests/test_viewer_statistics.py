"""The statistics of the viewer against float64 and plain loops, by blocks of any size."""

import math

import numpy as np
import pytest
import viewer_oracle as oracle
from viewer_runs import causal_layers, long_layers, softmax, translating_layers

from keras_sam_viewer import codes, statistics
from keras_sam_viewer.layers import Extent, Layer
from keras_sam_viewer.statistics import STATISTICS, Rows, blocks, pair_statistics
from keras_sam_viewer.steps import encode_layer

GENERATOR = np.random.default_rng(0)


def case(shape, allowed=None, is_self=True, query_grid=None, key_grid=None, sparse=False):
    weights = softmax(GENERATOR.normal(size=shape, scale=2), allowed)
    if sparse:
        weights = np.where(weights > 0.2, weights, 0).astype("f4")
    return weights, allowed, is_self, query_grid, key_grid


H, T, S = 3, 11, 7
CASES = {
    "self": case((H, T, T)),
    "causal": case((H, T, T), np.tri(T, dtype=bool)[None]),
    "window": case((H, T, T), (np.tri(T) * np.tri(T, k=2).T > 0)[None]),
    "padding": case(
        (H, T, T), (np.arange(T) < 5)[None, None] & (np.arange(T) < 5)[:, None]
    ),
    "a mask for each head": case((H, T, T), GENERATOR.random((H, T, T)) < 0.6),
    "cross": case((H, T, S), is_self=False),
    "grids": case((H, 12, 6), None, False, (3, 4), (2, 3)),
    "self over a grid": case((H, 12, 12), None, True, (3, 4), (3, 4)),
    "sequence over a grid": case((H, T, 6), None, False, None, (2, 3)),
    "sigmoid": (GENERATOR.random((H, T, T)).astype("f4"), None, True, None, None),
    "sparse": case((H, T, T), np.tri(T, dtype=bool)[None], sparse=True),
    "one head": case((1, T, T)),
    "one key": case((H, T, 1), is_self=False),
    "nothing": (np.zeros((H, T, T), "f4"), None, True, None, None),
}


@pytest.mark.parametrize("size", [1, 80, 10**6], ids=["rows", "blocks", "whole"])
@pytest.mark.parametrize("name", CASES)
def test_statistics(name, size):
    weights, allowed, is_self, query_grid, key_grid = CASES[name]
    found = pair_statistics(
        blocks(weights, allowed, size),
        weights.shape,
        is_self=is_self,
        query_grid=query_grid,
        key_grid=key_grid,
    )
    every = np.broadcast_to(True if allowed is None else allowed, weights.shape)
    each = [
        oracle.pair_statistics(w, a, is_self, query_grid, key_grid)
        for w, a in zip(weights, every, strict=True)
    ]
    twins = oracle.twins([normal for _, normal in each])
    for head, (expected, _) in enumerate(each):
        expected = {**expected, "twin": twins[head][0], "twin_difference": twins[head][1]}
        for statistic in STATISTICS:
            value = found[statistic][head]
            wanted = expected.get(statistic, math.nan)
            np.testing.assert_allclose(
                value, wanted, rtol=3e-6, atol=1e-7, err_msg=statistic
            )


def test_what_collapses_is_seen():
    """Heads of causal attention that look at one key, at the one before, and alike."""
    layers = causal_layers(1.0, 3, 4, 96)
    extents = [Extent.of(layer) for layer in layers]
    found = [
        dict(zip(STATISTICS, encode_layer(*pair).statistics[0].T, strict=True))
        for pair in zip(layers, extents, strict=True)
    ]
    assert found[1]["previous"][1] > 0.5
    assert found[1]["twin"][3] == 2
    assert found[1]["twin_difference"][2] < 1e-6
    assert found[2]["top_key"][0] == 5
    assert found[2]["top_key_share"][0] > 0.5
    flat = encode_layer(causal_layers(0.0, 1, 4, 96)[0], extents[0]).statistics[0]
    assert (flat[:, STATISTICS.index("entropy")] > 0.98).all()


def test_the_last_keys_of_causal_attention_are_no_collapse():
    """Hardly any query may see them, so what these give is no share of the whole."""
    weights = np.eye(9, k=-1, dtype="f4")[None]
    weights[:, 0, 0] = 1
    rows = blocks(weights, np.tri(9, dtype=bool)[None])
    assert pair_statistics(rows, weights.shape, is_self=True)["top_key_share"][0] <= 0.25


def test_one_row_with_one_key_changes_nothing():
    """It is always 1, and would hide what the others do."""
    weights, allowed, *_ = CASES["causal"]
    found = pair_statistics(blocks(weights, allowed), weights.shape, is_self=True)
    later = Rows(1, weights[:, 1:], np.broadcast_to(allowed, weights.shape)[:1, 1:])
    again = pair_statistics([later], weights.shape, is_self=True)
    for name in STATISTICS:
        np.testing.assert_allclose(found[name], again[name], rtol=1e-6)


@pytest.mark.parametrize("stride", [1, 3])
def test_twins_on_some_rows(stride, monkeypatch):
    weights, allowed, *_ = CASES["self"]
    monkeypatch.setattr(statistics, "_COMPARED", -(-T * T // stride))
    found = pair_statistics(blocks(weights, allowed, 80), weights.shape, is_self=True)
    every = np.ones((T, T), bool)
    normals = [oracle.pair_statistics(w, every, True)[1] for w in weights]
    chosen = [{t: n[t] for t in range(0, T, stride)} for n in normals]
    expected = [difference for _, difference in oracle.twins(chosen)]
    np.testing.assert_allclose(found["twin_difference"], expected, rtol=1e-5)


def test_gates():
    gate = GENERATOR.random((4, 5)).astype("f4")
    found = statistics.gate_statistics(gate)
    shares = gate.ravel() / gate.sum()
    expected = {
        "mean": gate.mean(),
        "above_half": (gate > 0.5).mean(),
        "low": gate.min(),
        "high": gate.max(),
        "entropy": oracle.entropy(shares) / math.log(20),
    }
    for name in STATISTICS:
        wanted = expected.get(name, math.nan)
        np.testing.assert_allclose(found[name][0], wanted, rtol=1e-5)
    assert np.isnan(statistics.gate_statistics(gate, is_map=False)["entropy"][0])


def test_parts():
    weights = softmax(GENERATOR.normal(size=(2, 1, 9)))[:, 0]
    allowed = (np.arange(9) < 6)[None]
    weights = np.where(allowed, weights, 0)
    found = statistics.part_statistics(weights, allowed)
    for head in range(2):
        shares = weights[head] / weights[head].sum()
        np.testing.assert_allclose(
            found["entropy"][head], oracle.entropy(shares) / math.log(6), rtol=1e-5
        )
        used = math.exp(oracle.entropy(shares))
        np.testing.assert_allclose(found["keys_used"][head], used, rtol=1e-5)
        np.testing.assert_allclose(found["top_key_share"][head], shares.max(), rtol=1e-5)
    assert np.isnan(found["self"]).all()


def test_extents():
    read, write, align = map(Extent.of, translating_layers(0.5))
    assert read == Extent((5, 3), (5, 3))
    assert write == Extent((27, 20), (27, 20), causal=True)
    assert align == Extent((27, 20), (5, 3))
    everything = Layer("a", "self", np.ones((1, 1, 4, 4), "f4"))
    assert Extent.of(everything) == Extent((4,), (4,))
    nothing = Layer("a", "self", np.ones((1, 1, 4, 4), "f4"), np.zeros((1, 1, 1, 1), bool))
    assert Extent.of(nothing) == Extent((0,), (0,))


@pytest.mark.parametrize("length", [7, 32, 33, 100])
def test_thumbnails_are_maxima(length):
    (layer,) = causal_layers(0.5, 1, 2, length)
    found = encode_layer(layer, Extent.of(layer)).thumbnails[0]
    stride = -(-length // 32)
    multiples = layer.weights[0] * np.arange(1, length + 1)[:, None]
    multiples = np.where(np.tri(length, dtype=bool), multiples, -1)
    cells = -(-length // stride)
    for head, i, j in np.ndindex(2, cells, cells):
        rows, keys = (slice(n * stride, (n + 1) * stride) for n in (i, j))
        expected = codes.encode_octaves(multiples[head, rows, keys].max().astype("f4"))
        assert abs(int(found[head, i, j]) - int(expected)) <= 1


def test_long_maps_keep_rows_the_strongest_and_an_overview():
    (layer,) = long_layers(0.8, 1100)
    of_layer = encode_layer(layer, Extent.of(layer))
    attributes, arrays = of_layer.maps[0]
    assert attributes == {"code": "sparse", "levels": 255, "stride": 3}
    weights = layer.weights[0]
    rows = arrays["rows"]
    assert (rows[0], rows[-1], len(rows)) == (0, 1099, 64)
    exact = codes.decode_roots(arrays["row_largest"], arrays["row_codes"])
    np.testing.assert_allclose(exact, weights[:, rows], atol=0.005)
    top = np.sort(weights, axis=-1)[..., :-17:-1]
    np.testing.assert_array_equal(arrays["top_weights"], top)
    kept = np.take_along_axis(weights, arrays["top_keys"].astype(int), -1)
    np.testing.assert_array_equal(kept, top)
    np.testing.assert_allclose(arrays["received"], weights.sum(1), rtol=1e-5)
    assert arrays["overview"].shape == (2, 367, 367)
    assert (arrays["overview"][:, 0, 1:] == 0).all()
    np.testing.assert_array_equal(arrays["keys"][0], np.arange(1, 1101))


def test_rows_on_demand_are_read_once():
    asked = []

    class OnDemand:
        shape = (1, 2, 50, 50)

        def rows(self, start, stop):
            asked.append((start, stop))
            return whole.weights[:, :, start:stop]

    (whole,) = causal_layers(0.5, 1, 2, 50)
    lazy = Layer("a", "self", OnDemand(), whole.allowed)
    found, expected = (encode_layer(layer, Extent.of(whole)) for layer in (lazy, whole))
    assert [start for start, _ in asked] == [0]
    np.testing.assert_allclose(found.statistics, expected.statistics, rtol=1e-6)
    np.testing.assert_array_equal(found.thumbnails, expected.thumbnails)
