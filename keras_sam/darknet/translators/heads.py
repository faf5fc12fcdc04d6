"""Detection heads."""

from keras_sam.darknet import layers
from keras_sam.darknet.translators.common import flatten


def yolo(spec, inputs, shared):
    return layers.YoloHead(
        spec.classes, spec.anchors, spec.scale_x_y, spec.new_coords, name=spec.name
    )(*inputs)


def gaussian_yolo(spec, inputs, shared):
    return layers.GaussianYoloHead(
        spec.classes, len(spec.anchors), spec.scale_x_y, name=spec.name
    )(*inputs)


def region(spec, inputs, shared):
    return layers.RegionHead(spec.classes, len(spec.anchors), spec.softmax, name=spec.name)(
        *inputs
    )


def detection(spec, inputs, shared):
    return layers.DetectionHead(spec.side**2, spec.classes, spec.softmax, name=spec.name)(
        flatten(spec, *inputs)
    )
