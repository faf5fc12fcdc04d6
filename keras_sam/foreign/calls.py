"""What is known of a call of a layer: is it attention, of what kind, in which order."""

import inspect

import keras

from keras_sam.foreign.maps import with_heads_of_batch, without_last_key

# Names of call arguments that are attended to.
_SOURCES = (
    *("value", "values", "v", "key", "keys", "k", "kv", "key_value", "key_value_states"),
    *("context", "memory", "source", "encoder_output", "encoder_outputs"),
    *("encoder_hidden_states", "encoder_sequence"),
)


def is_attention(layer):
    """Returns whether a softmax inside of this layer makes attention weights."""
    names = [cls.__name__ for cls in _layer_classes(layer)]
    # Deformable attention weighs a few points that it samples: no map of positions.
    sampled = any("Deformable" in name for name in names)
    return any("Attention" in name for name in names) and not sampled


def is_ours(layer):
    """Returns whether this layer, or a base of it, is of keras_sam and records itself."""
    return any(cls.__module__.split(".")[0] == "keras_sam" for cls in _layer_classes(layer))


def kind_of_call(layer, args, kwargs):
    """Returns `"cross"` if what is attended to was given and is no query, or `"self"`."""
    query, sources = _query_and_sources(layer, args, kwargs)
    is_cross = sources and not any(source is query for source in sources)
    return "cross" if is_cross else "self"


def map_of_layer(seen, layer, args, kwargs):
    """Brings a `ForeignMap`, or None, into the form of all maps.

    Attention sinks are dropped: KerasHub's GPT-OSS has a learned score for each head as
    the last column. Heads that are part of the axis of examples get an axis of their own,
    as far as sizes are known.
    """
    if seen is None:
        return None
    if getattr(layer, "sinks", None) is not None:
        seen = without_last_key(seen)
    heads = getattr(layer, "num_heads", 1)
    query, _ = _query_and_sources(layer, args, kwargs)
    examples = (getattr(query, "shape", None) or (None,))[0]
    batch, heads_seen = seen.weights.shape[:2]
    if heads_seen == 1 and examples and batch and batch == examples * heads != examples:
        seen = with_heads_of_batch(seen, heads)
    return seen


def _layer_classes(layer):
    return [cls for cls in type(layer).__mro__ if issubclass(cls, keras.layers.Layer)]


def _query_and_sources(layer, args, kwargs):
    """Returns the query of a call, its first argument, and a list of values and keys."""
    try:
        given = inspect.signature(layer.call).bind_partial(*args, **kwargs).arguments
    except TypeError:  # arguments that a `__call__` of its own understands
        return None, []
    query, sources = next(iter(given.values()), None), []
    if isinstance(query, list | tuple) and len(query) > 0:  # [query, value, key]
        query, *sources = query
    sources += [given[name] for name in _SOURCES if name in given]
    return query, [source for source in sources if source is not None]
