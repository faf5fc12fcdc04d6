"""The recipes of the attention layers of KerasHub's language models.

Each takes a layer that is built. They read what the layer was made with, never the name
of a model.
"""

import dataclasses

from keras_sam import scores
from keras_sam.convert.hub.parts import (
    HEADS,
    dropout,
    first,
    projections,
    qk_norm,
    rotary,
    value_norm,
    window,
)
from keras_sam.convert.hub.positions import GivenRotary, OwnRotary
from keras_sam.convert.hub.recipe import (
    NoCounterpart,
    Recipe,
    read_input,
    read_output,
)
from keras_sam.masks import Causal, Window


def llama(layer):
    """Also of Phi-3, and of Mistral and Mixtral, whose window is in the decoder's mask."""
    embedding = layer.rotary_embedding_layer
    if type(embedding).__name__ == "Phi3SuScaledRotaryEmbedding":
        step = su(embedding)
    else:
        step = rotary(embedding)
    chain = ((step, ()), ("scaled_dot", ()))
    return Recipe(**projections(layer), score=chain, options=dropout(layer))


def su(embedding):
    """Phi-3's positions, which are divided otherwise beyond the length of training."""
    scaling = scores.LongRoPE(
        tuple(embedding.inverese_freq_short_factor),
        tuple(embedding.inverese_freq_long_factor),
        embedding.pretraining_sequence_length,
        float(embedding.embedding_scaling_factor),
    )
    return scores.Rotary(float(embedding.max_wavelength), scaling)


def qwen(layer):
    chain = ((rotary(layer.rotary_embedding_layer), ()), ("scaled_dot", ()))
    recipe = projections(layer)
    return Recipe(**recipe, score=chain, mask=window(layer), options=dropout(layer))


def qwen3(layer):
    steps = qk_norm(layer), (rotary(layer.rotary_embedding_layer), ())
    chain = (*steps, ("scaled_dot", ()))
    recipe = projections(layer)
    return Recipe(**recipe, score=chain, mask=window(layer), options=dropout(layer))


def qwen3_5(layer):
    """The kernel of queries holds the gate as well."""
    both = projections(layer)
    half = both["query"].kernel.shape[-1] // 2
    both["gate"] = both["query"].part(half, None)
    both["query"] = both["query"].part(None, half)
    turn = rotary(layer.rotary_embedding_layer, fraction=layer.rotary_dim / half)
    chain = (qk_norm(layer, 1.0), (turn, ()), ("scaled_dot", ()))
    return Recipe(**both, score=chain, mask=window(layer), options=dropout(layer))


def gemma(layer):
    """Also of Gemma 3, whose queries and keys are normalized."""
    width = layer.head_dim
    if not layer.query_head_dim_normalize:
        width = layer.hidden_dim // layer.num_query_heads
    chain = [(rotary(layer.rope_layer), ()), (scores.ScaledDot(width**-0.5), ())]
    return _gemma(layer, chain, window(layer))


def t5gemma(layer):
    """Also of T5Gemma 2, whose decoder attends to two sequences in one softmax."""
    chain = [(scores.ScaledDot(layer.scaling), ())]
    embedding = getattr(layer, "rotary_embedding", None)
    if embedding is not None:
        chain.insert(0, (rotary(embedding), ()))
    return _gemma(layer, chain, None)


def t5gemma2_merged(layer):
    """One softmax over two sequences, of which the second has no positions."""
    plain = rotary(layer.rotary_embedding)
    turn = OwnRotary(plain.max_wavelength, plain.scaling)
    chain = [(turn, ()), (scores.ScaledDot(layer.scaling), ())]
    return _gemma(layer, chain, None)


def gemma3n(layer):
    """Also of Gemma 4, whose values may be the keys before their norm."""
    if layer.is_kv_shared_layer:
        raise NoCounterpart("it attends to the keys and values of another layer")
    chain = [qk_norm(layer), (value_norm(layer.v_norm), ())]
    chain += [(rotary(layer.rotary_embedding), ()), ("dot", ())]
    recipe = projections(layer)
    options = dropout(layer)
    return Recipe(**recipe, score=tuple(chain), mask=window(layer), options=options)


def gemma4(layer):
    if layer.is_kv_shared_layer:
        raise NoCounterpart("it attends to the keys and values of another layer")
    share = layer.rotary_dim / layer.head_dim
    scaling = scores.Proportional(share, float(layer.rope_layer.scaling_factor))
    turn = GivenRotary(float(layer.rope_layer.max_wavelength), scaling)
    chain = [qk_norm(layer), (value_norm(layer.value_norm), ()), (turn, ())]
    chain.append(("dot", ()))
    if layer.logit_soft_cap is not None:
        chain.append((scores.SoftCap(float(layer.logit_soft_cap)), ()))
    heads, key_heads = layer.num_query_heads, layer.effective_num_kv_heads
    value = layer.key_dense if layer.attention_k_eq_v else layer.value_dense
    if layer.attention_k_eq_v:
        raise NoCounterpart("its keys and values share one kernel (`attention_k_eq_v`)")
    recipe = Recipe(
        read_input(layer.query_dense, heads),
        read_input(layer.key_dense, key_heads),
        read_input(value, key_heads),
        read_output(layer.output_dense, heads),
    )
    return dataclasses.replace(recipe, score=tuple(chain), options=dropout(layer))


def t5(layer):
    """Its biases are those of the first layer of a stack, which others are handed."""
    chain = [("dot", ())]
    if layer.use_relative_attention_bias:
        bias = scores.T5Bias(
            layer.relative_attention_buckets,
            layer.relative_attention_max_distance,
            bidirectional=not layer.is_decoder,
        )
        chain.append((bias, (layer.relative_attention_bias,)))
    rate = {"dropout": float(layer.dropout_layer.rate)}
    return Recipe(**projections(layer), score=tuple(chain), options=rate)


