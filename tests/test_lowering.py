"""What is handed to a GPU, looked at on a machine without one.

JAX lowers for a device that is not there. That finds what Triton and cuDNN do not know; it
runs nothing.
"""

import re

import numpy as np
import pytest
from common import BACKEND

import keras_sam
from keras_sam import normalizers, scores
from keras_sam.attention import library, pallas
from keras_sam.attention.policy import Policy

pytestmark = [
    pytest.mark.skipif(BACKEND != "jax", reason="needs JAX"),
    pytest.mark.filterwarnings("ignore:The Pallas Triton backend:DeprecationWarning"),
]


def lowered(function, *shapes, dtype="bfloat16"):
    """Returns the text of a function and its gradients, for an NVIDIA GPU."""
    import jax

    def train(*tensors):
        def total(*tensors):
            return function(*tensors).astype("float32").sum()

        return jax.grad(total, tuple(range(len(tensors))))(*tensors)

    given = [jax.ShapeDtypeStruct(shape, dtype) for shape in shapes]
    return jax.jit(train).trace(*given).lower(lowering_platforms=("cuda",)).as_text()


@pytest.fixture
def a_gpu():
    """Tells Pallas which GPU to lower for, which it asks from JAX 0.11 on."""
    import jax

    device = jax.sharding.AbstractDevice("NVIDIA H100", 132, "gpu")
    mesh = jax.sharding.AbstractMesh((1,), ("all",), abstract_device=device)
    with jax.sharding.use_abstract_mesh(mesh):
        yield


@pytest.fixture
def cudnn(monkeypatch):
    """Pretends that cuDNN is there."""
    module = pytest.importorskip("jax._src.cudnn.fused_attention_stablehlo")
    monkeypatch.setattr(module, "check_cudnn_version", lambda: 91000)
    monkeypatch.setattr(module, "check_compute_capability", lambda capability: True)
    monkeypatch.setattr(library, "attention_library", lambda: "cudnn")


MASK = np.arange(64) < np.array([[40], [64]])
CALLS = {
    "plain": ({}, "NO_MASK"),
    "causal": ({"causal": True}, "CAUSAL"),
    "padded": ({"key_mask": MASK}, "PADDING"),
    "causal window": ({"causal": True, "sliding_window": 9}, "CAUSAL"),
    "rotary": ({"causal": True, "score": [scores.Rotary(), "scaled_dot"]}, "CAUSAL"),
}


@pytest.mark.parametrize("name", CALLS)
@pytest.mark.parametrize("key_heads", [4, 2])
def test_cudnn(name, key_heads, cudnn):
    options, mask = CALLS[name]

    def attend(query, key, value):
        policy = Policy(kernel="library")
        return keras_sam.attend(query, key, value, policy=policy, **options)

    text = lowered(attend, (2, 4, 64, 32), *[(2, key_heads, 64, 32)] * 2)
    calls = re.findall(r"@__cudnn\$fmha(\w+)\(", text)
    assert sorted(calls) == ["Softmax", "SoftmaxBackward"]  # each once
    # Keys as they are, however many query heads share them.
    call = next(line for line in text.splitlines() if "@__cudnn$fmhaSoftmax(" in line)
    assert call.count(f"tensor<2x64x{key_heads}x32xbf16>") >= 2
    assert f"\\22mask_type\\22: \\22{mask}\\22" in text
    if "window" in name:
        assert "\\22sliding_window_length\\22: 9" in text
    assert not re.search(r"tensor<2x(4|1)x64x64x", text)  # no matrix of weights


def test_cudnn_with_padding_among_causal_rows(cudnn):
    """By lengths where padding is at the end, and by a mask otherwise."""

    def attend(query, key, value):
        policy = Policy(kernel="library")
        return keras_sam.attend(
            query, key, value, policy=policy, key_mask=MASK, causal=True
        )

    text = lowered(attend, *[(2, 4, 64, 32)] * 3)
    assert "\\22mask_type\\22: \\22PADDING_CAUSAL\\22" in text
    assert "fmhaScaleBiasSoftmaxBackward" in text


@pytest.mark.parametrize("depth", [16, 64, 128, 256])
@pytest.mark.parametrize("dtype", ["bfloat16", "float16", "float32"])
def test_every_size_of_block_lowers(dtype, depth, a_gpu, monkeypatch):
    monkeypatch.setattr(pallas, "on_cpu", lambda: False)

    def attend(query, key, value):
        return keras_sam.attend(query, key, value, policy=Policy(kernel="pallas"))

    text = lowered(attend, *[(1, 2, 300, depth)] * 3, dtype=dtype)
    assert len(re.findall("xla.gpu.triton", text)) == 3


@pytest.mark.parametrize(
    "normalizer",
    [
        normalizers.Sigmoid("-log(length)"),
        normalizers.Sparsemax(),
        normalizers.Entmax(1.5),
        normalizers.Softmax(),
    ],
    ids=lambda normalizer: type(normalizer).__name__,
)
def test_every_normalizer_lowers(normalizer, a_gpu, monkeypatch):
    monkeypatch.setattr(pallas, "on_cpu", lambda: False)
    mask = np.random.default_rng(0).random((1, 1, 200, 200)) > 0.5

    def attend(query, key, value):
        policy, masks = Policy(kernel="pallas"), {"mask": mask, "key_mask": mask[0, 0, :1]}
        return keras_sam.attend(
            query,
            key,
            value,
            normalizer=normalizer,
            sliding_window=50,
            policy=policy,
            **masks,
        )

    text = lowered(attend, (1, 4, 200, 24), *[(1, 2, 200, 24)] * 2)
    assert len(re.findall("xla.gpu.triton", text)) == 3


def test_additive_scores_lower(a_gpu, monkeypatch):
    from keras_sam.scores import additive, additive_pallas

    monkeypatch.setattr(additive_pallas, "on_cpu", lambda: False)
    monkeypatch.setattr(additive, "has_fused_kernels", lambda: True)
    shapes = (2, 2, 200, 30), (2, 2, 300, 30), (2, 30)
    text = lowered(additive.additive_scores, *shapes, dtype="float32")
    assert len(re.findall("xla.gpu.triton", text)) == 3
