"""Feature maps, as the tests of the layers that weigh them need them."""

import numpy as np


def some_of(features, seed=7):
    """A mask of features `(B, *spatial, C)` with about half of the places."""
    mask = np.random.default_rng(seed).random(features.shape[:-1]) < 0.5
    mask.reshape(len(mask), -1)[:, 0] = True
    return mask


def channels_first(array):
    return np.moveaxis(array, -1, 1)
