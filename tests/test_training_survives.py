"""Training goes on whatever happens to the callback's logs, and what is there is read."""

import contextlib
import os
import pathlib
import resource
import shutil
import signal
import subprocess
import sys
import warnings

import keras
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

import keras_sam
from keras_sam import CBAM, CrossAttention, SelectiveAttention, SelfAttention
from keras_sam.callbacks import AttentionTensorBoard, attention_tensorboard
from keras_sam_viewer.reader import read_log_dir

LENGTH, WIDTH = 6, 8


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    """Tries to write again at once, and not when 30 times the failure's time has passed."""
    monkeypatch.setattr(attention_tensorboard, "_PATIENCE", 0)


def model(name="attention"):
    inputs = keras.Input((LENGTH, WIDTH))
    made = keras.Model(inputs, SelfAttention(2, name=name)(inputs))
    made.compile("sgd", "mse")
    return made


def data(examples=4):
    shape = examples, LENGTH, WIDTH
    return np.random.default_rng(0).normal(size=shape).astype("float32")


def fit(one, watch, epochs=6):
    """Trains, and returns the callback's warnings."""
    x = data()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history = one.fit(x, x, epochs=epochs, verbose=0, callbacks=[watch])
    assert len(history.history["loss"]) == epochs
    assert np.isfinite(history.history["loss"]).all()
    return [w for w in caught if "AttentionTensorBoard" in str(w.message)]


def files(folder):
    return [path for path in pathlib.Path(folder).rglob("*") if path.is_file()]


def events(path):
    """The events in a file, as TensorBoard's own reader has them."""
    return list(EventFileLoader(str(path)).Load())


