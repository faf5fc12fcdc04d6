"""Layers with a cache: each step gives what the whole pass gives."""

import numpy as np
import pytest
from common import numpy, random, randomize
from keras import ops

import keras_sam
from keras_sam import masks, scores

BATCH, LENGTH, WIDTH = 3, 13, 16
ROTARY = (scores.Rotary, "scaled_dot")
STEPS = (scores.QKNorm, scores.Rotary, "scaled_dot", lambda: scores.SoftCap(5.0))

# Arguments of `SelfAttention(4, 8)`; a step is made anew for each layer.
LAYERS = {
    "plain": {"causal": True},
    "grouped": {"causal": True, "num_key_value_heads": 2, "score": ROTARY},
    "ring": {"causal": True, "sliding_window": 5, "num_key_value_heads": 1},
    "all steps": {
        "causal": True,
        "score": (*STEPS, scores.ALiBi, scores.Sinks),
        "use_gate": True,
    },
    "all steps in a ring": {
        "causal": True,
        "sliding_window": 5,
        "score": (*STEPS, scores.T5Bias, scores.Sinks),
        "use_gate": True,
    },
    "window or global": {
        "mask": masks.Causal() & (masks.Window(5) | masks.Global(2)),
    },
    "dilated": {"mask": masks.Causal() & masks.Dilated(2)},
    "additive": {"causal": True, "score": "additive", "normalizer": "sparsemax"},
    "bilinear in a ring": {
        "causal": True,
        "sliding_window": 4,
        "score": "bilinear",
        "normalizer": "sigmoid",
        "num_key_value_heads": 2,
    },
    "cosine": {"causal": True, "score": "cosine", "normalizer": "entmax"},
    "grid": {"causal": True, "score": ("scaled_dot", lambda: scores.GridBias((4, 4)))},
    "selective": {"causal": True, "selective": True},
    "selective in a ring": {
        "causal": True,
        "selective": True,
        "sliding_window": 5,
        "num_key_value_heads": 2,
    },
    "selective additive": {"causal": True, "selective": True, "score": "additive"},
}
CHUNKS = {
    "one": (1,) * LENGTH,
    "three": (3, 3, 3, 3, 1),
    "all": (LENGTH,),
    "mixed": (4, 1, 1, 6, 1),
}


def make(name, dtype=None):
    """Returns a built layer of the table with random weights."""
    arguments = dict(LAYERS[name])
    if isinstance(arguments.get("score"), tuple):
        steps = arguments["score"]
        arguments["score"] = [step() if callable(step) else step for step in steps]
    layer = keras_sam.SelfAttention(4, 8, dtype=dtype, **arguments)
    layer.build((None, LENGTH, WIDTH))
    return randomize(layer)


def inputs(seed=0):
    return random(BATCH, LENGTH, WIDTH, seed=seed, scale=0.5)


def decode(layer, x, chunks, cache, index_of=int, masks=None):
    """Returns the outputs of all steps side by side, and the last cache."""
    start, outputs = 0, []
    for rows in chunks:
        part = slice(start, start + rows)
        mask = None if masks is None else masks[:, part]
        output, cache = layer(
            x[:, part], mask=mask, cache=cache, cache_update_index=index_of(start)
        )
        outputs.append(numpy(output))
        start += rows
    return np.concatenate(outputs, axis=1), cache


def tensor_index(start):
    return ops.convert_to_tensor(start, dtype="int32")


def index_of_each(start):
    return ops.full((BATCH,), start, dtype="int32")


def close(found, expected, tolerance=3e-6):
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@pytest.mark.parametrize("index_of", [int, tensor_index, index_of_each])
@pytest.mark.parametrize("name", LAYERS)
def test_steps_equal_the_whole(name, index_of):
    layer, x = make(name), inputs()
    whole = numpy(layer(x))
    for chunks in CHUNKS.values():
        cache = layer.make_cache(BATCH, LENGTH)
        close(decode(layer, x, chunks, cache, index_of)[0], whole)
