"""The functions of Keras that are replaced while somebody watches, and by what."""

import contextlib
import contextvars
import functools
import threading

import keras
from keras.src import backend

from keras_sam.foreign.calls import is_attention, is_ours, kind_of_call, map_of_layer
from keras_sam.foreign.maps import read_dot_products, read_softmax

# The layer that runs in this thread or task; None where nobody watches.
_frame = contextvars.ContextVar("keras_sam_foreign_frame", default=None)
_lock = threading.Lock()
_watchers = 0
_originals = []  # triples (owner, name, function), while somebody watches


@contextlib.contextmanager
def watch(listens, hear):
    """Watches the foreign attention layers that are called inside, in this context.

    Args:
        listens: A function without arguments that returns whether tensors that are made
            now are of use to `hear`.
        hear: A function `(layer, kind, seen)`, called when an attention layer returns,
            once for each `ForeignMap`. `kind` is `"self"` or `"cross"`.
    """
    with _replaced(), _running(_Frame(None, listens, hear)):
        yield


class _Frame:
    """A layer that runs, and the softmaxes that belong to it.

    Args:
        layer: The layer, or None for what runs outside of all layers.
        listens: See `watch`.
        hear: See `watch`.
        closed: Whether nothing inside belongs to the layer.
    """

    def __init__(self, layer, listens, hear, closed=False):
        if isinstance(layer, keras.layers.TimeDistributed):
            layer = layer.layer  # its `call` is called, past `__call__`
        self.layer, self.listens, self.hear = layer, listens, hear
        self.closed = closed or layer is None or is_ours(layer)
        self.found = []  # triples, see `add`

    def inside(self, layer, closed=False):
        """Returns the frame of a layer that is called in this one."""
        return _Frame(layer, self.listens, self.hear, closed)

    def add(self, result, read, surely=False):
        """Keeps a softmax until the layer returns.

        Args:
            result: What the softmax returned, to know it again.
            read: A function that returns the `ForeignMap`, or None.
            surely: Whether it is attention of this layer, whatever its name is.
        """
        if not self.closed and self.listens():
            self.found.append((result, read, surely))

    def finish(self, outputs, args, kwargs, caller):
        """Hears what belongs to the layer; what it returns belongs to its caller."""
        returned = outputs
        if isinstance(outputs, list | tuple) and outputs:
            returned = outputs[0]
        elif isinstance(outputs, dict) and len(outputs) == 1:
            (returned,) = outputs.values()
        for result, read, surely in self.found:
            if not surely and result is returned:
                caller.add(result, read)
            elif surely or is_attention(self.layer):
                seen = map_of_layer(read(), self.layer, args, kwargs)
                if seen is not None:
                    self.hear(self.layer, kind_of_call(self.layer, args, kwargs), seen)


@contextlib.contextmanager
def _running(frame):
    token = _frame.set(frame)
    try:
        yield
    finally:
        _frame.reset(token)


def _call(original):
    """`Layer.__call__`."""

    def call(layer, *args, **kwargs):
        caller = _frame.get()
        if caller is None:
            return original(layer, *args, **kwargs)
        if type(layer).call is keras.layers.Softmax.call:
            return call_softmax(caller, layer, *args, **kwargs)
        frame = caller.inside(layer)
        with _running(frame):
            outputs = original(layer, *args, **kwargs)
        frame.finish(outputs, args, kwargs, caller)
        return outputs

    def call_softmax(caller, layer, inputs, mask=None, **kwargs):
        # It works on several axes without a softmax, and zeroes rows that are masked.
        with _running(caller.inside(layer, closed=True)):
            weights = original(layer, inputs, mask=mask, **kwargs)
        read = functools.partial(read_softmax, weights, inputs, layer.axis, mask)
        caller.add(weights, read)
        return weights

    return call


def _softmax(original):
    """The backend's `softmax`: `keras.ops.softmax` under all of its names."""

    def softmax(x, axis=-1):
        weights = original(x, axis=axis)
        frame = _frame.get()
        if frame is not None:
            frame.add(weights, functools.partial(read_softmax, weights, x, axis))
        return weights

    return softmax


def _dot_product_attention(original):
    """The backend's `dot_product_attention`, which has the outputs only.

    The weights are computed beside it, so the outputs stay what they are, to the bit.
    """

    def dot_product_attention(query, key, value, **options):
        frame = _frame.get()
        if frame is None:
            return original(query, key, value, **options)
        with _running(frame.inside(frame.layer, closed=True)):
            outputs = original(query, key, value, **options)
        read = functools.partial(read_dot_products, query, key, **options)
        frame.add(outputs, read, surely=True)
        return outputs

    return dot_product_attention


_REPLACEMENTS = (
    (keras.layers.Layer, "__call__", _call),
    (backend.nn, "softmax", _softmax),
    (backend.nn, "dot_product_attention", _dot_product_attention),
)


@contextlib.contextmanager
def _replaced():
    """Replaces the functions while at least one thread is inside."""
    global _watchers
    with _lock:
        _watchers += 1
        if _watchers == 1:
            for owner, name, replace in _REPLACEMENTS:
                original = getattr(owner, name)
                _originals.append((owner, name, original))
                setattr(owner, name, functools.wraps(original)(replace(original)))
    try:
        yield
    finally:
        with _lock:
            _watchers -= 1
            if _watchers == 0:
                while _originals:
                    setattr(*_originals.pop())
