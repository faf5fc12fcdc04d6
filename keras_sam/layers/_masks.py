"""Padding masks, as Keras hands them over."""

from keras import ops


def keras_mask(tensor, mask):
    """Returns `mask`, or the implicit Keras mask of `tensor`, as booleans.

    Keras itself fills in a layer's `mask` argument only where that layer is called with
    one tensor; beside an `attention_mask` it does not.
    """
    if mask is None:
        mask = getattr(tensor, "_keras_mask", None)
    if mask is None:
        return None
    return ops.cast(mask, "bool")
