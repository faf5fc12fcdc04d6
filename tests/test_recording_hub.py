"""All attention of small random models of KerasHub is recorded, and changes nothing."""

import keras
import numpy as np
import pytest
from common import numpy
from hub_models import BACKBONES, B, H, S, T, models, tokens

from keras_sam import record_attention

NAMES = (
    """
GPT-2, BERT, Gemma 2, Gemma 3, Llama, Mistral, Qwen 3, Phi-3, Falcon, Bloom, OPT, GPT-OSS,
DeBERTa V3, XLNet, T5, Whisper, ViT""".replace("\n", " ")
    .strip()
    .split(", ")
)
HALVES = ["GPT-2", "Gemma 3", "Llama", "GPT-OSS", "DeBERTa V3", "T5"]


# KerasHub's T5 warns by itself of a mask that it does not pass on.
@pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")
@pytest.mark.parametrize("name", NAMES)
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
