"""All attention of small random models of KerasHub is recorded, and changes nothing."""

import keras
import numpy as np
import pytest
from common import numpy, random

from keras_sam import record_attention

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


def picture():
    return random(B, 6, 6, 3)


SELF = [("self", T, T)]
ENCODER_AND_DECODER = [("self", S, S)] * 2 + [("self", T, T), ("cross", T, S)] * 2

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
}


HALVES = ["GPT-2", "Gemma 3", "Llama", "GPT-OSS", "DeBERTa V3", "T5"]


# KerasHub's T5 warns by itself of a mask that it does not pass on.
@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
@pytest.mark.parametrize("name", BACKBONES)
def test_backbones(name):
    make, arguments, inputs, expected = BACKBONES[name]
    model, inputs = make(**arguments), inputs()
    before = model(inputs, training=False)
    with record_attention() as maps:
        outputs = model(inputs, training=False)
    keras.tree.map_structure(same, outputs, before)
    found = [(maps.details[p].kind, *maps[p].shape[2:]) for p in maps]
    assert found == expected
    for path, weights in maps.items():
        assert tuple(weights.shape[:2]) == (B, H), path
        weights, allowed = numpy(weights), numpy(maps.allowed[path])
        assert weights.shape == allowed.shape
        total = weights.sum(axis=-1)
        if name == "GPT-OSS":  # a sink takes the rest
            assert ((total > 0.1) & (total < 0.999)).all()
        else:
            np.testing.assert_allclose(total, 1, rtol=1e-5)
        assert (weights[~allowed] == 0).all()
        assert (weights[allowed] > 0).all()


def same(one, other):
    np.testing.assert_array_equal(numpy(one), numpy(other))


@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
@pytest.mark.parametrize("name", HALVES)
def test_half_precision(name):
    make, arguments, inputs, expected = BACKBONES[name]
    model, inputs = make(**arguments, dtype="mixed_bfloat16"), inputs()
    before = model(inputs, training=False)
    with record_attention() as maps:
        outputs = model(inputs, training=False)
    keras.tree.map_structure(same, outputs, before)
    assert len(maps) == len(expected)
    for path, weights in maps.items():
        allowed = numpy(maps.allowed[path])
        assert (numpy(weights)[~allowed] == 0).all()
        if maps.details[path].kind == "self" and name not in ("DeBERTa V3", "T5"):
            assert not allowed[:, :, ~np.tri(T, dtype=bool)].any()


CAUSAL = {"GPT-2": "GPT2", "Llama": "Llama", "Gemma 2": "Gemma", "GPT-OSS": "GptOss"}


@pytest.mark.parametrize("name", CAUSAL)
def test_cached_decoding(name):
    """The weights of a step are the rows that the whole text has at its position."""
    make, arguments, _, _ = BACKBONES[name]
    language_model = getattr(models, f"{CAUSAL[name]}CausalLM")
    model = language_model(backbone=make(**arguments), preprocessor=None)
    words = tokens(S)
    words[:, T:] = 0  # not yet known
    with record_attention() as whole:
        _, cache = model._build_cache(words)
    with record_attention() as step:
        model.call_with_cache(words[:, T - 1 : T], cache, T - 1)
    assert list(step) == list(whole)
    for path, weights in step.items():
        assert tuple(weights.shape) == (B, H, 1, S)
        assert step.details[path].kind == "self"
        row = numpy(whole[path])[:, :, T - 1 : T]
        np.testing.assert_allclose(numpy(weights), row, rtol=1e-4, atol=1e-6)
        assert not numpy(step.allowed[path])[..., T:].any()
