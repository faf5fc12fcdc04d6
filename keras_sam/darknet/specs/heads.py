"""Detection heads: their outputs are the outputs of the network. No Keras here."""

import dataclasses

from keras_sam.darknet.specs.base import Spec


@dataclasses.dataclass(frozen=True, kw_only=True)
class Head(Spec):
    """What all heads have.

    `nms_kind` and `beta_nms` choose the overlap that suppresses boxes. Of several heads
    the last one's count.
    """

    classes: int
    nms_kind: str = "default"
    beta_nms: float = 0.6


@dataclasses.dataclass(frozen=True, kw_only=True)
class Yolo(Head):
    """`[yolo]`; `anchors` are those of its mask, in pixels."""

    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float
    new_coords: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class GaussianYolo(Head):
    """`[Gaussian_yolo]`; `point` is what x and y are of: center, left_top, ..."""

    anchors: tuple[tuple[float, float], ...]
    scale_x_y: float
    point: str


@dataclasses.dataclass(frozen=True, kw_only=True)
class Region(Head):
    """`[region]` of YOLOv2; `anchors` are in cells of the grid."""

    anchors: tuple[tuple[float, float], ...]
    softmax: bool
    drop_unsure: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class Detection(Head):
    """`[detection]` of YOLOv1: a vector of scores, confidences and boxes.

    `boxes` of each of `side * side` cells; with `squared`, w and h are roots.
    """

    side: int
    boxes: int
    softmax: bool
    squared: bool
