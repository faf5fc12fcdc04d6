"""Sections that see their input as one vector, and `[local]`."""

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.planners.checks import check_floats, read_activation


def connected(section, reader, network):
    """Plans `[connected]`: a matrix, batch normalization or a bias, activation."""
    source, shape = network.vector(section)
    return specs.Connected(
        section=section,
        sources=(source,),
        shape=(1, 1, reader.integer("output", 1, minimum=1)),
        inputs=geometry.floats(shape),
        batch_normalize=reader.integer("batch_normalize", 0) != 0,
        activation=read_activation(section, reader, default="logistic"),
    )


def local(section, reader, network):
    """Plans `[local]`: a convolution with weights of its own at each position."""
    source, (*lengths, channels) = network.previous
    if None in lengths:
        raise section.error("needs an input of known height and width")
    filters = reader.integer("filters", 1, minimum=1)
    size = reader.integer("size", 1, minimum=1)
    stride = reader.integer("stride", 1, minimum=1)
    side = reader.integer("pad", 0)
    if side and 2 * side != size - 1:
        raise reader.error(
            "pad",
            f"must be 0 or half of size - 1 = {size - 1}: with others Darknet reads "
            "beyond its buffers",
            str(side),
        )
    if min(lengths) + 2 * side < size:
        raise reader.error("size", f"leaves nothing of {lengths}", str(size))
    outputs = [(length + 2 * side - size) // stride + 1 for length in lengths]
    check_floats(section, (*(length + 2 * side for length in lengths), channels))
    return specs.Local(
        section=section,
        sources=(source,),
        shape=(*outputs, filters),
        input_channels=channels,
        size=size,
        stride=stride,
        padding=((side, side), (side, side)),
        activation=read_activation(section, reader, default="logistic"),
    )


def softmax(section, reader, network):
    """Plans `[softmax]` over all numbers of the input, or of each group of them."""
    reader.refuse_text("tree", "names a tree of classes (YOLO9000), which is")
    source, shape = network.previous
    groups = reader.integer("groups", 1, minimum=1)
    known = shape if None not in shape else shape[2:]
    if geometry.floats(known) % groups:
        raise reader.error(
            "groups",
            f"must divide the {geometry.floats(known)} numbers of the input",
            str(groups),
        )
    temperature = reader.number("temperature", 1.0)
    if temperature == 0:
        raise reader.error("temperature", "must not be 0", "0")
    if reader.integer("spatial", 0) != 0:
        reader.notice(
            "spatial",
            "is ignored, as Darknet does on a CPU: the softmax runs over all channels "
            "and positions; on a GPU Darknet runs past its buffers",
        )
    return specs.Softmax(
        section=section,
        sources=(source,),
        shape=shape,
        groups=groups,
        temperature=temperature,
    )
