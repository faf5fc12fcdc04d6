"""Sums and maxima of what is just being computed, in vector code on CPUs.

XLA joins a reduction with what makes its terms, so that no tensor of terms is ever written;
but then it goes through one number after the other. Ways around, all measured at twice the
speed or more:

* Over the last axis, a product with ones is the same sum.
* Elsewhere, the two halves of the tensor are added up, three times, and the eighth that is
  left is written and reduced. (Four times are slower than none.) So are maxima.

Of a tensor that is there already, the plain reductions are faster.
"""

import keras
from keras import ops

from keras_sam.backend.portable import is_portable
from keras_sam.backend.precision import matmul
from keras_sam.backend.xla import on_cpu

HALVINGS = 3


def fused_sum(x, axes):
    """Returns `ops.sum(x, axis=axes)` of a tensor that is not there yet.

    Args:
        x: Tensor of float32 or wider.
        axes: Tuple of axes, positive integers.
    """
    if not on_cpu():
        return ops.sum(x, axis=axes)
    last = len(x.shape) - 1
    if last in axes:
        x = matmul(x, ops.ones((ops.shape(x)[-1], 1), x.dtype))[..., 0]
        rest = tuple(axis for axis in axes if axis != last)
        return ops.sum(x, axis=rest) if rest else x
    return ops.sum(_halve(x, axes, ops.add), axis=axes)


def fused_max(x, axes):
    """Returns `ops.max(x, axis=axes)` of a tensor that is not there yet."""
    if on_cpu():
        x = _halve(x, axes, ops.maximum)
    return largest(x, axes)


def largest(x, axes, keepdims=False):
    """Returns `ops.max(x, axis=axes)`, which is minus infinity of no numbers."""
    # jax2onnx converts no `initial`.
    is_plain = keras.backend.backend() == "jax" and is_portable()
    initial = None if is_plain else float("-inf")
    return ops.max(x, axis=axes, keepdims=keepdims, initial=initial)


def _halve(x, axes, join):
    """Joins the halves of `x` along some axes, and the halves of what comes out."""
    done = 0
    for axis in axes:
        while done < HALVINGS and x.shape[axis] is not None and x.shape[axis] % 2 == 0:
            x = join(*ops.split(x, 2, axis=axis))
            done += 1
    return x
