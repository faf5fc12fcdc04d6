"""Padding masks, as Keras hands them over, and what lies behind them."""

from keras import ops
from keras.src import backend

from keras_sam import _validation as check


def keras_mask(tensor, mask, axes=None):
    """Returns `mask`, or the implicit Keras mask of `tensor`, as booleans.

    Keras itself fills in a layer's `mask` argument only where that layer is called with
    one tensor; beside an `attention_mask` it does not.

    An implicit mask may have more axes than the tensor has positions: `TimeDistributed`
    hands on that of its input, words, where its output is one vector for each sentence.
    Such a sentence counts if any of its words does.

    Args:
        tensor: The input.
        mask: The argument, or None.
        axes: The number of axes of a mask that fits, or None.
    """
    implicit = getattr(tensor, "_keras_mask", None)
    mask = implicit if mask is None else mask
    if mask is None:
        return None
    is_implicit = mask is implicit
    mask = ops.cast(mask, "bool")
    if is_implicit and axes is not None and len(mask.shape) > axes:
        mask = ops.any(mask, axis=tuple(range(axes, len(mask.shape))))
    return mask


def check_mask(layer, name, mask, tensor):
    """Refuses a padding mask that is not `tensor` without its channels."""
    if mask is None or check.fits(mask.shape, tensor.shape[:-1]):
        return
    raise ValueError(
        f"`{name}` must have the shape {tuple(tensor.shape[:-1])}, in "
        f"{layer.__class__.__name__} {layer.name!r}. "
        f"Received: {name}.shape={tuple(mask.shape)}"
    )


def pass_on(tensor, mask):
    """Makes `mask`, if any, the implicit Keras mask of an output.

    Keras itself passes on the mask of the first input and an argument `mask`, but no
    argument of another name.
    """
    if mask is not None:
        backend.set_keras_mask(tensor, mask)


def without_padding(tensor, mask):
    """Returns `tensor` with zeros for padding, which may be infinite or not a number.

    Zero times such a number is none, so it has to go before anything is multiplied,
    forward and in the gradient.

    Args:
        tensor: Tensor `(..., channels)`.
        mask: Boolean tensor that broadcasts to `tensor` without its channels, or None;
            False is padding.
    """
    if mask is None:
        return tensor
    return ops.where(ops.expand_dims(mask, -1), tensor, ops.zeros_like(tensor))
