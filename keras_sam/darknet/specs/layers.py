"""One frozen dataclass for each kind of section that maps maps to maps. No Keras here."""

import dataclasses

from keras_sam.darknet.specs.base import NORMALIZATION, Spec


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
        normalization = NORMALIZATION if self.batch_normalize else ()
        per_filter = dict.fromkeys(("biases", *normalization), (self.shape[2],))
        return per_filter | {"weights": self.kernel}


@dataclasses.dataclass(frozen=True, kw_only=True)
class BatchNorm(Spec):
    """Batch normalization alone."""

    @property
    def blocks(self):
        return dict.fromkeys(("biases", *NORMALIZATION), (self.shape[2],))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Activation(Spec):
    """An activation alone."""

    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Dropout(Spec):
    """Dropout: nothing at inference."""

    probability: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainingOnly(Spec):
    """`[cost]` and `[contrastive]`: nothing at inference."""


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
class UnequalShortcut(Spec):
    """A sum of two layers of unequal height and width, or with `alpha` and `beta`.

    Every `stride`-th cell of the source goes to every `sample`-th cell of the input.
    """

    stride: int
    sample: int
    alpha: float
    beta: float
    activation: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Route(Spec):
    """A concatenation of layers, or of one group of the channels of each."""

    groups: int
    group_id: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooling(Spec):
    """`[maxpool]` or `[local_avgpool]` over windows.

    `same` is true where the padding is TensorFlow's SAME.
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
class Reorg(Spec):
    """`[reorg]`, which is no space to depth; `reverse` goes to a larger map."""

    stride: int
    reverse: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Crop(Spec):
    """`[crop]`: the centre; `rescale` makes `[0, 1]` into `[-1, 1]`."""

    rescale: bool
