"""Detection heads: `[yolo]`, `[Gaussian_yolo]`, `[region]` and `[detection]`."""

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.options import MAX_ITEMS

_DEFAULT_ANCHOR = 0.5  # Darknet's value where the list is too short
_POINTS = ("center", "left_top", "right_bottom")


def yolo(section, reader, network):
    """Plans `[yolo]`."""
    common = _anchored(section, reader, network, entries=5)
    return specs.Yolo(
        **common,
        **_suppression(reader),
        scale_x_y=reader.number("scale_x_y", 1.0),
        new_coords=reader.integer("new_coords", 0) != 0,
    )


def gaussian_yolo(section, reader, network):
    """Plans `[Gaussian_yolo]`, which has a sigma for each of x, y, w and h."""
    common = _anchored(section, reader, network, entries=9)
    point = reader.text("yolo_point", "center")
    return specs.GaussianYolo(
        **common,
        **_suppression(reader),
        scale_x_y=reader.number("scale_x_y", 1.0),
        point=point if point in _POINTS else "center",
    )


def region(section, reader, network):
    """Plans `[region]` of YOLOv2, as AlexeyAB's Darknet computes it."""
    reader.refuse_text("tree", "names a tree of classes (YOLO9000), which is")
    reader.refuse_text("map", "names a map of classes (YOLO9000), which is")
    reader.refuse("background")
    if reader.integer("coords", 4) != 4:
        raise reader.error("coords", "must be 4: a box is x, y, w, h")
    common = _anchored(section, reader, network, entries=5, masked=False)
    softmax = reader.integer("softmax", 0) != 0
    if not softmax:
        reader.notice(
            "softmax",
            "is 0: class scores stay raw, as in AlexeyAB's Darknet; pjreddie's applies "
            "the logistic to them",
        )
    drop_unsure = reader.integer("classfix", 0) == -1
    return specs.Region(**common, softmax=softmax, drop_unsure=drop_unsure)


def detection(section, reader, network):
    """Plans `[detection]` of YOLOv1: a vector of scores, confidences and boxes."""
    source, shape = network.vector(section)
    side = reader.integer("side", 7, minimum=1)
    boxes = reader.integer("num", 1, minimum=1)
    classes = reader.integer("classes", 1, minimum=0)
    if reader.integer("coords", 1) != 4:
        raise reader.error("coords", "must be given as 4: a box is x, y, w, h")
    needed = side**2 * (5 * boxes + classes)
    if geometry.floats(shape) != needed:
        raise reader.error(
            "side",
            f"needs {side} x {side} x (5 x {boxes} + {classes}) = {needed} inputs, but "
            f"the layer before has {geometry.floats(shape)}",
        )
    return specs.Detection(
        section=section,
        sources=(source,),
        shape=(1, 1, needed),
        classes=classes,
        side=side,
        boxes=boxes,
        softmax=reader.integer("softmax", 0) != 0,
        squared=reader.integer("sqrt", 0) != 0,
    )


def _anchored(section, reader, network, entries, masked=True):
    """Returns the fields that heads with anchors share."""
    source, shape = network.previous
    classes = reader.integer("classes", 20, minimum=0)
    total = reader.integer("num", 1, minimum=1)
    if total > MAX_ITEMS:
        raise reader.error("num", f"must be at most {MAX_ITEMS}", str(total))
    mask = reader.integers("mask", until_comment=True) if masked else None
    count = total if mask is None else len(mask)
    needed = count * (classes + entries)
    if shape[2] != needed:
        raise reader.error(
            "classes" if mask is None else "mask",
            f"needs {count} x ({classes} + {entries}) = {needed} channels, but the "
            f"layer before has {shape[2]}",
        )
    return {
        "section": section,
        "sources": (source,),
        "shape": shape,
        "classes": classes,
        "anchors": _anchors(reader, total, range(total) if mask is None else mask),
    }


def _anchors(reader, total, chosen):
    """Returns the chosen pairs of `anchors`; what is not given is Darknet's 0.5."""
    numbers = reader.numbers("anchors") or []
    given = (len(numbers) + 1) // 2
    if min(chosen) < 0:
        raise reader.error("mask", "must not be negative", str(min(chosen)))
    if max(chosen) >= MAX_ITEMS:
        raise reader.error("mask", f"must be less than {MAX_ITEMS}", str(max(chosen)))
    if max(chosen) >= total:
        reader.notice(
            "mask",
            f"goes to {max(chosen)}, beyond num={total}: the {given} anchors that are "
            "given are used; Darknet reads past its table",
        )
    elif len(numbers) < 2 * total:
        reader.notice(
            "anchors",
            f"holds {len(numbers)} numbers, not {2 * total}; the rest is 0.5, as in "
            "Darknet",
        )
    size = 2 * (max(*chosen, total) + 1)
    numbers += [_DEFAULT_ANCHOR] * (size - len(numbers))
    return tuple((numbers[2 * n], numbers[2 * n + 1]) for n in chosen)


def _suppression(reader):
    """Returns `nms_kind` and `beta_nms`; a kind that is unknown is the default."""
    return {
        "nms_kind": reader.text("nms_kind", "default"),
        "beta_nms": reader.number("beta_nms", 0.6),
    }
