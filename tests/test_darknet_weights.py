"""Weight files: headers, lengths, and what goes wrong."""

import logging
import struct

import numpy as np
import pytest

from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

CFG = """
[net]
width=5
height=5
channels=3
[conv]
batch_normalize=1
filters=4
size=3
groups=1
[conv]
filters=2
[shortcut]
from=-2
weights_type=per_channel
weights_normalization=relu
[batchnorm]
"""
BLOCKS = {
    0: {
        "biases": (4,),
        "scales": (4,),
        "mean": (4,),
        "variance": (4,),
        "weights": (4, 3, 3, 3),
    },
    1: {"biases": (2,), "weights": (2, 4, 1, 1)},
    2: {"weights": (2, 2)},
    3: dict.fromkeys(["biases", "scales", "mean", "variance"], (2,)),
}
FLOATS = 4 * 4 + 108 + 2 + 8 + 4 + 8


def file(count=FLOATS, header=None):
    header = darknet.Header() if header is None else header
    return header.to_bytes() + np.arange(count, dtype="<f4").tobytes()


def test_layout():
    weights = darknet.read_weights(file(), CFG)
    shapes = {
        index: {name: array.shape for name, array in arrays.items()}
        for index, arrays in weights.layers.items()
    }
    assert shapes == BLOCKS
    order = np.concatenate(
        [array.ravel() for arrays in weights.layers.values() for array in arrays.values()]
    )
    np.testing.assert_array_equal(order, np.arange(FLOATS, dtype="float32"))


@pytest.mark.parametrize(
    ("version", "size"), [((0, 1, 0), 4), ((0, 2, 5), 8), ((1, 0, 0), 8), ((0, 2, 0), 8)]
)
def test_header(version, size, tmp_path):
    """`seen` has 64 bits from version 0.2 on, and comes back as it was."""
    seen = 2 ** (8 * size) - 1
    data = struct.pack("<3i", *version) + seen.to_bytes(size, "little") + file()[20:]
    path = tmp_path / "model.weights"
    path.write_bytes(data)
    weights = darknet.read_weights(path, CFG)
    assert weights.header == darknet.Header(*version, seen)
    model = darknet.build_model(CFG, weights)
    darknet.write_weights(model, path)
    assert path.read_bytes() == data


def test_written_without_weights(tmp_path):
    """A model that never saw a weight file is written as Darknet writes one."""
    model = darknet.build_model(CFG)
    darknet.write_weights(model, tmp_path / "new.weights")
    weights = darknet.read_weights(tmp_path / "new.weights", CFG)
    assert weights.header == darknet.Header(0, 2, 5, 0)
    np.testing.assert_array_equal(
        weights.layers[1]["weights"].transpose(2, 3, 1, 0),
        model.get_layer("001_convolutional_conv").kernel,
    )


BAD = {
    "empty": (b"", None, "inside the header, after 0 bytes"),
    "half a version": (file()[:11], None, "inside the header, after 11 bytes"),
    "half a count": (file()[:15], None, "a header of version 0.2.5 has 20"),
    "a web page": (
        b"\n<!DOCTYPE html><html><title>Too many downloads</title>",
        None,
        "no weight file of Darknet's but text, an HTML page",
    ),
    "a pointer": (
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0000\nsize 9\n",
        None,
        "text, a pointer of Git LFS",
    ),
    "a text": (b"Not found, try again later.\n", None, "no weight file.* but text: its"),
    "a picture": (b"\x89PNG\r\n\x1a\n" * 9, None, "no weight file"),
    "one float short": (
        file(FLOATS - 1),
        3,
        r"needs 146 floats.*there are 145\. They end in `variance` of 003_batchnorm, "
        r"1 of 2 floats",
    ),
    "no floats": (file(0), 0, "there are 0. They end in `biases`.*0 of 4"),
    "in the kernel": (file(20), 0, "`weights` of 000_convolutional, 4 of 108"),
    "broken float": (file()[:-1], 3, "145 and 3 bytes. They end in"),
    "one float more": (file(FLOATS + 1), None, "too long by 4 bytes: .* there are 147"),
    "one byte more": (file() + b"!", None, "too long by 1 bytes: .*146 and 1 bytes"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("as_file", [True, False])
def test_bad_length(name, as_file, tmp_path):
    data, index, message = BAD[name]
    path = tmp_path / "model.weights"
    path.write_bytes(data)
    with pytest.raises(darknet.DarknetError, match=message) as caught:
        darknet.build_model(CFG, path if as_file else data)
    assert caught.value.index == index
    assert caught.value.source == (str(path) if as_file else None)


def test_damaged_weights_are_pointed_out(tmp_path, caplog):
    """They load, as in Darknet, and come back byte for byte, NaN and its payload, too."""
    values = np.arange(FLOATS, dtype="<f4")
    values[20:23] = np.array([0x7FA00001, 0xFFC12345, 0x7F800000], "<u4").view("<f4")
    values[-1] = -1
    data = darknet.Header().to_bytes() + values.tobytes()
    with caplog.at_level(logging.WARNING, logger="keras_sam.darknet"):
        model = darknet.build_model(CFG, data)
    assert [record.getMessage() for record in caplog.records] == [
        "<cfg>, 000_convolutional: 3 of 108 `weights` are not finite",
        "<cfg>, 003_batchnorm: 1 of 2 `variance` are negative",
    ]
    darknet.write_weights(model, tmp_path / "model.weights")
    assert (tmp_path / "model.weights").read_bytes() == data


def test_a_sparse_terabyte_is_not_read(tmp_path):
    path = tmp_path / "model.weights"
    path.write_bytes(file())
    with path.open("r+b") as sparse:
        sparse.truncate(2**40)
    with pytest.raises(darknet.DarknetError, match="too long by"):
        darknet.read_weights(path, CFG)


def test_other_mistakes(tmp_path):
    with pytest.raises(darknet.DarknetError, match="no such weight file"):
        darknet.load_model(CFG, tmp_path / "missing.weights")
    with pytest.raises(darknet.DarknetError, match="Received: int"):
        darknet.read_weights(7, CFG)
    other = darknet.read_weights(file(), CFG)
    with pytest.raises(darknet.DarknetError, match="needs weights of the shapes"):
        darknet.build_model(CFG.replace("size=3", "size=2"), other)
    model = darknet.build_model(CFG)
    with pytest.raises(OSError, match="missing"):
        darknet.write_weights(model, tmp_path / "missing" / "x.weights")
    with pytest.raises(darknet.DarknetError, match="build_model"):
        darknet.write_weights(object(), tmp_path / "x.weights")


def test_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "model.weights"
    path.write_bytes(b"old")
    model = darknet.build_model(CFG)
    weights = model.to_darknet_weights()
    del weights.layers[3]["variance"]
    monkeypatch.setattr(type(model), "to_darknet_weights", lambda self: weights)
    with pytest.raises(KeyError):
        darknet.write_weights(model, path)
    assert path.read_bytes() == b"old"
    assert [*tmp_path.iterdir()] == [path]
