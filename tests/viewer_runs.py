"""Runs for the tests of the viewer: attention as models have it, made with NumPy alone.

`python tests/viewer_runs.py FOLDER` writes the blobs of every run into files.
"""

import base64
import dataclasses
import json
import pathlib
import struct
import sys
import zlib

import numpy as np

from keras_sam_viewer.layers import Extent, Layer
from keras_sam_viewer.steps import (
    PLAIN,
    Options,
    encode_layer,
    encode_map,
    encode_meta,
    encode_stats,
)

STEPS = (0, 10, 20, 50, 100, 200)
HOSTILE = '<img src=x onerror="window.hacked=1">'
TEXT = """def get ( self , block = True , timeout = None ) : ~ if not block : ~~ if self .
empty ( ) : ~~~ raise Empty ~ elif timeout is None : ~~ while self . empty ( ) : ~~~ self .
wait ( )"""
TOKENS = [t.replace("~", "\n\t", 1).replace("~", "\t") for t in TEXT.split()]


@dataclasses.dataclass
class Run:
    """The blobs of a run by their keys, and the layers that they were made of.

    Args:
        name: The name of the run.
        steps: Its steps.
        blobs: Bytes by key: `meta`, `stats/<step>`, `map/<step>/<layer>/<example>`.
        layers: The `Layer`s by step.
    """

    name: str
    steps: tuple
    blobs: dict
    layers: dict


def make_run(name, make_layers, steps=STEPS, options=PLAIN, **described):
    """Returns a `Run` of the layers that `make_layers(progress)` makes."""
    blobs, by_step = {}, {}
    for index, step in enumerate(steps):
        progress = index / max(1, len(steps) - 1)
        layers = by_step[step] = make_layers(progress)
        extents = [Extent.of(layer) for layer in layers]
        loss = None if step == 0 else 2 * np.exp(-3 * progress)
        found = [
            encode_layer(layer, extent, options)
            for layer, extent in zip(layers, extents, strict=True)
        ]
        scalars = {} if loss is None else {"loss": loss}
        blobs[f"stats/{step}"] = encode_stats(found, step, scalars, wall_time=1e9 + step)
        for i, of_layer in enumerate(found):
            for j in range(len(of_layer.maps)):
                blobs[f"map/{step}/{i}/{j}"] = encode_map(of_layer, i, j, step)
    blobs["meta"] = encode_meta(
        layers, extents, options, library="keras_sam 0.2.0", scalars=["loss"], **described
    )
    return Run(name, tuple(steps), blobs, by_step)


def softmax(scores, allowed=None):
    """Returns weights `(..., T, S)` of scores, zero where not allowed."""
    if allowed is not None:
        scores = np.where(allowed, scores, -1e9)
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    if allowed is not None:
        weights = weights * allowed
    total = weights.sum(-1, keepdims=True)
    return (weights / np.where(total > 0, total, 1)).astype(np.float32)


def scores_of(seed, heads, queries, keys, progress, examples=1, sharpness=2.5):
    """Returns scores `(B, H, T, S)` that start flat and drift to a few strong keys."""
    generator = np.random.default_rng(seed)
    width = 16
    query = generator.normal(size=(examples, heads, queries, width))
    key = generator.normal(size=(examples, heads, keys, width))
    sinks = generator.exponential(1.0, size=(examples, heads, 1, keys)) ** 2
    noise = generator.normal(size=(examples, heads, queries, keys))
    found = query @ np.swapaxes(key, -1, -2) / np.sqrt(width)
    return 0.05 * noise + progress * (sharpness * found + sinks)


def causal_layers(progress, layers=4, heads=4, length=128):
    """Causal self-attention; one head sees the previous token, one copies another."""
    allowed = np.tri(length, dtype=bool)[None, None]
    found = []
    for layer in range(layers):
        scores = scores_of(layer, heads, length, length, progress)
        if layer == 1:
            before = np.eye(length, k=-1) * 60 * progress
            scores[:, 1] += before
            scores[:, 3] = scores[:, 2]
        if layer == 2:
            scores[:, 0, :, 5] += 60 * progress
        weights = softmax(scores, allowed)
        found.append(Layer(f"block_{layer}/attend", "self", weights, allowed))
    return found


