"""The pictures of AttentionTensorBoard, without Keras and TensorBoard."""

import io

import numpy as np
import oracles
import pytest
from PIL import Image

from keras_sam.callbacks import _colors, _fonts, _heatmaps, _pages, _panels
from keras_sam.callbacks._colors import Multiples, Range
from keras_sam.callbacks._heatmaps import Axis, HeatMap
from keras_sam.callbacks._survey import survey
from keras_sam_viewer.layers import Layer

SHAPES = [(1, 1), (1, 5), (5, 1), (3, 7), (17, 13), (64, 64), (101, 53), (256, 3)]


def softmax_rows(*shape, allowed=None, scale=2):
    scores = np.random.default_rng(0).normal(size=shape, scale=scale)
    if allowed is None:
        return oracles.softmax(scores).astype("float32")
    weights = oracles.softmax(np.where(allowed, scores, -1e9)) * allowed
    return weights.astype("float32")


def draw(layer, **kwargs):
    page = _panels.page(layer, survey(layer, 1, _heatmaps.LARGEST_SIDE), 0, **kwargs)
    pixels, corners = _pages.draw(page)
    maps = [heat_map for panel in page.panels for heat_map in panel]
    return pixels, corners, maps, page


# Colors.


def lightness(colors):
    linear = (colors / 255.0) ** 2.2
    return linear @ [0.2126, 0.7152, 0.0722]


def test_the_ramp_gets_darker_all_the_way():
    ramp = _colors.PALETTE[: _colors.LEVELS].astype(float)
    assert (np.diff(lightness(ramp)) < 1e-9).all()
    assert ramp[0].tolist() == [255, 255, 255]
    assert ramp[-1].tolist() == [0x19, 0x0B, 0x3D]


@pytest.mark.parametrize(
    ("keys", "top", "ticks"),
    [
        (1, 2, ["1/8x", "1x", "2x"]),
        (7, 8, ["1/8x", "1x", "8x"]),
        (64, 64, ["1/8x", "1x", "4x", "16x", "64x"]),
        (300, 256, ["1/8x", "1x", "4x", "16x", "64x", "256x+"]),
    ],
)
def test_uniform_attention_has_the_same_color_whatever_the_keys(keys, top, ticks):
    scale = Multiples(keys)
    found = scale.positions(np.float32([0, 1 / 8, 1, top, 9999]))
    np.testing.assert_allclose(found, [0, 0, 0.16, 1, 1], atol=1e-6)
    assert [text for _, text in scale.ticks()] == ticks


def test_a_range_says_its_ends():
    scale = Range(0.43, 0.5)
    np.testing.assert_allclose(scale.positions(np.array([0.43, 0.465, 0.5])), [0, 0.5, 1])
    assert scale.ticks() == [(0.0, "0.430"), (1.0, "0.500")]
    assert (Range(2.0, 2.0).positions(np.ones(3)) == 0.5).all()


@pytest.mark.parametrize(
    ("value", "text"), [(1, "1"), (0.5, "0.500"), (0.0123456, "0.0123"), (0, "0")]
)
def test_numbers_are_short(value, text):
    assert _colors.number(value) == text


# Cells.


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("square", [False, True])
def test_every_cell_has_the_color_of_its_weight(shape, square):
    values = np.random.default_rng(1).uniform(0, 4, shape).astype("float32")
    scale = Multiples(13)
    heat_map = HeatMap(values, scale, rows=Axis(), columns=Axis(), square=square)
    image, (top, left) = _heatmaps.draw(heat_map)
    height, width = _heatmaps.cells(heat_map)
    assert not square or height == width
    expected = np.rint(scale.positions(values) * (_colors.LEVELS - 1))
    shown = image[top:, left:][: shape[0] * height, : shape[1] * width]
    np.testing.assert_array_equal(shown, np.kron(expected, np.ones((height, width))))


def test_odd_values_have_colors_of_their_own():
    values = np.array([[np.nan, np.inf, -1.0], [0.5, 1.0, 0.0]], "float32")
    codes = _colors.codes(values, values >= 0, Multiples(2))
    assert codes[0].tolist() == [_colors.MASKED, _colors.NOT_A_NUMBER, _colors.MASKED]
    codes = _colors.codes(values, None, Multiples(2))
    assert codes[0, :2].tolist() == [_colors.NOT_A_NUMBER] * 2


def test_masked_cells_are_hatched():
    allowed = np.array([[True, False]])
    image, _ = _heatmaps.draw(HeatMap(np.ones((1, 2)), Multiples(2), allowed=allowed))
    assert (image == _colors.HATCH).sum() > 40
    assert (image == _colors.MASKED).sum() > 4 * (image == _colors.HATCH).sum()


