"""From sections to checked layers with shapes: everything that can be wrong in a cfg.

The builder only translates what comes out of here, so nothing is allocated before
the whole network has been checked. No Keras here.
"""

import dataclasses
import logging

from keras_sam._validation import invalid, positive_integer
from keras_sam.darknet import geometry
from keras_sam.darknet.cfg import Sections, parse_cfg
from keras_sam.darknet.options import OptionReader
from keras_sam.darknet.planners import PLANNERS, check_floats
from keras_sam.darknet.specs import Spec, Yolo

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
    """

    sections: Sections
    input_shape: tuple[int | None, int | None, int]
    layers: tuple[Spec, ...]
    notices: tuple[str, ...]

    @property
    def outputs(self):
        """The `[yolo]` layers, or the last layer when there is none."""
        heads = [layer for layer in self.layers if isinstance(layer, Yolo)]
        return heads or [self.layers[-1]]

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
        """How many floats the weight file must hold."""
        return sum(layer.weight_count for layer in self.layers)


class Network:
    """The layers planned so far, as the planners see them."""

    def __init__(self, input_shape):
        self.input_shape = input_shape
        self.layers = []

    def shape(self, index):
        """Returns the output shape of a layer; -1 is the network's input."""
        return self.input_shape if index < 0 else self.layers[index].shape

    @property
    def previous(self):
        """The index and the shape of the layer before the one being planned."""
        index = len(self.layers) - 1
        return index, self.shape(index)

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
    net, *rest = sections
    reader = OptionReader(net)
    network = Network(_input_shape(reader, input_shape))
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
    return Plan(sections, network.input_shape, tuple(network.layers), tuple(notices))


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
        supported = ", ".join(f"[{name}]" for name in sorted(PLANNERS))
        raise section.error(f"is not a supported section. Supported: {supported}")
    reader = OptionReader(section)
    reader.refuse("dontload", "dontloadscales")
    spec = planner(section, reader, network)
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
