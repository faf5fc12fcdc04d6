"""Translate English number words into German and look at the alignment.

"nine thousand seven hundred and twenty-three" is "neuntausendsiebenhundertdreiundzwanzig":
German says the three before the twenty, so whoever writes it, letter by letter, has to look
forward and back again. Nobody tells the model. Its cross-attention finds it out, and the
pictures in TensorBoard show it.

    python examples/translate_numbers.py
"""

import argparse
import re
import time

import keras
import numpy as np
from keras import layers
from num2words import num2words

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="Translate number words with attention.")
parser.add_argument("--quick", action="store_true", help="numbers below 1,000, few steps")
parser.add_argument("--output", default="runs/translate_numbers", help="where to write")
parser.add_argument("--epochs", type=int, help="how often to see the training numbers")
parser.add_argument("--seeds", type=int, help="how many times to train the model")
options = parser.parse_args()
limit, training, epochs = (1_000, 800, 10) if options.quick else (10_000, 6_000, 6)
epochs = options.epochs or epochs
seeds = options.seeds or (1 if options.quick else 3)
width = 64

# The data: every number below the limit in both languages. English is read by words, German
# is written by letters. A random part of the numbers is never seen in training.

PADDING, STOP = 0, 1  # the stop sign is also what stands before the first letter

english = [re.findall(r"\w+", num2words(number)) for number in range(limit)]
german = [num2words(number, lang="de") for number in range(limit)]
words = sorted({word for phrase in english for word in phrase})
letters = sorted({letter for phrase in german for letter in phrase})
word_ids = {word: index for index, word in enumerate(words, start=STOP + 1)}
letter_ids = {letter: index for index, letter in enumerate(letters, start=STOP + 1)}

sources = [[word_ids[word] for word in phrase] for phrase in english]
targets = [[letter_ids[letter] for letter in phrase] + [STOP] for phrase in german]
sources = keras.utils.pad_sequences(sources, padding="post", value=PADDING)
targets = keras.utils.pad_sequences(targets, padding="post", value=PADDING)
# What the decoder has written when it writes letter i: the stop sign and i - 1 letters.
written = np.pad(targets[:, :-1], ((0, 0), (1, 0)), constant_values=STOP)

order = np.random.default_rng(0).permutation(limit)
seen, held_out = order[:training], order[training:][:1000]
print(f"{len(seen)} numbers to learn from, {len(held_out)} held out.")


# The model: an encoder over words, a decoder over letters, one block each.


class TokenAndPosition(layers.Layer):
    """Embeds tokens and adds a learned vector for their positions; padding is masked."""

    def __init__(self, vocabulary, width, **kwargs):
        super().__init__(**kwargs)
        self.token = layers.Embedding(vocabulary, width, mask_zero=True)

    def build(self, shape):
        self.token.build(shape)
        self.position = self.add_weight(
            shape=(shape[1], self.token.output_dim), initializer="random_normal"
        )

    def call(self, ids):
        return self.token(ids) + self.position

    def compute_mask(self, ids, mask=None):
        return self.token.compute_mask(ids)


def add_and_normalize(*tensors):
    return layers.LayerNormalization()(layers.Add()(tensors))


def feed_forward(x):
    hidden = layers.Dense(2 * width, activation="relu")(x)
    return add_and_normalize(x, layers.Dense(width)(hidden))


def build():
    source = keras.Input(sources.shape[1:], dtype="int32", name="source")
    meanings = TokenAndPosition(STOP + 1 + len(words), width)(source)
    x = add_and_normalize(
        meanings, keras_sam.SelfAttention(num_heads=4, name="read")(meanings)
    )
    x = feed_forward(x)

    target = keras.Input(targets.shape[1:], dtype="int32", name="written")
    y = TokenAndPosition(STOP + 1 + len(letters), width)(target)
    y = add_and_normalize(
        y, keras_sam.SelfAttention(num_heads=4, causal=True, name="write")(y)
    )
    # One head: the alignment is then one picture. Keys have read the whole phrase, values
    # are the words by themselves, so the weights say which word is used, not where it was
    # read.
    align = keras_sam.CrossAttention(num_heads=1, name="align")
    y = add_and_normalize(y, align(y, value=meanings, key=x))
    y = feed_forward(y)
    logits = layers.Dense(STOP + 1 + len(letters))(y)
    return keras.Model([source, target], logits)


# Training, with the alignment of three numbers drawn after each epoch. Row i of a picture
# is the step that writes letter i, so the rows carry the letters of the answer.

examples = [23, 47, 586] if options.quick else [23, 4_731, 9_586]
batch_size = 32 if options.quick else 64
watch_alignment = AttentionTensorBoard(
    options.output,
    [sources[examples], written[examples]],
    tokens={
        "query": [[*german[number], "stop"] for number in examples],
        "key": [english[number] for number in examples],
    },
    max_examples=len(examples),
)


def translate(model, sources):
    """Writes the most likely letter, again and again, for all sources at a time."""
    written = np.full((len(sources), targets.shape[1] + 1), PADDING)
    written[:, 0] = STOP
    writing = np.full(len(sources), True)
    for step in range(targets.shape[1]):
        logits = model.predict_on_batch([sources, written[:, :-1]])
        written[writing, step + 1] = logits[writing, step].argmax(-1)
        writing &= written[:, step + 1] != STOP
        if not writing.any():
            break
    return written[:, 1:]


def spell(ids):
    return "".join(letters[index - STOP - 1] for index in ids if index > STOP)


# Every training starts from a seed of its own; the last one is drawn.

matches = []
for seed in range(seeds):
    keras.utils.set_random_seed(seed)
    model = build()
    # The rate falls to zero; with clipping, one bad batch does not undo what was learned.
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-training // batch_size))
    model.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=PADDING),
    )
    callbacks = []
    if seed == seeds - 1:
        callbacks = [keras.callbacks.TensorBoard(options.output), watch_alignment]
    print(f"\nSeed {seed}:")
    started = time.perf_counter()
    model.fit(
        [sources[seen], written[seen]],
        targets[seen],
        batch_size=batch_size,
        epochs=epochs,
        callbacks=callbacks,
        verbose=2,
    )
    print(f"Trained in {time.perf_counter() - started:.0f} s.")
    answers = translate(model, sources[held_out])
    right = np.all(answers == targets[held_out], axis=1)
    matches.append(right.mean())
    print(f"Exact match of seed {seed}: {matches[-1]:.1%}")

# The result: how many of the held-out numbers are right to the last letter?

for number, answer in zip(held_out[:5], answers, strict=False):
    print(f"{' '.join(english[number])} -> {spell(answer)}")
for number, answer in zip(held_out[~right][:5], answers[~right], strict=False):
    print(f"Wrong: {' '.join(english[number])} -> {spell(answer)}")
print(
    f"Exact match on held-out numbers: {np.mean(matches):.1%} ({min(matches):.1%} to "
    f"{max(matches):.1%} in {seeds} seeds)"
)
print(f"See the alignment (Images, layer align): tensorboard --logdir {options.output}")
