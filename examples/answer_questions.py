"""Answer questions about stories, and say which sentences the answer stands in.

"Sandra took the apple. ... Sandra went to the garden. ... Where is the apple?" Two of many
sentences hold the answer: who took the apple last, and where she went last. They have to be
found in this order, because only the first says whom to look for. So there are two hops:
`SelectiveAttention(relation="query")` weighs the sentences by the question, and then again
by the question and what was found. Nobody tells the model which sentences matter.

With one head for each hop, up to half of all trainings do not find the first hop, and stay
at 45% of the answers. That depends on the first weights, and even on the order in which
threads add numbers. Each head starts from other weights, and it is enough that one of them
finds the sentence: with four heads all of more than 40 trainings found both hops. Every
network is trained from three seeds, and the result says how often it did not.

    python examples/answer_questions.py
"""

import argparse
import itertools

import keras
import numpy as np
from keras import layers, ops

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="Answer questions with selective attention.")
parser.add_argument("--quick", action="store_true", help="short stories, few epochs")
parser.add_argument("--output", default="runs/answer_questions", help="where to write")
parser.add_argument("--stories", type=int, help="how many stories to learn from")
parser.add_argument("--epochs", type=int, help="how often to see them")
parser.add_argument("--seeds", type=int, help="how many times to train each network")
options = parser.parse_args()
seeds = options.seeds or (1 if options.quick else 3)
stories = options.stories or (3_000 if options.quick else 20_000)
epochs = options.epochs or (10 if options.quick else 8)
most = 8 if options.quick else 16  # sentences in a story
width = 64

# The data. Each story is drawn by itself; people walk, take what lies where they are, and
# leave it somewhere. The question is for something that somebody holds.

people = ["daniel", "john", "mary", "sandra"]
places = ["bathroom", "bedroom", "garden", "hallway", "kitchen", "office"]
things = ["apple", "ball", "book", "football", "milk"]
words = [*people, *places, *things, "went", "to", "the", "took", "left", "where", "is"]
ids = {word: index for index, word in enumerate(words, start=1)}  # 0 is padding


def tell(rng, length):
    """Tells a story: sentences, a question, the answer, and the two that it stands in."""
    at = {}  # of people: the place, and the sentence that says so
    held = {}  # things: who has it, and the sentence that says so
    lying = dict.fromkeys(things)  # where; None is nobody knows
    sentences = []
    while len(sentences) < length:
        person = people[rng.integers(len(people))]
        near = [
            x
            for x, place in lying.items()
            if person in at and place in (None, at[person][0])
        ]
        mine = [x for x, (owner, _) in held.items() if owner == person]
        choice = rng.random()
        if choice < 0.35 and near:
            thing = near[rng.integers(len(near))]
            del lying[thing]
            held[thing] = person, len(sentences)
            sentences.append(f"{person} took the {thing}")
        elif choice < 0.5 and mine:
            thing = mine[rng.integers(len(mine))]
            del held[thing]
            lying[thing] = at[person][0]
            sentences.append(f"{person} left the {thing}")
        elif choice >= 0.5 or person not in at:
            place = places[rng.integers(len(places))]
            at[person] = place, len(sentences)
            sentences.append(f"{person} went to the {place}")
    if not held:
        return tell(rng, length)
    thing = list(held)[rng.integers(len(held))]
    person, taken = held[thing]
    place, went = at[person]
    return sentences, f"where is the {thing}", places.index(place), (taken, went)


def dataset(count, seed):
    """Arrays of word ids; stories end at the last sentence, padding comes before them."""
    rng = np.random.default_rng(seed)
    told = [tell(rng, rng.integers(4, most + 1)) for _ in range(count)]
    x = np.zeros((count, most, 5), "int32")
    questions = np.zeros((count, 4), "int32")
    supporting = np.zeros((count, 2), int)
    for row, (sentences, question, _, facts) in enumerate(told):
        first = most - len(sentences)
        for place, sentence in enumerate(sentences, start=first):
            spelled = [ids[word] for word in sentence.split()]
            x[row, place, : len(spelled)] = spelled
        questions[row] = [ids[word] for word in question.split()]
        supporting[row] = first + np.array(facts)
    return (
        told,
        {"story": x, "question": questions},
        np.array([t[2] for t in told]),
        supporting,
    )


_, train_x, train_y, _ = dataset(stories, seed=1)
told, test_x, test_y, supporting = dataset(1_000, seed=2)
known = {
    np.concatenate([s.ravel(), q]).tobytes() for s, q in zip(*train_x.values(), strict=True)
}
fresh = [
    np.concatenate([s.ravel(), q]).tobytes() not in known
    for s, q in zip(*test_x.values(), strict=True)
]
fresh = np.flatnonzero(fresh)
told = [told[row] for row in fresh]
test_x = {name: each[fresh] for name, each in test_x.items()}
test_y, supporting = test_y[fresh], supporting[fresh]
print(f"{stories} stories to learn from, {len(test_y)} others to test on.")


# The model: a sentence is the sum of its words and of a vector for its position.


