"""Which attention layers become ours, how, and which cannot, and why."""

import dataclasses
from collections.abc import Callable

from keras_sam.convert.hub import adapter, pictures, text
from keras_sam.masks import Causal, Window


@dataclasses.dataclass(frozen=True)
class Kind:
    """How the attention layers of one class become ours.

    Args:
        recipe: A function from a built layer to its `Recipe`.
        answer: What a call returns, one of the functions of `adapter`.
        two: Whether it is called with a query and a value.
        inside: A function from a `Place` and the model that it is in to the recipe, where
            that depends on more than the layer.
        keep: The names of sublayers that are needed beside attention.
        adds_mask: Whether masks are added to its scores.
    """

    recipe: Callable
    answer: Callable = adapter.plain
    two: bool = False
    inside: Callable | None = None
    keep: tuple = ()
    adds_mask: bool = False


_MULTI_HEAD = Kind(text.multi_head, adapter.query_and_value, two=True)

KINDS = {
    "BloomAttention": Kind(text.bloom),
    "CachedGemma3Attention": Kind(text.gemma, adapter.two_tensors),
    "CachedGemmaAttention": Kind(text.gemma),
    "CachedMistralAttention": Kind(text.llama),
    "CachedMixtralAttention": Kind(text.llama),
    "CachedMultiHeadAttention": _MULTI_HEAD,
    "EsmSelfAttention": Kind(text.roformer, adapter.rows_masked),
    "FalconAttention": Kind(text.falcon),
    "Gemma3VisionAttention": Kind(pictures.vit, adapter.with_nothing, adds_mask=True),
    "Gemma3nTextAttention": Kind(text.gemma3n, adapter.heads_first),
    "Gemma4TextAttention": Kind(text.gemma4, adapter.own_keys),
    "GPTNeoXAttention": Kind(text.gpt_neo_x, adapter.with_cache),
    "GptOssAttention": Kind(text.gpt_oss),
    "LlamaAttention": Kind(text.llama),
    "MultiHeadAttention": Kind(text.of_keras, adapter.of_keras, two=True),
    "MoonshineMultiHeadAttention": Kind(
        text.moonshine, adapter.query_and_value, two=True, inside=text.moonshine_inside
    ),
    "PaliGemmaVitAttention": Kind(pictures.vit, adapter.with_nothing, adds_mask=True),
    "Phi3Attention": Kind(text.llama),
    "Qwen3Attention": Kind(text.qwen3),
    "Qwen3MoeAttention": Kind(text.qwen3),
    "Qwen3_5Attention": Kind(text.qwen3_5, adapter.one_axis),
    "QwenAttention": Kind(text.qwen),
    "QwenMoeAttention": Kind(text.qwen),
    "RoformerAttention": Kind(text.roformer, adapter.rows_masked),
    "SegFormerMultiheadAttention": Kind(
        pictures.segformer, adapter.reduced, two=True, keep=("sr", "norm")
    ),
    "SmolLM3Attention": Kind(text.smollm3),
    "T5Gemma2Attention": Kind(text.t5gemma, adapter.with_cache, adds_mask=True),
    "T5Gemma2MergedAttention": Kind(
        text.t5gemma2_merged, adapter.merged, two=True, adds_mask=True
    ),
    "T5GemmaAttention": Kind(text.t5gemma, adapter.one_or_two, adds_mask=True),
    "T5MultiHeadAttention": Kind(text.t5, adapter.t5, inside=text.t5_inside),
    "WindowAttention": Kind(pictures.swin, adapter.windows, adds_mask=True),
    "WhisperCachedMultiHeadAttention": _MULTI_HEAD,
}

# Why the other attention layers are not taken.
REFUSED = {
    "DisentangledSelfAttention": "its scores have a third and fourth term, of relative "
    "positions with keys and with queries",
    "TwoStreamRelativeAttention": "it attends with two streams of queries, and its scores "
    "have terms of relative positions and segments",
    "DFineMultiscaleDeformableAttention": "it samples a feature map at learned places and "
    "compares no pairs",
    "MultiQueryAttention2d": "it makes keys and values by convolutions",
}


def _causal(owner, layer):
    return Causal()


def _causal_window(owner, layer):
    size = getattr(owner, "sliding_window", None)
    return Causal() if size is None else Causal() & Window(size)


def _gemma3(owner, layer):
    return None if owner.use_bidirectional_attention else Causal()


def _gemma4(owner, layer):
    if owner.use_bidirectional_attention:
        return None
    if owner.use_sliding_window_attention and not owner.is_global_attention:
        return Causal() & Window(layer.sliding_window_size)
    return Causal()


def _t5(owner, layer):
    return Causal() if owner.is_decoder else None


def _t5gemma(owner, layer):
    if owner.layer_type != "sliding_attention":
        return Causal()
    return Causal() & Window(owner.sliding_window + 1)


# The pattern of the mask that a layer of KerasHub makes for its attention, beside padding.
PATTERNS = {
    "BloomDecoder": _causal,
    "FalconTransformerDecoder": _causal,
    "GPTNeoXDecoder": _causal,
    "Gemma3DecoderBlock": _gemma3,
    "Gemma3VisionAttention": Kind(pictures.vit, adapter.with_nothing, adds_mask=True),
    "Gemma3nTextDecoderBlock": _causal,
    "Gemma4TextDecoderBlock": _gemma4,
    "GemmaDecoderBlock": _causal,
    "GptOssTransformerDecoder": _causal,
    "LlamaTransformerDecoder": _causal,
    "MistralTransformerDecoder": _causal_window,
    "MixtralTransformerDecoder": _causal_window,
    "MoonshineDecoderBlock": _causal,
    "Phi3Decoder": _causal,
    "Qwen3_5MoeTransformerDecoder": _causal,
    "Qwen3_5TransformerDecoder": _causal,
    "QwenMoeTransformerDecoder": _causal,
    "QwenTransformerDecoder": _causal,
    "Qwen3MoeTransformerDecoder": _causal,
    "Qwen3TransformerDecoder": _causal,
    "SmolLM3DecoderLayer": _causal,
    "T5GemmaDecoderLayer": _t5gemma,
    "T5TransformerLayer": _t5,
    "TransformerDecoder": _causal,
    "WhisperDecoder": _causal,
}

# Where an attention layer with two arguments attends to itself: the layer that it is in,
# and its attribute there. Elsewhere it becomes a `CrossAttention`, which is right as well.
ATTEND_TO_THEMSELVES = {
    ("CLIPEncoderLayer", "attention"),
    ("DINOV2Attention", "attention"),
    ("DeiTEncoderBlock", "mha"),
    ("MetaCLIP2EncoderLayer", "attention"),
    ("MoonshineDecoderBlock", "self_attention"),
    ("MoonshineEncoderBlock", "self_attention_layer"),
    ("SigLIPEncoderLayer", "self_attn"),
    ("TransformerDecoder", "_self_attention_layer"),
    ("TransformerEncoder", "_self_attention_layer"),
    ("ViTEncoderBlock", "mha"),
    ("WhisperDecoder", "_self_attention_layer"),
    ("WhisperEncoder", "_self_attention_layer"),
}
