"""Maps of places over the pictures that they belong to, to the pixel."""

import io

import keras
import numpy as np
import pytest
from PIL import Image

from keras_sam.callbacks import AttentionTensorBoard, _heatmaps, _overlays
from keras_sam.callbacks._heatmaps import HeatMap, page


@pytest.mark.parametrize(
    ("picture", "places"),
    [
        ((8, 8), (4, 4)),  # even, as with strides and "same" padding
        ((13, 7), (7, 4)),  # odd: the last place covers half of what the others do
        ((28, 28), (26, 26)),  # what "valid" padding leaves
        ((5, 9), (5, 9)),
        ((3, 5), (11, 7)),  # a map of more places than the picture has pixels
        ((600, 300), (300, 150)),  # several places share a pixel
    ],
)
def test_every_pixel_lies_over_its_place(picture, places):
    """Each pixel that is drawn shows the picture where the place is, nowhere else."""
    height, width = picture
    rows = np.repeat(np.arange(height)[:, None], width, axis=1)
    columns = np.repeat(np.arange(width)[None], height, axis=0)
    drawn, _ = _heatmaps.draw(HeatMap(np.ones(places)))
    below = _overlays.under(rows, places), _overlays.under(columns, places)
    step = _heatmaps.pooling(places)
    cell = _heatmaps.cell_side([-(-size // step) for size in places])
    for axis in (0, 1):
        assert below[axis].shape == drawn.shape
        along = below[axis].take(0, axis=1 - axis)
        # Down to the last pixels: no more of them are left than share one that is drawn.
        assert picture[axis] - 1 - along[-1] < max(1, picture[axis] / len(along))
        for pixel, found in enumerate(along):
            center = (pixel + 0.5) / cell * step  # in places
            place = min(center, places[axis] - 1e-6)
            first = place * picture[axis] / places[axis]
            assert found == int(first)


def test_half_map_and_half_picture():
    heat_map = HeatMap(np.array([[0.0, 1.0, 0.5]]))
    panels = _overlays.beside([[heat_map]])
    codes, corners = page(panels, "places of the input")
    picture = np.array([[0.0, 0.0, 1.0]])
    found = _overlays.blend(codes, corners, panels, picture)
    (top, left), (over_top, over_left) = corners
    colors = _heatmaps.PALETTE[[0, _heatmaps.LEVELS - 1, round(0.5 * 251)]].astype(float)
    cell = _heatmaps.cell_side((1, 3))
    for place in range(3):
        at = slice(place * cell, (place + 1) * cell)
        itself = found[top : top + cell, left:][:, at]
        over = found[over_top : over_top + cell, over_left:][:, at]
        assert (itself == colors[place]).all()
        assert (over == np.rint((colors[place] + 255 * picture[0, place]) / 2)).all()
    # The rest of the page is as it was.
    outside = np.ones(codes.shape, bool)
    outside[over_top : over_top + cell, over_left : over_left + 3 * cell] = False
    assert (found[outside] == _heatmaps.PALETTE[codes][outside]).all()


def test_which_inputs_are_pictures():
    gray = np.random.default_rng(0).normal(size=(2, 5, 7, 1)).astype("float32")
    found = _overlays.gray_pictures([np.ones((2, 5)), gray])
    assert found.shape == (2, 5, 7)
    assert (found.min((1, 2)) == 0).all()
    assert (found.max((1, 2)) == 1).all()
    order = found[0].argsort(axis=None)
    assert (order == gray[0].argsort(axis=None)).all()
    np.testing.assert_array_equal(_overlays.gray_pictures(np.moveaxis(gray, -1, 1)), found)
    transparent = np.concatenate([gray, gray, gray, 9 * gray[::-1]], axis=-1)
    np.testing.assert_allclose(
        _overlays.gray_pictures({"x": transparent}), found, atol=1e-6
    )
    assert (_overlays.gray_pictures(np.ones((2, 3, 3, 3))) == 0).all()  # of one color
    for other in (np.ones((2, 5, 3)), np.ones((2, 5, 7, 6))):
        assert _overlays.gray_pictures(other) is None


@pytest.mark.tensorflow
def test_written_by_the_callback(tmp_path):
    """A PNG in color with map and overlay for places of pictures; a plain one otherwise."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from keras_sam.layers import CBAM, SpatialAttention

    inputs = keras.Input((9, 7, 1))
    x = keras.layers.Conv2D(4, 3, strides=2, padding="same")(inputs)
    x = CBAM(reduction=2, name="both")(x)
    x = keras.layers.Reshape((20, 4))(x)
    model = keras.Model(inputs, SpatialAttention(3, name="steps")(x))
    pictures = np.random.default_rng(0).random((2, 9, 7, 1)).astype("float32")
    watch = AttentionTensorBoard(tmp_path, pictures)
    watch.write(model, step=0)
    watch.close()
    events = EventAccumulator(str(tmp_path / "attention"), {"tensors": 0, "scalars": 0})
    events.Reload()
    modes = {}
    for tag in events.Tags()["tensors"]:
        if not tag.endswith("image"):
            continue
        width, height, *pngs = events.Tensors(tag)[0].tensor_proto.string_val
        assert len(pngs) == 2
        image = Image.open(io.BytesIO(pngs[0]))
        assert image.size == (int(width), int(height))
        modes[tag.removesuffix("/attention/image")] = image.mode
    assert modes == {
        "both/spatial_attention": "RGB",
        "both/channel_attention": "P",
        "steps": "P",
    }
    for statistic in ("mean", "entropy", "above_half"):
        assert f"epoch_attention_{statistic}/both/spatial_attention" in (
            events.Tags()["tensors"] + events.Tags()["scalars"]
        )