def test_labels_stand_beside_small_maps_and_numbers_beside_large_ones():
    for length, labels in ((7, True), (26, True), (27, False), (200, False)):
        words = Axis(tuple(f"word{n}" for n in range(length)))
        plain, _ = _heatmaps.draw(HeatMap(np.ones((length, 5)), Multiples(5), rows=Axis()))
        image, _ = _heatmaps.draw(HeatMap(np.ones((length, 5)), Multiples(5), rows=words))
        assert (image.shape[1] > plain.shape[1]) == labels


@pytest.mark.parametrize(
    ("token", "shown"), [("a", "a"), ("\n", "\\n"), (" a", "' a'"), ("", "''")]
)
def test_white_space_is_visible(token, shown):
    assert _heatmaps.visible(token) == shown


@pytest.mark.parametrize("text", ["head 0", "Straße", "你好", "🙂", "", "a\u0301"])
def test_any_letters_can_be_drawn(text):
    mask = _fonts.draw(text, 11, 60)
    assert mask.shape[0] == _fonts.draw("head", 11).shape[0]
    assert mask.shape[1] <= 62
    assert mask.any() == bool(text)


def test_long_words_end_with_dots():
    assert _fonts.draw("a" * 99, 11, 60).shape[1] <= 62


# Pages.


def test_a_late_row_of_a_long_causal_map_has_many_colors():
    allowed = np.tri(512, dtype=bool)[None, None]
    weights = softmax_rows(1, 4, 512, 512, allowed=allowed)
    pixels, corners, _, _ = draw(Layer("a", "self", weights, allowed))
    for top, left in corners:
        row = pixels[top + 192, left : left + 190]  # row 384 of 512, two to a cell
        assert len(np.unique(row)) >= 50


def test_colors_are_those_of_multiples_of_uniform():
    allowed = np.tri(6, dtype=bool)[None, None]
    weights = softmax_rows(1, 2, 6, 6, allowed=allowed)
    pixels, corners, maps, page = draw(Layer("a", "self", weights, allowed))
    for head, ((top, left), heat_map) in enumerate(zip(corners, maps, strict=True)):
        height, width = _heatmaps.cells(heat_map)
        multiples = weights[0, head] * np.arange(1, 7)[:, None]
        codes = np.rint(Multiples(6).positions(multiples) * (_colors.LEVELS - 1))
        shown = pixels[top + 1 :: height, left + 1 :: width][:6, :6]
        np.testing.assert_array_equal(shown[np.tri(6) > 0], codes[np.tri(6) > 0])
        # The first row, with one key, is left out of the maximum.
        inner = weights[0, head, 1:]
        assert f"max {_colors.number(inner.max())}," in heat_map.caption
    assert page.legends[0][1] == Multiples(6)


def test_padding_is_cropped_and_said():
    allowed = np.outer(np.arange(40) < 7, np.arange(40) < 7)[None, None]
    layer = Layer("a", "self", softmax_rows(1, 2, 40, 40, allowed=allowed), allowed)
    words = ["the", "cat", "sat", "on", "the", "mat", "."]
    _, _, maps, page = draw(layer, labels=(words, words))
    assert [heat_map.values.shape for heat_map in maps] == [(7, 7)] * 2
    assert maps[0].rows.labels == tuple(words)
    assert "40 x 40, 7 x 7 shown" in page.note


def test_an_example_that_is_padding_alone_is_drawn():
    allowed = np.zeros((1, 1, 5, 5), bool)
    pixels, _, _, _ = draw(Layer("a", "self", np.zeros((1, 2, 5, 5), "float32"), allowed))
    assert (pixels == _colors.HATCH).any()


def test_large_maps_keep_a_single_strong_cell():
    weights = np.full((1, 1, 600, 300), 1e-4, "float32")
    weights[0, 0, 599, 150] = 0.97
    pixels, [(top, left)], [heat_map], page = draw(Layer("a", "cross", weights))
    assert heat_map.steps == (3, 2)
    assert "3 x 2 weights share a cell" in page.note
    strong = pixels[top + 199, left + 75]
    assert strong == _colors.LEVELS - 1
    assert (heat_map.values > 200).sum() == 1


KINDS = [
    ("self", (1, 2, 5, 5), None, [(5, 5)] * 2),
    ("self", (1, 2, 6, 6), (2, 3), [(6, 6), (2, 3)] * 2),
    ("self", (1, 1, 12, 12), (2, 3, 2), [(12, 12), (3, 4)]),
    ("cross", (1, 2, 5, 11), None, [(5, 11)] * 2),
    ("selective", (1, 3, 7), None, [(3, 7)]),
    ("selective", (1, 2, 6), (2, 3), [(2, 3)] * 2),
    ("spatial", (1, 7, 1), None, [(1, 7)] * 2),
    ("spatial", (1, 4, 7, 1), None, [(4, 7)] * 2),
    ("spatial", (1, 2, 4, 7, 1), None, [(4, 14)] * 2),
    ("pointwise_spatial", (1, 4, 7, 5), None, [(4, 7)] * 2),
    ("channel", (1, 1, 1, 5), None, [(1, 5)] * 2),
]


