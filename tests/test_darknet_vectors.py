"""The reference vectors that the real Darknet made, layer by layer and end to end."""

import pathlib

import keras
import numpy as np
import pytest

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

VECTORS = pathlib.Path(__file__).parent / "data" / "darknet"
FOLDERS = sorted(path.name for path in VECTORS.iterdir() if path.is_dir())


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
    _, recorded, model = network
    outputs = darknet.layer_outputs(model)(recorded["input"], training=False)
    assert [*outputs] == [spec.name for spec in model.plan.layers]
    for (name, output), expected in zip(outputs.items(), recorded["layers"], strict=True):
        np.testing.assert_allclose(output, expected, rtol=1e-4, atol=2e-4, err_msg=name)


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
        np.testing.assert_allclose(
            output, values[spec.index], rtol=0, atol=2e-5, err_msg=spec.name
        )


def test_outputs_are_the_heads(network):
    _, recorded, model = network
    outputs = keras.tree.flatten(model(recorded["input"], training=False))
    kinds = recorded["layer_types"]
    heads = np.flatnonzero(kinds == "yolo") if "yolo" in kinds else [len(kinds) - 1]
    for output, index in zip(outputs, heads, strict=True):
        np.testing.assert_allclose(output, recorded["layers"][index], rtol=1e-4, atol=2e-4)


def test_weights_come_back_byte_for_byte(network, tmp_path):
    folder, recorded, model = network
    written = tmp_path / "again.weights"
    darknet.write_weights(model, written)
    assert written.read_bytes() == (folder / "model.weights").read_bytes()
    header = darknet.read_weights(written, folder / "model.cfg").header
    assert header == darknet.Header(0, 2, 5, int(recorded["seen"]))
