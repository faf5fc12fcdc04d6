"""Pictures with grey margins, in NumPy: there (`embed`) and back (`to_picture`)."""

import numpy as np

_GREY = 0.5


def content_size(size, network_size):
    """Returns (height, width) of a picture inside the network's input."""
    (height, width), (net_height, net_width) = size, network_size
    if net_width / width < net_height / height:
        return max(1, height * net_width // width), net_width
    return net_height, max(1, width * net_height // height)


def embed(picture, network_size):
    """Returns the picture `(H, W, C)` in the middle of a grey one of `network_size`."""
    height, width = content_size(picture.shape[:2], network_size)
    canvas = np.full((*network_size, picture.shape[2]), _GREY, "float32")
    top, left = (network_size[0] - height) // 2, (network_size[1] - width) // 2
    canvas[top : top + height, left : left + width] = resize(picture, (height, width))
    return canvas


def resize(picture, size):
    """Returns the picture `(H, W, C)` at another size: bilinear, corners aligned."""
    for axis, length in enumerate(size):
        picture = _resize_axis(picture, length, axis)
    return picture


def _resize_axis(picture, length, axis):
    last = picture.shape[axis] - 1
    step = np.float32(last) / np.float32(max(length - 1, 1))
    positions = np.arange(length, dtype="float32") * step
    positions[-1] = last
    below = np.minimum(positions.astype("int64"), last)
    above = np.minimum(below + 1, last)
    part = (positions - below.astype("float32")).astype("float32")
    part = part.reshape([-1 if n == axis else 1 for n in range(picture.ndim)])
    before, after = (np.take(picture, index, axis) for index in (below, above))
    return (1 - part) * before + part * after


def to_picture(boxes, image_size, network_size):
    """Returns boxes as shares of the picture that was embedded.

    Darknet does not round the margin here.

    Args:
        boxes: `(B, N, 4)`: x, y, width, height, as shares of the network's input.
        image_size: (height, width) of the picture, or one pair for each.
        network_size: (height, width) of the network's input.
    """
    pairs = np.atleast_2d(np.asarray(image_size))
    content = np.array([content_size(pair.tolist(), network_size) for pair in pairs])
    share = (content / np.asarray(network_size))[:, None, ::-1]  # width, height
    margin = (1 - share) / 2
    scale = np.concatenate([1 / share, 1 / share], axis=-1).astype("float32")
    shift = np.concatenate([-margin / share, np.zeros_like(share)], axis=-1)
    return boxes * scale + shift.astype("float32")
