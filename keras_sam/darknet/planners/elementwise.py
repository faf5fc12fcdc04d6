"""Sections that keep the shape of their input."""

from keras_sam.darknet import specs
from keras_sam.darknet.planners.checks import read_activation


def activation(section, reader, network):
    """Plans `[activation]`."""
    source, shape = network.previous
    return specs.Activation(
        section=section,
        sources=(source,),
        shape=shape,
        activation=read_activation(section, reader),
    )


def batchnorm(section, reader, network):
    """Plans `[batchnorm]`."""
    source, shape = network.previous
    return specs.BatchNorm(section=section, sources=(source,), shape=shape)


def dropout(section, reader, network):
    """Plans `[dropout]`, which counts as a layer although it does nothing."""
    source, shape = network.previous
    probability = reader.number("probability", 0.2)
    if not 0 <= probability <= 1:
        raise reader.error("probability", "must be from 0 to 1", f"{probability:g}")
    return specs.Dropout(
        section=section, sources=(source,), shape=shape, probability=probability
    )


def training_only(section, reader, network):
    """Plans `[cost]` and `[contrastive]`, which count as layers and do nothing here."""
    source, shape = network.previous
    return specs.TrainingOnly(section=section, sources=(source,), shape=shape)
