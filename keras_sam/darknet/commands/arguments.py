"""What the verbs of the command share. No Keras here."""

import re

from keras_sam.darknet.cfg import parse_cfg
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.options import OptionReader
from keras_sam.darknet.plan import plan_network

_SHAPE = re.compile(r"([1-9][0-9]*|\?)[x,]([1-9][0-9]*|\?)(?:[x,]([1-9][0-9]*))?")


def add_input_shape(parser):
    """Adds `--input-shape` to a parser."""
    parser.add_argument(
        "--input-shape",
        metavar="HEIGHTxWIDTH[xCHANNELS]",
        help="the size of pictures instead of that of [net], such as 416x608; ? is any",
    )


def add_weights(parser):
    """Adds `--partial` and `--cutoff` to a parser."""
    parser.add_argument(
        "--partial",
        action="store_true",
        help="load weights that are too short or too long as far as they fit, as Darknet "
        "does; the other layers stay as initialised",
    )
    parser.add_argument(
        "--cutoff",
        type=int,
        metavar="LAYER",
        help="load only the layers before this one (implies --partial)",
    )


def weights(options, plan):
    """Returns the weights that the options give."""
    from keras_sam.darknet.weights import read_planned_weights  # NumPy, for some only

    return read_planned_weights(options.weights, plan, options.partial, options.cutoff)


def plan(options):
    """Returns the plan of the cfg and the input shape that the options give."""
    if options.input_shape is None:
        return plan_network(options.cfg)
    match = _SHAPE.fullmatch(options.input_shape.replace(" ", ""))
    if match is None:
        raise DarknetError(
            "`--input-shape` must be HEIGHTxWIDTH or HEIGHTxWIDTHxCHANNELS. Received: "
            f"{options.input_shape}"
        )
    sections = parse_cfg(options.cfg)
    height, width, channels = match.groups()
    if channels is None:
        channels = OptionReader(sections[0]).integer("channels", 3, minimum=1)
    size = [None if number == "?" else int(number) for number in (height, width)]
    return plan_network(sections, (*size, int(channels)))
