"""How many keys does decoding need? Loss against a budget, with and without selection.

The model of `examples/write_code.py`, with rotary positions alone, is trained in three
ways, from each seed:

    plain            causal attention. Within a budget of K keys a row sees the first key
                     and the K - 1 latest, which is the best known way without training
    selective        `selective=True`
    memory loss      and `memory_loss=0.1 / layers`, as in the paper

Within a budget, both that select drop the keys which most was taken off.

    python benchmarks/budgets.py              # about twenty minutes of one core
    python benchmarks/budgets.py --quick      # a few steps, to see that it runs

Reference: Leviathan et al., 2024, "Selective Attention Improves Transformer"
(https://arxiv.org/abs/2410.02703).
"""

import argparse
import dataclasses
import json
import os
import pathlib
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf

import keras_sam
from keras_sam.scores import Rotary

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "examples"))
import write_code

BUDGETS = 256, 128, 64, 32, 16, 8
SCORE = {"score": [Rotary(), "scaled_dot"]}  # what selects may have no bias by position
NETWORKS = {
    "plain": SCORE,
    "selective": {"selective": True, **SCORE},
    "memory loss": {"selective": True, "memory_loss": 0.1 / write_code.DEPTH, **SCORE},
}


class Within:
    """A model whose attention layers keep so many keys each, for `write_code.bits`."""

    def __init__(self, model, budget):
        decode = keras_sam.Decoder(model)

        @tf.function
        def read(inputs):
            cache = decode.make_cache(*inputs.shape, memory_budget=budget)
            return decode(inputs, cache, 0)[0]

        self.read = read

    def predict(self, inputs, batch_size, verbose):
        parts = np.split(inputs, range(batch_size, len(inputs), batch_size))
        return np.concatenate([self.read(part).numpy() for part in parts])


def within(model, name, size, budget):
    """Returns a network that keeps `budget` keys."""
    if name != "plain":
        return Within(model, budget)
    mask = None
    if budget < write_code.LENGTH:
        mask = keras_sam.masks.Window(budget - 1) | keras_sam.masks.Global(1)
    other = write_code.build(size, mask=mask, **SCORE)
    other.set_weights(model.get_weights())
    return other


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--seeds", type=int, help="how many times to train each network")
    parser.add_argument("--epochs", type=int, help="parts of the training, 6 if not given")
    parser.add_argument("--json", metavar="FILE", help="also write the numbers there")
    options = parser.parse_args()
    seeds = options.seeds or (1 if options.quick else 3)
    settings = write_code.QUICK if options.quick else write_code.Settings()
    if options.epochs:
        settings = dataclasses.replace(settings, epochs=options.epochs)
    data = write_code.Data(settings)
    found = {name: [] for name in NETWORKS}
    for seed in range(seeds):
        for name, arguments in NETWORKS.items():
            keras.utils.set_random_seed(seed)
            model = write_code.build(settings.pieces, **arguments)
            write_code.train(model, data.numbers, seed, settings)
            row = []
            for budget in BUDGETS:
                network = within(model, name, settings.pieces, budget)
                row.append(data.for_a_character(write_code.bits(network, *data.test)))
            found[name].append(row)
            print(f"seed {seed}, {name}: " + ", ".join(f"{x:.3f}" for x in row), flush=True)
    print("\nBits a character of files not read, mean (least to most):")
    print(f"{'keys':>4}  " + "".join(f"{name:26}" for name in NETWORKS).rstrip())
    for index, budget in enumerate(BUDGETS):
        cells = ""
        for name in NETWORKS:
            each = [row[index] for row in found[name]]
            text = f"{np.mean(each):.3f} ({min(each):.3f} to {max(each):.3f})"
            cells += f"{text:26}"
        print(f"{budget:4}  {cells.rstrip()}")
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)


if __name__ == "__main__":
    main()
