"""AttentionTensorBoard, read back with TensorBoard's own reader."""

import copy
import io
import pathlib
import pickle
import re
import shutil

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from PIL import Image
from pixels import contains
from tensorboard.backend.event_processing.plugin_event_accumulator import (
    EventAccumulator,
)
from tensorboard.compat.tensorflow_stub.pywrap_tensorflow import masked_crc32c
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.util.tensor_util import make_ndarray

from keras_sam import CrossAttention, SelectiveAttention, SelfAttention, record_attention
from keras_sam.callbacks import (
    AttentionTensorBoard,
    _checksums,
    _colors,
    _event_log,
    _pages,
    _summaries,
    attention_tensorboard,
)
from keras_sam_viewer.reader import read_log_dir

T, C = 5, 7


def data(examples=6, length=T, channels=C):
    rng = np.random.default_rng(0)
    return rng.normal(size=(examples, length, channels)).astype("float32")


def make_model(**kwargs):
    keras.utils.set_random_seed(0)
    return chain(SelfAttention(num_heads=2, key_dim=3, name="attention", **kwargs))


def chain(*layers, shape=(T, C)):
    """A functional model, whose layers have their names as paths."""
    outputs = inputs = keras.Input(shape)
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    return model


def fit(model, callbacks, **kwargs):
    x = data()
    return model.fit(x, x, batch_size=2, verbose=0, callbacks=callbacks, **kwargs)


class Log(dict):
    """What is in runs below `directory`: tag -> {step: array}."""

    def __init__(self, directory, *runs):
        self.about = {}
        everything = {"tensors": 0}
        for run in runs or ("attention", "attention/examples"):
            if not (directory / run).exists():
                continue
            reader = EventAccumulator(str(directory / run), size_guidance=everything)
            reader.Reload()
            for tag in reader.Tags()["tensors"]:
                if tag.startswith("keras_sam/"):
                    continue  # of the viewer, see test_viewer_records.py
                events = reader.Tensors(tag)
                self[tag] = {e.step: make_ndarray(e.tensor_proto) for e in events}
                assert len(self[tag]) == len(events), f"{tag} has a step twice"
                about = reader.SummaryMetadata(tag).summary_description
                self.about[tag] = about
        self.layout = self.pop("custom_scalars__config__", None)

    def picture(self, tag, step, example=0):
        width, height, *pictures = self[tag][step]
        pixels = np.asarray(Image.open(io.BytesIO(pictures[example])).convert("RGB"))
        assert pixels.shape == (int(height), int(width), 3)
        return pixels


NAMES = ["keys_used", "entropy", "similarity", "top_key_share", "max"]
NAMES += ["first", "previous", "self", "distance"]


def scalars(names=NAMES, prefix="epoch", layer="attention"):
    return {f"{prefix}_attention_{name}/{layer}" for name in names}


