"""How much faster is a transformer that reads a tenth of the parts, and what does it miss?

A text has 4096 words, of which one in twenty belongs to one of eight topics, and the others
to none. The answer is the topic with the most words. (To count them needs no transformer:
what is measured is what it costs one to read everything, and whether what
`SelectiveAttention(top_k=0.1)` drops in front of it is missed.)

Both models learn from texts of 512 words, for as many steps, and are asked about others, of
512 and of 4096 words. In training the selection masks what it leaves out, so that the
scorer learns; in use `select` drops it, which gives the same answers.

    python benchmarks/dropping.py            # about ten minutes on two cores
    python benchmarks/dropping.py --quick    # to see that it runs
"""

import argparse
import json
import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import keras
import numpy as np
import tensorflow as tf
from keras import layers, ops
from turns import medians

import keras_sam

TOPICS, WORDS, NOISE = 8, 8, 192
WIDTH, BLOCKS = 64, 4


def texts(count, length, seed):
    """Word ids `(count, length)` and topics `(count,)`."""
    rng = np.random.default_rng(seed)
    x = TOPICS * WORDS + rng.integers(NOISE, size=(count, length))
    topics = rng.integers(TOPICS, size=count)
    for row, topic in zip(x, topics, strict=True):
        at = rng.choice(length, length // 20, replace=False)
        of = np.where(rng.random(len(at)) < 0.25, topic, rng.integers(TOPICS, size=len(at)))
        row[at] = of * WORDS + rng.integers(WORDS, size=len(at))
    return x, topics


class Reader(keras.Model):
    """A transformer without positions, with a selection in front if `top_k` is given."""

    def __init__(self, top_k=None):
        super().__init__()
        self.embed = layers.Embedding(
            TOPICS * WORDS + NOISE, WIDTH, keras.initializers.RandomNormal(stddev=0.5)
        )
        self.choose = None
        if top_k:
            self.choose = keras_sam.SelectiveAttention(top_k=top_k, pool=False)
        self.attend = [keras_sam.SelfAttention(num_heads=4) for _ in range(BLOCKS)]
        self.hidden = [layers.Dense(2 * WIDTH, activation="relu") for _ in range(BLOCKS)]
        self.out = [layers.Dense(WIDTH) for _ in range(BLOCKS)]
        self.norms = [layers.LayerNormalization() for _ in range(2 * BLOCKS)]
        self.answer = layers.Dense(TOPICS)

    def build(self, shape):
        shape = (*shape, WIDTH)
        self.embed.build(shape[:2])
        for layer in [*self.attend, *self.hidden, *self.norms]:
            layer.build(shape)
        for layer in self.out:
            layer.build((*shape[:2], 2 * WIDTH))
        if self.choose is not None:
            self.choose.build(shape)
        self.answer.build((shape[0], WIDTH))

    def call(self, ids):
        """As in training: nothing is dropped, but what is not selected is masked."""
        x, mask = self.embed(ids), None
        if self.choose is not None:
            x, weights = self.choose(x, return_attention_scores=True)
            mask = weights[:, 0] > 0
        return self.read(x, mask)

    def fast(self, ids):
        """The same, of what is selected only."""
        return self.read(self.choose.select(self.embed(ids))[0], None)

    def read(self, x, mask):
        for block in range(BLOCKS):
            before, between = self.norms[2 * block : 2 * block + 2]
            x = x + self.attend[block](before(x), mask=mask)
            x = x + self.out[block](self.hidden[block](between(x)))
        if mask is None:
            return self.answer(ops.mean(x, axis=1))
        share = ops.cast(mask, x.dtype)[..., None]
        return self.answer(ops.sum(x * share, axis=1) / ops.sum(share, axis=1))


def learn(top_k, length, steps, batch=16):
    keras.utils.set_random_seed(0)
    model = Reader(top_k)
    x, y = texts(steps * batch, length, seed=1)
    model.build((None, None))
    rate = keras.optimizers.schedules.CosineDecay(2e-3, steps)
    model.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    model.fit(x, y, batch_size=batch, verbose=2)
    return model


def accuracy(answer, x, y, batch=4):
    parts = [answer(x[start : start + batch]) for start in range(0, len(x), batch)]
    return float(np.mean(np.concatenate(parts).argmax(-1) == y))


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--quick", action="store_true", help="small sizes")
    parser.add_argument("--rounds", type=int, default=9, help="at least 5")
    parser.add_argument("--steps", type=int, help="of training; few to measure time alone")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    options = parser.parse_args()
    short, long, steps, asked = (40, 80, 4, 8) if options.quick else (512, 4096, 300, 100)
    steps = steps if options.steps is None else options.steps
    models = {"all parts": learn(None, short, steps), "top 10%": learn(0.1, short, steps)}
    answers = {
        "all parts": tf.function(models["all parts"].call),
        "top 10%, masked": tf.function(models["top 10%"].call),
        "top 10%, select": tf.function(models["top 10%"].fast),
    }
    rows = []
    for length in (short, long):
        x, y = texts(asked, length, seed=2)
        one = tf.constant(x[:1])
        runs = {name: lambda f=f, x=one: f(x) for name, f in answers.items()}
        times = medians(runs, max(5, options.rounds))
        for name, f in answers.items():
            row = {"T": length, "reads": name, "ms": times[name]}
            row["times as fast"] = times["all parts"] / times[name]
            rows.append(
                {**row, "accuracy": accuracy(lambda x, f=f: f(tf.constant(x)), x, y)}
            )
    print(f"\n{'T':>6} {'reads':>17} {'ms':>9} {'times as fast':>14} {'accuracy':>9}")
    for row in rows:
        print(
            f"{row['T']:6} {row['reads']:>17} {row['ms']:9.2f} "
            f"{row['times as fast']:14.2f} {row['accuracy']:9.1%}"
        )
    if options.json:
        with open(options.json, "w") as file:
            json.dump(rows, file, indent=1)


if __name__ == "__main__":
    main()
