"""What do steps of a score cost?

Times a training step (forward pass and gradients of inputs and weights) of SelfAttention
with one step beside its score, against the same without. All take turns in one process.

    python benchmarks/steps.py                      # all steps
    python benchmarks/steps.py --step t5 --step alibi
"""

import argparse

import turns
from masks import HEADS, WIDTH, training

# What we want: at most so many times the time without the step.
TARGETS = {
    "soft_cap": 1.25,
    "alibi": 1.15,
    "t5": 1.25,
    "qk_norm": 1.1,
    "rotary": 1.1,
    "sinks": 1.02,
}


def steps():
    """By name, the score with a step."""
    from keras_sam import scores

    return {
        "soft_cap": ["scaled_dot", scores.SoftCap(50.0)],
        "alibi": ["scaled_dot", scores.ALiBi()],
        "t5": ["scaled_dot", scores.T5Bias()],
        "qk_norm": [scores.QKNorm(), "scaled_dot"],
        "rotary": [scores.Rotary(), "scaled_dot"],
        "sinks": ["scaled_dot", scores.Sinks()],
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--step", choices=TARGETS, action="append", help="only this one")
    parser.add_argument("-T", "--length", type=int, default=4096)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    import keras

    import keras_sam

    x = keras.random.normal((1, options.length, WIDTH), seed=0)
    runs = {}
    for name, score in {"plain": "scaled_dot", **steps()}.items():
        if name == "plain" or name in (options.step or TARGETS):
            layer = keras_sam.SelfAttention(HEADS, score=score)
            layer.build(x.shape)
            runs[name] = training(layer, x)
    times = turns.medians(runs, options.rounds)
    for name, ms in times.items():
        line = f"{name:10} {ms:8.0f} ms {ms / times['plain']:6.2f} x"
        print(line + (f" (target {TARGETS[name]})" if name in TARGETS else ""))


if __name__ == "__main__":
    main()
