"""The command `python -m keras_sam.darknet`: convert a network, or list its layers."""

import argparse
import contextlib
import os
import shutil
import sys
import tempfile

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.plan import log_notices, plan_network


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
    convert = commands.add_parser(
        "convert",
        help="write a .cfg and its .weights as a Keras model",
        description="Writes a .cfg and its .weights as a Keras model.",
    )
    convert.add_argument("cfg", help="a Darknet configuration, model.cfg")
    convert.add_argument("weights", help="its weights, model.weights")
    convert.add_argument(
        "output",
        help="what to write: model.keras, or with --saved-model a directory",
    )
    convert.add_argument(
        "--saved-model",
        action="store_true",
        help="export a SavedModel: to OUTPUT, or beside it (without .keras) if OUTPUT "
        "ends in .keras, which is then written as well",
    )
    convert.set_defaults(run=_convert)
    summary = commands.add_parser(
        "summary",
        help="list the layers of a .cfg, with shapes and weights",
        description="Lists the layers of a .cfg, with shapes and weights.",
    )
    summary.add_argument("cfg", help="a Darknet configuration, model.cfg")
    summary.set_defaults(run=_summary)
    return parser


def _summary(options):
    plan = plan_network(options.cfg)
    log_notices(plan)
    print(summary_table(plan))


def summary_table(plan):
    """Returns a table of a plan's layers, one line each, and its totals."""
    rows = [("layer", "reads", "output", "weights")]
    rows.append(("input", "", geometry.describe(plan.input_shape), ""))
    for spec in plan.layers:
        reads = ", ".join("input" if i < 0 else str(i) for i in spec.sources)
        if isinstance(spec, specs.Convolution) and spec.owner != spec.index:
            reads += f" (weights of {spec.owner})"
        weights = f"{spec.weight_count:,}" if spec.weight_count else ""
        rows.append((spec.name, reads, geometry.describe(spec.shape), weights))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = [
        f"{name:<{widths[0]}}  {reads:<{widths[1]}}  {output:>{widths[2]}}  "
        f"{weights:>{widths[3]}}".rstrip()
        for name, reads, output, weights in rows
    ]
    outputs = ", ".join(spec.name for spec in plan.outputs)
    lines.append(f"{len(plan.layers)} layers, {plan.weight_count:,} weights")
    lines.append(f"outputs: {outputs}")
    return "\n".join(lines)


def _convert(options):
    keras_file = options.output if options.output.endswith(".keras") else None
    saved_model = None
    if options.saved_model:
        saved_model = options.output.removesuffix(".keras")
        _check_replaceable(saved_model)
    elif keras_file is None:
        raise DarknetError(
            f"the output must end in .keras, unless --saved-model is given. Received: "
            f"{options.output}"
        )
    if keras_file is not None and os.path.isdir(keras_file):
        raise DarknetError(f"{keras_file} is a directory.")
    parent = os.path.dirname(os.path.abspath(options.output))
    if not os.path.isdir(parent):
        raise DarknetError(f"there is no directory {parent} to write to.")
    plan = plan_network(options.cfg)

    import keras

    from keras_sam.darknet.builder import build_planned_model
    from keras_sam.darknet.weights import read_planned_weights

    weights = read_planned_weights(options.weights, plan)
    print(summary_table(plan))
    bar = keras.utils.Progbar(len(plan.layers), unit_name="layer")
    model = build_planned_model(plan, weights, progress=lambda spec: bar.add(1))
    print(
        f"{options.weights}: {plan.weight_count:,} of {plan.weight_count:,} weights "
        f"read, {weights.header.seen:,} images seen in training"
    )
    if keras_file is not None:
        with _beside(keras_file, ".keras") as temporary:
            model.save(temporary)
            os.replace(temporary, keras_file)
        print(f"wrote {keras_file}")
    if saved_model is not None:
        with _beside(saved_model, "") as temporary:
            model.export(temporary, verbose=False)
            if os.path.isdir(saved_model):
                shutil.rmtree(saved_model)
            os.rename(temporary, saved_model)
        print(f"wrote {saved_model}")


def _check_replaceable(directory):
    """Raises if something other than a SavedModel stands in the way."""
    if not os.path.lexists(directory):
        return
    is_model = os.path.isfile(os.path.join(directory, "saved_model.pb"))
    if not (is_model or (os.path.isdir(directory) and not os.listdir(directory))):
        raise DarknetError(f"{directory} exists and is no SavedModel to replace.")


@contextlib.contextmanager
def _beside(path, suffix):
    """Yields a path in a new directory beside `path`, which is removed afterwards."""
    parent = os.path.dirname(os.path.abspath(path))
    with tempfile.TemporaryDirectory(dir=parent, prefix=".convert-") as directory:
        yield os.path.join(directory, f"model{suffix}")


if __name__ == "__main__":
    sys.exit(main())
