"""How fast is SelfAttention, and how much memory does it need, beside its peers?

Times the forward pass, and a training step (forward pass and gradients of inputs and
weights), of layers with the same projections and the same work:

    ours          keras_sam.SelfAttention in a tf.function, as `fit` runs it by default
    ours, XLA     the same in a tf.function(jit_compile=True)
    keras         keras.layers.MultiHeadAttention (or, for "additive", Dense layers around
                  keras.layers.AdditiveAttention) in a tf.function
    keras, XLA    the same in a tf.function(jit_compile=True)
    torch         PyTorch's scaled_dot_product_attention between four Linear layers

    python benchmarks/attention.py                      # all cases: half an hour
    python benchmarks/attention.py --case causal -T 4096
    python benchmarks/attention.py --quick              # small ones, to see that it runs
    python benchmarks/attention.py --backend jax --dtype bfloat16   # where a GPU is

Batch 1, self-attention. Each contender is a process of its own and all take turns. Times
are medians; memory is the growth of the process over what it was before the first call.
The ratios are what to look at.
"""

import argparse
import json
import os
import sys

import turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

WIDTH, HEADS, WINDOW, ADDITIVE_WIDTH = 512, 8, 256, 256
LENGTHS = {
    "plain": (128, 512, 2048, 4096, 8192),
    "causal": (2048, 4096, 8192),
    "window": (2048, 4096, 8192),
    "additive": (256, 1024, 4096),
    "alone": (32768,),
}
PASSES = ("forward", "training")
CONTENDERS = {
    "tensorflow": ("ours", "ours, XLA", "keras", "keras, XLA", "torch"),
    "jax": ("ours, XLA", "keras, XLA", "keras, flash"),
}

# What we want: (case, lengths, passes, against, at least so many times faster, at most this
# share of the extra memory). Keras's better one counts, with XLA or without.
TARGETS = (
    ("plain", (4096, 8192), ("forward",), "keras", 2.0, None),
    ("plain", (4096, 8192), ("training",), "keras", 1.8, None),
    ("plain", (4096,), PASSES, "keras", None, 1 / 8),
    ("plain", (8192,), PASSES, "keras", None, 1 / 16),
    ("causal", (4096, 8192), PASSES, "keras", 3.0, None),
    ("window", (8192,), PASSES, "keras", 10.0, None),
    ("additive", (1024,), PASSES, "keras", 5.0, 1 / 5),
    ("plain", (128, 512), PASSES, "keras", 1 / 1.05, None),
    ("plain", (4096,), ("forward",), "torch", 1 / 1.15, None),
    ("plain", (4096,), ("training",), "torch", 1 / 1.3, None),
)


def make(case):
    """The work of one contender, as a function without arguments."""
    if case["contender"] == "torch":
        return torch_run(case)
    os.environ["KERAS_BACKEND"] = case["backend"]
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    keras.config.set_dtype_policy(case["dtype"])
    layer = ours(case) if case["contender"].startswith("ours") else keras_layer(case)
    shape = (case.get("batch", 1), case["length"], case["width"])
    array = np.random.default_rng(0).normal(size=shape).astype("float32")
    x = keras.ops.cast(array, layer.compute_dtype)
    layer(x[:, :8])  # so that it is built
    run = tensorflow_run if case["backend"] == "tensorflow" else jax_run
    return run(layer, x, case)


def ours(case):
    import keras_sam

    options = {"causal": case["name"] == "causal"}
    if case["name"] == "window":
        options["sliding_window"] = WINDOW
    if case["name"] == "additive":
        return keras_sam.SelfAttention(1, score="additive")
    return keras_sam.SelfAttention(HEADS, **options)


def keras_layer(case):
    """The peer from Keras, called with one tensor."""
    import keras
    from keras import layers

    if case["name"] == "additive":
        x = keras.Input((None, case["width"]))
        query, key, value = (layers.Dense(case["width"])(x) for _ in range(3))
        mixed = layers.AdditiveAttention()([query, value, key])
        return keras.Model(x, layers.Dense(case["width"])(mixed))

    class SelfMultiHeadAttention(layers.MultiHeadAttention):
        def build(self, shape):
            super().build(shape, shape)

        def call(self, x):
            return super().call(x, x, use_causal_mask=case["name"] == "causal")

        def compute_output_spec(self, x):
            return x

    options = {"sliding_window": WINDOW} if case["name"] == "window" else {}
    if case["contender"] == "keras, flash":
        options["flash_attention"] = True
    return SelfMultiHeadAttention(HEADS, case["width"] // HEADS, **options)


def tensorflow_run(layer, x, case):
    import tensorflow as tf

    def forward(x):
        return layer(x)

    def training(x):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x)
        weights = [variable.value for variable in layer.trainable_variables]
        return y, tape.gradient(y, [x, *weights], x)

    fn = forward if case["pass"] == "forward" else training
    compiled = tf.function(fn, jit_compile="XLA" in case["contender"] or None)
    return lambda: tf.nest.map_structure(lambda result: result.numpy(), compiled(x))


