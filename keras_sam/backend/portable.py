"""Asking for plain operations, which runtimes other than TensorFlow have as well.

Kernels that loop over blocks, or are compiled by XLA, convert to few other formats. Code
that has such a kernel asks `is_portable()` and takes the plain formula instead.
"""

import contextlib
import contextvars

_portable = contextvars.ContextVar("keras_sam_portable", default=False)


@contextlib.contextmanager
def portable():
    """Lets what is traced meanwhile be made of plain operations only."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def is_portable():
    """Returns whether plain operations are asked for."""
    return _portable.get()
