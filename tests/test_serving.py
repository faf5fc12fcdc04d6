"""A SavedModel as a server uses it: many threads, requests of any length and batch."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.tensorflow

# Without keras_sam, as TensorFlow Serving.
SERVER = """
import concurrent.futures, resource, sys
import numpy as np, tensorflow as tf

folder, requests, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
assert "keras_sam" not in sys.modules
model = tf.saved_model.load(folder)
serve, attention = (model.signatures[name] for name in ("serve", "attention"))
generator = np.random.default_rng(0)
longest = generator.normal(size=(8, 40, 8)).astype("float32")

def request(number):
    chosen = np.random.default_rng(number)
    batch, length = int(chosen.integers(1, 9)), int(chosen.integers(1, 41))
    inputs = tf.constant(longest[:batch, :length])
    [output] = serve(inputs).values()
    [weights] = attention(inputs).values()
    return batch, length, output.numpy(), weights.numpy()

def memory():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

# The layer is causal: a shorter request is the beginning of the longest one.
[whole] = serve(tf.constant(longest)).values()
[all_weights] = attention(tf.constant(longest)).values()
whole, all_weights = whole.numpy(), all_weights.numpy()
with concurrent.futures.ThreadPoolExecutor(threads) as pool:
    for _ in pool.map(request, range(requests // 2)):
        pass
    before = memory()
    for batch, length, output, weights in pool.map(request, range(requests)):
        np.testing.assert_allclose(output, whole[:batch, :length], atol=1e-5)
        assert weights.shape == (batch, 2, length, length)
        expected = all_weights[:batch, :, :length, :length]
        np.testing.assert_allclose(weights, expected, atol=1e-5)
growth = memory() - before
assert growth < 64, f"{growth} MiB"
# XLA compiles for each shape anew, and would for each of 320: it has nothing to compile.
for signature in (serve, attention):
    for function in signature.graph.as_graph_def().library.function:
        assert not function.attr["_XlaMustCompile"].b, function.signature.name
print("served", requests, "growth", round(growth), "MiB")
"""


def test_many_threads_and_lengths(tmp_path):
    import keras

    import keras_sam

    attend = keras_sam.SelfAttention(num_heads=2, causal=True)
    model = keras.Sequential([keras.Input((None, 8)), attend])
    folder = str(tmp_path / "served")
    keras_sam.export_saved_model(model, folder, verbose=False)
    command = [sys.executable, "-c", SERVER, folder, "1000", "8"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "served 1000" in done.stdout
