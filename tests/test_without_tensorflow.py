"""What needs no TensorFlow runs where there is none, with equal results."""

import json
import os
import pathlib
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
from common import stored_arrays

ROOT = pathlib.Path(__file__).parent.parent
OTHERS = [
    pytest.param(name, marks=pytest.mark.skipif(find_spec(name) is None, reason="absent"))
    for name in ("jax", "torch")
]
pytestmark = pytest.mark.tensorflow  # once; the subprocesses choose their backend

# A finder in front of all others: no import of TensorFlow succeeds.
HIDE = """
import importlib.abc, sys

class Hidden(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "tensorflow":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

sys.meta_path.insert(0, Hidden())
import importlib.util
_find = importlib.util.find_spec
importlib.util.find_spec = lambda name, *rest: (
    None if name.split(".")[0] == "tensorflow" else _find(name, *rest)
)
"""

WATCHED = """
import pathlib, sys
import keras, numpy as np
import keras_sam

x = np.random.default_rng(0).normal(size=(8, 5, 6)).astype("float32")
model = keras.Sequential([keras.Input((5, 6)), keras_sam.SelfAttention(2)])
model.compile("adam", "mse")
watch = keras_sam.callbacks.AttentionTensorBoard(sys.argv[1], x[:2])
model.fit(x, x, epochs=2, callbacks=[watch], verbose=0)
with keras_sam.record_attention() as maps:
    model(x)
assert len(maps) == 1
assert list(pathlib.Path(sys.argv[1]).rglob("events.*"))
assert "tensorflow" not in sys.modules
"""

# All cases of the contract: their weights and outputs, saved by one backend, and the same
# weights in the layers of another.
ALL_CASES = """
import sys
import keras, numpy as np
from cases import everything
from common import numpy

folder, saves = sys.argv[1], sys.argv[2] == "save"
model, arrays = everything()
if saves:
    model.save_weights(folder + "/all.weights.h5")
else:
    for weight in model.weights:
        weight.assign(np.zeros(weight.shape))
    model.load_weights(folder + "/all.weights.h5")
outputs = model(arrays(2), training=False)
arrays = {name: numpy(output) for name, output in outputs.items()}
np.savez(folder + f"/{keras.backend.backend()}", **arrays)
"""


def run(backend, program, *arguments):
    environment = {**os.environ, "KERAS_BACKEND": backend}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    done = subprocess.run(
        [sys.executable, "-c", program, *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=600,
    )
    return done.returncode, done.stderr[-3000:]


@pytest.mark.parametrize("backend", OTHERS)
def test_callback_and_recording(backend, tmp_path):
    code, errors = run(backend, HIDE + WATCHED, tmp_path)
    assert code == 0, errors


def test_the_error_names_the_extra():
    code, errors = run("tensorflow", HIDE + "import keras_sam")
    assert code == 1
    assert "keras-sam[tensorflow]" in errors.splitlines()[-1]


@pytest.mark.skipif(not find_spec("jax"), reason="needs JAX")
def test_the_backend_of_the_configuration_counts(tmp_path):
    (tmp_path / "keras.json").write_text(json.dumps({"backend": "jax"}))
    program = f"""
import os
del os.environ["KERAS_BACKEND"]
os.environ["KERAS_HOME"] = {str(tmp_path)!r}
from keras_sam import _startup
assert _startup._backend() == "jax"
"""
    code, errors = run("tensorflow", program)
    assert code == 0, errors


@pytest.mark.parametrize("backend", OTHERS)
def test_weights_go_from_backend_to_backend(backend, tmp_path):
    for name, saves in (("tensorflow", "save"), (backend, "load")):
        code, errors = run(name, ALL_CASES, tmp_path, saves)
        assert code == 0, errors
    expected, found = (
        stored_arrays(tmp_path / f"{name}.npz") for name in ("tensorflow", backend)
    )
    assert expected.keys() == found.keys()
    for name, array in expected.items():
        error = np.abs(found[name] - array).max() / np.abs(array).max()
        assert error < 28 * np.finfo("float32").eps, name
