"""The Keras side: names, saving, exporting, training, recording, decoding."""

import pathlib

import darknet_yolo
import keras
import numpy as np
import pytest
from fresh_process import run_python

import keras_sam
from keras_sam import darknet

pytestmark = pytest.mark.tensorflow

# Every layer that Keras does not have, and a dead end.
EVERYTHING = """
[net]
height=12
width=8
channels=3
[conv]
batch_normalize=1
filters=8
size=3
pad=1
activation=mish
[conv]
filters=8
activation=gelu
[route]
layers=0
[conv]
batch_normalize=1
filters=8
activation=logistic
[sam]
from=-2
[conv]
filters=8
size=3
stride=1
pad=1
groups=2
activation=stair
[conv]
filters=8
size=3
stride=2
groups=2
pad=1
share_index=-1
activation=leaky
[reorg3d]
stride=2
[conv]
filters=8
activation=linear
[upsample]
stride=2
scale=0.5
[maxpool]
size=3
stride=2
[upsample]
[local_avgpool]
size=3
stride=2
padding=1
[upsample]
[route]
layers=-1
groups=2
group_id=1
[shortcut]
from=-2,-1
weights_type=per_channel
weights_normalization=softmax
activation=selu
[maxpool]
maxpool_depth=1
out_channels=3
[shortcut]
from=-2
[dropout]
[conv]
filters=14
activation=linear
[yolo]
num=2
classes=2
anchors=2,3, 5,4
"""


# The layers of classifiers, YOLOv1, YOLOv2 and Gaussian YOLO.
OTHERS = """
[net]
height=12
width=8
channels=3
[crop]
crop_height=8
crop_width=8
[conv]
filters=4
size=3
pad=1
stride=2
activation=relu6
[local]
size=3
pad=1
filters=4
activation=leaky
[reorg]
stride=2
[conv]
filters=14
activation=linear
[region]
classes=2
num=2
softmax=1
anchors=1,1,2,2
[conv]
filters=11
activation=linear
[Gaussian_yolo]
classes=2
anchors=4,4
[connected]
output=48
batch_normalize=1
activation=linear
[softmax]
groups=3
[cost]
[connected]
output=48
activation=linear
[detection]
side=2
classes=2
num=2
coords=4
softmax=1
"""
UNEQUAL = """
[net]
height=12
width=8
channels=3
[conv]
filters=4
activation=leaky
[conv]
filters=6
size=3
stride=2
pad=1
activation=linear
[shortcut]
from=0
beta=0.5
activation=leaky
[conv]
filters=7
activation=linear
[yolo]
classes=2
anchors=4,4
"""