def t5_inside(place, root):
    """Layers after the first of a stack have its biases, as one variable."""
    layer = place.layer
    recipe = t5(layer)
    if layer.use_relative_attention_bias or "cross" in place.name:
        return recipe
    for other in root._flatten_layers():
        alike = type(other) is type(layer) and other.is_decoder == layer.is_decoder
        if alike and other.use_relative_attention_bias:
            return dataclasses.replace(recipe, score=t5(other).score)
    raise NoCounterpart("no layer of its stack has the biases by distance")


def moonshine(layer):
    if layer.apply_rotary_embedding:
        raise NoCounterpart("it is handed rotary positions: convert the model it is in")
    return Recipe(**projections(layer), options=dropout(layer))


def moonshine_inside(place, root):
    """The model hands its layers the angles of their rotary positions."""
    layer = place.layer
    recipe = Recipe(**projections(layer), options=dropout(layer))
    if not layer.apply_rotary_embedding:
        return recipe
    part = "decoder" if "Decoder" in type(place.owner).__name__ else "encoder"
    embedding = getattr(root, f"{part}_rotary_embedding", None)
    if embedding is None:
        return moonshine(layer)
    fraction = embedding.rotary_dim / embedding.head_dim
    turn = scores.Rotary(float(embedding.base_value), None, fraction, interleaved=True)
    return dataclasses.replace(recipe, score=((turn, ()), ("scaled_dot", ())))


def smollm3(layer):
    chain = [("scaled_dot", ())]
    if layer.use_rope:
        turn = scores.Rotary(float(layer.rope_theta), fraction=layer.partial_rotary_factor)
        chain.insert(0, (turn, ()))
    recipe = projections(layer)
    return Recipe(**recipe, score=tuple(chain), options=dropout(layer))


def _gemma(layer, chain, mask):
    if getattr(layer, "use_query_key_norm", False):
        chain.insert(0, qk_norm(layer, 1.0))
    if layer.logit_soft_cap is not None:
        chain.append((scores.SoftCap(float(layer.logit_soft_cap)), ()))
    recipe = projections(layer)
    return Recipe(**recipe, score=tuple(chain), mask=mask, options=dropout(layer))


def gpt_oss(layer):
    """A row sees one key more than its window is wide, and all after it."""
    fraction = layer._rotary_dim / layer._head_dim
    turn = rotary(layer.rotary_embedding_layer, fraction=fraction)
    sinks = scores.Sinks(), (layer.sinks,)
    chain = ((turn, ()), ("scaled_dot", ()), sinks)
    mask = None
    if layer.sliding_window:
        mask = Window(layer.sliding_window + 1) | ~Causal()
    recipe = projections(layer)
    return Recipe(**recipe, score=chain, mask=mask, options=dropout(layer))


def gpt_neo_x(layer):
    """One kernel holds queries, keys and values of each head."""
    whole = read_input(layer._qkv_dense, layer.num_heads)
    size = layer.attn_head_size
    parts = [whole.part(i * size, (i + 1) * size) for i in range(3)]
    chain = [("scaled_dot", ())]
    if layer.rotary_dim:
        turn = rotary(layer.rotary_embedding_layer, fraction=layer.rotary_dim / size)
        chain.insert(0, (turn, ()))
    output = read_output(layer._output_dense, layer.num_heads)
    return Recipe(*parts, output, tuple(chain), options=dropout(layer))


def bloom(layer):
    """A bias by the position of the key, which in causal attention is one by distance."""
    scale = 1.0
    if layer._alibi_layer.alibi_bias_max != 8:
        raise NoCounterpart("`alibi_bias_max` must be 8")
    chain = (("scaled_dot", ()), (scores.ALiBi(scale), ()))
    recipe = projections(layer)
    return Recipe(**recipe, score=chain, causal=True, options=dropout(layer))


def falcon(layer):
    """As Bloom's, and the bias is scaled with the scores. The decoder hands it over."""
    chain = (("scaled_dot", ()), (scores.ALiBi(layer.head_dim**-0.5), ()))
    recipe = projections(layer)
    return Recipe(**recipe, score=chain, causal=True, options=dropout(layer))


def roformer(layer):
    """Also of ESM, which turns halves. Their mask is of rows; see `adapter.rows_masked`."""
    embedding = layer.rotary_embedding_layer
    chain = [("scaled_dot", ())]
    if getattr(layer, "use_rotary", True):
        interleaved = type(embedding).__name__ != "ESMRotaryEmbedding"
        chain.insert(0, (rotary(embedding, interleaved=interleaved), ()))
    return Recipe(**projections(layer), score=tuple(chain))


def multi_head(layer):
    """Of KerasHub's versions of Keras's `MultiHeadAttention` with caches."""
    if layer._attention_axes not in (None, (1,)):
        raise NoCounterpart("its positions have several axes (`attention_axes`)")
    names = ("kernel_regularizer", "bias_regularizer", "activity_regularizer")
    names = (*names, "kernel_constraint", "bias_constraint")
    options = {name: getattr(layer, f"_{name}", None) for name in names}
    return Recipe(**projections(layer), options={**dropout(layer), **options})


def of_keras(layer):
    """Of Keras's `MultiHeadAttention` inside of layers of KerasHub."""
    recipe = multi_head(layer)
    if getattr(layer, "_use_gate", False):
        gate = read_input(layer._gate_dense, first(layer, HEADS))
        recipe = dataclasses.replace(recipe, gate=gate)
    size = getattr(layer, "_sliding_window", getattr(layer, "sliding_window", None))
    return dataclasses.replace(recipe, mask=Window(size) if size else None)
