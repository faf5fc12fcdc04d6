"""Small random models of KerasHub: the class, its arguments, its inputs and its maps."""

import numpy as np
import pytest
from common import random

hub = pytest.importorskip("keras_hub")
models = hub.models

B, T, S, H, C = 2, 5, 7, 4, 16
WORDS = 11
LAYERS = {"vocabulary_size": WORDS, "num_layers": 2, "hidden_dim": C}
SIZES = {**LAYERS, "intermediate_dim": 6, "num_heads": H}
GROUPED = {
    **LAYERS,
    "intermediate_dim": 6,
    "num_query_heads": H,
    "num_key_value_heads": 2,
}


def tokens(length=T, seed=0):
    return np.random.default_rng(seed).integers(1, WORDS, (B, length)).astype("int32")


def padding(length=T):
    """The second example has two tokens of padding, behind."""
    return (np.arange(length) < [[length], [length - 2]]).astype("int32")


def text(*names):
    inputs = {"token_ids": tokens(), "padding_mask": padding()}
    return lambda: {**inputs, **{name: np.zeros((B, T), "int32") for name in names}}


def two_texts():
    return {
        "encoder_token_ids": tokens(S),
        "encoder_padding_mask": padding(S),
        "decoder_token_ids": tokens(),
        "decoder_padding_mask": padding(),
    }


def sound():
    return {
        "encoder_features": random(B, 2 * S, 3),
        "decoder_token_ids": tokens(),
        "decoder_padding_mask": padding(),
    }


def picture(size=6):
    return random(B, size, size, 3)


def long_sound():
    # Three convolutions leave 2 steps of 1,600.
    return {
        "encoder_input_values": random(B, 1600, 1),
        "encoder_padding_mask": np.arange(1600) < [[1600], [1100]],
        "decoder_token_ids": tokens(),
        "decoder_padding_mask": padding().astype(bool),
    }


def words_and_segments():
    return {"token_ids": tokens() * padding(), "segment_ids": np.zeros((B, T), "int32")}


SELF = [("self", T, T)]
MERGED = [("self", S, S)] * 2 + [("cross", T, T + S)] * 2
ENCODER_AND_DECODER = [("self", S, S)] * 2 + [("self", T, T), ("cross", T, S)] * 2

EXPERTS = {"moe_intermediate_dim": 6, "num_experts": 3, "top_k": 2}
T5GEMMA = {
    "vocabulary_size": WORDS,
    "query_pre_attn_scalar": 6.0,
    "sliding_window": 3,
    "attn_logit_softcapping": 5.0,
    "dropout_rate": 0.0,
} | {
    f"{part}_{name}": value
    for part in ("encoder", "decoder")
    for name, value in {
        "hidden_dim": C,
        "intermediate_dim": 6,
        "num_layers": 2,
        "num_attention_heads": H,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "layer_types": ["sliding_attention", "full_attention"],
    }.items()
}

