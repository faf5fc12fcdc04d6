"""The reference vectors that the real Darknet made, layer by layer and end to end."""

import pathlib

import keras
import numpy as np
import pytest

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

VECTORS = pathlib.Path(__file__).parent / "data" / "darknet"
FOLDERS = sorted(path.parent.name for path in VECTORS.glob("*/model.cfg"))
# Rounding of deep networks, and of values up to 50, shows in these.
DEEP = ("sam_head_spp", "yolo_two_heads", "sam_reorg_fusion")
HEADS = ("yolo", "Gaussian_yolo", "region", "detection")


def channels_last(array):
    return np.transpose(array, (1, 2, 0))[None]


@pytest.fixture(scope="module", params=FOLDERS)
def network(request):
    """One folder: its path, its arrays (channels last) and its model."""
    folder = VECTORS / request.param
    with np.load(folder / "vectors.npz") as arrays:
        recorded = {name: arrays[name] for name in arrays.files}
    layers = [
        channels_last(recorded[f"layer_{index:03d}"])
        for index in range(len(recorded["layer_types"]))
    ]
    recorded |= {"layers": layers, "input": channels_last(recorded["input"])}
    model = darknet.load_model(folder / "model.cfg", folder / "model.weights")
    return folder, recorded, model


def test_every_layer_is_there(network):
    _, recorded, model = network
    names = [spec.name for spec in model.plan.layers]
    kinds = recorded["layer_types"].tolist()
    assert names == [f"{index:03d}_{kind}" for index, kind in enumerate(kinds)]
    shapes = [spec.shape for spec in model.plan.layers]
    assert shapes == [(h, w, c) for c, h, w in recorded["layer_shapes"].tolist()]
    assert {*names} <= {layer.name for layer in model.layers}


def test_end_to_end(network):
    folder, recorded, model = network
    atol = 2e-4 if folder.name in DEEP else 2e-5
    outputs = darknet.layer_outputs(model)(recorded["input"], training=False)
    assert [*outputs] == [spec.name for spec in model.plan.layers]
    for (name, output), expected in zip(outputs.items(), recorded["layers"], strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=atol, err_msg=name)


def test_layer_by_layer(network):
    _, recorded, model = network
    symbols = {-1: model.input} | {
        spec.index: model.get_layer(spec.name).output for spec in model.plan.layers
    }
    values = {-1: recorded["input"], **dict(enumerate(recorded["layers"]))}
    for spec in model.plan.layers:
        sources = sorted({*spec.sources})
        layer = keras.Model([symbols[source] for source in sources], symbols[spec.index])
        output = layer([values[source] for source in sources], training=False)
        # "build" is in the second set, whose values go to 50.
        rtol = 1e-4 if "build" in recorded else 0
        np.testing.assert_allclose(
            output, values[spec.index], rtol=rtol, atol=2e-5, err_msg=spec.name
        )


def test_outputs_are_the_heads(network):
    _, recorded, model = network
    outputs = keras.tree.flatten(model(recorded["input"], training=False))
    kinds = recorded["layer_types"]
    heads = [index for index, kind in enumerate(kinds) if kind in HEADS]
    heads = heads or [len(kinds) - 1]
    for output, index in zip(outputs, heads, strict=True):
        np.testing.assert_allclose(output, recorded["layers"][index], rtol=1e-4, atol=2e-4)


def test_weights_come_back_byte_for_byte(network, tmp_path):
    folder, recorded, model = network
    written = tmp_path / "again.weights"
    darknet.write_weights(model, written)
    assert written.read_bytes() == (folder / "model.weights").read_bytes()
    header = darknet.read_weights(written, folder / "model.cfg").header
    revision = 0 if recorded.get("build") == "pjreddie" else 5
    assert header == darknet.Header(0, 2, revision, int(recorded["seen"]))


def test_region_of_pjreddie():
    """The other Darknet applies the logistic to x and y in the layer."""
    with np.load(VECTORS / "yolov2_region_reorg" / "vectors.npz") as arrays:
        ours = arrays["layer_015"].reshape(3, 8, -1)[:, :2]
        theirs = arrays["pjreddie_layer_015"].reshape(3, 8, -1)[:, :2]
    np.testing.assert_allclose(keras.ops.sigmoid(ours), theirs, atol=2e-6)
