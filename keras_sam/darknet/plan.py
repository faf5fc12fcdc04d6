"""From sections to checked layers with shapes: everything that can be wrong in a cfg.

The builder only translates what comes out of here, so nothing is allocated before
the whole network has been checked. No Keras here.
"""

import collections
import dataclasses
import logging
import math

from keras_sam._validation import invalid, positive_integer
from keras_sam.darknet import geometry
from keras_sam.darknet.cfg import Sections, parse_cfg
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.options import OptionReader
from keras_sam.darknet.planners import NEEDS_MAP, PLANNERS, REFUSED, check_floats
from keras_sam.darknet.specs import (
    Connected,
    Convolution,
    Dropout,
    Head,
    Softmax,
    Spec,
    TrainingOnly,
)
from keras_sam.darknet.specs.base import NORMALIZATION

_MAX_NOTICES = 20
_logger = logging.getLogger("keras_sam.darknet")


@dataclasses.dataclass(frozen=True)
class Plan:
    """A checked network.

    Args:
        sections: The parsed configuration.
        input_shape: (height, width, channels); height and width may be None.
        layers: One spec for each layer.
        notices: What was ignored, one line each.
        letterbox: Whether `letter_box` of `[net]` asks for pictures with grey margins.
    """

    sections: Sections
    input_shape: tuple[int | None, int | None, int]
    layers: tuple[Spec, ...]
    notices: tuple[str, ...]
    letterbox: bool = False

    @property
    def heads(self):
        """The layers that find objects, such as `[yolo]`."""
        return [layer for layer in self.layers if isinstance(layer, Head)]

    @property
    def outputs(self):
        """The heads, or the last layer when there is none."""
        return self.heads or [self.layers[-1]]

    @property
    def unused(self):
        """The layers that no output depends on."""
        used = {layer.index for layer in self.outputs}
        for layer in reversed(self.layers):
            if layer.index in used:
                used.update(layer.sources)
        return [layer for layer in self.layers if layer.index not in used]

    @property
    def weight_count(self):
        """The number of weights of all layers."""
        return sum(layer.weight_count for layer in self.layers)

    def blocks(self):
        """Yields layer, name and shape of the arrays that a weight file holds."""
        for layer in self.layers:
            for name, shape in layer.loaded_blocks.items():
                yield layer, name, shape


class Network:
    """The layers planned so far, as the planners see them."""

    def __init__(self, input_shape, section_names=()):
        self.input_shape = input_shape
        self.section_names = section_names
        self.layers = []

    def shape(self, index):
        """Returns the output shape of a layer; -1 is the network's input."""
        return self.input_shape if index < 0 else self.layers[index].shape

    @property
    def previous(self):
        """The index and the shape of the layer before the one being planned."""
        index = len(self.layers) - 1
        return index, self.shape(index)

    def vector(self, section):
        """Returns `previous`, for a layer that takes all of it as one vector."""
        index, shape = self.previous
        if None in shape:
            raise section.error(
                "takes its whole input as one vector, whose height and width must be "
                f"known. Received: {geometry.describe(shape)}"
            )
        return index, shape

    @property
    def previous_is_map(self):
        """Whether Darknet gives the layer before a height and a width."""
        for layer in reversed(self.layers):
            if isinstance(layer, (Softmax, TrainingOnly)):
                return False
            if not isinstance(layer, Dropout):
                return True
        return True

    def resolve(self, reader, key, number):
        """Returns the absolute index that an option means."""
        here = len(self.layers)
        index = here + number if number < 0 else number
        text = str(number)
        if index == here:
            raise reader.error(key, "points at this layer itself", text)
        if index > here:
            raise reader.error(key, f"points forward, to layer {index}", text)
        if index < 0:
            raise reader.error(key, "points before the first layer", text)
        return index


def plan_network(cfg, input_shape=None):
    """Checks a configuration and returns its `Plan`.

    Args:
        cfg: What `parse_cfg` accepts or returned.
        input_shape: (height, width, channels) instead of those of `[net]`; height and
            width may be None.

    Raises:
        DarknetError: Naming file, line, layer and option.
    """
    sections = parse_cfg(cfg)
    try:
        return _plan(sections, input_shape)
    except DarknetError as error:
        if not error.about_sizes:
            raise
        explanation = _explain(error, sections, input_shape)
        if explanation is None:
            raise
        fields = error.source, error.line, error.section, error.index, error.option
        raise DarknetError(f"{explanation}: {error.message}", *fields) from error


