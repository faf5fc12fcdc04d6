"""How much do weights of parts cost?

Two tables, of TensorFlow on the CPU (see `dropping.py` for what dropping parts saves):

    pooling     time and extra memory of pooling T parts: by their mean, by
                `keras.layers.Attention` with a learned query, and by SelectiveAttention
                with its relations and with `top_k`
    pairs       relation="self", whose weights come from all pairs of T parts, beside the
                same formula with its whole T x T matrix

    python benchmarks/selective.py               # all of it, about four minutes
    python benchmarks/selective.py --quick       # small sizes, to see that it runs
    python benchmarks/selective.py pairs --json rows.json

Contenders of a size take turns, round after round, so that what else the machine does falls
on all of them alike. Times are medians. Memory is what the process holds at its peak beyond
what it held before, each contender and length in a process of its own (Linux only).
"""

import argparse
import json
import os
import subprocess
import sys

import turns

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

WIDTH = 64
LENGTHS = (128, 1024, 8192, 65536)
MIB = 2**20


def makers():
    """Functions of no argument that make a layer `(B, T, WIDTH) -> (B, WIDTH)`."""
    import keras
    from keras import ops

    import keras_sam

    class LearnedQuery(keras.layers.Layer):
        """Keras's own attention, from a learned vector."""

        def build(self, shape):
            self.vector = self.add_weight(shape=(1, 1, shape[-1]))
            self.attention = keras.layers.Attention(use_scale=True)
            self.attention.build([(None, 1, shape[-1]), shape])

        def call(self, x):
            query = ops.repeat(self.vector, ops.shape(x)[0], axis=0)
            return self.attention([query, x])[:, 0]

    class WithQuery(keras.layers.Layer):
        """The relation to a learned vector, so that it is the same task."""

        def build(self, shape):
            self.vector = self.add_weight(shape=(1, shape[-1]))
            self.select = keras_sam.SelectiveAttention(relation="query")
            self.select.build(shape, (None, shape[-1]))

        def call(self, x):
            query = ops.repeat(self.vector, ops.shape(x)[0], axis=0)
            return self.select(x, query=query)

    class AllPairs(keras_sam.SelectiveAttention):
        """relation="self" with the whole matrix."""

        def _importance(self, described, query, mask):
            queries = ops.swapaxes(self.query_dense(described), 1, 2)
            keys = ops.swapaxes(self.parts_dense(described), 1, 2)
            scores = ops.matmul(queries, ops.swapaxes(keys, 2, 3)) / WIDTH**0.5
            return ops.log(ops.sum(ops.softmax(scores, axis=-1), axis=2))

    def selective(**arguments):
        return lambda: keras_sam.SelectiveAttention(**arguments)

    return {
        "mean": keras.layers.GlobalAveragePooling1D,
        "Keras Attention": LearnedQuery,
        "context": selective(),
        "context, top 10%": selective(top_k=0.1),
        "query": WithQuery,
        "self": selective(relation="self"),
        "self, all pairs": lambda: AllPairs(relation="self"),
    }


def runs_of(name, length):
    """One forward pass and one training step of a layer, as functions to call."""
    import tensorflow as tf

    layer = makers()[name]()
    x = tf.random.normal((1, length, WIDTH))
    layer.build(x.shape)

    @tf.function
    def forward():
        return layer(x)

    @tf.function
    def step():
        with tf.GradientTape() as tape:
            tape.watch(x)
            loss = tf.reduce_sum(layer(x) ** 2)
        return tape.gradient(loss, [x, *(v.value for v in layer.trainable_variables)])

    return {"forward": forward, "training step": step}


def measure_memory(name, length):
    """Prints the extra memory of one contender; runs in a process of its own."""
    for run in runs_of(name, 640).values():
        run()  # what compiling takes, and what is allocated once
    runs = runs_of(name, length)
    before, found = turns.memory("VmRSS"), []
    for run in runs.values():
        turns.forget_peak()  # what was freed is still held
        for _ in range(3):
            run()
        found.append(max(0, turns.memory("VmHWM") - before))
    print(*found)


def memory(name, length):
    """The extra memory of both passes, in MiB."""
    command = [sys.executable, __file__, "--memory-of", name, str(length)]
    printed = subprocess.check_output(command, stderr=subprocess.DEVNULL)
    return [int(number) / MIB for number in printed.split()[-2:]]


def compare(names, lengths, rounds, base):
    """Rows of time and memory for each length and pass; ratios are to `base`."""
    rows = []
    for length in lengths:
        every = {name: runs_of(name, length) for name in names}
        extra = {name: memory(name, length) for name in names}
        for index, what in enumerate(("forward", "training step")):
            times = turns.medians(
                {name: runs[what] for name, runs in every.items()}, rounds
            )
            for name, ms in times.items():
                row = {"T": length, "pass": what, "contender": name, "ms": ms}
                row |= {f"x {base}": ms / times[base], "MiB": extra[name][index]}
                rows.append(row)
    return rows


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("tables", nargs="*", help="pooling, pairs; or all")
    parser.add_argument("--quick", action="store_true", help="small sizes, few rounds")
    parser.add_argument("--rounds", type=int, default=9, help="at least 5")
    parser.add_argument("--json", metavar="FILE", help="also write the rows there")
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        name, length = options.memory_of
        measure_memory(name, int(length))
        return
    rounds = 5 if options.quick else max(5, options.rounds)
    quick = options.quick
    pooled = ["mean", "Keras Attention", "context", "context, top 10%", "query"]
    tables = {
        "pooling": lambda: compare(
            pooled, (128, 256) if quick else LENGTHS, rounds, "mean"
        ),
        "pairs": lambda: compare(
            ["self", "self, all pairs"],
            (256,) if quick else (1024, 8192),
            rounds,
            "self, all pairs",
        ),
    }
    found = {}
    for name in options.tables or tables:
        found[name] = tables[name]()
        print(f"\n{name}\n{table(found[name])}", flush=True)
    if options.json:
        with open(options.json, "w") as file:
            json.dump(found, file, indent=1)


def table(rows):
    texts = [list(rows[0])]
    for row in rows:
        texts.append([f"{v:.2f}" if isinstance(v, float) else str(v) for v in row.values()])
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    return "\n".join(
        "  ".join(text.rjust(width) for text, width in zip(row, widths, strict=True))
        for row in texts
    )


if __name__ == "__main__":
    main()
