"""Pictures as Darknet gives them to a network."""

import os
from collections.abc import Sequence

import numpy as np

from keras_sam._validation import boolean, invalid
from keras_sam.darknet import letterbox as letterboxes
from keras_sam.darknet.decode import network_size
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.model import DarknetModel
from keras_sam.darknet.plan import plan_network

_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def load_image(
    path_or_array,
    model_or_cfg,
    letterbox: bool | None = None,
    input_size: Sequence[int] | None = None,
):
    """Makes a picture the input of a model, as Darknet does.

    The picture is resized to the size of the network, bilinearly with corners aligned:
    stretched, or with `letterbox` at its own proportions between grey margins.

    Args:
        path_or_array: A picture file that Pillow reads; or an array `(H, W, C)` or
            `(H, W)`, RGB, of bytes (uint8) or of numbers from 0 to 1. A file is turned
            upright if its EXIF data says so, as Darknet built with OpenCV does.
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
    if letterbox is None:
        letterbox = plan.letterbox
    change = letterboxes.embed if boolean("letterbox", letterbox) else letterboxes.resize
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
        expected = "of bytes (uint8) or of floats from 0 to 1"
        raise invalid("path_or_array", expected, array.dtype)
    return array.astype("float32")


def _read_file(path, channels):
    """Returns the pixels of a file, bytes, turned upright as its EXIF data says."""
    from PIL import Image, ImageOps, UnidentifiedImageError

    if channels not in _MODES:
        raise DarknetError(f"a file cannot give the {channels} channels of [net].", path)
    try:
        with Image.open(path) as image:
            kind, image = image.format, ImageOps.exif_transpose(image)
            image.load()
    except FileNotFoundError as error:
        raise DarknetError("there is no such picture.", path) from error
    except (
        UnidentifiedImageError,
        OSError,
        SyntaxError,
        ValueError,
        Image.DecompressionBombError,
    ) as error:
        raise DarknetError(f"is no picture: {error}", path) from error
    if image.mode.startswith("I;16") or (image.mode == "I" and kind == "PNG"):
        # Pillow would clip 16 bits; Darknet keeps the upper eight.
        image = Image.fromarray((np.asarray(image) >> 8).astype("uint8"))
    elif image.mode in ("I", "F"):
        raise DarknetError(
            "holds numbers of 32 bits, whose range is unknown: give an array of numbers "
            "from 0 to 1 instead.",
            path,
        )
    array = np.asarray(image.convert(_MODES[channels]))
    return array[..., None] if array.ndim == 2 else array