@contextlib.contextmanager
def mounted(folder, options):
    """A memory disk of 48 KiB at `folder`."""
    command = ["mount", "-t", "tmpfs", "-o", f"size=48k{options}", "tmpfs", str(folder)]
    mount = shutil.which("mount") and subprocess.run(command, capture_output=True)
    if not mount or mount.returncode:
        pytest.skip("mounting a disk is not allowed here")
    try:
        yield
    finally:  # lazily: a reader may have a file open
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def limited(folder):
    """No file may grow beyond 12 kB."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (12000, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@contextlib.contextmanager
def protected(folder):
    if os.geteuid() == 0:  # who may write everywhere, but on a disk that is read-only
        with mounted(folder, ",ro"):
            yield
        return
    folder.chmod(0o500)
    try:
        yield
    finally:
        folder.chmod(0o700)


FULL = {"disk": lambda folder: mounted(folder, ""), "file": limited}


@pytest.mark.parametrize("what", FULL)
def test_a_disk_that_runs_full(what, tmp_path):
    with FULL[what](tmp_path):
        assert len(fit(model(), AttentionTensorBoard(tmp_path, data(2)))) == 1
        written = files(tmp_path)
        assert written
        for path in written:
            # TensorBoard warns of a record that is cut off, by another way than Python's.
            assert len(events(path)) > 1, path
        (run,) = (run for run in read_log_dir(tmp_path) if run.blobs)
        assert run.steps[:1] == [-1]
        assert len(run.steps) < 7


def test_a_directory_that_is_read_only(tmp_path):
    with protected(tmp_path):
        assert len(fit(model(), AttentionTensorBoard(tmp_path / "logs", data(2)))) == 1
        assert not files(tmp_path)


KILLED = """
import resource, signal
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # Python ignores it
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, {limit}))
import test_training_survives as here
here.fit(here.model(), here.AttentionTensorBoard({logs!r}, here.data(2)), epochs=500)
"""


def test_a_process_that_is_killed_while_it_writes(tmp_path):
    """The system kills it in the middle of a record; the next training goes on after it."""
    logs = tmp_path / "logs"
    limit = 80_021
    code = KILLED.format(limit=limit, logs=str(logs))
    options = {"cwd": pathlib.Path(__file__).parent, "capture_output": True, "text": True}
    root = str(pathlib.Path(keras_sam.__file__).parents[1])
    environment = os.environ | {"PYTHONPATH": root, "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, **options)
    assert done.returncode == -signal.SIGXFSZ, done.stdout + done.stderr[-2000:]
    (cut,) = (path for path in files(logs) if path.stat().st_size == limit)
    whole = events(cut)
    assert len(whole) > 1
    # What the cut record had is missing, and nothing else is.
    (run,) = (run for run in read_log_dir(logs) if run.blobs)
    before = run.steps
    assert before == list(range(-1, len(before) - 1))
    assert len(before) > 2
    assert not fit(model(), AttentionTensorBoard(logs, data(2)), epochs=2)
    assert events(cut) == whole
    (run,) = (run for run in read_log_dir(logs) if run.blobs)
    added = run.steps[len(before) :]
    assert run.steps[: len(before)] == before
    # The step that was cut may be there in other files, and is not counted twice.
    assert added in [[before[-1] + 1 + n, before[-1] + 2 + n] for n in (0, 1)]


def test_a_file_that_is_cut_off_anywhere(tmp_path):
    """Whatever a process has written when it is killed: whole records are read."""
    fit(model(), AttentionTensorBoard(tmp_path / "whole", data(2)), epochs=2)
    (path,) = (tmp_path / "whole" / "attention").glob("events.*")
    content = path.read_bytes()
    whole = events(path)
    (run,) = (run for run in read_log_dir(tmp_path / "whole") if run.blobs)
    assert run.steps == [-1, 0, 1]
    cut = tmp_path / "cut" / "attention" / path.name
    cut.parent.mkdir(parents=True)
    counts = set()
    for size in np.linspace(0, len(content), 40, dtype=int):
        cut.write_bytes(content[:size])
        found = events(cut)
        assert found == whole[: len(found)]
        steps = [s for r in read_log_dir(tmp_path / "cut") if r.blobs for s in r.steps]
        assert steps == run.steps[: len(steps)]
        counts.add((len(found), len(steps)))
    assert len(counts) > len(whole) // 2
    assert (len(whole), 3) in counts


def test_layers_that_are_renamed_between_two_fits(tmp_path):
    watch = AttentionTensorBoard(tmp_path, data(2))
    for name in ("first", "second"):
        assert not fit(model(name), watch, epochs=2)
    runs = [run for run in read_log_dir(tmp_path) if run.blobs]
    assert [run.steps for run in runs] == [[-1, 0, 1, 2, 3]]


@pytest.mark.skipif(not os.environ.get("TEST_SOAK"), reason="only where asked for")
def test_a_long_training_grows_in_nothing():
    """Shorter than the soak itself, so that memory is still being taken."""
    soak = pathlib.Path(__file__).parent.parent / "benchmarks" / "soak.py"
    options = "--steps", "60", "--epoch", "20", "--warm-up", "1", "--memory", "400"
    command = [sys.executable, str(soak), *options]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    assert "nothing" in done.stdout


BAD = {"not a number": np.nan, "infinite": np.inf, "minus infinity": -np.inf}


@pytest.mark.parametrize("everywhere", [False, True], ids=["one", "all"])
@pytest.mark.parametrize("bad", BAD)
def test_examples_to_look_at_that_are_no_numbers(bad, everywhere, tmp_path):
    """In a chain of all kinds of layers, with everything that is written of them."""
    inputs = keras.Input((2, 3, WIDTH))
    x = CBAM(reduction=2)(inputs)
    features = keras.layers.Reshape((LENGTH, WIDTH))(x)
    x = SelfAttention(2, normalizer="entmax")(features)
    x = CrossAttention(2, score="additive", normalizer="sigmoid")(x, features)
    outputs = SelectiveAttention(num_heads=2, relation="self", top_k=3)(x)
    chain = keras.Model(inputs, outputs)
    chain.compile("sgd", "mse", run_eagerly=True)
    x = data().reshape(-1, 2, 3, WIDTH)
    look_at = x[:2].copy()
    look_at[:, :, : None if everywhere else 1] = BAD[bad]
    options = {"write_histograms": True, "per_head": True}
    watch = AttentionTensorBoard(tmp_path, look_at, **options)
    with pytest.warns(UserWarning, match="not finite numbers"):
        history = chain.fit(x, x.mean((1, 2)).repeat(2, -1), callbacks=[watch], verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    (run,) = (run for run in read_log_dir(tmp_path) if run.blobs)
    assert run.steps == [-1, 0]
