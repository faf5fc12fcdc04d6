"""What attention layers of KerasHub have in common, under names that differ."""

from keras_sam import scores
from keras_sam.convert.hub.recipe import NoCounterpart, read_input, read_output
from keras_sam.masks import Causal, Window

HEADS = ("num_query_heads", "_num_query_heads", "num_attention_heads", "num_heads")
HEADS = (*HEADS, "_num_heads", "heads")
KEY_HEADS = ("num_key_value_heads", "_num_key_value_heads")
DENSES = ("_{}_dense", "{}_dense", "{}_projector", "{0[0]}_proj", "{0[0]}_dense")


def first(layer, names, *default):
    """The first of some attributes that a layer has."""
    for name in names:
        if getattr(layer, name, None) is not None:
            return getattr(layer, name)
    if default:
        return default[0]
    raise AttributeError(f"{type(layer).__name__} has none of {', '.join(names)}")


def projections(layer):
    """The four projections that all have in common, by the arguments of a recipe."""
    heads = first(layer, HEADS)
    key_heads = first(layer, KEY_HEADS, heads)
    query, key, value, output = (
        first(layer, [name.format(part) for name in DENSES])
        for part in ("query", "key", "value", "output")
    )
    return {
        "query": read_input(query, heads),
        "key": read_input(key, key_heads),
        "value": read_input(value, key_heads),
        "output": read_output(output, heads),
    }


def dropout(layer):
    """The share of the weights that are dropped, by the argument of a recipe."""
    names = ("dropout", "_dropout", "attention_dropout", "attention_dropout_rate")
    for name in names:
        if isinstance(getattr(layer, name, None), int | float):
            return {"dropout": float(getattr(layer, name))}
    return {}


def rotary(embedding, **others):
    """The step that does what a layer of rotary positions does."""
    if getattr(embedding, "denominator_dim", None) is not None:
        raise NoCounterpart("its rotary positions have a `denominator_dim`")
    factor = getattr(embedding, "scaling_factor", 1.0) or 1.0
    scaling = scores.Linear(float(factor)) if factor != 1 else None
    kind = getattr(embedding, "rope_type", "linear")
    if hasattr(embedding, "frequency_adjustment_factor"):  # Llama's ignores the other
        scaling = None
        if embedding.frequency_adjustment_factor is not None:
            scaling = scores.Llama3(
                float(embedding.frequency_adjustment_factor),
                float(embedding.low_freq_factor),
                float(embedding.high_freq_factor),
                embedding.pretraining_sequence_length,
            )
    elif kind == "yarn":
        scaling = scores.YaRN(
            float(factor),
            embedding.beta_fast,
            embedding.beta_slow,
            embedding.original_max_position_embeddings,
            embedding.truncate,
        )
    elif kind != "linear":
        raise NoCounterpart(f"rotary positions of the type {kind!r} have no counterpart")
    return scores.Rotary(float(embedding.max_wavelength), scaling, **others)


def window(layer):
    """The window that a layer has by itself."""
    size = first(layer, ("sliding_window_size", "sliding_window"), None)
    if not size or not getattr(layer, "use_sliding_window_attention", True):
        return None
    if getattr(layer, "use_bidirectional_attention", False):  # half of it on each side
        after = size // 2
        before = Causal() & Window(size - after)
        return before | ~Causal() & Window(after + 1)
    return Window(size)


def qk_norm(layer, shift=0.0):
    """The step of the norms of queries and keys, and its variables."""
    pairs = ("_query_dense_layer_norm", "_query_norm", "query_norm", "q_norm")
    query = first(layer, pairs)
    names = [name.replace("query", "key").replace("q_", "k_") for name in pairs]
    key = first(layer, names)
    epsilon = first(query, ("epsilon", "eps"))
    return scores.QKNorm("rms", epsilon, shift), (query.scale, key.scale)


def value_norm(norm):
    """The step of a norm of values, which has no factors."""
    return scores.ValueNorm(first(norm, ("epsilon", "eps")))
