"""Is attention on the PyTorch backend as fast as Keras's own, on a CPU?

Times the forward pass and a training step (forward pass and gradients of the input and all
weights) of `SelfAttention` and `keras.layers.MultiHeadAttention` of width 512 with 8 heads
of 64. Both take turns in one process.

    python benchmarks/pytorch.py                        # all lengths
    python benchmarks/pytorch.py --case 2x512           # one of them
"""

import argparse
import os

os.environ["KERAS_BACKEND"] = "torch"

import turns

WIDTH, HEADS = 512, 8
CASES = {"8x128": (8, 128), "2x512": (2, 512), "1x4096": (1, 4096)}


def layers(x):
    """By name, a function of `x` that calls a built layer, and the weights of the layer."""
    import keras

    import keras_sam

    ours = keras_sam.SelfAttention(HEADS)
    ours.build(x.shape)
    theirs = keras.layers.MultiHeadAttention(HEADS, WIDTH // HEADS)
    theirs.build(x.shape, x.shape)
    ours.set_weights(theirs.get_weights())
    found = {"ours": ours, "keras": lambda x: theirs(x, x)}
    weights = {"ours": ours.trainable_variables, "keras": theirs.trainable_variables}
    return {name: (found[name], [v.value for v in weights[name]]) for name in found}


def forward(call, weights, x):
    """A forward pass, as a function without arguments."""
    import torch

    def run():
        with torch.no_grad():
            return call(x)

    return run


def training(call, weights, x):
    """A training step, as a function without arguments."""
    import torch

    x = x.clone().requires_grad_()
    upstream = torch.ones_like(x)

    def run():
        return torch.autograd.grad(call(x), [x, *weights], upstream)

    return run


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--case", choices=CASES, action="append", help="only this one")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--compile", action="store_true", help="with torch.compile")
    options = parser.parse_args()
    import torch

    for name in options.case or CASES:
        batch, length = CASES[name]
        x = torch.randn(batch, length, WIDTH)
        for step in (forward, training):
            runs = {}
            for who, (call, weights) in layers(x).items():
                if options.compile:
                    call = torch.compile(call)
                runs[who] = step(call, weights, x)
            rounds = options.rounds if length < 1000 else max(options.rounds // 4, 3)
            times = turns.medians(runs, rounds)
            line = f"{name:8} {step.__name__:9}"
            line += "".join(f"{who:>8} {ms:7.1f} ms" for who, ms in times.items())
            print(line + f"   {times['ours'] / times['keras']:5.3f} x", flush=True)


if __name__ == "__main__":
    main()
