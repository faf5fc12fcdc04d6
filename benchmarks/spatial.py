"""How fast are SpatialAttention and CBAM, beside the plain way to write them?

Times the forward pass, and a training step (forward pass and gradients of inputs and
weights), on TensorFlow, as a plain graph and under XLA, of

    ours     keras_sam.layers
    naive    the same formulas with keras.ops and Keras's own layers
    torch    the same formulas in PyTorch, if it can be imported
    timm     its SpatialAttn and CbamModule, if it can be imported (both have a batch
             normalization beside)
    floor    a copy of the features (in training two: of outputs and gradients), which no
             layer that returns a new feature map can beat

    python benchmarks/spatial.py                   # the table in docs/
    python benchmarks/spatial.py --only CBAM 16    # a part of it: a layer, a height
    python benchmarks/spatial.py --quick           # small sizes, to see that it runs

All contenders of a size take turns, round after round, so that what else the machine
does falls on all of them alike. Times are medians; the ratios are what to look at.
"""

import argparse
import functools
import importlib
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import numpy as np
import tensorflow as tf
from naive_gates import NaiveCBAM, NaiveSpatial
from turns import medians

import keras_sam

SHAPES = ((32, 16, 16, 512), (8, 64, 64, 256))
PEERS = {"torch": "torch", "timm": "timm.layers.cbam"}  # with the module that each needs
QUICK_SHAPES = ((2, 16, 16, 32),)


def tensorflow_runs(layer, inputs, upstream, jit):
    """Functions without arguments that run one forward pass, and one training step."""

    def forward(x):
        return layer(x, training=False) if layer_of_ours else layer(x)

    def step(x, upstream):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = layer(x, training=True) if layer_of_ours else layer(x)
        variables = [variable.value for variable in layer.trainable_variables]
        return y, tape.gradient(y, [x, *variables], upstream)

    layer_of_ours = type(layer).__module__.startswith("keras_sam")
    layer.build(inputs.shape)
    compiled = [tf.function(fn, jit_compile=jit) for fn in (forward, step)]
    return {
        "forward": lambda: compiled[0](inputs),
        "training step": lambda: compiled[1](inputs, upstream),
    }


def floor_runs(inputs):
    def copy():
        return tf.raw_ops.DeepCopy(x=inputs)

    return {"forward": copy, "training step": lambda: (copy(), copy())}


def torch_runs(name, inputs):
    """The same in PyTorch, channels first, as its convolutions like it best."""
    import torch
    from torch import nn

    channels = inputs.shape[-1]

    class Spatial(nn.Module):
        def __init__(self):
            super().__init__()
            self.convolution = nn.Conv2d(2, 1, 7, padding=3, bias=False)

        def forward(self, x):
            maps = torch.cat([x.amax(1, keepdim=True), x.mean(1, keepdim=True)], 1)
            return x * torch.sigmoid(self.convolution(maps))

    class Channel(nn.Module):
        def __init__(self):
            super().__init__()
            self.mlp = nn.Sequential(
                nn.Linear(channels, channels // 16),
                nn.ReLU(),
                nn.Linear(channels // 16, channels),
            )

        def forward(self, x):
            weights = torch.sigmoid(self.mlp(x.amax((2, 3))) + self.mlp(x.mean((2, 3))))
            return x * weights[:, :, None, None]

    return module_runs(
        Spatial() if name == "SpatialAttention" else nn.Sequential(Channel(), Spatial()),
        inputs,
    )


def timm_runs(name, inputs):
    from timm.layers.cbam import CbamModule, SpatialAttn

    channels = inputs.shape[-1]
    module = SpatialAttn() if name == "SpatialAttention" else CbamModule(channels)
    return module_runs(module, inputs)


def module_runs(module, inputs):
    import torch

    x = torch.from_numpy(np.moveaxis(inputs.numpy(), -1, 1).copy())
    upstream = torch.ones_like(x)

    def forward():
        module.eval()
        with torch.inference_mode():
            return module(x)

    def step():
        module.train()
        leaf = x.detach().requires_grad_()
        module(leaf).backward(upstream)
        module.zero_grad()

    return {"forward": forward, "training step": step}


def contenders(name, inputs):
    ours, naive = {
        "SpatialAttention": (keras_sam.layers.SpatialAttention, NaiveSpatial),
        "CBAM": (keras_sam.layers.CBAM, NaiveCBAM),
    }[name]
    upstream = tf.ones_like(inputs)
    runs = {
        "floor": floor_runs(inputs),
        "naive": tensorflow_runs(naive(), inputs, upstream, jit=False),
        "naive, XLA": tensorflow_runs(naive(), inputs, upstream, jit=True),
        "ours": tensorflow_runs(ours(), inputs, upstream, jit=False),
        "ours, XLA": tensorflow_runs(ours(), inputs, upstream, jit=True),
    }
    for peer, make in (("torch", torch_runs), ("timm", timm_runs)):
        if can_be_imported(peer):
            runs[peer] = make(name, inputs)
    return runs


@functools.cache
def can_be_imported(peer):
    """Tries to import a peer, and prints the reason where it is left out."""
    try:
        importlib.import_module(PEERS[peer])
    except Exception as error:  # a broken torchvision raises RuntimeError, for example
        reason = (str(error).splitlines() or ["no reason given"])[0]
        print(f"{peer} is left out: {type(error).__name__}: {reason}")
        return False
    return True


def table(rows):
    lines = [
        f"{'layer':17}{'shape':20}{'pass':15}{'contender':12}{'ms':>9}"
        f"{'faster than naive':>19}{'x floor':>9}"
    ]
    for row in rows:
        lines.append(
            f"{row['layer']:17}{row['shape']!s:20}{row['pass']:15}{row['contender']:12}"
            f"{row['ms']:9.2f}{row['speedup']:19.2f}{row['of_floor']:9.2f}"
        )
    return "\n".join(lines)


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, five rounds")
    parser.add_argument("--rounds", type=int, default=15, help="at least 5")
    parser.add_argument(
        "--only", nargs=2, metavar=("LAYER", "HEIGHT"), help="a part of the table"
    )
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    options = parser.parse_args()
    rounds = 5 if options.quick else max(5, options.rounds)
    rows = []
    for shape in QUICK_SHAPES if options.quick else SHAPES:
        for name in ("SpatialAttention", "CBAM"):
            if options.only and options.only != [name, str(shape[1])]:
                continue
            inputs = tf.random.normal(shape)
            runs = contenders(name, inputs)
            for what in ("forward", "training step"):
                times = medians({who: run[what] for who, run in runs.items()}, rounds)
                for who, ms in times.items():
                    naive = times["naive, XLA" if "XLA" in who else "naive"]
                    rows.append(
                        {
                            "layer": name,
                            "shape": shape,
                            "pass": what,
                            "contender": who,
                            "ms": ms,
                            "speedup": naive / ms,
                            "of_floor": ms / times["floor"],
                        }
                    )
    print(table(rows))
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