# The class, its arguments, its inputs, and the kinds and sizes of its maps.
BACKBONES = {
    "GPT-2": (models.GPT2Backbone, SIZES, text(), SELF * 2),
    "BERT": (models.BertBackbone, SIZES, text("segment_ids"), SELF * 2),
    "Gemma 2": (
        models.GemmaBackbone,
        {
            **GROUPED,
            "head_dim": 6,
            "attention_logit_soft_cap": 5.0,
            "use_sliding_window_attention": True,
            "sliding_window_size": 3,
        },
        text(),
        SELF * 2,
    ),
    "Gemma 3": (
        models.Gemma3Backbone,
        {
            **GROUPED,
            "head_dim": 6,
            "image_size": 16,
            "use_sliding_window_attention": True,
            "sliding_window_size": 3,
        },
        text(),
        SELF * 2,
    ),
    "Llama": (models.LlamaBackbone, GROUPED, text(), SELF * 2),
    "Mistral": (models.MistralBackbone, {**GROUPED, "sliding_window": 3}, text(), SELF * 2),
    "Qwen 3": (models.Qwen3Backbone, {**GROUPED, "head_dim": 6}, text(), SELF * 2),
    "Phi-3": (models.Phi3Backbone, GROUPED, text(), SELF * 2),
    "Falcon": (
        models.FalconBackbone,
        {**LAYERS, "num_attention_heads": H, "intermediate_dim": 64},
        text(),
        SELF * 2,
    ),
    "Bloom": (models.BloomBackbone, SIZES, text(), SELF * 2),
    "OPT": (models.OPTBackbone, SIZES, text(), SELF * 2),
    "GPT-OSS": (
        models.GptOssBackbone,
        {**GROUPED, "num_experts": 3, "head_dim": 6, "sliding_window": 3},
        text(),
        SELF * 2,
    ),
    "DeBERTa V3": (
        models.DebertaV3Backbone,
        {**SIZES, "bucket_size": 4, "max_sequence_length": 8},
        text(),
        SELF * 2,
    ),
    "XLNet": (models.XLNetBackbone, SIZES, text("segment_ids"), SELF * 2),
    "T5": (models.T5Backbone, SIZES, two_texts, ENCODER_AND_DECODER),
    "Whisper": (
        models.WhisperBackbone,
        {**SIZES, "num_mels": 3, "max_encoder_sequence_length": 2 * S},
        sound,
        ENCODER_AND_DECODER,
    ),
    "ViT": (
        models.ViTBackbone,
        {
            "image_shape": (6, 6, 3),
            "patch_size": 3,
            "num_layers": 2,
            "num_heads": H,
            "hidden_dim": C,
            "mlp_dim": 6,
        },
        picture,
        [("self", 5, 5)] * 2,
    ),
    "Gemma 3, both ways": (
        models.Gemma3Backbone,
        {
            **GROUPED,
            "head_dim": 6,
            "image_size": 16,
            "use_sliding_window_attention": True,
            "sliding_window_size": 4,
            "use_bidirectional_attention": True,
        },
        text(),
        SELF * 2,
    ),
    "Gemma": (models.GemmaBackbone, {**GROUPED, "head_dim": 6}, text(), SELF * 2),
    "Gemma 3n": (
        models.Gemma3nBackbone,
        {
            "text_vocab_size": WORDS,
            "text_hidden_size": C,
            "num_hidden_layers": 2,
            "pad_token_id": 0,
            "num_attention_heads": H,
            "num_key_value_heads": 2,
            "head_dim": 6,
            "intermediate_size": [6, 6],
            "hidden_activation": "gelu_approximate",
            "layer_types": ["sliding_attention", "full_attention"],
            "sliding_window": 3,
            "rope_theta": 10000.0,
            "max_position_embeddings": 32,
            "vocab_size_per_layer_input": WORDS,
            "hidden_size_per_layer_input": 4,
            "altup_num_inputs": 2,
            "laurel_rank": 2,
            "activation_sparsity_pattern": [0.0, 0.0],
        },
        text(),
        SELF * 2,
    ),
    "Gemma 4": (
        models.Gemma4Backbone,
        {
            **GROUPED,
            "head_dim": 8,
            "image_size": 16,
            "sliding_window_size": 3,
            "sliding_window_pattern": 2,
            "global_rope_partial_rotary_factor": 0.5,
        },
        lambda: {**text()(), "position_ids": np.tile([0, 1, 2, 7, 4], (B, 1))},
        SELF * 2,
    ),
    "Qwen": (
        models.QwenBackbone,
        {**GROUPED, "use_sliding_window_attention": True, "sliding_window_size": 3},
        text(),
        SELF * 2,
    ),
    "Qwen MoE": (
        models.QwenMoeBackbone,
        {**GROUPED, **EXPERTS, "shared_expert_intermediate_dim": 6},
        text(),
        SELF * 2,
    ),
    "Qwen 3 MoE": (models.Qwen3MoeBackbone, {**GROUPED, **EXPERTS}, text(), SELF * 2),
    "Qwen 3.5": (
        models.Qwen3_5Backbone,
        {
            **GROUPED,
            "head_dim": 8,
            "partial_rotary_factor": 0.5,
            "layer_types": ["linear_attention", "full_attention"],
            "linear_num_key_heads": 2,
            "linear_num_value_heads": 2,
            "linear_key_head_dim": 4,
            "linear_value_head_dim": 4,
            "sliding_window_size": 3,
        },
        text(),
        SELF,
    ),
    "Mixtral": (
        models.MixtralBackbone,
        {**GROUPED, "num_experts": 3, "sliding_window": 3},
        text(),
        SELF * 2,
    ),
    "Phi-3, long": (
        models.Phi3Backbone,
        {
            **GROUPED,
            "max_sequence_length": 8,
            "pretraining_sequence_length": 4,
            "rope_scaling_type": "su",
            "rope_scaling_short_factor": [1.0, 2.0],
            "rope_scaling_long_factor": [3.0, 4.0],
        },
        text(),
        SELF * 2,
    ),
    "GPT-NeoX": (
        models.GPTNeoXBackbone,
        {**SIZES, "rotary_percentage": 0.5},
        text(),
        SELF * 2,
    ),
    "SmolLM3": (
        models.SmolLM3Backbone,
        {
            **LAYERS,
            "intermediate_dim": 6,
            "num_attention_heads": H,
            "num_key_value_heads": 2,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "rope_layer_enabled_list": [True, False],
            "layer_types": ["attention", "attention"],
            "mlp_bias": False,
            "layer_norm_epsilon": 1e-6,
            "max_position_embeddings": 32,
            "rope_theta": 10000.0,
            "partial_rotary_factor": 1.0,
        },
        text(),
        SELF * 2,
    ),
    "RoBERTa": (models.RobertaBackbone, SIZES, text(), SELF * 2),
    "ALBERT": (
        models.AlbertBackbone,
        {**SIZES, "embedding_dim": 4},
        text("segment_ids"),
        SELF * 2,
    ),
    "ESM": (
        models.ESMBackbone,
        SIZES,
        lambda: {"token_ids": tokens() * padding()},
        SELF * 2,
    ),
    "RoFormer V2": (
        models.RoformerV2Backbone,
        {**SIZES, "head_size": 4},
        words_and_segments,
        SELF * 2,
    ),
    "BART": (models.BartBackbone, SIZES, two_texts, ENCODER_AND_DECODER),
    "Moonshine": (
        models.MoonshineBackbone,
        {
            "vocabulary_size": WORDS,
            "filter_dim": C,
            "encoder_num_layers": 1,
            "decoder_num_layers": 1,
            "hidden_dim": C,
            "intermediate_dim": 6,
            "encoder_num_heads": 2,
            "decoder_num_heads": 2,
        },
        long_sound,
        [("self", 2, 2), ("self", T, T), ("cross", T, 2)],
    ),
    "T5Gemma": (models.T5GemmaBackbone, T5GEMMA, two_texts, ENCODER_AND_DECODER),
    "T5Gemma 2": (models.T5Gemma2Backbone, T5GEMMA, two_texts, MERGED),
    "Swin": (
        models.SwinTransformerBackbone,
        {
            "image_shape": (16, 16, 3),
            "embed_dim": 8,
            "depths": (2, 1),
            "num_heads": (2, 4),
            "window_size": 2,
            "patch_size": 4,
            "drop_path": 0.0,
        },
        lambda: picture(16),
        [("self", 4, 4)] * 3,
    ),
    "MiT": (
        models.MiTBackbone,
        {
            "layerwise_depths": [1, 1],
            "num_layers": 2,
            "layerwise_num_heads": [1, 2],
            "layerwise_sr_ratios": [2, 1],
            "max_drop_path_rate": 0.0,
            "layerwise_patch_sizes": [7, 3],
            "layerwise_strides": [4, 2],
            "image_shape": (16, 16, 3),
            "hidden_dims": [4, 8],
        },
        lambda: picture(16),
        [("cross", 16, 4), ("cross", 4, 4)],
    ),
}
