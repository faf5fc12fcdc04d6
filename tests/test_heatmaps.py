"""The pictures and numbers of AttentionTensorBoard, without Keras and TensorBoard."""

import io

import matplotlib
import numpy as np
import oracles
import pytest
from PIL import Image

from keras_sam.callbacks import _font, _heatmaps
from keras_sam.callbacks._heatmaps import HeatMap
from keras_sam.callbacks._kinds import KINDS
from keras_sam.callbacks._statistics import summarize
from keras_sam.callbacks._viridis import VIRIDIS
from keras_sam.recording import AttentionDetails

SHAPES = [(1, 1), (1, 5), (5, 1), (3, 7), (17, 13), (64, 64), (101, 53), (256, 3)]


def decode(png):
    return np.asarray(Image.open(io.BytesIO(png)).convert("RGB"))


def page(heat_maps, note=""):
    codes, corners = _heatmaps.page([heat_maps], note)
    return decode(_heatmaps.encode_png(codes)), corners


def softmax_rows(seed, *shape):
    scores = np.random.default_rng(seed).normal(size=shape, scale=2)
    return oracles.softmax(scores).astype("float32")


def color(share):
    level = np.rint(share * (_heatmaps.LEVELS - 1)) / (_heatmaps.LEVELS - 1)
    return VIRIDIS[np.rint(level * 255).astype(int)]


def test_viridis_is_matplotlibs():
    expected = matplotlib.colormaps["viridis"](np.arange(256), bytes=True)[:, :3]
    np.testing.assert_array_equal(VIRIDIS, expected)


def test_the_palette_is_viridis_from_end_to_end():
    np.testing.assert_array_equal(_heatmaps.PALETTE[0], VIRIDIS[0])
    np.testing.assert_array_equal(_heatmaps.PALETTE[_heatmaps.LEVELS - 1], VIRIDIS[255])
    assert not (_heatmaps.PALETTE[_heatmaps.LEVELS :, None] == VIRIDIS).all(-1).any()


@pytest.mark.parametrize("shape", [(1, 1), (3, 11), (40, 7)])
def test_a_png_holds_every_pixel(shape):
    codes = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    pixels = decode(_heatmaps.encode_png(codes))
    np.testing.assert_array_equal(pixels, _heatmaps.PALETTE[codes])


@pytest.mark.parametrize("shape", SHAPES)
def test_every_cell_has_the_color_of_its_weight(shape):
    values = np.random.default_rng(1).uniform(0, 0.3, shape).astype("float32")
    cell = _heatmaps.cell_side(shape)
    pixels, [(top, left)] = page([HeatMap(values)])
    for i, j in np.ndindex(*shape):
        y, x = top + i * cell, left + j * cell
        block = pixels[y : y + cell, x : x + cell]
        assert block.shape == (cell, cell, 3)
        expected = color(values[i, j] / values.max())
        assert np.all(block == expected), f"cell {(i, j)}"


def test_small_maps_have_large_cells_and_large_maps_do_not_explode():
    assert _heatmaps.cell_side((3, 3)) == 32
    assert _heatmaps.cell_side((16, 16)) == 10
    assert _heatmaps.cell_side((64, 64)) == 3
    assert _heatmaps.cell_side((128, 128)) == 1
    for length in range(1, 1500, 37):
        codes, _ = _heatmaps.draw(HeatMap(np.ones((length, length))))
        assert 32 <= codes.shape[0] <= 256


@pytest.mark.parametrize("shape", [(257, 300), (600, 10), (1031, 1031)])
def test_pooling_keeps_a_single_bright_cell(shape):
    values = np.full(shape, 1e-4, "float32")
    i, j = shape[0] - 1, shape[1] // 2
    values[i, j] = 0.5
    step = _heatmaps.pooling(shape)
    codes, top = _heatmaps.draw(HeatMap(values), cell=1)
    assert max(codes.shape) <= 256
    assert top == 0.5
    assert codes[i // step, j // step] == _heatmaps.LEVELS - 1
    assert (codes == _heatmaps.LEVELS - 1).sum() == 1


def test_pooling_hides_only_what_is_masked_altogether():
    allowed = np.tri(512, dtype=bool)
    values = np.where(allowed, np.float32(1 / 512), 0)
    codes, _ = _heatmaps.draw(HeatMap(values, allowed=allowed), cell=1)
    expected = np.where(np.tri(256, dtype=bool), _heatmaps.LEVELS - 1, _heatmaps.MASKED)
    np.testing.assert_array_equal(codes, expected)


def test_masked_cells_are_gray_and_do_not_set_the_scale():
    values = np.array([[0.2, 9.0], [0.1, 0.4]], "float32")
    allowed = np.array([[True, False], [True, True]])
    codes, top = _heatmaps.draw(HeatMap(values, allowed=allowed), cell=1)
    assert top == np.float32(0.4)
    assert codes.tolist() == [[126, _heatmaps.MASKED], [63, _heatmaps.LEVELS - 1]]


@pytest.mark.filterwarnings("error")
def test_odd_values_have_colors_of_their_own():
    values = np.array([[np.nan, np.inf], [0.5, 1.0]], "float32")
    codes, top = _heatmaps.draw(HeatMap(values), cell=1)
    assert top == 1
    assert codes.tolist() == [[_heatmaps.NOT_A_NUMBER] * 2, [126, 251]]
    for value in (0.0, np.nan, 1e-38, 3e38):
        codes, _ = _heatmaps.draw(HeatMap(np.full((2, 3), value, "float32")))
        assert codes.shape == (64, 96)
    _heatmaps.draw(HeatMap(np.ones((2, 2)), allowed=np.zeros((2, 2), bool)))


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 3), (8, 4), (12, 4)]
)
def test_panels_make_about_a_square(count, columns):
    assert _heatmaps.columns_for(count) == columns


