"""Pictures as Darknet gives them to a network."""

import os

import numpy as np

from keras_sam._validation import invalid
from keras_sam.darknet import letterbox as letterboxes
from keras_sam.darknet.decode import network_size
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.model import DarknetModel
from keras_sam.darknet.plan import plan_network

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_image(path_or_array, model_or_cfg, letterbox=None, input_size=None):
    """Makes a picture the input of a model, as Darknet does.

    The picture is resized to the size of the network, bilinearly with corners aligned:
    stretched, or with `letterbox` at its own proportions between grey margins.

    Args:
        path_or_array: A picture file that Pillow reads; or an array `(H, W, C)` or
            `(H, W)`, RGB, of bytes (uint8) or of numbers from 0 to 1.
        model_or_cfg: The model, or its configuration.
        letterbox: Whether to keep proportions. None is what `letter_box` of `[net]`
            says. AlexeyAB's Darknet stretches by default; pjreddie's letterboxes
            always, for `[yolo]` and `[region]`.
        input_size: (height, width) for a model of any size.

    Returns:
        An array `(1, height, width, channels)`, float32, from 0 to 1.

    Example:

    >>> import numpy as np
    >>> from keras_sam import darknet
    >>> cfg = "[net]\\nheight=4\\nwidth=4\\nchannels=3\\n[maxpool]\\nsize=2"
    >>> x = darknet.load_image(np.ones((2, 4, 3)), cfg, letterbox=True)
    >>> x.shape, x[0, :, 0, 0]
    ((1, 4, 4, 3), array([0.5, 1. , 1. , 0.5], dtype=float32))
    """
    if isinstance(model_or_cfg, DarknetModel):
        plan = model_or_cfg.plan
    else:
        plan = plan_network(model_or_cfg)
    size = network_size(plan, input_size)
    picture = read_picture(path_or_array, plan.input_shape[2])
    letterbox = plan.letterbox if letterbox is None else letterbox
    change = letterboxes.embed if letterbox else letterboxes.resize
    return change(picture, size)[None]


def read_picture(path_or_array, channels):
    """Returns a picture `(H, W, channels)`, float32, from 0 to 1."""
    if isinstance(path_or_array, (str, os.PathLike)):
        array = _read_file(os.fsdecode(path_or_array), channels)
    else:
        array = np.asarray(path_or_array)
        array = array[..., None] if array.ndim == 2 else array
    if array.ndim != 3 or array.shape[2] != channels or not array.size:
        raise invalid("path_or_array", f"a picture (H, W, {channels})", tuple(array.shape))
    if array.dtype == np.uint8:
        return array.astype("float32") / np.float32(255)
    if array.dtype.kind != "f":
        raise invalid("path_or_array", "of bytes or of floats", array.dtype)
    return array.astype("float32")


def _read_file(path, channels):
    from PIL import Image, UnidentifiedImageError

    if channels not in _MODES:
        raise DarknetError(f"a file cannot give the {channels} channels of [net].", path)
    try:
        with Image.open(path) as image:
            array = np.asarray(image.convert(_MODES[channels]))
    except FileNotFoundError as error:
        raise DarknetError("there is no such picture.", path) from error
    except (UnidentifiedImageError, OSError) as error:
        raise DarknetError(f"is no picture: {error}", path) from error
    return array[..., None] if array.ndim == 2 else array
