"""Write Python: a small language model of the standard library's own source.

The files of the standard library are text of one kind that every machine has. A causal
model with rotary positions learns to say which piece of text comes next. How many bits does
it need for a character of files that it has not read, beside a network of the same size
without attention and beside counting? Then it writes.

    python examples/write_code.py
"""

import argparse
import collections
import dataclasses
import os
import pathlib
import re
import subprocess
import sys
import time

import keras
import numpy as np
from keras import layers

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard
from keras_sam.scores import ALiBi, Rotary

LENGTH, WIDTH, DEPTH, HEADS, BATCH = 256, 96, 3, 4, 4


@dataclasses.dataclass(frozen=True)
class Settings:
    """How much is read and learned."""

    files: int | None = None
    pieces: int = 1024
    epochs: int = 6
    steps: int = 160  # of an epoch
    tests: int = 96  # windows of text that is not read
    written: int = LENGTH  # pieces of a text that is written

    @property
    def read(self):
        """How many pieces the networks read."""
        return self.epochs * self.steps * BATCH * LENGTH


QUICK = Settings(files=12, pieces=200, epochs=2, steps=5, tests=4, written=32)


# The data: the library's files, without its tests and tables.

SKIPPED = {"encodings", "ensurepip", "idlelib", "lib2to3", "pydoc_data", "site-packages"}
SKIPPED |= {"test", "tests", "turtledemo"}


def read_library():
    """Returns the text of each file, in a fixed random order."""
    library = pathlib.Path(os.__file__).parent
    texts = []
    for file in sorted(library.rglob("*.py")):
        if not SKIPPED & set(file.relative_to(library).parts):
            text = file.read_text("utf-8", errors="replace")
            if text.isascii() and len(text) > 2000:
                texts.append(text)
    order = np.random.default_rng(0).permutation(len(texts))
    return [texts[index] for index in order]


class Pieces:
    """Text as numbers: frequent words are one piece, others are spelled in several.

    The pieces are those of byte pair encoding (Sennrich et al., 2016): beginning with
    characters, the most frequent pair of neighbors within words becomes a piece.
    """

    WORD = re.compile(r"\n *| ?[A-Za-z]+|_| +|\d|[^\w\s]+|\s")

    def __init__(self, texts, size):
        counts = collections.Counter()
        for text in texts:
            counts.update(self.WORD.findall(text))
        self.pieces = sorted({chr(code) for code in range(32, 127)} | {"\n", "\t"})
        self.pieces += sorted({char for word in counts for char in word} - {*self.pieces})
        spelled = {word: list(word) for word, count in counts.items() if count > 2}
        pairs, found_in = collections.Counter(), collections.defaultdict(set)

        def count(word, sign):
            for pair in zip(spelled[word], spelled[word][1:], strict=False):
                pairs[pair] += sign * counts[word]
                found_in[pair].add(word)

        for word in spelled:
            count(word, +1)
        while len(self.pieces) < size:
            best = max(pairs, key=pairs.get)
            joined = "".join(best)
            self.pieces.append(joined)
            for word in found_in.pop(best):
                count(word, -1)
                parts, index = spelled[word], 0
                while index < len(parts) - 1:
                    if (parts[index], parts[index + 1]) == best:
                        parts[index : index + 2] = [joined]
                    index += 1
                count(word, +1)
            del pairs[best]
        self.ids = {piece: index for index, piece in enumerate(self.pieces)}
        self.known = {}

    def __call__(self, text):
        """Returns the numbers of a text; each word begins with its longest piece."""
        numbers = []
        for word in self.WORD.findall(text):
            if word not in self.known:
                self.known[word] = spelling = []
                start = 0
                while start < len(word):
                    end = len(word)
                    while word[start:end] not in self.ids:
                        end -= 1
                    spelling.append(self.ids[word[start:end]])
                    start = end
            numbers += self.known[word]
        return np.array(numbers, "int32")

    def text(self, numbers):
        return "".join(self.pieces[number] for number in numbers)

    def words(self, numbers):
        """Returns the pieces one by one, each in one line."""
        return [self.pieces[number].replace("\n", "\\n") for number in numbers]


class Data:
    """What the networks read, and windows of 24 other files to test them on."""

    def __init__(self, settings):
        texts = read_library()
        unread, texts = texts[:24], texts[24:][: settings.files]
        self.pieces = Pieces(texts, settings.pieces)
        self.numbers = np.concatenate([self.pieces(text) for text in texts])
        unread = np.concatenate([self.pieces(text) for text in unread])
        self.test = windows(np.random.default_rng(1), unread, settings.tests)
        characters = sum(map(len, texts)) / len(self.numbers)
        print(
            f"{len(self.numbers)} pieces of {characters:.2f} characters in {len(texts)} "
            "files to learn from, 24 other files to test on."
        )

    def for_a_character(self, bits):
        """Returns the mean for a character, from the bits for each piece of the test."""
        return bits.sum() / len(self.pieces.text(self.test[1].ravel()))