def test_no_panel_is_lost_or_overlaps():
    for count in range(1, 18):
        panels = [[HeatMap(np.eye(4, 3) * (n + 1), f"head {n}")] for n in range(count)]
        codes, corners = _heatmaps.page(panels, "rows: queries")
        cell = _heatmaps.cell_side((4, 3))
        assert len(set(corners)) == count
        for top, left in corners:
            shown = codes[top : top + 4 * cell : cell, left : left + 3 * cell : cell]
            np.testing.assert_array_equal(shown, 251 * np.eye(4, 3))
        assert np.all(codes[-1] == _heatmaps.PAPER)
        assert np.all(codes[:, -1] == _heatmaps.PAPER)


def test_the_gray_of_the_legend_shows_when_something_is_masked():
    allowed = np.array([[True, False]])
    with_mask, _ = _heatmaps.page([[HeatMap(np.ones((1, 2)), "", allowed)]], "")
    without, _ = _heatmaps.page([[HeatMap(np.ones((1, 2)))]], "")
    gray = _heatmaps.MASKED
    assert (with_mask == gray).sum() == 32 * 32 + 14 * 14
    assert not (without == gray).any()


def test_letters_differ_and_unknown_ones_are_question_marks():
    known = "0123456789abcdefghijklmnopqrstuvwxyz.,:-/+()#=_'>? "
    drawn = {_font.render(letter).tobytes() for letter in known}
    assert len(drawn) == len(known)
    assert _font.render("a\u4e2d").tobytes() == _font.render("a?").tobytes()
    assert _font.render("Ab").tobytes() == _font.render("ab").tobytes()
    assert _font.render("").shape == (7, 1)
    assert _font.render("ab", scale=3).shape == (21, 39)


def statistics(kind, weights, details, mask=None):
    allowed = KINDS[kind].allowed(weights)
    if mask is not None:
        allowed = np.broadcast_to(mask, weights.shape)
    rows = KINDS[kind].statistics(weights, allowed, details)
    return {name: summarize(*pair) for name, pair in rows.items()}


def places(grid):
    return np.stack(np.unravel_index(np.arange(np.prod(grid)), grid), -1)


PAIRS = {
    "plain": ((7, 7), None, None, None),
    "cross": ((5, 11), None, None, None),
    "causal": ((7, 7), None, None, np.tri(7, dtype=bool)),
    "padding": ((7, 7), None, None, np.outer(np.arange(7) < 5, np.arange(7) < 5)),
    "picture": ((6, 6), (2, 3), (2, 3), None),
    "pictures": ((6, 10), (2, 3), (5, 2), None),
    "volume": ((12, 12), (2, 3, 2), (2, 3, 2), None),
}


@pytest.mark.parametrize("told", [True, False], ids=["mask known", "mask inferred"])
@pytest.mark.parametrize("case", PAIRS)
def test_statistics_of_pairs(case, told):
    shape, query_grid, key_grid, mask = PAIRS[case]
    allowed = np.ones(shape, bool) if mask is None else mask
    weights = softmax_rows(2, 3, 2, *shape) * allowed
    details = AttentionDetails("cross", query_grid, key_grid)
    found = statistics("cross", weights, details, allowed if told else None)
    query, key = places(query_grid or shape[:1]), places(key_grid or shape[1:])
    distances = np.linalg.norm(query[:, None] - key[None], axis=-1)
    expected = np.array(
        [
            [oracles.attention_statistics(head, allowed, distances) for head in example]
            for example in weights
        ]
    )
    for n, name in enumerate(("entropy", "distance", "max")):
        layer, heads = found[name]
        assert layer == pytest.approx(expected[..., n].mean(), rel=1e-5)
        assert heads == pytest.approx(expected[..., n].mean(0), rel=1e-5)


def test_sigmoid_rows_are_divided_by_their_sum():
    weights = np.random.default_rng(3).uniform(size=(2, 3, 5, 5)).astype("float32")
    details = AttentionDetails("self")
    scaled = weights * np.float32([0.1, 1, 7])[:, None, None]
    found, expected = (statistics("self", w, details) for w in (scaled, weights))
    for name in expected:
        assert found[name][0] == pytest.approx(expected[name][0], rel=1e-5)


