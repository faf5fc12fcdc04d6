"""Initializers for layers that have several variables of one kind."""

import keras

from keras_sam import _validation as check


def get(name, identifier):
    """Returns the initializer for the argument `name`, or raises.

    A function would do until the model that holds it is loaded again.
    """
    initializer = keras.initializers.get(identifier)
    if not isinstance(initializer, keras.initializers.Initializer):
        expected = "the name or an instance of a keras.initializers.Initializer"
        raise check.invalid(name, expected, identifier)
    return initializer


def fresh(initializer, nth=0):
    """Returns a copy of an initializer for the `nth` variable that it is used for.

    An initializer draws the same numbers every time it is called, and so does a copy
    that has the same seed: variables of one shape would begin equal, and some of them,
    such as the two factors of a bilinear form, would never come apart.
    """
    if isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
        return initializer  # draws other numbers each time
    config = initializer.get_config()
    if check.is_integer(config.get("seed")):
        config["seed"] += nth
    return initializer.__class__.from_config(config)
