"""`detect`: the objects in a picture, drawn, with the attention of `[sam]` beside it."""

import os

from keras_sam.darknet import specs
from keras_sam.darknet.commands import arguments
from keras_sam.darknet.errors import DarknetError
from keras_sam.darknet.names import read_names
from keras_sam.darknet.plan import plan_network


def add_parser(commands):
    """Adds the verb to the command."""
    parser = commands.add_parser(
        "detect",
        help="find the objects in a picture, and draw them",
        description="Finds the objects in a picture and draws their boxes, and beside "
        "them the gate of each [sam], averaged over its channels.",
    )
    parser.add_argument("cfg", help="a Darknet configuration, model.cfg")
    parser.add_argument("weights", help="its weights, model.weights")
    parser.add_argument("picture", help="a picture file")
    parser.add_argument("--output", help="the PNG to write (default: PICTURE.detected.png)")
    parser.add_argument("--names", help="a .names or a .data file")
    parser.add_argument("--threshold", type=float, default=0.25, help="(default: 0.25)")
    parser.add_argument(
        "--nms", type=float, default=0.45, help="overlap that is allowed (default: 0.45)"
    )
    parser.add_argument(
        "--letterbox",
        action="store_true",
        default=None,
        help="keep the picture's proportions (default: as letter_box of [net] says)",
    )
    arguments.add_input_shape(parser)
    arguments.add_weights(parser)
    parser.set_defaults(run=_run)


def _run(options):
    output = options.output or f"{os.path.splitext(options.picture)[0]}.detected.png"
    plan = arguments.plan(options)
    letterbox = _check_head(plan, options)
    names = None if options.names is None else _read_names(options.names, plan)
    _check_files(options.picture, output)
    weights = arguments.weights(options, plan)

    import numpy as np

    from keras_sam.darknet import drawing, pictures
    from keras_sam.darknet.builder import build_planned_model
    from keras_sam.darknet.decode import decode
    from keras_sam.recording import record_attention

    picture = pictures.read_picture(options.picture, plan.input_shape[2])
    size = picture.shape[:2]
    if None in plan.input_shape:  # any size is that of the picture, if it fits
        sides = zip(plan.input_shape, picture.shape, strict=True)
        plan = plan_network(plan.sections, [own or given for own, given in sides])
    model = build_planned_model(plan, weights)
    inputs = pictures.load_image(picture, model, letterbox)
    with record_attention() as maps:
        outputs = model(inputs, training=False)
    found = decode(
        outputs,
        model,
        options.threshold,
        options.nms,
        max_detections=1000,
        image_size=size,
        letterbox=letterbox,
    )
    objects = drawing.objects(found, names)
    for found_object in objects:
        print(found_object.describe(size))
    print(f"{len(objects)} objects")
    drawing.draw(
        output,
        picture,
        objects,
        {name: np.asarray(gate)[0].mean(axis=-1) for name, gate in maps.items()},
        plan.input_shape[:2],
        letterbox,
    )
    print(f"wrote {output}")


def _check_files(picture, output):
    """Raises, before the network is built, if a file cannot be read or written."""
    if not output.lower().endswith(".png"):
        raise DarknetError(f"`--output` must end in .png. Received: {output}")
    if not os.path.isfile(picture):
        raise DarknetError("there is no such picture.", picture)
    parent = os.path.dirname(os.path.abspath(output))
    if not os.path.isdir(parent):
        raise DarknetError(f"there is no directory {parent} to write to.")


def _check_head(plan, options):
    """Returns whether to letterbox, or raises if the network finds no objects so."""
    if not plan.heads:
        raise DarknetError(
            "has no [yolo] or other head: it finds no objects.", plan.sections.source
        )
    for name, value in (("--threshold", options.threshold), ("--nms", options.nms)):
        if not 0 <= value <= 1:
            raise DarknetError(f"`{name}` must be from 0 to 1. Received: {value}")
    if any(isinstance(head, specs.Detection) for head in plan.heads):
        if options.letterbox:
            raise DarknetError("`--letterbox` must not be given: [detection] has none.")
        return False
    return plan.letterbox if options.letterbox is None else True


def _read_names(path, plan):
    names, classes = read_names(path), plan.heads[-1].classes
    if len(names) < classes:
        raise DarknetError(
            f"holds {len(names)} names, but there are {classes} classes.", path
        )
    return names