SCALARS = scalars()
ONE_HEAD = scalars(set(NAMES) - {"similarity"})


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model fitted with both callbacks, and the weights after each of its epochs."""
    log_dir = tmp_path_factory.mktemp("logs")
    model, maps = make_model(), []

    def look(epoch, logs):
        with record_attention() as recorded:
            model(data(3), training=False)
        maps.append(recorded["attention"].numpy())

    watch = AttentionTensorBoard(log_dir, data(3), per_head=True, write_histograms=True)
    look = keras.callbacks.LambdaCallback(on_epoch_end=look)
    fit(model, [keras.callbacks.TensorBoard(log_dir), watch, look], epochs=3)
    return log_dir, maps


def test_writes_what_it_says(trained):
    log = Log(trained[0])
    others = {"attention/attention/image", "attention/attention/histogram"}
    assert set(log) == SCALARS | others
    assert all(set(steps) == {-1, 0, 1, 2} for steps in log.values())
    assert all(about for tag, about in log.about.items() if "custom_scalars" not in tag)
    assert "multiples of uniform" in log.about["attention/attention/image"]
    for head in range(2):
        of_head = Log(trained[0], f"attention/head_{head}")
        assert set(of_head) == SCALARS
        assert all(set(steps) == {-1, 0, 1, 2} for steps in of_head.values())
    assert not (trained[0] / "attention/head_2").exists()


def test_the_layout_has_a_chart_for_each_layer_and_statistic(trained):
    log = Log(trained[0])
    (content,) = log.layout.values()
    layout = layout_pb2.Layout.FromString(content.item())
    names = [name.replace("_", " ") for name in NAMES]
    assert [c.title for c in layout.category] == [f"epoch attention: {n}" for n in names]
    assert [c.closed for c in layout.category] == [False] + [True] * (len(NAMES) - 1)
    for category in layout.category:
        (chart,) = category.chart
        assert chart.title == "attention"
        (pattern,) = chart.multiline.tag
        assert [bool(re.match(pattern, tag)) for tag in log].count(True) == 1


def test_scalars_are_those_of_the_weights(trained):
    log, distances = Log(trained[0]), abs(np.subtract.outer(range(T), range(T)))
    of_heads = [Log(trained[0], f"attention/head_{head}") for head in range(2)]
    allowed = np.ones((T, T), bool)
    for step, weights in enumerate(trained[1]):
        expected = np.array(
            [
                [oracles.attention_statistics(w, allowed, distances) for w in example]
                for example in weights
            ]
        ).mean(0)
        for n, name in enumerate(("entropy", "distance", "max")):
            tag = f"epoch_attention_{name}/attention"
            assert log[tag][step] == pytest.approx(expected[:, n].mean(), rel=1e-5)
            for head in range(2):
                value = of_heads[head][tag][step]
                assert value == pytest.approx(expected[head, n], rel=1e-5)
        moved = np.abs(weights[:, 0] - weights[:, 1]).sum(-1).mean() / 2
        similar = log["epoch_attention_similarity/attention"][step]
        assert similar == pytest.approx(1 - moved, rel=1e-5)
        first = log["epoch_attention_first/attention"][step]
        assert first == pytest.approx(weights[..., 0].mean(), rel=1e-5)
        itself = log["epoch_attention_self/attention"][step]
        diagonals = np.diagonal(weights, axis1=-2, axis2=-1)
        assert itself == pytest.approx(diagonals.mean(), rel=1e-5)


def test_a_collapse_onto_one_key_is_seen(tmp_path):
    model = make_model()
    layer = model.get_layer("attention")
    x = 0.05 * data(2)
    x[:, 2, 0] = 3  # every head will look for this
    watch = AttentionTensorBoard(tmp_path, x, write_images=False)
    watch.write(model, 0)
    for part in ("query", "key"):
        dense = getattr(layer, f"{part}_dense")
        kernel = np.zeros(dense.kernel.shape, "float32")
        kernel[0] = 4.0
        dense.kernel.assign(kernel)
        dense.bias.assign(np.ones(dense.bias.shape) * 4)
    watch.write(model, 1)
    watch.close()
    log = Log(tmp_path)
    for name, before, after in (
        ("keys_used", (4, 5), (1, 1.01)),
        ("top_key_share", (0.1, 0.4), (0.99, 1)),
        ("similarity", (0.5, 1), (0.99, 1)),
    ):
        found = log[f"epoch_attention_{name}/attention"]
        for value, (low, high) in ((found[0], before), (found[1], after)):
            assert low <= value <= high + 1e-6, (name, value)


def test_every_cell_has_the_color_of_its_weight(trained):
    log = Log(trained[0])
    for step, weights in enumerate(trained[1]):
        for example in range(2):
            pixels = log.picture("attention/attention/image", step, example)
            for head in weights[example]:
                codes = _colors.codes(T * head, None, _colors.Multiples(T))
                # Somewhere on the page, as a rectangle of cells.
                assert contains(pixels, _colors.PALETTE[codes], cell=35)


def test_histograms_count_every_weight(trained):
    log = Log(trained[0])
    for step, weights in enumerate(trained[1]):
        left, right, counts = log["attention/attention/histogram"][step].T
        assert counts.sum() == weights.size
        assert left[0] == pytest.approx(weights.min())
        assert right[-1] == pytest.approx(weights.max())


def test_keras_tensorboard_beside_it_loses_nothing(trained):
    log = Log(trained[0], "train")
    assert set(log["epoch_loss"]) == {0, 1, 2}


def test_masked_cells_are_hatched_and_padding_does_not_count(tmp_path):
    x = data(1)
    x[0, 3:] = 0
    model = chain(
        keras.layers.Masking(),
        SelfAttention(num_heads=1, key_dim=3, causal=True, name="attention"),
    )
    watch = AttentionTensorBoard(tmp_path, x)
    watch.write(model, 4)
    watch.close()
    with record_attention() as maps:
        model(x, training=False)
    weights = maps["attention"].numpy()[0, 0]
    assert np.all(weights[3:] == 0)
    allowed = np.tri(T, dtype=bool) & (np.arange(T) < 3)
    distances = abs(np.subtract.outer(range(T), range(T)))
    # The first row has one key, and is left out.
    expected = oracles.attention_statistics(weights[1:], allowed[1:], distances[1:])
    log = Log(tmp_path)
    for name, value in zip(("entropy", "distance", "max"), expected, strict=True):
        found = log[f"epoch_attention_{name}/attention"][4]
        assert found == pytest.approx(value, rel=1e-5)
    pixels = log.picture("attention/attention/image", 4)
    hatched = (pixels == _colors.PALETTE[_colors.HATCH]).all(-1)
    masked = (pixels == _colors.PALETTE[_colors.MASKED]).all(-1)
    assert hatched.sum() > 500
    assert 3 * 40**2 < (hatched | masked).sum() < 4 * 40**2  # of 3 x 3, and the legend


def cells(log, tag, step=0):
    return [[cell.decode() for cell in row] for row in log[tag][step]]


def test_tokens_are_listed_by_weight(tmp_path):
    words = [["the", "cat", "*sat*", "<b>", "a|b"], ["x", "y"]]
    watch = AttentionTensorBoard(tmp_path, data(2), tokens=words)
    model = make_model()
    watch.write(model, 0)
    watch.close()
    rows = cells(Log(tmp_path), "attention/attention/tokens")
    assert len(rows) == 1 + 5 + 2
    with record_attention() as maps:
        model(data(2), training=False)
    mean = maps["attention"].numpy().mean(1)
    shown = [["the", "cat", r"\*sat\*", "&lt;b&gt;", r"a\|b"], ["x", "y"]]
    shown = [[f"{n} {word}" for n, word in enumerate(names)] for names in shown]
    shown[1] += ["2", "3", "4"]  # no words, but no padding either
    expected = []
    for example, names in enumerate(shown):
        for query, name in enumerate(names[: len(words[example])]):
            weights = mean[example, query]
            best = np.argsort(-weights, kind="stable")[:3]
            some = [f"{names[key]} ({weights[key]:.2f})" for key in best]
            expected.append([str(example), name, *some, *[""] * (3 - len(some))])
    assert rows[1:] == expected


def cross_model():
    target, source = keras.Input((4, C)), keras.Input((T, C))
    crossed = CrossAttention(num_heads=2, key_dim=3, name="cross")(target, source)
    outputs = SelfAttention(num_heads=1, key_dim=3, name="own")(crossed)
    return keras.Model([target, source], outputs)


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        (None, {}),
        ([list("abcd")] * 2, {"own": ("abcd", "abcd")}),
        (
            {"query": [list("abcd")] * 2, "key": [list("vwxyz")] * 2},
            {"cross": ("abcd", "vwxyz")},
        ),
        (
            {
                "own": [list("ab")] * 2,
                "cross": {"query": [list("abcd")] * 2, "key": [list("vw")] * 2},
            },
            {"own": ("ab", "ab"), "cross": ("abcd", "vw")},
        ),
    ],
    ids=["none", "self", "cross", "by path"],
)
def test_tokens_find_their_layers(tmp_path, tokens, expected):
    inputs = [data(2, 4), data(2)]
    watch = AttentionTensorBoard(tmp_path, inputs, tokens=tokens, write_images=False)
    watch.write(cross_model(), 0)
    watch.close()
    log = Log(tmp_path)
    tables = {tag.split("/")[0] for tag in log if tag.endswith("/attention/tokens")}
    assert tables == set(expected)
    for layer, (queries, keys) in expected.items():
        rows = cells(log, f"{layer}/attention/tokens")[1:]
        named = [f"{n} {word}" for n, word in enumerate(queries)]
        assert [row[1] for row in rows] == named * 2
        found = {cell.split(" ")[1] for row in rows for cell in row[2:] if cell}
        assert {word for word in found if not word.startswith("(")} <= set(keys)


def test_tables_have_few_rows_and_positions_and_one_for_each_head(tmp_path):
    words = [[f"word{n}" for n in range(100)]] * 2
    layer = SelfAttention(num_heads=2, key_dim=3, causal=True, name="attention")
    watch = AttentionTensorBoard(
        tmp_path, data(2, 100), tokens=words, per_head=True, write_images=False
    )
    model = chain(layer, shape=(100, C))
    watch.write(model, 0)
    watch.close()
    log = Log(tmp_path)
    with record_attention() as maps:
        model(data(2, 100), training=False)
    weights = maps["attention"].numpy()
    tables = {"": weights.mean(1), "/head_0": weights[:, 0], "/head_1": weights[:, 1]}
    for name, of_table in tables.items():
        rows = cells(log, f"attention/attention/tokens{name}")[1:]
        assert len(rows) == 64
        places = [(int(row[0]), int(row[1].split(" ")[0])) for row in rows]
        assert places == sorted(places)
        strength = of_table.max(-1) * np.arange(1, 101)
        strength[:, 0] = 0  # one key is no choice
        least = np.sort(strength.ravel())[-64]
        assert all(strength[place] >= least for place in places)


def test_selective_weights_are_a_strip_over_the_tokens(tmp_path):
    words = [["the", "cat", "*sat*", "<b>", "a|b"], ["x", "y"]]
    pool = SelectiveAttention(num_heads=2, name="select")
    features = SelectiveAttention(axis=-1, pool=False, name="features")
    model = chain(features, pool)  # tokens are no names of channels
    watch = AttentionTensorBoard(tmp_path, data(2), tokens=words)
    watch.write(model, 0)
    watch.close()
    log = Log(tmp_path)
    assert "features/attention/tokens" not in log
    assert log["epoch_attention_keys_used/select"][0] > 1
    rows = cells(log, "select/attention/tokens")
    assert len(rows) == 1 + 2 * 2
    with record_attention() as maps:
        model(data(2), training=False)
    weights = maps["select"].numpy()
    shown = [["the", "cat", r"\*sat\*", "&lt;b&gt;", r"a\|b"], ["x", "y"]]
    for row, (example, head) in zip(rows[1:], np.ndindex(2, 2), strict=True):
        strip = weights[example, head, : len(shown[example])]
        assert row[:2] == [str(example), str(head)]
        best = strip.argmax()
        assert row[2] == f"{best} {shown[example][best]} ({strip.max():.2f})"
        bars = row[-1].split(" ")
        assert [bar[1:] for bar in bars] == shown[example]
        order = np.argsort(strip, kind="stable")
        assert sorted(bar[0] for bar in bars) == [bars[place][0] for place in order]
        if example == 0:
            assert bars[strip.argmax()][0] == "█"


def test_selected_positions_are_drawn_over_the_picture(tmp_path):
    pictures = data(1, 4 * 6, 3).reshape(1, 4, 6, 3)
    layer = SelectiveAttention(num_heads=2, top_k=5, name="select")
    watch = AttentionTensorBoard(tmp_path, pictures)
    watch.write(chain(layer, shape=(4, 6, 3)), 0)
    watch.close()
    pixels = Log(tmp_path).picture("select/attention/image", 0)
    # Its colors are on no palette.
    colors = {tuple(color) for color in pixels.reshape(-1, 3).tolist()}
    assert len(colors - {tuple(color) for color in _colors.PALETTE.tolist()}) > 20


def test_padding_does_not_count_as_parts(tmp_path):
    layer = SelectiveAttention(kernel_initializer="zeros", name="select")
    model = chain(keras.layers.Masking(), layer)
    inputs = data(1)
    inputs[:, 3:] = 0
    watch = AttentionTensorBoard(tmp_path, inputs, write_images=False)
    watch.write(model, 0)
    watch.close()
    log = Log(tmp_path)
    assert log["epoch_attention_keys_used/select"][0] == pytest.approx(3)
    assert log["epoch_attention_entropy/select"][0] == pytest.approx(1)


@pytest.mark.parametrize("layer", [SelectiveAttention(), SelfAttention(2)], ids=str)
def test_an_example_of_padding_alone_is_drawn(tmp_path, layer):
    embed = keras.layers.Embedding(9, 8, mask_zero=True)
    watch = AttentionTensorBoard(tmp_path, np.zeros((2, T)), tokens=[["a", "b"], ["c"]])
    watch.write(keras.Sequential([keras.Input((T,)), embed, layer]), 0)  # or it raises
    watch.close()
    assert Log(tmp_path).picture(f"{layer.path}/attention/image", 0, example=1).size


def test_steps_go_on_where_training_does(tmp_path):
    model = make_model()
    watch = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    fit(model, [watch], epochs=2)
    fit(model, [watch], initial_epoch=2, epochs=3)
    another = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    fit(model, [another], initial_epoch=3, epochs=5)
    for tag in SCALARS:
        assert set(Log(tmp_path)[tag]) == {-1, 0, 1, 2, 3, 4}


def test_repeated_fits_overwrite_nothing(tmp_path):
    watch = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    for callback in (watch, watch, AttentionTensorBoard(tmp_path, data(1))):
        fit(make_model(), [callback], epochs=2)
    for tag in SCALARS:
        assert set(Log(tmp_path)[tag]) == {-1, 0, 1, 2, 3, 4, 5}


@pytest.mark.parametrize("is_removed", [False, True])
def test_another_directory_is_told_everything(tmp_path, is_removed):
    watch = AttentionTensorBoard(tmp_path / "first", data(1))
    model = make_model()
    fit(model, [watch], epochs=1)
    if is_removed:
        shutil.rmtree(tmp_path / "first")
    else:
        watch.log_dir = str(tmp_path / "second")
    model.evaluate(data(4), data(4), callbacks=[watch], verbose=0)
    fit(model, [watch], epochs=1)
    runs = read_log_dir(watch.log_dir)
    (run,) = (run for run in runs if run.blobs)
    assert "meta" in run.blobs
    assert set(run.steps) >= {-1, 0}


@pytest.mark.parametrize("epochs", [[9], [10], [30], [13, 40], [1] * 25])
def test_ten_pictures_are_kept_evenly(tmp_path, epochs):
    model = make_model()
    watch = AttentionTensorBoard(tmp_path, data(1), max_examples=1)
    for count in epochs:
        fit(model, [watch], epochs=count)
    steps = sorted(Log(tmp_path)["attention/attention/image"])
    assert len(steps) == min(10, sum(epochs) + 1) or 6 <= len(steps) <= 10
    assert steps[0] == -1
    assert steps[-1] == sum(epochs) - 1
    gaps = np.diff(steps)[:-1]
    if len(epochs) == 1:
        assert gaps.max() <= 2 * gaps.min()
    else:  # what an earlier training dropped is gone
        assert gaps.max() <= sum(epochs) / 2


def test_pictures_of_another_process_are_thinned_too(tmp_path):
    for _ in range(12):
        watch = AttentionTensorBoard(tmp_path, data(1), max_examples=1)
        last = watch._last_step()
        watch.write(make_model(), 0 if last is None else last + 1)
        watch.close()
    log = Log(tmp_path)
    assert set(log["epoch_attention_max/attention"]) == set(range(12))
    assert sorted(log["attention/attention/image"])[0] == 0
    assert 5 <= len(log["attention/attention/image"]) <= 10


def test_evaluate_and_predict_write_what_is_new(tmp_path):
    model = make_model()
    watch = AttentionTensorBoard(tmp_path, data(1))

    def use():
        model.evaluate(data(), data(), verbose=0, callbacks=[watch])
        model.predict(data(), verbose=0, callbacks=[watch])
        return sorted(Log(tmp_path)["epoch_attention_max/attention"])

    assert use() == [-1]
    fit(model, [watch], epochs=2, validation_data=(data(), data()))
    assert use() == [-1, 0, 1]  # as it was at the end of the training
    model.set_weights(make_model().get_weights())
    assert use() == [-1, 0, 1, 2]
    assert sorted(Log(tmp_path)["attention/attention/image"]) == [-1, 0, 1, 2]


@pytest.mark.parametrize("frequency", ["epoch", 2])
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, copy.copy, lambda watch: pickle.loads(pickle.dumps(watch))]
)
def test_copies_write_where_they_are_told(tmp_path, duplicate, frequency):
    watch = AttentionTensorBoard(tmp_path / "a", data(1), update_freq=frequency)
    watch.write(make_model(), -7)  # with an open file
    fit(make_model(), [watch])
    trial = duplicate(watch)
    trial.log_dir = tmp_path / "b"
    before = watch._last
    fit(make_model(), [trial])
    prefix = "epoch" if frequency == "epoch" else "batch"
    tag = f"{prefix}_attention_max/attention"
    steps = {"epoch": {-1, 0}, "batch": {0, 2, 3}}[prefix]
    assert set(Log(tmp_path / "b", "attention")[tag]) == steps
    assert watch._last == before
    watch.log_dir = str(tmp_path / "c")
    watch.write(make_model(), 0)
    watch.close()
    assert set(Log(tmp_path / "c", "attention")[tag]) == {0}


@pytest.mark.parametrize(
    ("update_freq", "steps"),
    [
        ("batch", {*range(13)}),
        (2, {0, 2, 4, 6, 8, 9, 10, 12}),  # and where each training ends
        (5, {0, 5, 6, 9, 10, 12}),
    ],
)
def test_batches_count_over_all_of_training(tmp_path, update_freq, steps):
    model = make_model()
    watch = AttentionTensorBoard(
        tmp_path, data(1), update_freq=update_freq, write_images=False
    )
    fit(model, [watch], epochs=2)
    fit(model, [watch])
    # A new process has a new callback, and the optimizer that was saved.
    again = AttentionTensorBoard(
        tmp_path, data(1), update_freq=update_freq, write_images=False
    )
    fit(model, [again])
    log = Log(tmp_path)
    assert set(log) == scalars(prefix="batch")
    assert all(set(found) == steps for found in log.values())


def test_batches_that_run_together_are_counted(tmp_path):
    model = make_model()
    model.compile("sgd", "mse", steps_per_execution=3)
    watch = AttentionTensorBoard(tmp_path, data(1), update_freq=2, write_images=False)
    fit(model, [watch], epochs=4)
    assert set(Log(tmp_path)["batch_attention_max/attention"]) == {0, 3, 6, 9, 12}


def test_batch_logs_do_not_follow_the_other_callbacks_rhythm(tmp_path):
    callbacks = [
        keras.callbacks.TensorBoard(tmp_path, update_freq=3),
        AttentionTensorBoard(tmp_path, data(1), update_freq=2, write_images=False),
    ]
    fit(make_model(), callbacks, epochs=2)
    assert set(Log(tmp_path)["batch_attention_max/attention"]) == {0, 2, 4, 6}


def test_costs_nothing_between_epochs(tmp_path):
    every_epoch = AttentionTensorBoard(tmp_path, data(1))
    every_batch = AttentionTensorBoard(tmp_path, data(1), update_freq=1)
    # Keras waits for each batch only if a callback overrides this method.
    assert "on_train_batch_end" not in vars(type(every_epoch))
    assert "on_train_batch_end" not in vars(every_epoch)
    assert "on_train_batch_end" in vars(every_batch)


def test_two_callbacks_share_one_file(tmp_path):
    callbacks = [
        AttentionTensorBoard(tmp_path, data(1), update_freq=freq, write_images=False)
        for freq in ("epoch", 3)
    ]
    fit(make_model(), callbacks, epochs=2)
    assert len(files(tmp_path)) == 1
    log = Log(tmp_path)
    assert set(log["epoch_attention_max/attention"]) == {-1, 0, 1}
    assert set(log["batch_attention_max/attention"]) == {0, 3, 6}
    fit(make_model(), callbacks[:1], initial_epoch=2, epochs=3)
    assert len(files(tmp_path)) == 2


def files(directory, run="attention"):
    return [path for path in (directory / run).iterdir() if path.is_file()]


@pytest.mark.parametrize("size", [0, 1, 9, 511, 512, 513, 4095, 4096, 4097, 70001])
def test_checksums_are_tensorboards(size):
    values = np.random.default_rng(size).bytes(size)
    assert _checksums.masked_crc32c(values) == masked_crc32c(values)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return 3

    def __getitem__(self, index):
        return data(2 + index), data(2 + index)


@pytest.mark.parametrize(
    "inputs",
    [
        lambda: data(2),
        lambda: (data(2),),
        lambda: (data(2), data(2)),
        lambda: (data(2), data(2), np.ones(2)),
        lambda: tf.data.Dataset.from_tensor_slices((data(4), data(4))).batch(2),
        lambda: tf.data.Dataset.from_tensor_slices(data(4)).batch(2),
        lambda: (batch for batch in [(data(2), None), (data(3), None)]),
        lambda: iter([[data(2), data(2)]]),
        lambda: Batches(),
    ],
)
def test_inputs_are_the_first_batch(tmp_path, inputs):
    watch = AttentionTensorBoard(tmp_path, inputs(), write_images=False)
    assert watch.inputs.shape == (2, T, C)
    watch.write(make_model(), 0)
    watch.close()


def test_a_layer_called_twice_is_logged_twice(tmp_path):
    layer = SelfAttention(num_heads=1, key_dim=3, name="attention")
    inputs = keras.Input((T, C))
    watch = AttentionTensorBoard(tmp_path, data(1))
    watch.write(keras.Model(inputs, layer(layer(inputs))), 0)
    watch.close()
    images = {tag for tag in Log(tmp_path) if tag.endswith("image")}
    assert images == {"attention/attention/image", "attention#2/attention/image"}


def test_inputs_may_be_a_dictionary_of_tensors(tmp_path):
    inputs = {"x": keras.Input((T, C), name="x")}
    outputs = SelfAttention(num_heads=1, key_dim=3, name="attention")(inputs["x"])
    watch = AttentionTensorBoard(tmp_path, {"x": tf.constant(data(2))})
    watch.write(keras.Model(inputs, outputs), np.int64(3))
    watch.close()
    assert set(Log(tmp_path)["epoch_attention_max/attention"]) == {3}


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision(tmp_path, policy):
    watch = AttentionTensorBoard(tmp_path, data(1))
    watch.write(make_model(dtype=policy), 0)
    watch.close()
    assert 0 < Log(tmp_path)["epoch_attention_entropy/attention"][0] <= 1


@pytest.mark.parametrize(
    ("paths", "tags"),
    [
        (["a", "b/c d", "é"], ["a", "b/c d", "é"]),
        (['a"b', "a\\b", "a\nb"], ["a_b", "a_b_1", "a_b_2"]),
        (['a"b', "a_b"], ["a_b_1", "a_b"]),
        (['a"b', "a_b", "a_b_1"], ["a_b_2", "a_b", "a_b_1"]),
        (["\ud800", "\u202e", "\x7f"], ["_", "__1", "__2"]),
    ],
)
def test_tags_are_clean_and_differ(paths, tags):
    assert list(_summaries.tags_for(paths).values()) == tags


def test_hostile_layer_names_are_logged(tmp_path):
    names = ['quo"te', "back\\slash", "new\nline", "<img src=x onerror=alert(1)>"]
    layers = [SelfAttention(num_heads=1, key_dim=3, name=name) for name in names]
    watch = AttentionTensorBoard(tmp_path, data(1))
    watch.write(chain(*layers), 0)
    watch.close()
    found = {tag.removesuffix("/attention/image") for tag in Log(tmp_path)}
    assert {"quo_te", "back_slash", "new_line", names[3]} <= found


def broken_layer(monkeypatch):
    def fail(*args):
        raise RuntimeError("no paint")

    monkeypatch.setattr(_pages, "encode_png", fail)


def test_a_picture_that_fails_stops_neither_training_nor_scalars(tmp_path, monkeypatch):
    broken_layer(monkeypatch)
    with pytest.warns(UserWarning, match="'attention'.*RuntimeError: no paint") as caught:
        fit(make_model(), [AttentionTensorBoard(tmp_path, data(1))], epochs=3)
    assert len([w for w in caught if "AttentionTensorBoard" in str(w.message)]) == 1
    log = Log(tmp_path)
    assert set(log) == SCALARS
    assert all(set(steps) == {-1, 0, 1, 2} for steps in log.values())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: (make_model(), path, data(1)[:, :, :3]), "skipped"),
        (lambda path: (make_model(), path, np.array(["words"])), "skipped"),
        (
            lambda path: (make_model(), path / "file" / "logs", data(1)),
            "NotADirectory|FailedPrecondition|Not a directory",
        ),
    ],
    ids=["wrong shape", "words", "log_dir below a file"],
)
def test_trouble_is_warned_of_once(tmp_path, make, message):
    (tmp_path / "file").write_text("")
    model, log_dir, inputs = make(tmp_path)
    watch = AttentionTensorBoard(log_dir, inputs)
    with pytest.warns(UserWarning, match=message) as caught:
        history = fit(model, [watch], epochs=3)
    assert len([w for w in caught if "AttentionTensorBoard" in str(w.message)]) == 1
    assert len(history.history["loss"]) == 3
    with pytest.raises(Exception):  # noqa: B017, PT011  whatever the model says
        watch.write(model, 3)


def test_a_model_without_attention_is_warned_of_once(tmp_path):
    model = chain(keras.layers.Dense(C))
    watch = AttentionTensorBoard(tmp_path, data(1))
    with pytest.warns(UserWarning, match="no attention layer") as caught:
        fit(model, [watch], epochs=2)
    assert len(caught) == 1
    assert not list(pathlib.Path(tmp_path).iterdir())
    with pytest.raises(ValueError, match="no attention layer"):
        watch.write(model, 0)


def test_a_full_disk_does_not_stop_training(tmp_path, monkeypatch):
    """A disk that is full for a moment, in the middle of a file."""
    watch = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    write, calls = _event_log._Local.write, []

    def fail_once(file, values, size):
        calls.append(size)
        if len(calls) == 6:  # the second step, of three runs, records and, once, a layout
            file.write(values[: len(values) // 2])
            raise OSError("No space left on device")
        return write(file, values, size)

    monkeypatch.setattr(_event_log._Local, "write", staticmethod(fail_once))
    monkeypatch.setattr(attention_tensorboard, "_PATIENCE", 0)
    with pytest.warns(UserWarning, match="No space left"):
        fit(make_model(), [watch], epochs=3)
    assert set(Log(tmp_path)["epoch_attention_max/attention"]) == {-1, 1, 2}


def test_a_full_disk_gets_no_empty_files(tmp_path, monkeypatch):
    class Full(io.FileIO):
        def write(self, values):
            raise OSError(28, "No space left on device")

    create = staticmethod(lambda path: Full(path, "x"))
    monkeypatch.setattr(_event_log._Local, "create", create)
    with pytest.warns(UserWarning, match="No space left") as caught:
        fit(make_model(), [AttentionTensorBoard(tmp_path, data(1))], epochs=3)
    assert len([w for w in caught if "AttentionTensorBoard" in str(w.message)]) == 1
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_log_directory_that_is_removed_is_made_anew(tmp_path, monkeypatch):
    class Remove(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            if epoch == 1:
                shutil.rmtree(tmp_path / "logs")

    monkeypatch.setattr(attention_tensorboard, "_PATIENCE", 0)
    watch = AttentionTensorBoard(tmp_path / "logs", data(1))
    with pytest.warns(UserWarning, match="event files were removed"):
        fit(make_model(), [Remove(), watch], epochs=4)
    (run,) = (run for run in read_log_dir(tmp_path / "logs") if run.blobs)
    assert set(run.steps) == {2, 3}
    assert set(Log(tmp_path / "logs")["epoch_attention_max/attention"]) == {2, 3}


def test_a_bucket_that_does_not_answer_is_left_alone(tmp_path, monkeypatch):
    calls, now = [], [0.0]

    def ask(directory):
        calls.append(directory)
        now[0] += 100
        raise OSError("the bucket does not answer")

    monkeypatch.setattr(_event_log._Local, "listdir", staticmethod(ask))
    monkeypatch.setattr(attention_tensorboard.time, "monotonic", lambda: now[0])
    watch = AttentionTensorBoard(tmp_path, data(1))
    with pytest.warns(UserWarning, match="does not answer"):
        fit(make_model(), [watch], epochs=5)
    assert len(calls) == 1
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_no_numbers_are_drawn(tmp_path, value):
    x = data(1)
    x[0, 1] = value
    watch = AttentionTensorBoard(tmp_path, x)
    with pytest.warns(UserWarning, match="not finite numbers") as caught:
        fit(make_model(), [watch], epochs=2)
    assert len([w for w in caught if "AttentionTensorBoard" in str(w.message)]) == 1
    log = Log(tmp_path)
    pixels = log.picture("attention/attention/image", 0)
    red = (pixels == _colors.PALETTE[_colors.NOT_A_NUMBER]).all(-1)
    assert red.sum() > 35**2
    assert np.isnan(log["epoch_attention_entropy/attention"][1])


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        ([["a"] * (T + 1)], "6 query and 6 key tokens do not fit"),
        ({"other": [["a"]]}, "'other'.*no such layer, but 'attention'"),
    ],
)
def test_tokens_that_do_not_fit_are_warned_of(tmp_path, tokens, message):
    watch = AttentionTensorBoard(tmp_path, data(1), tokens=tokens)
    with pytest.warns(UserWarning, match=message):
        fit(make_model(), [watch])
    assert set(Log(tmp_path)) == SCALARS | {"attention/attention/image"}


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"log_dir": 3}, "`log_dir` must be the path of a directory. Received: log_dir=3"),
        ({"log_dir": ""}, "`log_dir` must be"),
        ({"inputs": None}, "`inputs` must be one batch"),
        ({"inputs": []}, "`inputs` must be one batch"),
        ({"inputs": [[1.0, 2.0]]}, "`inputs` must be one batch"),
        ({"inputs": np.float32(3)}, "`inputs` must be one batch"),
        ({"inputs": data(0)}, "`inputs` must be one batch"),
        ({"inputs": [data(1), data(2)]}, "`inputs` must be one batch"),
        ({"inputs": keras.Input((3,))}, "`inputs` must be one batch"),
        ({"inputs": tf.data.Dataset.range(0).batch(3)}, "whose first batch cannot be had"),
        ({"inputs": (data(1),) * 4}, "several inputs in a list"),
        ({"tokens": "a b"}, "`tokens` must be a list with one list of strings"),
        ({"tokens": ["a b"]}, "`tokens` must be a list with one list of strings"),
        ({"tokens": [[1, 2]]}, "`tokens` must be a list with one list of strings"),
        ({"tokens": [["a"]] * 2}, "as many lists as `inputs` has examples \\(1\\)"),
        ({"tokens": {"x": {"query": [["a"]]}}}, "`tokens\\['x'\\]` must be"),
        ({"tokens": {"query": [["a"]], "key": 3}}, "`tokens\\['key'\\]` must be"),
        ({"update_freq": 0}, '`update_freq` must be "epoch", "batch" or a positive'),
        ({"update_freq": "step"}, "Received: update_freq='step'"),
        ({"update_freq": True}, "Received: update_freq=True"),
        ({"max_examples": 0}, "`max_examples` must be a positive integer"),
        ({"per_head": 1}, "`per_head` must be True or False"),
        ({"write_images": None}, "`write_images` must be True or False"),
        ({"write_histograms": "yes"}, "`write_histograms` must be True or False"),
    ],
)
def test_bad_arguments(kwargs, message):
    with pytest.raises(ValueError, match=message):
        AttentionTensorBoard(**{"log_dir": "logs", "inputs": data(1), **kwargs})


def test_a_bad_step(tmp_path):
    with pytest.raises(ValueError, match="`step` must be an integer"):
        AttentionTensorBoard(tmp_path, data(1)).write(make_model(), 1.5)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("update_freq", ["epoch", "batch"])
def test_a_good_training_warns_of_nothing(tmp_path, update_freq):
    watch = AttentionTensorBoard(tmp_path, data(2), update_freq=update_freq)
    fit(make_model(), [watch], epochs=1)
