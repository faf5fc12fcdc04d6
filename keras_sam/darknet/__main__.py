"""The command `python -m keras_sam.darknet`: list, convert and run networks."""

import argparse
import sys

from keras_sam.darknet.commands import convert, detect, summary
from keras_sam.darknet.errors import DarknetError


def main(arguments=None):
    """Runs the command; returns 0, or 2 after printing one line about what is wrong."""
    options = _parser().parse_args(arguments)
    try:
        options.run(options)
    except (DarknetError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


def _parser():
    parser = argparse.ArgumentParser(
        prog="python -m keras_sam.darknet",
        description="Turns Darknet networks into Keras models.",
    )
    commands = parser.add_subparsers(required=True, metavar="command")
    for verb in (convert, summary, detect):
        verb.add_parser(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
