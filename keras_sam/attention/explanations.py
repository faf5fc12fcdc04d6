"""Which kernel runs, and why."""

import contextvars
import logging
from typing import NamedTuple

logger = logging.getLogger("keras_sam")
_found = contextvars.ContextVar("keras_sam_explanations", default=None)


class Explanation(NamedTuple):
    """How one call of attention is computed.

    Args:
        kernel: The name of the kernel; see the table in docs/architecture.md.
        reason: Why it is that one: what computes the same, or what faster kernels have
            against the call.
        shape: The shape of the scores, `(B, H, T, S)`; None stands for unknown sizes.
    """

    kernel: str
    reason: str
    shape: tuple

    def __str__(self):
        return f"{self.kernel} for scores {self.shape}: {self.reason}"


def explain(function, *args, **kwargs):
    """Calls a function, and tells which kernels its calls of attention ran.

    What is compiled (`fit`, `predict`, `jax.jit`, `tf.function`) chooses its kernels when
    it is traced: the first time it is called with such shapes. The logger `keras_sam` says
    the same at the level DEBUG.

    Args:
        function: A layer, a model, `keras_sam.attend` or any other function.
        *args: Its arguments.
        **kwargs: Its keyword arguments.

    Returns:
        A list with one `Explanation` for each call of attention, in their order.

    Example:

    >>> import keras, keras_sam
    >>> layer = keras_sam.SelfAttention(num_heads=2)
    >>> (found,) = keras_sam.attention.explain(layer, keras.ops.ones((1, 5, 8)))
    >>> found.kernel
    'dense'
    """
    token = _found.set([])
    try:
        function(*args, **kwargs)
        return _found.get()
    finally:
        _found.reset(token)


def note(kernel, reason, sizes):
    """Notes which kernel runs, for `explain` and the log."""
    known = (n if isinstance(n, int) else None for n in sizes[:4])
    explanation = Explanation(kernel, reason, tuple(known))
    logger.debug("attention by %s", explanation)
    if _found.get() is not None:
        _found.get().append(explanation)
