"""What writing the viewer's records costs: milliseconds and megabytes a step and example.

python benchmarks/viewer.py            the sizes of docs/viewer.md
python benchmarks/viewer.py --long     also 8,192 tokens, and the peak of memory
"""

import argparse
import resource
import time

import numpy as np

from keras_sam_viewer.html import make_page
from keras_sam_viewer.layers import Extent, Layer
from keras_sam_viewer.runs import Run
from keras_sam_viewer.steps import (
    Options,
    encode_layer,
    encode_map,
    encode_meta,
    encode_stats,
)

# Layers, heads, tokens, causal; at most so many milliseconds (None: any) and megabytes.
CASES = {
    "12 x 8 x 128 causal": (12, 8, 128, True, 90, 0.9),
    "12 x 8 x 196 patches": (12, 8, 196, False, None, 3.0),
    "4 x 4 x 512 causal": (4, 4, 512, True, None, 2.0),
}
STEPS = 16
PAGE = 30  # megabytes of a page of 16 steps of 4 x 4 x 512


def make_layers(layers, heads, length, causal, sharpness):
    """Returns layers whose weights are softmax of random scores of some sharpness."""
    allowed = np.tri(length, dtype=bool)[None, None] if causal else None
    found = []
    for index in range(layers):
        generator = np.random.default_rng(index)
        query, key = generator.normal(size=(2, heads, length, 32))
        scores = sharpness * (query @ np.swapaxes(key, -1, -2)) / np.sqrt(32)
        if causal:
            scores = np.where(allowed[0], scores, -np.inf)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights = (weights / weights.sum(-1, keepdims=True)).astype("float32")
        found.append(Layer(f"block_{index}/attend", "self", weights[None], allowed))
    return found


def encode(layers, extents, step=0, options=Options()):  # noqa: B008
    """Returns the blobs of a step."""
    found = [
        encode_layer(layer, extent, options)
        for layer, extent in zip(layers, extents, strict=True)
    ]
    blobs = {f"stats/{step}": encode_stats(found, step)}
    for index, of_layer in enumerate(found):
        blobs[f"map/{step}/{index}/0"] = encode_map(of_layer, index, 0, step)
    return blobs


def measure(name):
    layers, heads, length, causal, most_time, most_size = CASES[name]
    times, sizes = [], []
    # Nearly uniform, as before training, moderate, and sharp.
    for sharpness in (0.1, 1, 3):
        made = make_layers(layers, heads, length, causal, sharpness)
        extents = [Extent.of(layer) for layer in made]
        encode(made, extents)
        each = []
        for _ in range(7):
            start = time.perf_counter()
            blobs = encode(made, extents)
            each.append(time.perf_counter() - start)
        times.append(1e3 * np.median(each))
        sizes.append(sum(map(len, blobs.values())) / 1e6)
    limits = f"{most_time or '-'} ms, {most_size} MB"
    shown = "  ".join(f"{t:4.0f} ms {s:.2f} MB" for t, s in zip(times, sizes, strict=True))
    print(f"{name:22} flat, moderate, sharp: {shown}   (at most {limits})")


def measure_page():
    """The page of 16 steps, from flat to sharp, of 4 x 4 x 512."""
    sizes = {}
    for levels in (255, 63):
        options, blobs = Options(levels), {}
        for step in range(STEPS):
            made = make_layers(4, 4, 512, True, 0.1 + 2.9 * step / STEPS)
            extents = [Extent.of(layer) for layer in made]
            blobs.update(encode(made, extents, step, options))
        meta = encode_meta(made, extents, options, examples=["example 0"])
        page = make_page([Run("run", {"meta": meta, **blobs})])
        sizes[levels] = len(page) / 1e6
    shown = ", ".join(f"{levels} levels {size:.1f} MB" for levels, size in sizes.items())
    print(f"page of {STEPS} steps of 4 x 4 x 512: {shown}   (at most {PAGE} MB)")


def measure_long(length=8192, heads=4, width=64):
    """A causal layer of so many tokens, with rows on demand: seconds and memory."""
    import keras

    import keras_sam
    from keras_sam import _viewed

    layer = keras_sam.SelfAttention(heads, causal=True)
    inputs = keras.random.normal((1, length, width))
    before = peak()
    start = time.perf_counter()
    with keras_sam.record_attention(max_entries=_viewed.MAX_ENTRIES) as maps:
        layer(inputs)
    called = time.perf_counter() - start
    after_call = peak()
    start = time.perf_counter()
    made = [_viewed.layer_of(maps, path, 2) for path in maps]
    blobs = encode(made, [Extent.of(each) for each in made])
    encoded = time.perf_counter() - start
    size = sum(map(len, blobs.values())) / 1e6
    whole = 4 * heads * length**2 / 1e6
    print(
        f"{length} tokens, {heads} heads: call {called:.2f} s, records {encoded:.2f} s, "
        f"{size:.1f} MB; peak of memory {before:.0f} MB before, {after_call:.0f} MB after "
        f"the call, {peak():.0f} MB in the end (all weights: {whole:.0f} MB)"
    )


def peak():
    """The largest resident size of this process so far, in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--long", action="store_true", help="also 8,192 tokens")
    arguments = parser.parse_args()
    if arguments.long:
        measure_long()
    for name in CASES:
        measure(name)
    measure_page()