@pytest.mark.parametrize(("kind", "shape", "grid", "expected"), KINDS)
@pytest.mark.parametrize("value", [None, np.nan, np.inf, 0.0])
def test_every_kind_is_drawn_whatever_its_weights(kind, shape, grid, expected, value):
    weights = softmax_rows(*shape)
    if value is not None:
        weights[0] = value
    layer = Layer("a", kind, weights, None, grid, grid, only_numbers=False)
    pixels, corners, maps, _ = draw(layer)
    assert [heat_map.values.shape for heat_map in maps] == expected
    assert len(set(corners)) == len(maps)
    is_odd = value is not None and not np.isfinite(value)
    assert (pixels == _colors.NOT_A_NUMBER).any() == is_odd
    image = Image.open(io.BytesIO(_pages.encode_png(pixels))).convert("RGB")
    np.testing.assert_array_equal(np.asarray(image), _colors.PALETTE[pixels])


def test_gates_are_drawn_from_0_to_1_and_between_their_own_ends():
    gate = np.linspace(0.43, 0.5, 12, dtype="float32").reshape(1, 3, 4, 1)
    _, _, maps, page = draw(Layer("a", "spatial", gate))
    assert [scale for _, scale in page.legends] == [m.scale for m in maps]
    assert maps[0].scale == Range(0, 1)
    assert maps[1].scale.ticks() == [(0.0, "0.430"), (1.0, "0.500")]
    assert maps[1].title == "0.430 to 0.500"
    # Near one half, the fixed scale shows hardly any difference.
    codes = _colors.codes(maps[0].values, None, maps[0].scale)
    assert np.ptp(codes.astype(int)) < 0.1 * _colors.LEVELS


def test_what_a_position_receives_is_the_mean_over_the_queries():
    allowed = np.ones((1, 1, 6, 6), bool)
    allowed[..., 4:, :] = False  # these queries do not attend
    weights = softmax_rows(1, 2, 6, 6, allowed=allowed)
    _, _, maps, _ = draw(Layer("a", "self", weights, allowed, (2, 3), (2, 3)))
    for head, received in enumerate(maps[1::2]):
        expected = 6 * weights[0, head, :4].mean(0).reshape(2, 3)
        np.testing.assert_allclose(received.values, expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("count", "columns"), [(1, 1), (2, 2), (3, 3), (4, 2), (6, 3), (8, 4), (12, 4)]
)
def test_panels_make_about_a_square(count, columns):
    assert _pages.columns_for(count) == columns


# Over pictures.


@pytest.mark.parametrize(
    ("picture", "positions"),
    [
        ((8, 8), (4, 4)),  # even, as with strides and "same" padding
        ((13, 7), (7, 4)),  # odd: the last position covers half of what the others do
        ((28, 28), (26, 26)),  # what "valid" padding leaves
        ((3, 5), (11, 7)),  # a map of more positions than the picture has pixels
        ((600, 300), (300, 150)),  # several positions share a cell
    ],
)
def test_every_pixel_lies_over_its_position(picture, positions):
    numbers = np.stack(np.indices(picture), -1)
    steps = tuple(-(-n // 256) for n in positions)
    cells = tuple(-(-n // step) for n, step in zip(positions, steps, strict=True))
    heat_map = HeatMap(
        np.ones(cells), Range(), square=True, steps=steps, size=positions, picture=numbers
    )
    drawn = _heatmaps.draw_cells(heat_map)
    below = _pages.under(heat_map, drawn.shape)
    assert below.shape[:2] == drawn.shape
    cell = _heatmaps.cells(heat_map)[0]
    for axis in (0, 1):
        along = below[..., axis].take(0, axis=1 - axis)
        for pixel, found in enumerate(along):
            center = (pixel + 0.5) / cell * steps[axis]  # in positions
            first = min(center, positions[axis] - 1e-6) * picture[axis] / positions[axis]
            assert found == int(first)


def test_a_veil_is_clear_where_weight_is():
    weights = np.full((1, 1, 4), 0.01, "float32")
    weights[..., 2] = 0.97
    layer = Layer("a", "selective", weights, None, (2, 2), (2, 2))
    pixels, corners, maps, _ = draw(layer, picture=np.zeros((8, 8, 3)))
    (top, left), cell = corners[1], _heatmaps.cells(maps[1])[0]
    assert pixels.ndim == 3
    shown = pixels[top + cell // 2 :: cell, left + cell // 2 :: cell][:2, :2]
    assert (shown[1, 0] < 20).all()  # the black picture
    assert (np.delete(shown.reshape(4, 3), 2, 0) > 150).all()