@pytest.mark.parametrize(
    ("cfg", "shapes", "jit_compile"),
    [
        (OTHERS, [(2, 2, 14), (2, 2, 11), (1, 1, 48)], True),
        (UNEQUAL, [(6, 4, 7)], False),
    ],
)
def test_others_train_and_are_saved(cfg, shapes, jit_compile, tmp_path, reload):
    """One step changes every weight; file, SavedModel and weights compute the same."""
    tf = pytest.importorskip("tensorflow")
    model = darknet.build_model(cfg)
    assert [output.shape[1:] for output in model.outputs] == shapes
    before = [keras.ops.convert_to_numpy(weight) for weight in model.trainable_variables]
    targets = [np.ones((4, *output.shape[1:]), "float32") for output in model.outputs]
    model.compile("sgd", "mse", jit_compile=jit_compile)
    history = model.fit(pictures(4), targets, epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for weight, old in zip(model.trainable_variables, before, strict=True):
        assert (keras.ops.convert_to_numpy(weight) != old).any(), weight.path
    expected = model(pictures(), training=False)
    darknet.write_weights(model, tmp_path / "trained.weights")
    again = darknet.build_model(cfg, tmp_path / "trained.weights")
    model.export(tmp_path / "saved", verbose=False)
    saved = tf.saved_model.load(str(tmp_path / "saved"))
    for computed in (again, reload(model), saved.serve):
        outputs = computed(pictures())
        pairs = zip(*map(keras.tree.flatten, (outputs, expected)), strict=True)
        for output, same in pairs:
            np.testing.assert_allclose(output, same, rtol=1e-5, atol=1e-6)
    found = darknet.decode(expected, reload(model), 0.0)
    assert found.boxes.shape == (2, 100, 4)


@pytest.fixture(scope="module")
def everything():
    keras.utils.set_random_seed(0)
    return darknet.build_model(EVERYTHING)


def pictures(count=2):
    rng = np.random.default_rng(0)
    return rng.uniform(size=(count, 12, 8, 3)).astype("float32")


def test_names(everything):
    names = {layer.name for layer in everything.layers}
    assert everything.name == "darknet"
    assert {"004_sam", "018_dropout", "020_yolo", "keep_unused"} <= names
    assert {"000_convolutional_pad", "000_convolutional_norm"} <= names
    conv = everything.get_layer("000_convolutional_conv")
    assert type(conv) is keras.layers.Conv2D
    assert type(everything.get_layer("004_sam")) is keras_sam.layers.SpatialGate
    assert everything.output.shape == (None, 6, 4, 14)


def test_dead_ends_are_frozen(everything):
    """Nothing depends on layer 1; its weights are kept for the file, not trained."""
    assert [spec.index for spec in everything.plan.unused] == [1]
    frozen = [layer.name for layer in everything.layers if not layer.trainable]
    assert frozen == ["001_convolutional_conv", "001_convolutional"]


def test_exported_saved_and_loaded_in_a_fresh_process(everything, tmp_path):
    """The SavedModel where nothing has imported keras_sam yet, and then the file."""
    everything.export(tmp_path / "saved", verbose=False)
    everything.save(tmp_path / "model.keras")
    np.save(tmp_path / "x.npy", pictures())
    script = """
import sys, numpy as np, tensorflow as tf
x = np.load("x.npy")
served = tf.saved_model.load("saved")
np.save("served.npy", served.serve(x))
assert "keras_sam" not in sys.modules
import keras, keras_sam
model = keras.saving.load_model("model.keras")
np.save("y.npy", model(x, training=False))
keras_sam.darknet.write_weights(model, "again.weights")
assert type(model) is keras_sam.darknet.DarknetModel
assert keras_sam.darknet.decode(np.load("y.npy"), model).boxes.shape == (2, 100, 4)
"""
    run_python("-c", script, cwd=tmp_path)
    expected = everything(pictures(), training=False)
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"), expected)
    served = np.load(tmp_path / "served.npy")
    np.testing.assert_allclose(served, expected, rtol=1e-5, atol=1e-5)
    darknet.write_weights(everything, tmp_path / "first.weights")
    first, again = tmp_path / "first.weights", tmp_path / "again.weights"
    assert first.read_bytes() == again.read_bytes()


def test_trains_compiled(tmp_path):
    """One step changes every weight that can learn; the result is written."""
    model = darknet.build_model(EVERYTHING)
    before = {
        weight.path: keras.ops.convert_to_numpy(weight)
        for weight in model.trainable_variables
    }
    model.compile("sgd", "mse", jit_compile=True)
    history = model.fit(pictures(4), np.ones((4, 6, 4, 14)), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"][0])
    for weight in model.trainable_variables:
        assert (keras.ops.convert_to_numpy(weight) != before[weight.path]).any(), (
            weight.path
        )
    darknet.write_weights(model, tmp_path / "trained.weights")
    again = darknet.build_model(EVERYTHING, tmp_path / "trained.weights")
    np.testing.assert_array_equal(
        again(pictures(), training=False), model(pictures(), training=False)
    )


def test_gates_are_recorded(everything):
    with keras_sam.record_attention() as maps:
        everything(pictures(), training=False)
    assert [*maps] == ["004_sam"]
    assert maps.details["004_sam"] == keras_sam.AttentionDetails(
        "pointwise_spatial", (12, 8)
    )
    gate = darknet.layer_outputs(everything)(pictures(), training=False)
    np.testing.assert_allclose(
        maps["004_sam"], gate["003_convolutional"], rtol=1e-6, atol=1e-7
    )


def test_gates_are_drawn(tmp_path):
    """The callback draws [sam] over the pictures, while the model trains."""
    callbacks = pytest.importorskip("keras_sam.callbacks")
    accumulator = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator"
    )
    cfg = "[net]\nheight=12\nwidth=8\nchannels=3\n[conv]\nfilters=3\n[sam]\nfrom=-1"
    model = darknet.build_model(cfg)
    model.compile("sgd", "mse")
    callback = callbacks.AttentionTensorBoard(str(tmp_path), pictures())
    model.fit(pictures(), pictures(), verbose=0, callbacks=[callback])
    tags = []
    for path in tmp_path.rglob("events*"):
        events = accumulator.EventAccumulator(str(path)).Reload()
        tags += events.Tags()["tensors"]
    assert "001_sam/attention/image" in tags


def test_a_copy_knows_no_cfg(everything):
    by_hand = darknet.DarknetModel(everything.input, everything.output)
    with pytest.raises(darknet.DarknetError, match="does not know its cfg"):
        darknet.layer_outputs(by_hand)


@pytest.mark.parametrize(
    "name", ["yolov3", "yolov3_tiny", "yolov4", "yolov4_tiny", "yolov4_sam"]
)
def test_yolo_networks_build(name):
    """The constructs at a sixteenth of the width; the plans match those at full."""
    model = darknet.build_model(getattr(darknet_yolo, name)(width=1 / 16, size=64))
    assert len(model.outputs) == (2 if "tiny" in name else 3)
    assert all(output.shape[-1] == 255 for output in model.outputs)
    if name == "yolov4_sam":
        assert len(model.plan.layers) == 216
        with keras_sam.record_attention() as maps:
            outputs = model(np.ones((1, 64, 64, 3), "float32"), training=False)
        grids = {path: details.query_grid for path, details in maps.details.items()}
        assert grids == {"154_sam": (8, 8), "183_sam": (4, 4), "212_sam": (2, 2)}
        boxes, scores, classes = darknet.decode(outputs, model, max_detections=7)
        assert (boxes.shape, scores.shape) == ((1, 7, 4), (1, 7))
        assert classes.shape == (1, 7)


def test_package():
    names = {name for name in vars(darknet) if not name.startswith("_")}
    modules = {path.stem for path in pathlib.Path(darknet.__file__).parent.iterdir()}
    assert {*darknet.__all__} == names - modules | ({"decode"} & names)
