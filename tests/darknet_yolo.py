"""Networks with the constructs of the YOLO family, at any width, written layer by layer.

`width=1` has the published numbers of filters, anchors apart.
"""

from darknet_networks import conv, net, section

CLASSES = 80


class Writer:
    """Writes sections and counts them."""

    def __init__(self, width, size, classes=CLASSES):
        self.width = width
        self.classes = classes
        self.text = net(size, size)
        self.count = 0

    def add(self, text):
        self.text += text
        self.count += 1
        return self.count - 1

    def conv(self, filters, size=3, stride=1, activation=None, **options):
        filters = max(2, int(filters * self.width) // 2 * 2)
        return self.add(
            conv(filters, size, activation or self.activation, stride=stride, **options)
        )

    def convs(self, *filters):
        """Alternates 1 x 1 and 3 x 3."""
        for position, number in enumerate(filters):
            self.conv(number, 1 + 2 * (position % 2))

    def route(self, *layers, **options):
        return self.add(section("route", layers=", ".join(map(str, layers)), **options))

    def shortcut(self, layer, **options):
        return self.add(section("shortcut", from_=layer, activation="linear", **options))

    def maxpool(self, size=2, stride=2):
        return self.add(section("maxpool", size=size, stride=stride))

    def upsample(self):
        return self.add(section("upsample", stride=2))

    def residual(self, filters, inner=None):
        self.conv(inner or filters // 2, 1)
        self.conv(filters)
        self.shortcut(-3)

    def csp_stage(self, filters, repeats, first=False):
        half = filters if first else filters // 2
        self.conv(filters, stride=2)
        self.conv(half, 1)
        self.route(-2)
        self.conv(half, 1)
        for _ in range(repeats):
            self.residual(half, inner=filters // 2)
        self.conv(half, 1)
        self.route(-1, -(3 * repeats + 4))
        return self.conv(filters, 1)

    def spp(self):
        self.maxpool(5, 1)
        self.route(-2)
        self.maxpool(9, 1)
        self.route(-4)
        self.maxpool(13, 1)
        self.route(-1, -3, -5, -6)

    def sam(self, filters):
        self.conv(filters, 1, activation="logistic")
        self.add(section("sam", from_=-2))

    def head(self, *mask, scale_x_y=1.05, new_coords=0, total=9):
        filters = len(mask) * (self.classes + 5)
        activation = "logistic" if new_coords else "linear"
        self.add(conv(filters, 1, activation, batch_normalize=0))
        anchors = ",  ".join(f"{12 + 9 * n}, {16 + 7 * n}" for n in range(total))
        return self.add(
            section(
                "yolo",
                mask=",".join(map(str, mask)),
                anchors=anchors,
                classes=self.classes,
                num=total,
                jitter=0.3,
                ignore_thresh=0.7,
                truth_thresh=1,
                scale_x_y=scale_x_y,
                new_coords=new_coords,
                nms_kind="greedynms",
            )
        )


def yolov3(width=1, size=416):
    net = Writer(width, size)
    net.activation = "leaky"
    net.conv(32)
    taps = []
    for filters, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4)):
        net.conv(filters, stride=2)
        for _ in range(repeats):
            net.residual(filters)
        taps.append(net.count - 1)
    for level, filters in enumerate((512, 256, 128)):
        if level:
            net.route(-4)
            net.conv(filters, 1)
            net.upsample()
            net.route(-1, taps[4 - level])
        net.convs(*[filters, 2 * filters] * 3)
        net.head(*range(6 - 3 * level, 9 - 3 * level))
    return net.text


def yolov3_tiny(width=1, size=416):
    net = Writer(width, size)
    net.activation = "leaky"
    for filters in (16, 32, 64, 128, 256):
        net.conv(filters)
        tap = net.maxpool() - 1
    net.conv(512)
    net.maxpool(2, 1)
    net.conv(1024)
    net.convs(256, 512)
    net.head(3, 4, 5, total=6)
    net.route(-4)
    net.conv(128, 1)
    net.upsample()
    net.route(-1, tap)
    net.conv(256)
    net.head(0, 1, 2, total=6)
    return net.text


def yolov4_tiny(width=1, size=416):
    net = Writer(width, size)
    net.activation = "leaky"
    net.conv(32, stride=2)
    net.conv(64, stride=2)
    for filters in (64, 128, 256):
        net.conv(filters)
        net.route(-1, groups=2, group_id=1)
        net.conv(filters // 2)
        net.conv(filters // 2)
        net.route(-1, -2)
        tap = net.conv(filters, 1)
        net.route(-6, -1)
        net.maxpool()
    net.conv(512)
    net.convs(256, 512)
    net.head(3, 4, 5, total=6)
    net.route(-4)
    net.conv(128, 1)
    net.upsample()
    net.route(-1, tap)
    net.conv(256)
    net.head(1, 2, 3, total=6)
    return net.text


def yolov4(width=1, size=608):
    net = Writer(width, size)
    net.activation = "mish"
    net.conv(32)
    taps = [
        net.csp_stage(filters, repeats, first=filters == 64)
        for filters, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
    ]
    net.activation = "leaky"
    net.convs(512, 1024, 512)
    net.spp()
    net.convs(512, 1024, 512)
    for filters, tap in ((256, taps[3]), (128, taps[2])):
        net.conv(filters, 1)
        net.upsample()
        net.route(tap)
        net.conv(filters, 1)
        net.route(-1, -3)
        net.convs(filters, 2 * filters, filters, 2 * filters, filters)
    net.conv(256)
    net.head(0, 1, 2, scale_x_y=1.2)
    for filters, back, mask in ((256, -16, (3, 4, 5)), (512, -37, (6, 7, 8))):
        net.route(-4)
        net.conv(filters, stride=2)
        net.route(-1, back)
        net.convs(filters, 2 * filters, filters, 2 * filters, filters)
        net.conv(2 * filters)
        net.head(*mask)
    return net.text


def yolov4_sam(width=1, size=512):
    """216 layers: CSP with mish, reorg, unequal shortcuts, and a [sam] at each head."""
    net = Writer(width, size)
    net.activation = "mish"
    net.conv(32)
    taps = [
        net.csp_stage(filters, repeats, first=filters == 64)
        for filters, repeats in ((64, 1), (128, 2), (256, 8), (512, 8), (1024, 4))
    ]
    net.convs(512, 1024, 512)
    net.spp()
    net.convs(512, 1024, 512)
    neck = {4: net.count - 1}
    for level, filters in ((3, 256), (2, 128)):
        net.conv(filters, 1)
        up = net.upsample()
        net.route(taps[level - 1])
        net.add(section("reorg3d", stride=2))
        net.conv(filters, 1)
        net.route(-1, taps[level], up)
        net.conv(2 * filters, 1)
        net.shortcut(up)  # half as many channels
        net.convs(filters, 2 * filters, filters, 2 * filters, filters)
        neck[level] = net.count - 1
    for level, filters, mask in ((2, 128, 0), (3, 256, 3), (4, 512, 6)):
        if level > 2:
            net.route(neck[level - 1])
            net.conv(filters, stride=2)
            net.route(-1, neck[level])
            net.convs(filters, 2 * filters, filters, 2 * filters, filters)
        for _ in range(5 if level > 2 else 3):
            net.residual(filters)
        net.conv(2 * filters)
        net.sam(2 * filters)
        net.add(section("dropout", probability=0.1))
        net.head(mask, mask + 1, mask + 2, scale_x_y=2.0, new_coords=1)
    return net.text
