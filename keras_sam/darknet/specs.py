"""What a checked layer is: one frozen dataclass per section type. No Keras here.

`shape` is (height, width, channels) of the output; `sources` are the layers that a
layer reads, the previous one first, where -1 is the network's input.
"""

import dataclasses
import math

from keras_sam.darknet.cfg import Section

_NORMALIZATION = ("biases", "scales", "mean", "variance")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Spec:
    """What all layers have."""

    section: Section
    sources: tuple[int, ...]
    shape: tuple[int | None, int | None, int]

    @property
    def index(self):
        """The number that Darknet gives the layer: 0 is the first after `[net]`."""
        return self.section.index

    @property
    def name(self):
        """The name of the Keras layer, such as `012_sam`."""
        return f"{self.index:03d}_{self.section.name}"

    @property
    def blocks(self):
        """Name and shape of the layer's arrays in the order of the weight file."""
        return {}

    @property
    def weight_count(self):
        """How many floats of the weight file belong to the layer."""
        return sum(math.prod(shape) for shape in self.blocks.values())


@dataclasses.dataclass(frozen=True, kw_only=True)
class Convolution(Spec):
    """Convolution, batch normalization (or a bias), activation.

    `owner` is the layer whose weights it uses; its own index unless `share_index` says
    otherwise.
    """

    input_channels: int
    size: int
    strides: tuple[int, int]
    dilation: int
    groups: int
    padding: tuple[tuple[int, int], tuple[int, int]]
    batch_normalize: bool
    activation: str
    owner: int

    @property
    def kernel(self):
        """Shape of the kernel as Darknet stores it."""
        channels = self.input_channels // self.groups
        return (self.shape[2], channels, self.size, self.size)

    @property
    def blocks(self):
        if self.owner != self.index:
            return {}
        per_filter = _NORMALIZATION if self.batch_normalize else _NORMALIZATION[:1]
        return dict.fromkeys(per_filter, (self.shape[2],)) | {"weights": self.kernel}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNorm(Spec):
    """Batch normalization alone."""

    @property
    def blocks(self):
        return dict.fromkeys(_NORMALIZATION, (self.shape[2],))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activation(Spec):
    """An activation alone."""

    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropout(Spec):
    """Dropout: nothing at inference."""

    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sam(Spec):
    """`[sam]`: the previous layer is the gate of the layer in `from`."""

    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class ScaleChannels(Spec):
    """`[scale_channels]`: a gate per channel, or per pixel (`per_pixel`)."""

    per_pixel: bool
    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shortcut(Spec):
    """A sum of layers. `weighting` is None, "per_feature" or "per_channel"."""

    weighting: str | None
    normalization: str | None
    activation: str

    @property
    def blocks(self):
        if self.weighting is None:
            return {}
        per_channel = (self.shape[2],) if self.weighting == "per_channel" else ()
        return {"weights": (len(self.sources), *per_channel)}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route(Spec):
    """A concatenation of layers, or of one group of the channels of each."""

    groups: int
    group_id: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooling(Spec):
    """`[maxpool]` or `[local_avgpool]` over windows.

    `same` says that TensorFlow's SAME padding is the padding.
    """

    kind: str
    size: int
    strides: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]
    same: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ChannelMaxPooling(Spec):
    """`[maxpool]` with `maxpool_depth`: the maximum over channels."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GlobalAveragePooling(Spec):
    """`[avgpool]`."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Upsample(Spec):
    """`[upsample]`; a negative stride sums windows instead."""

    stride: int
    scale: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class SpaceToDepth(Spec):
    """`[reorg3d]`."""

    stride: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yolo(Spec):
    """`[yolo]`: a detection head; `anchors` are those of its mask, in pixels."""

    classes: int
    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float
    new_coords: bool
