"""Configurations written for the tests: random ones, and YOLO's constructs."""

from keras_sam.darknet import DarknetError
from keras_sam.darknet.plan import plan_network


def section(name, **options):
    """Returns the text of one section; `from_` stands for `from`."""
    lines = [f"{key.removesuffix('_')}={value}" for key, value in options.items()]
    return "\n".join([f"[{name}]", *lines, ""])


def net(height, width, channels=3):
    return section("net", height=height, width=width, channels=channels)


def conv(filters, size=1, activation="leaky", batch_normalize=1, **options):
    return section(
        "convolutional",
        batch_normalize=batch_normalize,
        filters=filters,
        size=size,
        **{"stride": 1, "pad": 1} | options,
        activation=activation,
    )


ELEMENTWISE = [
    *("linear", "logistic", "loggy", "relu", "elu", "selu", "gelu", "relie", "ramp"),
    *("revleaky", "leaky", "tanh", "plse", "stair", "hardtan", "lhtan", "relu6"),
]
CONVOLUTION = [
    *ELEMENTWISE,
    *("mish", "swish", "hard_mish", "normalize_channels"),
    *("normalize_channels_softmax", "normalize_channels_softmax_maxval"),
]


def random_cfg(rng, layers):
    """Returns a random configuration of supported layers, which the planner accepts."""
    height, width, channels = (int(n) for n in rng.integers((7, 7, 1), (17, 17, 5)))
    text = net(height, width, channels)
    index = 0
    while index < layers:
        candidate = text + _random_sections(rng, index)
        try:
            index = len(plan_network(candidate).layers)
        except DarknetError:
            continue
        text = candidate
    return text


def _random_sections(rng, index):
    def pick(*choices):
        return choices[rng.integers(len(choices))]

    def some(**options):
        """Keeps each option by chance."""
        return {key: value for key, value in options.items() if rng.random() < 0.5}

    def earlier():
        target = int(rng.integers(index)) if index else 0
        return pick(target, target - index)

    def several():
        return ",".join(str(earlier()) for _ in range(rng.integers(1, 4)))

    kind = pick(
        *("convolutional",) * 6,
        *("maxpool", "local_avgpool", "shortcut", "route", "sam") * 2,
        *("scale_channels", "upsample", "reorg3d", "dropout", "activation"),
        *("batchnorm", "yolo", "gate", "share", "reorg", "local", "unequal"),
        *("vector", "region"),
    )
    geometry = {
        "stride": pick(1, 2, 3),
        "stride_x": pick(1, 2),
        "stride_y": pick(1, 2, 3),
        "pad": pick(0, 1),
        "padding": pick(0, 1, 2),
        "dilation": pick(1, 2, 3),
        "activation": pick(*CONVOLUTION),
    }
    weights = {
        "filters": pick(1, 2, 4, 6),
        "size": pick(1, 2, 3, 4, 5),
        "groups": pick(1, 2),
        "batch_normalize": pick(0, 1),
    }
    if kind == "convolutional":
        return section(kind, **some(**geometry, **weights))
    if kind == "share":
        sharing = weights | {"batch_normalize": pick(0, weights["batch_normalize"])}
        return "".join(
            [
                section("conv", **weights, **some(**geometry)),
                section("route", layers=index - 1),
                section("conv", **sharing, **some(**geometry), share_index=-2),
            ]
        )
    if kind in ("maxpool", "local_avgpool"):
        return section(
            kind,
            **some(
                size=pick(1, 2, 3, 4, 5),
                stride=pick(1, 2, 3),
                stride_x=pick(1, 2, 3),
                stride_y=pick(1, 2, 3),
                padding=pick(0, 1, 2, 3),
                maxpool_depth=pick(0, 1),
                out_channels=pick(1, 2, 3),
            ),
        )
    if kind == "shortcut":
        weights = pick("none", "per_feature", "per_layer", "per_channel")
        return section(
            kind,
            from_=several(),
            weights_type=weights,
            weights_normalization=pick("relu", "avg_relu", "softmax"),
            **some(activation=pick(*ELEMENTWISE, "mish", "swish")),
        )
    if kind == "route":
        return section(
            kind, layers=several(), **some(groups=pick(1, 2), group_id=pick(0, 1))
        )
    if kind == "sam":
        return section(kind, from_=earlier(), **some(activation=pick(*ELEMENTWISE)))
    if kind == "gate":
        return "[avgpool]\n" + section("scale_channels", from_=index - 1)
    if kind == "scale_channels":
        return section("conv", filters=1) + section(
            kind, from_=index - 1, scale_wh=1, **some(activation=pick(*ELEMENTWISE))
        )
    if kind == "yolo":
        classes, count = pick(0, 1, 2), pick(1, 2)
        return section("conv", filters=count * (classes + 5)) + section(
            kind,
            classes=classes,
            num=count,
            **some(scale_x_y=1.1, new_coords=pick(0, 1)),
        )
    if kind == "local":
        size = pick(1, 2, 3)
        options = some(stride=pick(1, 2), pad=pick(0, size // 2), filters=pick(1, 3))
        return section(kind, size=size, **options, **some(activation=pick(*ELEMENTWISE)))
    if kind == "reorg":
        return section("conv", filters=4) + section(kind, stride=2, reverse=pick(0, 1))
    if kind == "unequal":
        options = some(alpha=pick(0.5, 2), beta=pick(0.5, -1))
        return section("shortcut", from_=earlier(), **options)
    if kind == "region":
        return section("conv", filters=14) + section(
            kind, classes=2, num=2, anchors="1,2,3,4", **some(softmax=pick(0, 1))
        )
    if kind == "vector":
        normalized = some(batch_normalize=1, activation=pick(*ELEMENTWISE))
        sections = section("connected", output=6, **normalized)
        sections += (
            section("softmax", **some(groups=pick(1, 2), temperature=3)) + "[cost]\n"
        )
        return sections + section("route", layers=f"{index},-1,{index + 1}")
    if kind == "upsample":
        return section(kind, **some(stride=pick(1, 2, -2, -3), scale=pick(0.5, 2)))
    if kind == "reorg3d":
        return section(kind, stride=pick(1, 2, 3))
    return section(kind)
