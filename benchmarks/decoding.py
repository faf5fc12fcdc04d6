"""How fast is text generated, beside recomputing everything and KerasHub's GPT-2?

A model of 6 blocks with 8 heads of 64 and random weights writes 512 pieces after a prompt
of 16, the likeliest each time:

    cache         `keras_sam.Decoder(model).generate`
    KerasHub      `GPT2CausalLM.generate` of the same size, with its greedy sampler
    recomputing   our model reads all pieces so far for each new one; timed at eight
                  lengths, from which follows the time for all

    python benchmarks/decoding.py                # about ten minutes
    python benchmarks/decoding.py --quick        # two small blocks, to see that it runs
    python benchmarks/decoding.py --json rows.json

Contenders take turns, round after round, so that what else the machine does falls on all of
them alike. Times are medians, without the first two calls, which compile.
"""

import argparse
import json
import os

import turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

PROMPT = 16
PARTS = 8  # lengths at which recomputing is timed


def our_model(size):
    """Returns a causal model of the shape of GPT-2, with rotary positions."""
    import keras
    from keras import layers

    import keras_sam

    width = size["heads"] * size["depth"]
    pieces = keras.Input((None,), dtype="int32")
    x = layers.Embedding(size["vocabulary"], width)(pieces)
    for _ in range(size["blocks"]):
        y = layers.LayerNormalization()(x)
        score = [keras_sam.scores.Rotary(), "scaled_dot"]
        y = keras_sam.SelfAttention(size["heads"], causal=True, score=score)(y)
        x = layers.Add()([x, y])
        y = layers.LayerNormalization()(x)
        y = layers.Dense(4 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(width)(y)])
    x = layers.LayerNormalization()(x)
    return keras.Model(pieces, layers.Dense(size["vocabulary"], use_bias=False)(x))


def hub_model(size, length):
    """Returns KerasHub's GPT-2 of this size."""
    import keras_hub

    width = size["heads"] * size["depth"]
    backbone = keras_hub.models.GPT2Backbone(
        vocabulary_size=size["vocabulary"],
        num_layers=size["blocks"],
        num_heads=size["heads"],
        hidden_dim=width,
        intermediate_dim=4 * width,
        max_sequence_length=length,
    )
    model = keras_hub.models.GPT2CausalLM(backbone=backbone, preprocessor=None)
    model.compile(sampler="greedy")
    return model


def runs_of(size, batch, written):
    """Returns the contenders as functions to call, by name.

    Those whose name is a number recompute once, at so many pieces.
    """
    import numpy as np
    import tensorflow as tf

    import keras_sam

    length = PROMPT + written
    rng = np.random.default_rng(0)
    prompt = rng.integers(size["vocabulary"], size=(batch, PROMPT)).astype("int32")
    model = our_model(size)
    decode = keras_sam.Decoder(model)
    hub = hub_model(size, length)
    padded = np.pad(prompt, ((0, 0), (0, written)))
    given = {"token_ids": padded, "padding_mask": padded > 0}
    given["padding_mask"][:, :PROMPT] = True

    @tf.function(input_signature=[tf.TensorSpec((batch, None), "int32")])
    def read(pieces):
        return model(pieces, training=False)[:, -1]

    def recompute(count):
        pieces = tf.zeros((batch, count), "int32")
        return lambda: read(pieces).numpy()

    # The middles of equal parts: their mean is that of all lengths.
    middles = [PROMPT + (2 * i + 1) * written // (2 * PARTS) for i in range(PARTS)]
    return {
        "cache": lambda: decode.generate(prompt, length, sampler="greedy"),
        "KerasHub": lambda: hub.generate(given, stop_token_ids=None),
        **{str(count): recompute(count) for count in middles},
    }


def measure(size, batch, written, rounds):
    """Returns a row of the table."""
    times = turns.medians(runs_of(size, batch, written), rounds)
    recomputing = [ms for name, ms in times.items() if name.isdigit()]
    seconds = {
        "cache": times["cache"] / 1000,
        "KerasHub": times["KerasHub"] / 1000,
        "recomputing": written * sum(recomputing) / len(recomputing) / 1000,
    }
    row = {"batch": batch}
    row |= {f"{name}, pieces/s": batch * written / s for name, s in seconds.items()}
    row |= {f"x {name}": s / seconds["cache"] for name, s in seconds.items()}
    del row["x cache"]
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--batch", type=int, nargs="*", default=[1, 8])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--vocabulary", type=int, default=8192)
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    options = parser.parse_args()
    quick = options.quick
    size = {"blocks": 2 if quick else 6, "heads": 2 if quick else 8, "depth": 64}
    size["vocabulary"] = 256 if quick else options.vocabulary
    rows = []
    for batch in options.batch:
        rows.append(measure(size, batch, 64 if quick else 512, options.rounds))
        if len(rows) == 1:
            print("  ".join(rows[0]))
        print("  ".join(f"{x:{len(name)}.4g}" for name, x in rows[-1].items()), flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
