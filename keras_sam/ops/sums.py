"""Sums of what is just being computed, as XLA makes vector code of them on CPUs.

XLA joins the sum with what makes its terms, so that no tensor of terms is ever written;
but then it adds up one number after the other. Two ways around, both measured at twice
the speed or more:

* Over the last axis, a product with ones is the same sum.
* Over other axes, the two halves of the tensor are added up, three times, and the eighth
  that is left is written and summed. (Four times are slower than none.)
"""

from keras import ops

from keras_sam.ops.compiled import on_cpu
from keras_sam.ops.precision import matmul

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
    return ops.sum(_add_halves(x, axes), axis=axes)


def _add_halves(x, axes):
    done = 0
    for axis in axes:
        while done < HALVINGS and x.shape[axis] is not None and x.shape[axis] % 2 == 0:
            x = sum(ops.split(x, 2, axis=axis))
            done += 1
    return x
