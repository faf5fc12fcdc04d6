"""Sections that keep the shape of their input."""

from keras_sam.darknet import specs
from keras_sam.darknet.options import MAX_ITEMS
from keras_sam.darknet.planners.checks import read_activation


def activation(section, reader, network):
    """Plans `[activation]`."""
    source, shape = network.previous
    return specs.Activation(
        section=section,
        sources=(source,),
        shape=shape,
        activation=read_activation(section, reader),
    )


def batchnorm(section, reader, network):
    """Plans `[batchnorm]`."""
    source, shape = network.previous
    return specs.BatchNorm(section=section, sources=(source,), shape=shape)


def dropout(section, reader, network):
    """Plans `[dropout]`, which counts as a layer although it does nothing."""
    source, shape = network.previous
    probability = reader.number("probability", 0.2)
    if not 0 <= probability <= 1:
        raise reader.error("probability", "must be from 0 to 1", f"{probability:g}")
    return specs.Dropout(
        section=section, sources=(source,), shape=shape, probability=probability
    )


def yolo(section, reader, network):
    """Plans `[yolo]`."""
    source, shape = network.previous
    classes = reader.integer("classes", 20, minimum=0)
    total = reader.integer("num", 1, minimum=1)
    if total > MAX_ITEMS:
        raise reader.error("num", f"must be at most {MAX_ITEMS}", str(total))
    mask = reader.integers("mask", until_comment=True)
    count = total if mask is None else len(mask)
    if shape[2] != count * (classes + 5):
        raise reader.error(
            "classes" if mask is None else "mask",
            f"needs {count} x ({classes} + 5) = {count * (classes + 5)} channels, but "
            f"the layer before has {shape[2]}",
        )
    anchors = _anchors(reader, total)
    for number in mask or ():
        if not 0 <= number < total:
            raise reader.error(
                "mask", f"must be from 0 to num - 1 = {total - 1}", str(number)
            )
    chosen = range(total) if mask is None else mask
    return specs.Yolo(
        section=section,
        sources=(source,),
        shape=shape,
        classes=classes,
        anchors=tuple(anchors[number] for number in chosen),
        scale_x_y=reader.number("scale_x_y", 1.0),
        new_coords=reader.integer("new_coords", 0) != 0,
    )


def _anchors(reader, total):
    """Returns `num` pairs; those not given are Darknet's 0.5."""
    given = (reader.numbers("anchors") or [])[: 2 * total]
    given += [0.5] * (2 * total - len(given))
    return list(zip(given[::2], given[1::2], strict=True))