def jax_run(layer, x, case):
    import jax

    weights = [variable.value for variable in layer.trainable_variables]
    others = [variable.value for variable in layer.non_trainable_variables]

    def forward(weights, x):
        return layer.stateless_call(weights, others, x)[0]

    def training(weights, x):
        y, gradient = jax.vjp(forward, weights, x)
        return y, gradient(x)

    compiled = jax.jit(forward if case["pass"] == "forward" else training)
    return lambda: jax.block_until_ready(compiled(weights, x))


def torch_run(case):
    import torch
    from torch.nn.functional import scaled_dot_product_attention

    length, width = case["length"], case["width"]
    dense = [torch.nn.Linear(width, width) for _ in range(4)]
    batch = case.get("batch", 1)
    x = torch.randn(batch, length, width)
    options = {"is_causal": case["name"] == "causal"}
    if case["name"] == "window":
        at = torch.arange(length)
        options = {"attn_mask": (at[:, None] - at[None, :]).abs() < WINDOW}

    def attend(x):
        split = (batch, length, HEADS, width // HEADS)
        heads = [project(x).view(split).transpose(1, 2) for project in dense[:3]]
        mixed = scaled_dot_product_attention(*heads, **options)
        return dense[3](mixed.transpose(1, 2).reshape(x.shape))

    def forward():
        with torch.inference_mode():
            attend(x)

    def training():
        leaf = x.detach().requires_grad_()
        attend(leaf).backward(x)
        for project in dense:
            project.zero_grad()

    return forward if case["pass"] == "forward" else training


def contenders(name, backend):
    if name == "alone":
        return [who for who in CONTENDERS[backend] if who.startswith("ours")][:1]
    return [who for who in CONTENDERS[backend] if (name, who) != ("additive", "torch")]


def peer(results, against):
    """The time and the memory of the better one of some peers, or None."""
    some = [r for who, r in results.items() if who.startswith(against) and "ms" in r]
    if not some:
        return None
    return {key: min(result[key] for result in some) for key in ("ms", "mib")}


def print_case(title, results):
    best = peer(results, "keras")
    for who, result in results.items():
        if "error" in result:
            print(f"{title:26}{who:13} {result['error']}")
            continue
        line = f"{title:26}{who:13}{result['ms']:10.1f} ms{result['mib']:9.0f} MiB"
        line += f"{result['first_s']:7.1f} s"
        if best and who.startswith("ours"):
            share = result["mib"] / max(best["mib"], 1)
            line += f"{best['ms'] / result['ms']:9.2f} x{share:9.3f} x"
        print(line, flush=True)


def print_targets(rows):
    """Compares what was measured with what is wanted."""
    print("\nTargets, for ours as it runs by default:")
    for name, lengths, passes, against, faster, share in TARGETS:
        for row in rows:
            case, results = row["case"], row["results"]
            if (case["name"], case["pass"]) not in [(name, each) for each in passes]:
                continue
            other, mine = peer(results, against), results.get("ours", {})
            if case["length"] not in lengths or not other or "ms" not in mine:
                continue
            title = f"  {name} {case['length']} {case['pass']}, against {against}:"
            if faster is not None:
                ratio = other["ms"] / mine["ms"]
                print_target(title, ratio, "speed, at least", faster, ratio >= faster)
            if share is not None:
                ratio = mine["mib"] / max(other["mib"], 1)
                print_target(title, ratio, "memory, at most", share, ratio <= share)


def print_target(title, ratio, what, wanted, met):
    verdict = "met" if met else "NOT MET"
    print(f"{title:45} {ratio:6.3f} x the {what} {wanted:.3f} x: {verdict}")


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one small length a case")
    parser.add_argument("--case", choices=LENGTHS, action="append", help="only this one")
    parser.add_argument("-T", "--length", type=int, action="append", help="only this one")
    parser.add_argument("--pass", dest="passes", choices=PASSES, action="append")
    parser.add_argument("--rounds", type=int, default=5, help="at least 5")
    parser.add_argument("--backend", choices=CONTENDERS, default="tensorflow")
    parser.add_argument("--dtype", default="float32", help="dtype policy of the layers")
    parser.add_argument("--json", metavar="FILE", help="also write the results there")
    options = parser.parse_args()
    print(f"{'case':26}{'contender':13}{'median':>13}{'memory':>13}{'first':>9}", end="")
    print(f"{'faster':>11}{'memory':>11}   (than Keras's better one)")
    rows = []
    for name in options.case or LENGTHS:
        lengths = (64,) if options.quick else options.length or LENGTHS[name]
        for length in lengths:
            for each in options.passes or PASSES:
                case = {
                    "name": name,
                    "length": length,
                    "width": ADDITIVE_WIDTH if name == "additive" else WIDTH,
                    "pass": each,
                    "backend": options.backend,
                    "dtype": options.dtype,
                }
                names = contenders(name, options.backend)
                results = turns.compete(__file__, names, case, max(5, options.rounds))
                print_case(f"{name} {length} {each}", results)
                rows.append({"case": case, "results": results})
    print_targets(rows)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--serve"]:
        turns.serve(make)
    else:
        main()
