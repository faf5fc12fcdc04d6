"""Sections that change height and width without weights."""

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.planners.checks import check_floats


def maxpool(section, reader, network):
    """Plans `[maxpool]`, over windows or (`maxpool_depth`) over channels."""
    reader.refuse("antialiasing", "maxpool_zero_nonmax")
    by_channel = reader.integer("maxpool_depth", 0) != 0
    filters = reader.integer("out_channels", 1, minimum=1)
    if not by_channel:
        return _pooling(section, reader, network, "max")
    for key in ("stride", "stride_x", "stride_y", "size", "padding"):
        reader.integer(key, 0)
    source, (height, width, channels) = network.previous
    if filters > channels:
        raise reader.error(
            "out_channels",
            f"must be at most the {channels} channels of the input",
            str(filters),
        )
    return specs.ChannelMaxPooling(
        section=section, sources=(source,), shape=(height, width, filters)
    )


def local_avgpool(section, reader, network):
    """Plans `[local_avgpool]`: the mean of the cells that exist."""
    return _pooling(section, reader, network, "average")


def avgpool(section, reader, network):
    """Plans `[avgpool]`: the mean over all positions."""
    source, (_, _, channels) = network.previous
    return specs.GlobalAveragePooling(
        section=section, sources=(source,), shape=(1, 1, channels)
    )


def upsample(section, reader, network):
    """Plans `[upsample]`; a negative stride is sum pooling."""
    source, (height, width, channels) = network.previous
    stride = reader.integer("stride", 2)
    if stride == 0:
        raise reader.error("stride", "must not be 0", "0")
    if stride < 0:
        shape = _divide(reader, (height, width), -stride, str(stride))
    else:
        shape = [size if size is None else size * stride for size in (height, width)]
    return specs.Upsample(
        section=section,
        sources=(source,),
        shape=(*shape, channels),
        stride=stride,
        scale=reader.number("scale", 1.0),
    )


def reorg3d(section, reader, network):
    """Plans `[reorg3d]`: blocks of positions become channels."""
    reader.refuse("reverse")
    source, (height, width, channels) = network.previous
    stride = reader.integer("stride", 1, minimum=1)
    return specs.SpaceToDepth(
        section=section,
        sources=(source,),
        shape=(
            *_divide(reader, (height, width), stride, str(stride)),
            channels * stride**2,
        ),
        stride=stride,
    )


def reorg(section, reader, network):
    """Plans `[reorg]`, which mixes channels and positions in an order of its own."""
    reader.refuse("flatten", "extra")
    source, (height, width, channels) = network.previous
    stride = reader.integer("stride", 1, minimum=1)
    reverse = reader.integer("reverse", 0) != 0
    text = str(stride)
    if channels % stride**2:
        raise reader.error(
            "stride",
            f"must divide the {channels} channels twice: Darknet reads past its buffers",
            text,
        )
    if reverse:
        lengths = [size if size is None else size * stride for size in (height, width)]
        channels //= stride**2
    else:
        lengths = _divide(reader, (height, width), stride, text)
        channels *= stride**2
    return specs.Reorg(
        section=section,
        sources=(source,),
        shape=(*lengths, channels),
        stride=stride,
        reverse=reverse,
    )


def crop(section, reader, network):
    """Plans `[crop]`: the centre of the picture, as Darknet takes it at inference."""
    source, (*lengths, channels) = network.previous
    outputs = []
    for key, length in zip(("crop_height", "crop_width"), lengths, strict=True):
        size = reader.integer(key, 1, minimum=1)
        if length is not None and size > length:
            raise reader.error(key, f"must be at most {length}, the input's", str(size))
        outputs.append(size)
    return specs.Crop(
        section=section,
        sources=(source,),
        shape=(*outputs, channels),
        rescale=reader.integer("noadjust", 0) == 0,
    )


def _pooling(section, reader, network, kind):
    source, (*lengths, channels) = network.previous
    stride = reader.integer("stride", 1, minimum=1)
    strides = tuple(
        reader.integer(key, stride, minimum=1) for key in ("stride_y", "stride_x")
    )
    size = reader.integer("size", stride, minimum=1)
    total = reader.integer("padding", size - 1, minimum=0)
    before, after = total // 2, total - total // 2
    outputs, padding = [], []
    for length, step in zip(lengths, strides, strict=True):
        outputs.append(geometry.output_size(length, size, step, total))
        padding.append(geometry.padding(length, size, step, before, after))
    for length, output, step in zip(lengths, outputs, strides, strict=True):
        if length is None:
            starts_inside = after < size
        else:
            starts_inside = (output - 1) * step - before < length
        if before >= size or not starts_inside:
            raise reader.error(
                "padding", "makes windows without a cell of the input", str(total)
            )
    padded = [
        (length or 0) + sum(added) for length, added in zip(lengths, padding, strict=True)
    ]
    check_floats(section, (*padded, channels))
    return specs.Pooling(
        section=section,
        sources=(source,),
        shape=(*outputs, channels),
        kind=kind,
        size=size,
        strides=strides,
        padding=tuple(padding),
        same=total == size - 1 and (strides == (1, 1) or size <= 2),
    )


def _divide(reader, lengths, stride, text):
    """Returns the lengths divided by a stride that must divide them."""
    for length in lengths:
        if length is not None and length % stride:
            raise reader.mismatch(
                "stride", f"must divide height and width, {lengths}", text
            )
    return [length if length is None else length // stride for length in lengths]