def windows(rng, numbers, count):
    """Returns `count` pieces of text at random, and what comes next at each position."""
    starts = rng.integers(len(numbers) - LENGTH, size=(count, 1))
    taken = numbers[starts + np.arange(LENGTH + 1)]
    return taken[:, :-1], taken[:, 1:]


# The networks. Without attention, a block convolves over the last four pieces instead, with
# as many weights: what is further back reaches a piece only through the blocks below.


def build(size, attention=True, **options):
    pieces = keras.Input((None,), dtype="int32")
    x = layers.Embedding(size, WIDTH)(pieces)
    for block in range(DEPTH):
        y = layers.RMSNormalization()(x)
        if attention:
            # Slopes of 2, 1/2, 1/8 and 1/32: heads look near, less near and far from the
            # beginning. With rotary positions alone they find that out much later.
            options = {"score": [Rotary(), "scaled_dot", ALiBi(scale=8.0)], **options}
            name = f"read_{block}"
            y = keras_sam.SelfAttention(HEADS, causal=True, name=name, **options)(y)
        else:
            y = layers.Conv1D(WIDTH, 4, padding="causal")(y)
        x = layers.Add()([x, y])
        y = layers.RMSNormalization()(x)
        y = layers.Dense(4 * WIDTH, activation="gelu")(y)
        x = layers.Add()([x, layers.Dense(WIDTH)(y)])
    return keras.Model(pieces, layers.Dense(size)(layers.RMSNormalization()(x)))


class Stream(keras.utils.PyDataset):
    """Batches of windows at random, never the same ones; an epoch is a part of them."""

    def __init__(self, numbers, steps, seed):
        super().__init__()
        self.numbers, self.steps = numbers, steps
        self.rng = np.random.default_rng(seed)

    def __len__(self):
        return self.steps

    def __getitem__(self, index):
        return windows(self.rng, self.numbers, BATCH)


def train(model, numbers, seed, settings, callbacks=()):
    """Trains with a rate that rises and then falls to zero."""
    steps = settings.epochs * settings.steps
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=4e-3, warmup_steps=steps // 10
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, beta_2=0.98, clipnorm=1.0), loss)
    data = Stream(numbers, settings.steps, seed)
    model.fit(data, epochs=settings.epochs, verbose=2, callbacks=list(callbacks))


# What is measured: bits for a character of files that were not read.


def bits(model, inputs, targets):
    """Returns the bits that a model needs for each target, of the shape of the targets."""
    logits = model.predict(inputs, batch_size=16, verbose=0)
    logits = logits - logits.max(axis=-1, keepdims=True)
    total = np.log(np.exp(logits).sum(axis=-1))
    chosen = np.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return (total - chosen) / np.log(2)


