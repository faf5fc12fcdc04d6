"""Trains every layer twice, deterministically: what test_determinism.py runs.

    python tests/deterministic.py            # operation by operation
    python tests/deterministic.py --graphs   # as `fit` does it, in two minutes

It prints checksums of all weights.
"""

import hashlib
import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
sys.path.insert(0, os.path.dirname(__file__))

import keras
from cases import everything
from common import numpy


def checksum(model):
    digest = hashlib.sha256()
    for weight in model.weights:
        digest.update(numpy(weight).tobytes())
    return digest.hexdigest()


def made():
    keras.utils.set_random_seed(5)
    return everything(unknown=True)


def trained(eagerly):
    model, arrays = made()
    initial = checksum(model)
    model.compile("adam", "mse", run_eagerly=eagerly, jit_compile=False)
    inputs = arrays(2)
    targets = {name: 0.3 * numpy(y) for name, y in model(inputs).items()}
    model.fit(inputs, targets, batch_size=1, verbose=0)
    return initial, checksum(model)


def main():
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()
    eagerly = "--graphs" not in sys.argv
    tf.config.run_functions_eagerly(eagerly)
    first, again = (trained(eagerly) for _ in range(2))
    assert first == again
    print("initial", first[0])
    print("trained", first[1])


if __name__ == "__main__":
    main()
