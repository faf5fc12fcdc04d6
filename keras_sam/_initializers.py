"""Initializers for layers that have several variables of one kind."""

import keras


def fresh(initializer, nth=0):
    """Returns a copy of an initializer for the `nth` variable that it is used for.

    An initializer draws the same numbers every time it is called, and so does a copy
    that has the same seed: variables of one shape would begin equal, and some of them,
    such as the two factors of a bilinear form, would never come apart.
    """
    if isinstance(getattr(initializer, "seed", None), keras.random.SeedGenerator):
        return initializer  # draws other numbers each time
    config = initializer.get_config()
    if isinstance(config.get("seed"), int):
        config["seed"] += nth
    return initializer.__class__.from_config(config)
