"""AttentionTensorBoard, read back with TensorBoard's own reader."""

import io
import pathlib

import keras
import numpy as np
import oracles
import pytest
import tensorflow as tf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util.tensor_util import make_ndarray

from keras_sam import CrossAttention, SelectiveAttention, SelfAttention, record_attention
from keras_sam.callbacks import AttentionTensorBoard, _heatmaps, _summaries
from keras_sam.callbacks.attention_tensorboard import KINDS

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
    """What is in `<directory>/<run>`: tag -> {step: array}."""

    def __init__(self, directory, run="attention"):
        everything = {"tensors": 0}
        reader = EventAccumulator(str(directory / run), size_guidance=everything)
        reader.Reload()
        for tag in reader.Tags()["tensors"]:
            events = reader.Tensors(tag)
            self[tag] = {e.step: make_ndarray(e.tensor_proto) for e in events}
            assert len(self[tag]) == len(events), f"{tag} has a step twice"
        self.about = {tag: reader.SummaryMetadata(tag).summary_description for tag in self}

    def picture(self, tag, step, example=0):
        width, height, *pictures = self[tag][step]
        pixels = np.asarray(Image.open(io.BytesIO(pictures[example])).convert("RGB"))
        assert pixels.shape == (int(height), int(width), 3)
        return pixels


SCALARS = {f"epoch_attention_{name}/attention" for name in ("entropy", "distance", "max")}


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
    heads = {f"{tag}/head_{n}" for tag in SCALARS for n in range(2)}
    others = {"attention/attention/image", "attention/attention/histogram"}
    assert set(log) == SCALARS | heads | others
    assert all(set(steps) == {0, 1, 2} for steps in log.values())
    assert all(log.about.values())
    assert "queries" in log.about["attention/attention/image"]


def test_scalars_are_those_of_the_weights(trained):
    log, distances = Log(trained[0]), abs(np.subtract.outer(range(T), range(T)))
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
                value = log[f"{tag}/head_{head}"][step]
                assert value == pytest.approx(expected[head, n], rel=1e-5)


def test_every_pixel_of_every_cell_is_the_color_of_its_weight(trained):
    log, cell = Log(trained[0]), _heatmaps.cell_side((T, T))
    for step, weights in enumerate(trained[1]):
        for example in range(2):
            pixels = log.picture("attention/attention/image", step, example)
            panels = [
                [_heatmaps.HeatMap(head, f"head {n}")]
                for n, head in enumerate(weights[example])
            ]
            _, corners = _heatmaps.page(panels, KINDS["self"].axes)
            for head, (top, left) in zip(weights[example], corners, strict=True):
                size = T * cell
                shown = pixels[top : top + size, left : left + size]
                codes = np.rint(head / head.max() * (_heatmaps.LEVELS - 1)).astype(int)
                expected = _heatmaps.PALETTE[np.kron(codes, np.ones((cell, cell), int))]
                np.testing.assert_array_equal(shown, expected)


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


def test_masked_cells_are_gray_and_padding_does_not_count(tmp_path):
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
    expected = oracles.attention_statistics(weights, allowed, distances)
    log = Log(tmp_path)
    for name, value in zip(("entropy", "distance", "max"), expected, strict=True):
        found = log[f"epoch_attention_{name}/attention"][4]
        assert found == pytest.approx(value, rel=1e-5)
    pixels = log.picture("attention/attention/image", 4)
    cell = _heatmaps.cell_side((T, T))
    gray = (pixels == _heatmaps.PALETTE[_heatmaps.MASKED]).all(-1)
    assert gray.sum() == (T * T - 6) * cell**2 + 14 * 14  # the last is the legend


def test_pictures_of_places_stand_beside_the_matrix(tmp_path):
    layer = SelfAttention(num_heads=1, key_dim=3, name="attention")
    x = np.random.default_rng(0).normal(size=(1, 2, 3, C)).astype("float32")
    watch = AttentionTensorBoard(tmp_path, x)
    watch.write(chain(layer, shape=(2, 3, C)), 0)
    watch.close()
    with record_attention() as maps:
        layer(x)
    weights = maps["attention"].numpy()[0, 0]
    places = weights.mean(0).reshape(2, 3)
    heat_maps = [_heatmaps.HeatMap(weights, "head 0"), _heatmaps.HeatMap(places, "mean")]
    codes, corners = _heatmaps.page([heat_maps], KINDS["self"].axes + ", mean: of rows")
    pixels = Log(tmp_path).picture("attention/attention/image", 0)
    assert pixels.shape[:2] == codes.shape
    assert len(corners) == 2
    np.testing.assert_array_equal(pixels, _heatmaps.PALETTE[codes])


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
    expected = []
    for example, names in enumerate(shown):
        for query, name in enumerate(names):
            weights = mean[example, query, : len(names)]
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
        assert [row[1] for row in rows] == list(queries) * 2
        assert {cell[0] for row in rows for cell in row[2:] if cell} <= set(keys)


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
    assert log["epoch_attention_effective_parts/select"][0] > 1
    rows = cells(log, "select/attention/tokens")
    assert len(rows) == 1 + 2 * 2
    with record_attention() as maps:
        model(data(2), training=False)
    weights = maps["select"].numpy()
    shown = [["the", "cat", r"\*sat\*", "&lt;b&gt;", r"a\|b"], ["x", "y"]]
    for row, (example, head) in zip(rows[1:], np.ndindex(2, 2), strict=True):
        strip = weights[example, head, : len(shown[example])]
        assert row[:2] == [str(example), str(head)]
        assert row[2] == f"{shown[example][strip.argmax()]} ({strip.max():.2f})"
        bars = row[-1].split(" ")
        assert [bar[1:] for bar in bars] == shown[example]
        order = np.argsort(strip, kind="stable")
        assert sorted(bar[0] for bar in bars) == [bars[place][0] for place in order]
        if example == 0:
            assert bars[strip.argmax()][0] == "█"