def _plan(sections, input_shape):
    net, *rest = sections
    reader = OptionReader(net)
    shape = _input_shape(reader, input_shape)
    network = Network(shape, {section.name for section in rest})
    letterbox = reader.integer("letter_box", 0) != 0
    reader.finish()
    notices = reader.notices
    if not rest:
        raise net.error("is followed by no layer")
    weights = 0
    for section in rest:
        spec, reader = _plan_layer(section, network)
        notices.extend(reader.notices)
        weights += spec.weight_count
        if weights > geometry.MAX_WEIGHTS:
            raise section.error(
                f"brings the network to {weights} weights; at most "
                f"{geometry.MAX_WEIGHTS} are supported"
            )
        network.layers.append(spec)
    layers, notices = tuple(network.layers), _once(notices)
    return Plan(sections, network.input_shape, layers, notices, letterbox)


def _once(notices):
    """Returns notices that differ by more than their line; the first line counts."""
    texts = collections.Counter(notice.partition(": ")[2] for notice in notices)
    lines = {}
    for notice in notices:
        line, _, text = notice.partition(": ")
        lines.setdefault(text, line)
    return tuple(
        f"{lines[text]}: {text}" + (f" ({count} times)" if count > 1 else "")
        for text, count in texts.items()
    )


def _explain(error, sections, input_shape):
    """Returns what is wrong with the input size, if another one fits more layers."""
    height, width, channels = _input_shape(OptionReader(sections[0]), input_shape)
    if height is None or width is None:
        return None

    def multiples(stride, more=0):
        return [(-(-size // stride) + more) * stride for size in (height, width)]

    def reach(stride):
        """Returns the first layer that multiples of `stride` do not fit."""
        reached = math.inf
        for size in (multiples(stride), multiples(stride, more=1)):
            try:
                _plan(sections, (*size, channels))
            except DarknetError as other:
                if other.about_sizes:
                    reached = min(reached, other.index)
        return reached

    strides = [2**n for n in range(1, 8) if multiples(2**n) != [height, width]]
    best = max(strides, key=reach, default=None)
    if best is None or reach(best) <= error.index:
        return None
    fit = multiples(best)
    return (
        f"the input is {height} x {width}, but this network needs a height and "
        f"width that are multiples of {best}, such as {fit[0]} x {fit[1]}"
    )


def log_notices(plan, notices=None):
    """Tells the user what was ignored, or other notices about the network."""
    notices = plan.notices if notices is None else notices
    for notice in notices[:_MAX_NOTICES]:
        _logger.warning("%s, %s", plan.sections.source, notice)
    if len(notices) > _MAX_NOTICES:
        more = len(notices) - _MAX_NOTICES
        _logger.warning("%s: %d more notices", plan.sections.source, more)


def _plan_layer(section, network):
    planner = PLANNERS.get(section.name)
    if planner is None:
        if section.name in REFUSED:
            raise section.error(f"is not supported: it {REFUSED[section.name]}.")
        supported = ", ".join(f"[{name}]" for name in sorted(PLANNERS))
        raise section.error(f"is not a supported section. Supported: {supported}")
    if section.name in NEEDS_MAP and not network.previous_is_map:
        raise section.error(
            "needs a map, but the layer before has no height and width in Darknet, which "
            "stops here"
        )
    reader = OptionReader(section)
    spec = _leave_out(planner(section, reader, network), reader)
    if any(size is not None and size < 1 for size in spec.shape):
        raise section.error(
            f"leaves nothing of its input: {geometry.describe(network.previous[1])} "
            f"becomes {geometry.describe(spec.shape)}"
        )
    check_floats(section, spec.shape)
    if spec.weight_count > geometry.MAX_LAYER_WEIGHTS:
        raise section.error(
            f"has {spec.weight_count} weights; at most {geometry.MAX_LAYER_WEIGHTS} are "
            "supported in one layer"
        )
    reader.finish()
    return spec, reader


def _leave_out(spec, reader):
    """Returns the spec with the arrays that `dontload` takes out of weight files."""
    names = []
    if reader.integer("dontload", 0) != 0:
        names = [*spec.blocks]
        reader.notice("dontload", "is set: the layer keeps the weights it begins with")
    elif reader.integer("dontloadscales", 0) != 0:
        if isinstance(spec, (Connected, Convolution)):
            names = [name for name in NORMALIZATION if name in spec.blocks]
        reader.notice("dontloadscales", "is set: the statistics stay as they begin")
    return dataclasses.replace(spec, not_loaded=tuple(names)) if names else spec


def _input_shape(reader, given):
    if given is None:
        for key in ("height", "width", "channels"):
            reader.required(key)
    shape = tuple(
        reader.integer(key, None, minimum=1) for key in ("height", "width", "channels")
    )
    if given is not None:
        shape = _given_shape(given)
    check_floats(reader.section, shape)
    return shape


def _given_shape(given):
    shape = tuple(given)
    if len(shape) != 3 or shape[2] is None:
        raise invalid("input_shape", "(height, width, channels)", given)
    names = ("height", "width", "channels")
    return tuple(
        positive_integer(f"input_shape: {name}", size, optional=True)
        for name, size in zip(names, shape, strict=True)
    )