def test_statistics_of_special_rows():
    uniform = np.full((1, 1, 4, 4), 0.25, "float32")
    one = np.eye(4, dtype="float32")[None, None]
    details = AttentionDetails("self")
    everything = np.ones((4, 4), bool)
    assert statistics("self", uniform, details, everything)["entropy"][0] == 1
    assert statistics("self", one, details, everything)["entropy"][0] == 0
    assert statistics("self", one, details, everything)["distance"][0] == 0
    # Nothing to choose from, and nothing at all.
    assert statistics("self", one, details)["entropy"] == (None, [None])
    assert statistics("self", 0 * one, details)["max"] == (None, [None])
    broken = np.where(everything, np.float32(np.nan), 0)[None, None]
    assert np.isnan(statistics("self", broken, details)["entropy"][0])


def test_no_distance_between_a_sequence_and_a_picture():
    details = AttentionDetails("cross", None, (2, 3))
    found = statistics("cross", softmax_rows(4, 1, 1, 5, 6), details)
    assert set(found) == {"entropy", "max"}


def test_statistics_of_parts():
    weights = softmax_rows(5, 3, 2, 7)
    found = statistics("selective", weights, AttentionDetails("selective"))
    nats = -(weights.astype("float64") * np.log(weights)).sum(-1)
    assert found["entropy"][0] == pytest.approx((nats / np.log(7)).mean(), rel=1e-5)
    assert found["effective_parts"][1] == pytest.approx(
        np.exp(nats).mean(0).tolist(), rel=1e-5
    )
    assert found["max"][0] == pytest.approx(weights.max(-1).mean(), rel=1e-5)
    mask = np.arange(7) < 4
    masked = statistics("selective", weights * mask, AttentionDetails("selective"), mask)
    short = statistics("selective", weights[:, :, :4], AttentionDetails("selective"))
    for name in short:
        assert masked[name][0] == pytest.approx(short[name][0], rel=1e-5)


@pytest.mark.parametrize("kind", ["spatial", "pointwise_spatial", "channel"])
def test_statistics_of_gates(kind):
    channels = 1 if kind == "spatial" else 5
    weights = np.random.default_rng(6).uniform(size=(3, 4, 7, channels))
    found = statistics(kind, weights.astype("float32"), AttentionDetails(kind))
    assert found["mean"][0] == pytest.approx(weights.mean(), rel=1e-5)
    assert found["above_half"][0] == pytest.approx((weights > 0.5).mean(), rel=1e-5)
    largest = weights.max(axis=(1, 2, 3)).mean()
    assert found["max"][0] == pytest.approx(largest, rel=1e-5)
    assert ("entropy" in found) == (kind != "channel")
    if kind != "channel":  # over the places of each map
        shares = weights / weights.sum((1, 2), keepdims=True)
        nats = -(shares * np.log(shares)).sum((1, 2))
        expected = (nats / np.log(28)).mean()
        assert found["entropy"][0] == pytest.approx(expected, rel=1e-5)


KIND_SHAPES = [
    ("self", (2, 5, 5), None, [(5, 5)] * 2),
    ("self", (2, 6, 6), (2, 3), [(6, 6), (2, 3)] * 2),
    ("self", (1, 12, 12), (2, 3, 2), [(12, 12), (3, 4)]),
    ("cross", (2, 5, 11), None, [(5, 11)] * 2),
    ("selective", (3, 7), None, [(3, 7)]),
    ("selective", (2, 6), (2, 3), [(2, 3)] * 2),
    ("spatial", (7, 1), None, [(1, 7)]),
    ("spatial", (4, 7, 1), None, [(4, 7)]),
    ("spatial", (2, 4, 7, 1), None, [(4, 14)]),
    ("pointwise_spatial", (4, 7, 5), None, [(4, 7)]),
    ("channel", (1, 1, 5), None, [(1, 5)]),
]


@pytest.mark.parametrize(("kind", "shape", "grid", "maps"), KIND_SHAPES)
def test_every_kind_draws_its_maps(kind, shape, grid, maps):
    weights = np.random.default_rng(7).uniform(size=shape).astype("float32")
    allowed = KINDS[kind].allowed(weights[None])[0]
    panels = KINDS[kind].panels(weights, allowed, AttentionDetails(kind, grid, grid))
    assert [heat_map.values.shape for panel in panels for heat_map in panel] == maps
    codes, _ = _heatmaps.page(panels, "")
    assert len(np.unique(codes)) > 3


def test_the_map_beside_a_matrix_is_the_mean_over_its_rows():
    weights = softmax_rows(8, 2, 6, 6)
    weights[:, 4:] = 0  # padding does not attend and does not count
    details = AttentionDetails("self", (2, 3), (2, 3))
    allowed = KINDS["self"].allowed(weights[None])[0]
    panels = KINDS["self"].panels(weights, allowed, details)
    for head, (_, received) in enumerate(panels):
        expected = weights[head, :4].mean(0).reshape(2, 3)
        np.testing.assert_allclose(received.values, expected, rtol=1e-6)
