"""A SavedModel under load: requests a second, waiting times and memory.

    python benchmarks/serving.py

Exports a causal `SelfAttention` of unknown length, loads the file in a process without
Keras, and asks both of its signatures from some threads, with batches of 1 to 8 and lengths
of 1 to 512 drawn at random.
"""

import argparse
import concurrent.futures
import os
import pathlib
import subprocess
import sys
import tempfile
import time

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--requests", type=int, default=1000)
parser.add_argument("--threads", type=int, default=8)
parser.add_argument("--length", type=int, default=512)
parser.add_argument("--folder", help=argparse.SUPPRESS)


def export(folder):
    import keras

    import keras_sam

    attend = keras_sam.SelfAttention(num_heads=4, causal=True)
    model = keras.Sequential([keras.Input((None, 64)), attend])
    keras_sam.export_saved_model(model, folder, verbose=False)


def memory():
    """The resident memory of this process in MiB."""
    pages = int(pathlib.Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def serve(options):
    import tensorflow as tf

    model = tf.saved_model.load(options.folder)
    shape = (8, options.length, 64)
    longest = np.random.default_rng(0).normal(size=shape).astype("float32")

    def request(number, signature):
        chosen = np.random.default_rng(number)
        batch, length = chosen.integers(1, 9), chosen.integers(1, options.length + 1)
        inputs = tf.constant(longest[:batch, :length])
        start = time.perf_counter()
        for output in signature(inputs).values():
            output.numpy()
        return time.perf_counter() - start

    for name in ("serve", "attention"):
        signature = model.signatures[name]
        request(0, signature)
        readings = [memory()]
        for _ in range(3):
            start = time.perf_counter()
            with concurrent.futures.ThreadPoolExecutor(options.threads) as pool:
                numbers = range(options.requests)
                times = list(pool.map(request, numbers, [signature] * len(numbers)))
            seconds = time.perf_counter() - start
            readings.append(memory())
        half, most = np.percentile(times, [50, 99]) * 1000
        print(
            f"{name}: {options.requests / seconds:.0f} requests a second, half of them in "
            f"{half:.1f} ms, 99% in {most:.1f} ms; memory before and after each of three "
            f"rounds {', '.join(f'{x:.0f}' for x in readings)} MiB",
            flush=True,
        )


def main():
    options = parser.parse_args()
    if options.folder:
        serve(options)
        return
    with tempfile.TemporaryDirectory() as folder:
        export(folder)
        arguments = [*sys.argv, "--folder", folder]
        subprocess.run([sys.executable, *arguments], check=True)


if __name__ == "__main__":
    main()