# Wide enough to tell words apart from the start. With Keras's 0.05, all attention weights
# would be equal for many epochs.
spread = keras.initializers.RandomNormal(stddev=0.5)


class Sentences(layers.Layer):
    """Sums the vectors of the words of each sentence; what has no words is masked."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.word = layers.Embedding(1 + len(words), width, spread)

    def build(self, shape):
        self.word.build(shape)
        self.place = self.add_weight(shape=(shape[1], width), initializer=spread)

    def call(self, ids):
        known = ops.cast(ids != 0, self.compute_dtype)[..., None]
        return ops.sum(self.word(ids) * known, axis=2) + self.place

    def compute_mask(self, ids, previous_mask=None):
        return ops.any(ids != 0, axis=-1)


class EqualWeights(layers.GlobalAveragePooling1D):
    """Pooling without attention: every sentence has the same weight."""

    def call(self, inputs, query, mask=None):
        return super().call(inputs, mask=mask)


def attend(hop):
    return keras_sam.SelectiveAttention(relation="query", num_heads=4, name=f"hop_{hop}")


def no_attention(hop):
    return EqualWeights(name=f"hop_{hop}")


def build(hops, read):
    story = keras.Input((most, 5), dtype="int32", name="story")
    question = keras.Input((4,), dtype="int32", name="question")
    sentences = Sentences(name="sentences")(story)
    asked = layers.Embedding(1 + len(words), width, spread)(question)
    asked = layers.GlobalAveragePooling1D()(asked)
    for hop in range(1, hops + 1):
        found = read(hop)(sentences, query=asked)
        asked = layers.Concatenate()([asked, found])
        asked = layers.Dense(2 * width, activation="relu")(asked)
    answer = layers.Dense(len(places), activation="softmax")(asked)
    return keras.Model({"story": story, "question": question}, answer)


# Training. TensorBoard shows the weights that both hops give to the sentences of four
# stories.

shown = {name: each[:4] for name, each in test_x.items()}
tokens = [[""] * (most - len(story)) + story for story, *_ in told[:4]]
models = {
    "without attention": (2, no_attention),
    "one hop": (1, attend),
    "two hops": (2, attend),
}
results = {}  # accuracies and weights, by network and seed
for (name, (hops, read)), seed in itertools.product(models.items(), range(seeds)):
    keras.utils.set_random_seed(seed)
    model = build(hops, read)
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * -(-stories // 64))
    model.compile(
        keras.optimizers.Adam(rate, clipnorm=1.0),
        "sparse_categorical_crossentropy",
        metrics=["accuracy"],
    )
    callbacks = []
    if name == "two hops" and seed == seeds - 1:
        watch = AttentionTensorBoard(options.output, shown, tokens=tokens, max_examples=4)
        callbacks = [keras.callbacks.TensorBoard(options.output), watch]
    print(f"\n{name}, seed {seed} ({model.count_params()} parameters):")
    model.fit(
        train_x, train_y, batch_size=64, epochs=epochs, callbacks=callbacks, verbose=2
    )
    with keras_sam.record_attention() as maps:
        model(test_x, training=False)
    accuracy = model.evaluate(test_x, test_y, verbose=0)[1]
    # The mean over the heads.
    weights = [np.mean(maps[f"hop_{hop}"], axis=1) for hop in range(1, len(maps) + 1)]
    results.setdefault(name, []).append((accuracy, weights))

# The result: how many answers are right, and whether the two sentences that hold the answer
# have the largest weights. Without attention all weights are equal: that is to guess.

lengths = np.array([len(story) for story, *_ in told])


def largest(weights, facts):
    """The share of stories in which the sentence of the largest weight is among `facts`."""
    return np.mean((weights.argmax(-1)[:, None] == facts).any(axis=1))


print("\nOne story, and its weights:")
story, question, answer, _ = told[0]
hops = [weights[0, most - len(story) :] for weights in results["two hops"][-1][1]]
for sentence, *row in zip(story, *hops, strict=True):
    print("  ".join(f"{weight:4.2f}" for weight in row), f" {sentence}")
print(f"{question}? {places[answer]}\n")
print(f"Always the most frequent answer: {np.bincount(test_y).max() / len(test_y):.1%}")
for name, by_seed in results.items():
    each = [accuracy for accuracy, _ in by_seed]
    print(
        f"{name:>17}: {np.mean(each):.1%} of the answers are right ({min(each):.1%} to "
        f"{max(each):.1%} in {seeds} seeds)"
    )
    for hop, each in enumerate(zip(*(weights for _, weights in by_seed), strict=True), 1):
        taken, went = (
            np.mean([largest(weights, supporting[:, [fact]]) for weights in each])
            for fact in (0, 1)
        )
        print(
            f"{'':>17}  hop {hop}: who took it has the largest weight in {taken:.1%}, "
            f"where they went in {went:.1%}"
        )
missed = sum(accuracy < 0.9 for accuracy, _ in results["two hops"])
print(f"Trainings that did not find both hops: {missed} of {seeds}")
print(f"By chance, a given sentence has the largest weight in {np.mean(1 / lengths):.1%}")
print(f"\nSee the weights (tabs Images, Text): tensorboard --logdir {options.output}")