def bits_by_counting(numbers, size, inputs, targets, order=4):
    """Returns the same for counts of up to four pieces in a row, mixed by Witten and Bell.

    ::

        p(next | last n) = (count + kinds p(next | last n - 1)) / (total + kinds)

    where `kinds` is how many different pieces have followed the last n.
    """
    text = np.concatenate([inputs, targets[:, -1:]], axis=1).astype("int64")
    probability = np.full(text.shape, 1 / size)
    numbers = numbers.astype("int64")

    def in_a_row(array, n):  # each n + 1 pieces in a row as one number
        ends = array.shape[-1] - n
        return sum(array[..., k : ends + k] * size ** (n - k) for k in range(n + 1))

    def look_up(keys, values, wanted):
        index = np.searchsorted(keys, wanted).clip(max=len(keys) - 1)
        return np.where(keys[index] == wanted, values[index], 0)

    for n in range(order):
        seen, counts = np.unique(in_a_row(numbers, n), return_counts=True)
        histories, first = np.unique(seen // size, return_index=True)
        wanted = in_a_row(text, n)
        count = look_up(seen, counts, wanted)
        total = look_up(histories, np.add.reduceat(counts, first), wanted // size)
        kinds = look_up(histories, np.diff([*first, len(seen)]), wanted // size)
        shorter = probability[:, n:]
        mixed = (count + kinds * shorter) / np.maximum(total + kinds, 1)
        probability[:, n:] = np.where(total > 0, mixed, shorter)
    return -np.log2(probability[:, 1:])


# Writing. Each piece is drawn from the likeliest that together have eight in ten chances.

PROMPTS = "\ndef read_lines(path, ", "\nclass Queue:\n", "\n    def __init__(self, name"


def write(decode, prompts, length, seed=1):
    """Goes on with all prompts, of unequal lengths, at once."""
    sampler = keras_sam.samplers.TopP(p=0.8, temperature=0.7)
    return decode.generate(prompts, length, sampler, seed=seed)


def write_again(model, prompt, length):
    """Writes the likeliest pieces without a cache: reads all so far for each."""
    text = np.zeros((1, length), "int32")
    text[:, : prompt.shape[1]] = prompt
    for index in range(prompt.shape[1], length):
        text[:, index] = model.predict_on_batch(text)[:, index - 1].argmax(axis=-1)
    return text


def compare(folder):
    """Runs in a fresh process: is what the loaded model writes what was written?"""
    model = keras.saving.load_model(folder / "model.keras")
    written, lengths = np.load(folder / "written.npz").values()
    prompts = [text[:length] for text, length in zip(written, lengths, strict=True)]
    again = write(keras_sam.Decoder(model), prompts, written.shape[1])
    equal = np.mean(again == written)
    print(f"Equal pieces of the loaded model in a new process: {equal:.1%}")


def main():
    parser = argparse.ArgumentParser(description="Write Python with attention.")
    parser.add_argument("--quick", action="store_true", help="one seed, few steps")
    parser.add_argument("--output", default="runs/write_code", help="where to write")
    parser.add_argument("--seeds", type=int, help="how many times to train each network")
    parser.add_argument("--again", type=pathlib.Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.again:
        return compare(options.again)
    output = pathlib.Path(options.output)
    output.mkdir(parents=True, exist_ok=True)
    seeds = options.seeds or (1 if options.quick else 3)
    settings = QUICK if options.quick else Settings()
    data = Data(settings)
    pieces, test, size = data.pieces, data.test, settings.pieces

    # Training, each network from each seed, and how many bits it needs for a character.

    network = {True: "attention", False: "without attention"}
    found = {name: [] for name in network.values()}
    kept = None
    for seed in range(seeds):
        for attention, name in network.items():
            callbacks = []
            if kept is None:  # TensorBoard sees the first training
                probe = test[0][:2, :96]
                words = [pieces.words(each) for each in probe]
                watch = AttentionTensorBoard(output, probe, tokens=words)
                callbacks = [keras.callbacks.TensorBoard(output), watch]
            keras.utils.set_random_seed(seed)
            model = build(size, attention)
            start = time.perf_counter()
            train(model, data.numbers, seed, settings, callbacks)
            seconds = time.perf_counter() - start
            kept = kept or model
            found[name].append(data.for_a_character(bits(model, *test)))
            print(
                f"seed {seed}, {name}: {found[name][-1]:.3f} bits a character "
                f"({seconds:.0f} s)",
                flush=True,
            )
    for name, count in {"all files": None, "as many pieces": settings.read}.items():
        counted = bits_by_counting(data.numbers[:count], size, *test)
        found[f"counting, {name}"] = [data.for_a_character(counted)]
    print(f"\nBits a character of files not read, mean (least to most) of {seeds} seeds:")
    for name, each in found.items():
        spread = f" ({min(each):.3f} to {max(each):.3f})" if len(each) > 1 else ""
        print(f"{name:26}{np.mean(each):.3f}{spread}")
    print(f"(The networks read {settings.read} pieces.)")

    # Writing, with a cache: each step reads one piece, and attends to those before it.

    model, prompts = kept, [pieces(text) for text in PROMPTS]
    model.save(output / "model.keras")
    decode, length = keras_sam.Decoder(model), settings.written
    written = write(decode, prompts, length)
    for text in written:
        lines = pieces.text(text).strip("\n").split("\n")
        print("\n" + "\n".join(f"    {line}".rstrip() for line in lines[:12]))

    prompt = prompts[0][None]
    ways = {
        "with the cache": lambda: decode.generate(prompt, length),
        "recomputing everything": lambda: write_again(model, prompt, length),
    }
    texts = []
    print()
    for name, way in ways.items():
        way()  # compiles
        start = time.perf_counter()
        texts.append(way())
        speed = (length - len(prompts[0])) / (time.perf_counter() - start)
        print(f"{speed:.0f} pieces a second {name}")
    print(f"Equal pieces of both: {np.mean(texts[0] == texts[1]):.1%}")

    # A fresh process loads the model, and writes the same from the same seed.

    lengths = [len(prompt) for prompt in prompts]
    np.savez(output / "written.npz", written=written, lengths=lengths)
    subprocess.run([sys.executable, __file__, "--again", str(output)], check=True)

    # What it looked at: row i of a map is what it saw when it had read piece i.

    page = output / "attention.html"
    shown = written[0][:96]
    keras_sam.show(model, shown[None], tokens=pieces.words(shown), path=page)
    print(f"\nSee what it looks at:     open {page} in a browser")
    print(f"See how it came to that:  tensorboard --logdir {output}  (tab Attention)")


if __name__ == "__main__":
    main()
