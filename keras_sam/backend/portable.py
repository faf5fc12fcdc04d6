"""Asking for plain operations, which runtimes other than TensorFlow have as well.

Kernels that loop over blocks, or are compiled by XLA, convert to few other formats. Code
that has such a kernel asks `is_portable()` and takes the plain formula instead. It is true
inside `portable(target)`, and in what Keras traces for `model.export(format="onnx")`,
`"openvino"` and `"litert"`, which tell no layer that they export.
"""

import contextlib
import contextvars
import sys

import keras

from keras_sam.backend.xla import runs_eagerly

_target = contextvars.ContextVar("keras_sam_portable", default=None)

# The modules that trace a model to convert it, and what they convert it to. PyTorch's
# exporters call the model eagerly, JAX's and TensorFlow's trace it.
EXPORTERS = {
    "keras.src.export.onnx": "onnx",
    "keras.src.export.openvino": "openvino",
    "keras.src.export.litert": "litert",
}


@contextlib.contextmanager
def portable(target):
    """Lets what is traced meanwhile be made of plain operations only.

    Args:
        target: The format to convert to: `"onnx"`, `"openvino"` or `"litert"`.
    """
    token = _target.set(target)
    try:
        yield
    finally:
        _target.reset(token)


def target():
    """Returns the format that is being converted to, or None."""
    return _target.get() or _exporter()


def is_portable():
    """Returns whether plain operations are asked for."""
    return target() is not None


def _exporter():
    """Returns the format of the exporter of Keras that calls, or None.

    Only a search of the callers finds it. Eager calls skip the search, which takes some
    microseconds: an exporter traces.
    """
    if keras.backend.backend() != "torch" and runs_eagerly():
        return None
    frame = sys._getframe(1)
    while frame is not None:
        found = EXPORTERS.get(frame.f_globals.get("__name__"))
        if found:
            return found
        frame = frame.f_back
    return None
