"""The softmax of Darknet's layers."""

from keras import ops


def softmax(scores):
    """Returns the softmax over the last axis; over one score it is 1.

    Keras warns of a single score, which detectors of one class have.
    """
    if scores.shape[-1] == 1:
        return ops.ones_like(scores)
    return ops.softmax(scores, axis=-1)
