"""`[convolutional]`."""

import dataclasses

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.planners.checks import check_floats, read_activation

_REFUSED = (
    *("antialiasing", "xnor", "binary", "sway", "rotate", "stretch", "stretch_sway"),
    *("flipped", "coordconv"),
)
_NOT_SHARED = -1_000_000_000  # Darknet's own word for "no share_index"


def convolutional(section, reader, network):
    """Plans a convolution, with all that Darknet folds into it."""
    reader.refuse(*_REFUSED)
    source, (*lengths, channels) = network.previous
    filters = reader.integer("filters", 1, minimum=1)
    size = reader.integer("size", 1, minimum=1)
    dilation = reader.integer("dilation", 1, minimum=None if size == 1 else 1)
    if size == 1:
        dilation = 1
    strides = _strides(reader)
    side = _padding(reader, size)
    _check_pointwise(reader, size, strides, side)
    outputs, padding = [], []
    for length, stride in zip(lengths, strides, strict=True):
        output, added = _axis(reader, length, size, stride, dilation, side)
        outputs.append(output)
        padding.append(added)
    padded = [
        (length or 0) + sum(added) for length, added in zip(lengths, padding, strict=True)
    ]
    check_floats(section, (*padded, channels))
    batch_normalize = reader.integer("batch_normalize", 0) != 0
    if reader.integer("cbn", 0) != 0:  # differs from batch_normalize in training only
        batch_normalize = True
    spec = specs.Convolution(
        section=section,
        sources=(source,),
        shape=(*outputs, filters),
        input_channels=channels,
        size=size,
        strides=strides,
        dilation=dilation,
        groups=_groups(reader, channels, filters),
        padding=tuple(padding),
        batch_normalize=batch_normalize,
        activation=read_activation(section, reader, default="logistic"),
        owner=section.index,
    )
    return _share(spec, reader, network)


def _strides(reader):
    """Returns (stride_y, stride_x); below one they fall back to `stride`."""
    stride = reader.integer("stride", 1)
    strides = []
    for key in ("stride_y", "stride_x"):
        own = reader.integer(key, 0)
        if own < 1 and stride < 1:
            raise reader.error("stride", "must be at least 1", str(stride))
        strides.append(own if own >= 1 else stride)
    return tuple(strides)


def _padding(reader, size):
    """Returns the cells added on each side, before dilation."""
    padding = reader.integer("padding", 0)
    if reader.integer("pad", 0) != 0:
        return size // 2
    if padding < 0:
        raise reader.error("padding", "must not be negative", str(padding))
    return padding


def _check_pointwise(reader, size, strides, side):
    """Refuses what Darknet computes wrongly, skipping im2col for 1 x 1."""
    if size == 1 and side:
        raise reader.error("padding", "of a 1 x 1 convolution is not supported")
    if size == 1 and strides[1] == 1 and strides[0] != 1:
        raise reader.error(
            "stride_y",
            "of a 1 x 1 convolution must be 1 when stride_x is 1, because Darknet "
            "does not stride then",
        )


def _axis(reader, length, size, stride, dilation, side):
    """Returns the output length of one axis and its (before, after) padding.

    Darknet counts outputs as if there were no dilation, and dilates the padding; where
    the two disagree it reads beyond its buffers.
    """
    window = dilation * (size - 1) + 1
    output = geometry.output_size(length, size, stride, 2 * side)
    dilated = geometry.output_size(length, window, stride, 2 * side * dilation)
    agree = output == dilated if length is not None else 2 * side == size - 1
    if dilation != 1 and not agree:
        raise reader.error(
            "dilation",
            f"does not fit size {size} and padding {side}: Darknet expects {output} "
            f"outputs of an axis of {length} and computes {dilated}",
            str(dilation),
        )
    sides = (side * dilation, side * dilation)
    return output, geometry.padding(length, window, stride, *sides)


def _groups(reader, channels, filters):
    groups = max(1, reader.integer("groups", 1))
    if channels % groups or filters % groups:
        raise reader.error(
            "groups",
            f"must divide the {channels} channels of the input and the {filters} filters",
            str(groups),
        )
    return groups


def _share(spec, reader, network):
    """Returns the spec with the owner of its weights, as `share_index` says."""
    number = reader.integer("share_index", _NOT_SHARED)
    if number == _NOT_SHARED:
        return spec
    index = network.resolve(reader, "share_index", number)
    shared = network.layers[index]
    text = str(number)
    if not isinstance(shared, specs.Convolution):
        raise reader.error(
            "share_index", f"must point at a convolution, not at {shared.name}", text
        )
    if (spec.size, spec.kernel) != (shared.size, shared.kernel):
        raise reader.error(
            "share_index",
            f"points at {shared.name} with weights {shared.kernel}, but these are "
            f"{spec.kernel} (filters, channels, size, size)",
            text,
        )
    if spec.batch_normalize and not shared.batch_normalize:
        raise reader.error(
            "share_index",
            f"points at {shared.name}, which has no batch normalization to share",
            text,
        )
    return dataclasses.replace(spec, owner=shared.owner)
