"""Weight files that do not hold the whole network, and nothing else."""

import dataclasses
import json
import logging
import pathlib

import numpy as np
import pytest

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

FOLDER = pathlib.Path(__file__).parent / "data" / "darknet" / "partial"
CASES = json.loads((FOLDER / "cases.json").read_text())
FULL, CUT = FOLDER / "full.cfg", FOLDER / "cut.conv.6"


def arrays_of(model):
    """All arrays by the names of the reference files."""
    return {
        f"layer_{index:03d}_{name}": array
        for index, arrays in model.to_darknet_weights().layers.items()
        for name, array in arrays.items()
    }


@pytest.mark.parametrize("name", CASES)
def test_case(name, caplog):
    """Every array holds what the real Darknet loaded, or what it began with."""
    case = CASES[name]
    cfg, weights = FOLDER / case["cfg"], FOLDER / case["weights"]
    model = darknet.build_model(cfg)
    before = arrays_of(model)
    with caplog.at_level(logging.WARNING, logger="keras_sam.darknet"):
        loaded = darknet.read_weights(weights, cfg, partial=True, cutoff=case["cutoff"])
        darknet.build_model(cfg, weights, partial=True, cutoff=case["cutoff"])
    model.assign_darknet_weights(loaded)
    after = arrays_of(model)
    with np.load(FOLDER / f"{name}.npz") as recorded:
        expected = {key: recorded[key] for key in recorded.files if key in after}
    assert expected.keys() == after.keys() == case["arrays"].keys()
    for key, array in expected.items():
        untouched = np.isnan(array)
        np.testing.assert_array_equal(
            after[key], np.where(untouched, before[key], array), err_msg=key
        )
        # The notices name every layer that was not touched, or not wholly.
        layer = f"{int(key[6:9]):03d}_convolutional"
        if case["arrays"][key] in ("untouched", "part"):
            assert layer in caplog.text or "dontload" in caplog.text, key


@pytest.mark.parametrize("name", ["full_file_more_classes", "full_file_fewer_classes"])
def test_other_classes_are_suspected(name, caplog):
    """Darknet is silent about numbers that are all shifted."""
    with caplog.at_level(logging.WARNING, logger="keras_sam.darknet"):
        darknet.build_model(FOLDER / f"{name}.cfg", FOLDER / "full.weights", partial=True)
    assert "fits a network of 3 classes" in caplog.text
    assert "`cutoff=6`" in caplog.text


def test_without_partial():
    """The message says that there is such a thing, and what the file fits."""
    with pytest.raises(darknet.DarknetError, match=r"too short.*`partial=True` \(--part"):
        darknet.load_model(FULL, CUT)
    with pytest.raises(darknet.DarknetError, match=r"too long by 40 bytes.*`partial=Tru"):
        darknet.load_model(FULL, FOLDER / "longer.weights")
    with pytest.raises(darknet.DarknetError, match="fits a network of 3 classes"):
        darknet.load_model(FOLDER / "full_file_more_classes.cfg", FOLDER / "full.weights")
    assert darknet.load_model(FULL, FOLDER / "full.weights")


def test_nothing_is_said_of_a_whole_file(caplog):
    weights = darknet.read_weights(FOLDER / "full.weights", FULL, partial=True)
    assert weights.notices == weights.parts == ()
    assert weights.count == 2518


def test_a_cut_file_is_written_whole(tmp_path):
    """What was read comes first in the file that is written."""
    model = darknet.load_model(FULL, CUT, partial=True)
    darknet.write_weights(model, tmp_path / "new.weights")
    new = (tmp_path / "new.weights").read_bytes()
    assert new.startswith(CUT.read_bytes())
    assert len(new) == len((FOLDER / "full.weights").read_bytes())


@pytest.mark.parametrize("options", [{"partial": "yes"}, {"cutoff": 1.5}, {"cutoff": -1}])
def test_mistakes(options):
    (name,) = options
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        darknet.load_model(FULL, CUT, **options)


