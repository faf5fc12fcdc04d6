"""Recording: handing the attention weights of layers to whoever asks.

Layers call `record`; it does nothing unless somebody opened `record_attention`. A
context variable holds the open recorder, so threads and nested recorders do not see
each other's weights. Layers that know nothing of this, Keras's own ones among them, are
watched by `keras_sam.foreign` meanwhile.
"""

import contextlib
import contextvars
import dataclasses
import math
import sys
from collections.abc import Iterator
from typing import Any

import keras
from keras import ops
from keras.src.backend.common.symbolic_scope import get_symbolic_scope

from keras_sam import _validation as check
from keras_sam.foreign import watch

# More weights than this of one call are not computed whole; see `record_attention`.
MAX_ENTRIES = 2**26

_recorder = contextvars.ContextVar("keras_sam_recorder", default=None)


@dataclasses.dataclass(frozen=True)
class AttentionDetails:
    """What recorded weights are, so that they can be drawn.

    Args:
        kind: The mechanism: `"self"`, `"cross"`, `"selective"`, `"spatial"`,
            `"pointwise_spatial"` or `"channel"`.
        query_grid: The sizes behind the query axis `T`, such as `(8, 8)` when its 64
            positions are those of a feature map; None for a plain sequence.
        key_grid: The same for the key axis `S`.
        are_features: Whether channels have weights, instead of positions.
    """

    kind: str
    query_grid: tuple | None = None
    key_grid: tuple | None = None
    are_features: bool = False


class AttentionMaps(dict[str, Any]):
    """Attention weights by layer path, with `details` and `allowed` by the same paths.

    `allowed[path]` is a boolean tensor that broadcasts to the weights, False where a pair
    is masked, or None where that is not known or everything is allowed.
    """

    def __init__(self, max_entries: int = MAX_ENTRIES):
        super().__init__()
        self.details: dict[str, AttentionDetails] = {}
        self.allowed: dict[str, Any] = {}
        self._max_entries = max_entries
        self._stage = _stage()

    def __missing__(self, path):
        recorded = ", ".join(repr(key) for key in self) or "nothing"
        raise KeyError(
            f"No attention was recorded for {path!r}. Recorded: {recorded}. A model "
            "that already runs inside a compiled function (`fit`, `predict`, your "
            "own `tf.function`) is not recorded from outside: call the model itself, "
            "`model(x)`, or open `record_attention()` inside the function."
        )

    def listens(self):
        """Says whether code runs at the stage at which recording was opened.

        Keras calls models with symbolic tensors to learn their shapes, and compiled
        functions are traced: what layers make there is of no use outside.
        """
        return self._stage == _stage()

    def keeps_whole(self, *sizes):
        """Returns whether weights of these sizes are recorded as one tensor.

        Those of a compiled function always are: nobody can ask for rows later.
        """
        trace, _ = self._stage
        known = trace is None and None not in sizes
        return not known or math.prod(sizes) <= self._max_entries

    def add(self, path, weights, details, allowed=None):
        """Adds the weights of one call; the second call of a layer is `path#2`."""
        key, calls = path, 1
        while key in self:
            calls += 1
            key = f"{path}#{calls}"
        self[key] = weights
        self.details[key] = details
        self.allowed[key] = allowed


@contextlib.contextmanager
def record_attention(max_entries: int = MAX_ENTRIES) -> Iterator[AttentionMaps]:
    """Records the attention weights of every attention layer that is called.

    Works around any call of any model: functional, Sequential, nested, subclassed, in
    a loop or in `keras.layers.TimeDistributed`, eagerly or, opened inside it, in a
    `tf.function`. While it is open, layers compute their whole weight matrices.

    Attention layers are those of keras_sam, and without a change to them or to what they
    compute:

    * Keras's `MultiHeadAttention`, `GroupQueryAttention`, `Attention` and
      `AdditiveAttention`, and the attention layers of KerasHub;
    * every other layer with "Attention" in the name of its class or of a base, for each
      `keras.ops.softmax` or `keras.layers.Softmax` over keys that it uses and does not
      just return;
    * every layer that calls `keras.ops.dot_product_attention`.

    Args:
        max_entries: Self- and cross-attention of keras_sam with more weights than this, of
            all examples and heads of a call, are not computed whole outside of compiled
            functions: what is recorded then is a `keras_sam.RowsOnDemand`. The default is
            256 MiB of float32.

    Yields:
        A dictionary that maps each layer's `path` to its weights as normalized and
        masked, before dropout: `(batch, heads, queries, keys)` for self- and
        cross-attention. A layer called twice has its second call under `path#2`.
        `.details[path]` is an `AttentionDetails`. `.allowed[path]` is a boolean mask, False
        where a pair is masked; it is None where nothing is masked or the mask is unknown.

    Example:

    >>> import keras, numpy as np, keras_sam
    >>> layer = keras_sam.SelfAttention(num_heads=2, name="attend")
    >>> model = keras.Sequential([keras.Input((5, 8)), layer])
    >>> with keras_sam.record_attention() as maps:
    ...     outputs = model(np.ones((3, 5, 8)), training=False)
    >>> maps[layer.path].shape
    TensorShape([3, 2, 5, 5])

    Keras's own layers:

    >>> x = keras.Input((5, 8))
    >>> attend = keras.layers.MultiHeadAttention(num_heads=2, key_dim=4)
    >>> model = keras.Model(x, attend(x, x))
    >>> with keras_sam.record_attention() as maps:
    ...     outputs = model(np.ones((3, 5, 8)), training=False)
    >>> maps[attend.path].shape
    TensorShape([3, 2, 5, 5])
    >>> maps.details[attend.path].kind
    'self'
    """
    most = sys.maxsize  # weights, not a size of a layer
    maps = AttentionMaps(check.positive_integer("max_entries", max_entries, most=most))

    def hear(layer, kind, seen):
        details = AttentionDetails(kind, seen.query_grid, seen.key_grid)
        maps.add(layer.path or layer.name, seen.weights, details, seen.allowed)

    token = _recorder.set(maps)
    try:
        with watch(maps.listens, hear):
            yield maps
    finally:
        _recorder.reset(token)


def is_recording():
    """Says whether somebody records, so that a layer has to make its weights."""
    maps = _recorder.get()
    return maps is not None and maps.listens()


def keeps_whole(*sizes):
    """Returns whether weights of these sizes, None for unknown ones, are computed whole.

    Only while somebody records.
    """
    return _recorder.get().keeps_whole(*sizes)


def record(layer, weights, details, allowed=None):
    """Hands `weights` to the open recorder, if there is one.

    Args:
        layer: The layer, known by its `path`.
        weights: Tensor or `RowsOnDemand`.
        details: `AttentionDetails`.
        allowed: Boolean tensor that broadcasts to `weights`, or `RowsOnDemand`, or None.
    """
    if is_recording() and not isinstance(weights, keras.KerasTensor):
        _recorder.get().add(layer.path or layer.name, weights, details, allowed)


def _stage():
    """Identifies what is running: a function that is traced, or Python itself.

    A symbolic tensor of TensorFlow knows its graph, and one of JAX its trace. PyTorch
    runs everything at once, except where Keras wants shapes only.
    """
    probe = ops.zeros(())
    trace = getattr(probe, "graph", getattr(probe, "_trace", None))
    return trace, get_symbolic_scope()