def test_selected_places_are_drawn_over_the_picture(tmp_path):
    pictures = data(1, 4 * 6, 3).reshape(1, 4, 6, 3)
    layer = SelectiveAttention(num_heads=2, top_k=5, name="select")
    watch = AttentionTensorBoard(tmp_path, pictures)
    watch.write(chain(layer, shape=(4, 6, 3)), 0)
    watch.close()
    log = Log(tmp_path)
    assert "Over the input" in log.about["select/attention/image"]
    colors = {
        tuple(color) for color in log.picture("select/attention/image", 0).reshape(-1, 3)
    }
    assert tuple(_heatmaps.PALETTE[_heatmaps.MASKED]) in colors  # what is left out


def test_padding_does_not_count_as_parts(tmp_path):
    layer = SelectiveAttention(kernel_initializer="zeros", name="select")
    model = chain(keras.layers.Masking(), layer)
    inputs = data(1)
    inputs[:, 3:] = 0
    watch = AttentionTensorBoard(tmp_path, inputs, write_images=False)
    watch.write(model, 0)
    watch.close()
    log = Log(tmp_path)
    assert log["epoch_attention_effective_parts/select"][0] == pytest.approx(3)
    assert log["epoch_attention_entropy/select"][0] == pytest.approx(1)


def test_steps_go_on_where_training_does(tmp_path):
    model = make_model()
    watch = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    fit(model, [watch], epochs=2)
    fit(model, [watch], initial_epoch=2, epochs=3)
    another = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    fit(model, [another], initial_epoch=3, epochs=5)
    for tag in SCALARS:
        assert set(Log(tmp_path)[tag]) == {0, 1, 2, 3, 4}


@pytest.mark.parametrize(
    ("update_freq", "steps"),
    [("batch", {*range(1, 13)}), (2, {2, 4, 6, 8, 10, 12}), (5, {5, 10})],
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
    assert set(log) == {tag.replace("epoch_", "batch_") for tag in SCALARS}
    assert all(set(found) == steps for found in log.values())


def test_batches_that_run_together_are_counted(tmp_path):
    model = make_model()
    model.compile("sgd", "mse", steps_per_execution=3)
    watch = AttentionTensorBoard(tmp_path, data(1), update_freq=2, write_images=False)
    fit(model, [watch], epochs=4)
    assert set(Log(tmp_path)["batch_attention_max/attention"]) == {3, 6, 9, 12}


def test_batch_logs_do_not_follow_the_other_callbacks_rhythm(tmp_path):
    callbacks = [
        keras.callbacks.TensorBoard(tmp_path, update_freq=3),
        AttentionTensorBoard(tmp_path, data(1), update_freq=2, write_images=False),
    ]
    fit(make_model(), callbacks, epochs=2)
    assert set(Log(tmp_path)["batch_attention_max/attention"]) == {2, 4, 6}


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
    assert len(list((tmp_path / "attention").iterdir())) == 1
    log = Log(tmp_path)
    assert set(log["epoch_attention_max/attention"]) == {0, 1}
    assert set(log["batch_attention_max/attention"]) == {3, 6}
    fit(make_model(), callbacks[:1], initial_epoch=2, epochs=3)
    assert len(list((tmp_path / "attention").iterdir())) == 2


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

    monkeypatch.setattr(_heatmaps, "encode_png", fail)


def test_a_picture_that_fails_stops_neither_training_nor_scalars(tmp_path, monkeypatch):
    broken_layer(monkeypatch)
    with pytest.warns(UserWarning, match="'attention'.*RuntimeError: no paint") as caught:
        fit(make_model(), [AttentionTensorBoard(tmp_path, data(1))], epochs=3)
    assert len([w for w in caught if "AttentionTensorBoard" in str(w.message)]) == 1
    log = Log(tmp_path)
    assert set(log) == SCALARS
    assert all(set(steps) == {0, 1, 2} for steps in log.values())


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
    watch = AttentionTensorBoard(tmp_path, data(1), write_images=False)
    write, calls = _summaries.EventFileWriter.add_event, []

    def add_event(self, event):
        calls.append(event)
        if len(calls) == 2:  # after the header that every file begins with
            raise OSError("No space left on device")
        write(self, event)

    monkeypatch.setattr(_summaries.EventFileWriter, "add_event", add_event)
    with pytest.warns(UserWarning, match="No space left"):
        fit(make_model(), [watch], epochs=3)
    assert set(Log(tmp_path)["epoch_attention_max/attention"]) == {1, 2}


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
        ({"inputs": tf.data.Dataset.range(3).batch(3)}, "next\\(iter\\(dataset\\)\\)"),
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
def test_a_good_training_warns_of_nothing(tmp_path):
    fit(make_model(), [AttentionTensorBoard(tmp_path, data(2))], epochs=1)