def test_weights_that_were_read_before():
    weights = darknet.read_weights(CUT, FULL, partial=True)
    with pytest.raises(darknet.DarknetError, match="needs weights of the shapes"):
        darknet.build_model(FULL, weights)
    model = darknet.build_model(FULL, weights, partial=True)
    np.testing.assert_array_equal(
        model.to_darknet_weights().layers[5]["weights"], weights.layers[5]["weights"]
    )
    other = FULL.read_text().replace("filters=10", "filters=12")
    with pytest.raises(darknet.DarknetError, match="needs weights of the shapes"):
        darknet.build_model(other, weights, partial=True)


def test_weights_that_were_read_before_with_a_cutoff():
    weights = darknet.read_weights(FOLDER / "full.weights", FULL)
    model = darknet.build_model(FULL, weights, cutoff=5)
    arrays = model.to_darknet_weights().layers
    np.testing.assert_array_equal(arrays[3]["weights"], weights.layers[3]["weights"])
    assert np.any(arrays[5]["weights"] != weights.layers[5]["weights"])
    shorter = FULL.read_text().partition("[convolutional]")
    shorter = f"{shorter[0]}[convolutional]\nfilters=8\nsize=3\nbatch_normalize=1\n"
    with pytest.raises(darknet.DarknetError, match=r"weights of layer \d, which has none"):
        darknet.build_model(shorter, weights, partial=True)
    part = darknet.read_weights(FOLDER / "truncated.weights", FULL, partial=True)
    (index, name, values) = part.parts[0]
    long = dataclasses.replace(part, parts=((index, name, np.tile(values, 99)),))
    with pytest.raises(darknet.DarknetError, match=f"`{name}` of layer {index}: more"):
        darknet.build_model(FULL, long, partial=True)


def test_dontload_without_partial():
    """The file must be exactly as long as what is not left out."""
    cfg = "[net]\nwidth=4\nheight=4\nchannels=3\n[conv]\nbatch_normalize=1\nfilters=2\n"
    values = np.arange(8, dtype="<f4")
    data = darknet.Header().to_bytes() + values.tobytes()
    model = darknet.build_model(cfg + "dontloadscales=1", data)
    arrays = model.to_darknet_weights().layers[0]
    np.testing.assert_array_equal(arrays["weights"].ravel(), values[2:])
    np.testing.assert_array_equal(arrays["scales"], 1)
    with pytest.raises(darknet.DarknetError, match="too long by 32"):
        darknet.build_model(cfg + "dontload=1", data)


def test_transposed_matrices(tmp_path):
    """Versions above 1000 store the matrix of [connected] input by input."""
    cfg = "[net]\nwidth=1\nheight=1\nchannels=3\n[connected]\noutput=2\n"
    values = np.arange(8, dtype="<f4")
    path = tmp_path / "old.weights"
    path.write_bytes(darknet.Header(1001, 0, 0).to_bytes() + values.tobytes())
    model = darknet.load_model(cfg, path)
    kernel = model.get_layer("000_connected_dense").kernel
    np.testing.assert_array_equal(kernel, values[2:].reshape(3, 2))
    darknet.write_weights(model, tmp_path / "new.weights")
    assert (tmp_path / "new.weights").read_bytes() == path.read_bytes()
    straight = darknet.Header().to_bytes() + values.tobytes()
    kernel = darknet.build_model(cfg, straight).get_layer("000_connected_dense").kernel
    np.testing.assert_array_equal(kernel, values[2:].reshape(2, 3).T)
    # A file that ends inside the matrix fills its first numbers in the file's order.
    for data, order in ((path.read_bytes(), "C"), (straight, "F")):
        part = darknet.build_model(cfg, data[:-8], partial=True)
        kernel = np.array(part.get_layer("000_connected_dense").kernel)
        np.testing.assert_array_equal(kernel.ravel(order)[:4], values[2:6])
        assert not np.isin(values[6:], kernel).any()
