"""`convert`: a cfg and its weights become a Keras model on disk."""

import contextlib
import os
import shutil
import tempfile

from keras_sam.darknet.commands import arguments
from keras_sam.darknet.commands.summary import summary_table
from keras_sam.darknet.errors import DarknetError


def add_parser(commands):
    """Adds the verb to the command."""
    parser = commands.add_parser(
        "convert",
        help="write a .cfg and its .weights as a Keras model",
        description="Writes a .cfg and its .weights as a Keras model.",
    )
    parser.add_argument("cfg", help="a Darknet configuration, model.cfg")
    parser.add_argument("weights", help="its weights, model.weights")
    parser.add_argument(
        "output",
        help="what to write: model.keras, or with --saved-model a directory",
    )
    parser.add_argument(
        "--saved-model",
        action="store_true",
        help="export a SavedModel: to OUTPUT, or beside it (without .keras) if OUTPUT "
        "ends in .keras, which is then written as well",
    )
    arguments.add_input_shape(parser)
    arguments.add_weights(parser)
    parser.set_defaults(run=_run)


def _run(options):
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
    plan = arguments.plan(options)
    weights = arguments.weights(options, plan)

    import keras

    from keras_sam.darknet.builder import build_planned_model

    print(summary_table(plan))
    bar = keras.utils.Progbar(len(plan.layers), unit_name="layer")
    model = build_planned_model(plan, weights, progress=lambda spec: bar.add(1))
    print(
        f"{options.weights}: {weights.count:,} of {plan.weight_count:,} weights read, "
        f"{weights.header.seen:,} images seen in training"
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
