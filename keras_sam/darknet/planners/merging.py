"""Sections that read other layers: `[sam]`, `[scale_channels]`, `[shortcut]`, ..."""

from keras_sam.darknet import geometry, specs
from keras_sam.darknet.planners.checks import read_activation

_WEIGHTS_TYPES = {
    "none": None,
    "per_feature": "per_feature",
    "per_layer": "per_feature",
    "per_channel": "per_channel",
}
_NORMALIZATIONS = {"relu": "relu", "avg_relu": "relu", "softmax": "softmax"}
# Sections that pjreddie's Darknet, which adds unequal sizes, does not have.
_ALEXEYAB_ONLY = {
    *("sam", "scale_channels", "Gaussian_yolo", "reorg3d", "local_avgpool"),
    "contrastive",
}


def sam(section, reader, network):
    """Plans `[sam]`: the previous layer gates the one in `from`."""
    source, gate = network.previous
    index, features = _from(reader, network)
    if not _agree(gate, features):
        raise reader.mismatch(
            "from",
            f"points at layer {index}, which is {geometry.describe(features)}, but the "
            f"layer before is {geometry.describe(gate)}; [sam] multiplies equal shapes",
        )
    return specs.Sam(
        section=section,
        sources=(source, index),
        shape=features,
        activation=read_activation(section, reader),
    )


def scale_channels(section, reader, network):
    """Plans `[scale_channels]`: a gate per channel or per pixel."""
    source, gate = network.previous
    index, features = _from(reader, network)
    per_pixel = reader.integer("scale_wh", 0) != 0
    expected = (*features[:2], 1) if per_pixel else (1, 1, features[2])
    if not _agree(gate, expected):
        raise reader.error(
            "from",
            f"points at layer {index}, which is {geometry.describe(features)} and "
            f"needs a gate of {geometry.describe(expected)}, but the layer before is "
            f"{geometry.describe(gate)}",
        )
    return specs.ScaleChannels(
        section=section,
        sources=(source, index),
        shape=features,
        per_pixel=per_pixel,
        activation=read_activation(section, reader),
    )


def shortcut(section, reader, network):
    """Plans `[shortcut]`: a sum of the first channels that layers share."""
    source, shape = network.previous
    indices = _layers(reader, network, "from")
    weighting = _WEIGHTS_TYPES[reader.text("weights_type", "none", choices=_WEIGHTS_TYPES)]
    choices = None if weighting is None else _NORMALIZATIONS
    normalization = reader.text("weights_normalization", choices=choices)
    activation = read_activation(section, reader)
    scales = reader.number("alpha", 1.0), reader.number("beta", 1.0)
    equal = all(_agree(network.shape(index)[:2], shape[:2]) for index in indices)
    only_alexeyab = bool(_ALEXEYAB_ONLY & network.section_names)
    if weighting is None and len(indices) == 1 and not only_alexeyab:
        if scales != (1, 1) or not equal:
            return _unequal(section, reader, network, indices[0], scales, activation)
    elif scales != (1, 1):
        reader.notice(
            "beta" if scales[0] == 1 else "alpha",
            "is ignored, as in AlexeyAB's Darknet; pjreddie's does not have this network",
        )
    for index in indices:
        _check_place(reader, network, "from", index, shape)
    return specs.Shortcut(
        section=section,
        sources=(source, *indices),
        shape=shape,
        weighting=weighting,
        normalization=_NORMALIZATIONS.get(normalization),
        activation=activation,
    )


def _unequal(section, reader, network, index, scales, activation):
    """Plans the sum as pjreddie's Darknet computes it; AlexeyAB's has no such thing."""
    source, shape = network.previous
    other = network.shape(index)
    if None in (*shape, *other):
        raise section.error("needs inputs of known height and width")
    steps = {
        (theirs // own, own // theirs)
        for own, theirs in zip(shape[:2], other[:2], strict=True)
    }
    if len(steps) > 1:
        _check_place(reader, network, "from", index, shape)
    reader.notice(
        "from",
        f"adds {geometry.describe(other)} to {geometry.describe(shape)}, `alpha` "
        f"{scales[0]:g}, `beta` {scales[1]:g}, as pjreddie's Darknet does; AlexeyAB's "
        "reads neither and needs equal sizes",
    )
    ((stride, sample),) = steps
    return specs.UnequalShortcut(
        section=section,
        sources=(source, index),
        shape=shape,
        stride=max(1, stride),
        sample=max(1, sample),
        alpha=scales[0],
        beta=scales[1],
        activation=activation,
    )


def route(section, reader, network):
    """Plans `[route]`: a concatenation, of one group of each source."""
    indices = _layers(reader, network, "layers")
    height, width, _ = first = network.shape(indices[0])
    groups = reader.integer("groups", 1, minimum=1)
    group_id = reader.integer("group_id", 0)
    if not 0 <= group_id < groups:
        raise reader.error(
            "group_id", f"must be from 0 to groups - 1 = {groups - 1}", str(group_id)
        )
    channels = 0
    for index in indices:
        _check_place(reader, network, "layers", index, first)
        own = network.shape(index)[2]
        if own % groups:
            raise reader.error(
                "groups",
                f"must divide the {own} channels of layer {index}",
                str(groups),
            )
        channels += own // groups
    return specs.Route(
        section=section,
        sources=tuple(indices),
        shape=(height, width, channels),
        groups=groups,
        group_id=group_id,
    )


def _from(reader, network):
    """Returns index and shape of the layer in `from`; only one number counts."""
    reader.required("from")
    index = network.resolve(reader, "from", reader.integer("from", None))
    return index, network.shape(index)


def _layers(reader, network, key):
    reader.required(key)
    numbers = reader.integers(key, most=geometry.MAX_SOURCES)
    return [network.resolve(reader, key, number) for number in numbers]


def _check_place(reader, network, key, index, shape):
    """Raises unless a layer has the height and width of `shape`."""
    other = network.shape(index)
    if not _agree(other[:2], shape[:2]):
        raise reader.mismatch(
            key,
            f"points at layer {index}, which is {geometry.describe(other)}, but height "
            f"and width must be those of {geometry.describe(shape)}",
        )


def _agree(shape, other):
    return all(map(geometry.same, shape, other))
