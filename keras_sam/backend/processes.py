"""Which of several processes this is, where they train one model together."""

import keras


def is_first_process():
    """Returns whether this process is the one that writes logs."""
    if keras.backend.backend() != "jax":
        return True
    import jax

    return jax.process_index() == 0
