"""From a plan to a Keras model: a translation, layer by layer.

The Keras layer that ends a Darknet layer carries its name, such as `012_sam`, and its
output is what Darknet's layer outputs. The parts before it have a suffix:
`007_convolutional_pad`, `007_convolutional_conv`, `007_convolutional_norm`.
"""

import os
import re
from collections.abc import Sequence

import keras

from keras_sam.darknet import layers, specs
from keras_sam.darknet.header import Header
from keras_sam.darknet.model import DarknetModel
from keras_sam.darknet.plan import log_notices, plan_network
from keras_sam.darknet.translators import TRANSLATORS, SharedLayers
from keras_sam.darknet.weights import read_planned_weights, suspect_weights


def build_model(
    cfg,
    weights=None,
    input_shape: Sequence[int | None] | None = None,
    partial: bool = False,
    cutoff: int | None = None,
) -> DarknetModel:
    """Builds a Keras model that computes what Darknet computes.

    Args:
        cfg: A path to a `.cfg` file, its text, or what `parse_cfg` returned.
        weights: A path to a `.weights` file, its bytes, or what `read_weights`
            returned. None leaves the weights at their random beginning.
        input_shape: (height, width, channels) instead of those of `[net]`. Height and
            width may be None, for pictures of any size.
        partial: Whether to load what is in a weight file that is too short or too
            long, as Darknet does: array after array, until the file or the network
            ends. A notice names the layers that stay as initialized. This is how
            `yolov4.conv.137` begins a training.
        cutoff: The first layer that is not loaded; implies `partial`. It is how a
            complete file of another number of classes is loaded: up to the first
            convolution before a head, whose size is another.

    Returns:
        A `DarknetModel`, a functional Keras model. It takes RGB pictures
        `(B, H, W, C)` divided by 255; its outputs are the `[yolo]` heads (a list, when
        there are several) or else the last layer. Keras layers carry Darknet's index:
        `012_sam` is layer 12.

    Raises:
        DarknetError: Before anything is allocated, if the configuration or the weights
            cannot become a model that computes the same.

    Example:

    >>> from keras_sam import darknet
    >>> model = darknet.build_model('''
    ... [net]
    ... height=32
    ... width=32
    ... channels=3
    ... [convolutional]
    ... filters=8
    ... size=3
    ... pad=1
    ... activation=mish
    ... [convolutional]
    ... filters=8
    ... activation=logistic
    ... [sam]
    ... from=-2
    ... ''')
    >>> model.layers[-1].name, model.output.shape
    ('002_sam', (None, 32, 32, 8))
    """
    plan = plan_network(cfg, input_shape)
    if weights is not None:
        weights = read_planned_weights(weights, plan, partial, cutoff)
    return build_planned_model(plan, weights)


def load_model(
    cfg_path: str | os.PathLike,
    weights_path: str | os.PathLike,
    input_shape: Sequence[int | None] | None = None,
    partial: bool = False,
    cutoff: int | None = None,
) -> DarknetModel:
    """Builds the model of a `.cfg` file with the weights of a `.weights` file.

    The same as `build_model(cfg_path, weights_path, input_shape, partial, cutoff)`.
    """
    return build_model(cfg_path, weights_path, input_shape, partial, cutoff)


def build_planned_model(plan, weights=None, progress=None):
    """Builds the model of a checked plan with `Weights` that were read for it.

    Calls `progress` after each layer.
    """
    log_notices(plan)
    if weights is not None:
        log_notices(plan, [*weights.notices, *suspect_weights(weights, plan)])
    image = keras.Input(plan.input_shape, name="image")
    outputs = {-1: image}
    shared = SharedLayers(plan)
    for spec in plan.layers:
        inputs = [outputs[source] for source in spec.sources]
        outputs[spec.index] = TRANSLATORS[type(spec)](spec, inputs, shared)
        if progress is not None:
            progress(spec)
    heads = [outputs[spec.index] for spec in plan.outputs]
    heads = heads[0] if len(heads) == 1 else heads
    heads = _keep_unused(plan, heads, outputs)
    model = DarknetModel(image, heads, name=_model_name(plan))
    model.describe(plan, Header() if weights is None else weights.header)
    _freeze_unused(plan, model)
    if weights is not None:
        model.assign_darknet_weights(weights)
    return model


def _keep_unused(plan, heads, outputs):
    """Ties the layers that lead nowhere to the outputs."""
    unused = plan.unused
    if not unused:
        return heads
    read = {source for spec in unused for source in spec.sources}
    ends = [outputs[spec.index] for spec in unused if spec.index not in read]
    return layers.KeepUnused(name="keep_unused")(heads, ends)


def _freeze_unused(plan, model):
    """Freezes weights that no output depends on: they have no gradient."""
    unused = {spec.index for spec in plan.unused}
    for spec in plan.layers:
        if isinstance(spec, specs.Convolution) and spec.index not in unused:
            unused.discard(spec.owner)
    prefixes = tuple(f"{index:03d}_" for index in unused)
    for layer in model.layers:
        if layer.name.startswith(prefixes):
            layer.trainable = False


def _model_name(plan):
    stem = os.path.splitext(os.path.basename(plan.sections.source))[0]
    name = re.sub("[^A-Za-z0-9]+", "_", stem).strip("_")
    return f"darknet_{name}" if name and name != "cfg" else "darknet"