def causal_run(name="causal LM", length=128, **options):
    """A causal language model: 4 layers of 4 heads, one example with tokens."""
    tokens = (TOKENS * (length // len(TOKENS) + 1))[:length]
    return make_run(
        name,
        lambda progress: causal_layers(progress, length=length),
        examples=["queue.py"],
        label_lists=[tokens],
        labels=[[(0, 0)]] * 4,
        **options,
    )


def translating_layers(progress, queries=(27, 20), keys=(5, 3)):
    """An encoder, a decoder and cross-attention, with padding."""
    longest = 30, 5
    query_mask = np.arange(longest[0]) < np.array(queries)[:, None]
    key_mask = np.arange(longest[1]) < np.array(keys)[:, None]
    pairs = query_mask[:, None, :, None] & key_mask[:, None, None]
    inner = key_mask[:, None, :, None] & key_mask[:, None, None]
    outer = query_mask[:, None, :, None] & query_mask[:, None, None]
    outer = outer & np.tri(longest[0], dtype=bool)
    shapes = {
        "read": ("self", 4, 5, 5, inner),
        "write": ("self", 4, 30, 30, outer),
        "align": ("cross", 1, 30, 5, pairs),
    }
    return [
        Layer(
            path,
            kind,
            softmax(scores_of(i, heads, t, s, progress, 2, sharpness=4), allowed),
            allowed,
        )
        for i, (path, (kind, heads, t, s, allowed)) in enumerate(shapes.items())
    ]


def translating_run(name="translate"):
    names = ["five hundred and eighty six", "twenty one thousand"]
    words = [name.split() for name in names]
    letters = [["<s>", *"fünfhundertsechsundachtzig"], ["<s>", *"einundzwanzigtausend"]]
    letters[1] = letters[1][:20]
    lists = [words[0], words[1], letters[0], letters[1]]
    labels = [[(0, 0), (1, 1)], [(2, 2), (3, 3)], [(2, 0), (3, 1)]]
    return make_run(
        name,
        translating_layers,
        examples=names,
        label_lists=lists,
        labels=labels,
    )


def picture_layers(progress):
    """A gate, self-attention over 8 x 8 patches, pooling over them, and channels."""
    generator = np.random.default_rng(3)
    gate = 0.5 + 0.1 * progress * generator.normal(size=(2, 16, 16, 1))
    rows = softmax(scores_of(1, 4, 64, 64, progress, 2))
    parts = softmax(scores_of(2, 2, 1, 64, progress, 2))[:, :, 0]
    channels = 0.5 + 0.3 * progress * generator.uniform(-1, 1, size=(2, 1, 1, 24))
    cube = generator.uniform(size=(2, 4, 6, 5, 3))
    return [
        Layer("gate", "spatial", gate, query_grid=(16, 16), key_grid=(16, 16)),
        Layer("mix", "self", rows, query_grid=(8, 8), key_grid=(8, 8)),
        Layer("pool", "selective", parts, key_grid=(8, 8)),
        Layer("channels", "channel", channels, are_features=True),
        Layer("cube", "pointwise_spatial", cube, query_grid=(4, 6, 5)),
    ]


def picture_run(name="digits"):
    pictures = [png(digit(i)) for i in range(2)]
    return make_run(
        name,
        picture_layers,
        examples=["read as 2", "read as 7"],
        pictures=[{"url": url, "height": 32, "width": 32} for url in pictures],
        shown=[[0, 1]] * 3 + [[None, None]] * 2,
    )


def long_layers(progress, length=2048):
    """Causal self-attention of so many pairs that only rows are kept."""
    allowed = np.tri(length, dtype=bool)[None, None]
    scores = scores_of(0, 2, length, length, progress)
    return [Layer("long", "self", softmax(scores, allowed), allowed)]


def long_run(name="long", length=2048):
    tokens = (TOKENS * (length // len(TOKENS) + 1))[:length]
    return make_run(
        name,
        lambda progress: long_layers(progress, length),
        steps=(0, 10),
        examples=["long"],
        label_lists=[tokens],
        labels=[[(0, 0)]],
    )


def wide_run(name="wide"):
    """12 layers of 8 heads, 128 tokens."""
    tokens = (TOKENS * 3)[:128]
    return make_run(
        name,
        lambda progress: causal_layers(progress, 12, 8),
        steps=STEPS[:4],
        examples=["wide"],
        label_lists=[tokens],
        labels=[[(0, 0)]] * 12,
    )


def hostile_run(name=HOSTILE):
    """Names of runs, layers, examples and tokens that are HTML, and one step."""
    tokens = [HOSTILE, "</script>", "&amp;", "\u202eright to left", "a" * 300, "\ud800"]
    layers = [Layer(HOSTILE, "self", softmax(scores_of(0, 2, 6, 6, 1)))]
    return make_run(
        name,
        lambda progress: layers,
        steps=(3,),
        options=Options(fine=True),
        examples=[HOSTILE],
        label_lists=[tokens],
        labels=[[(0, 0)]],
    )


def digit(seed):
    """A grayscale picture, uint8 `(32, 32)`."""
    y, x = np.mgrid[:32, :32] - 15.5
    ring = np.abs(np.hypot(x * (1 + 0.3 * seed), y) - 9) < 2.5
    return (ring * 230 + 10).astype(np.uint8)


def png(gray):
    """Returns a grayscale picture as a data URL."""
    height, width = gray.shape
    rows = b"".join(b"\0" + row.tobytes() for row in gray)

    def chunk(kind, data):
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header)
    data += chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return "data:image/png;base64," + base64.b64encode(data).decode()


RUNS = {
    "causal": causal_run,
    "causal_512": lambda: causal_run("causal LM, 512 tokens", 512),
    "translate": translating_run,
    "digits": picture_run,
    "long": long_run,
    "wide": wide_run,
    "hostile": hostile_run,
}


def main(folder):
    """Writes every run as files, `<run>/<key>.gz`, and lists them in `runs.json`."""
    listed = []
    for directory, make in RUNS.items():
        run = make()
        for key, blob in run.blobs.items():
            path = pathlib.Path(folder, directory, f"{key}.gz")
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(blob)
        size = sum(map(len, run.blobs.values()))
        print(f"{directory}: {len(run.steps)} steps, {size / 1e6:.2f} MB")
        listed.append({"directory": directory, "name": run.name, "steps": run.steps})
    pathlib.Path(folder, "runs.json").write_text(json.dumps(listed, indent=1))


if __name__ == "__main__":
    main(*sys.argv[1:])
