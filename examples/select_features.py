"""Which columns of a table matter? Selective attention among noise.

The breast cancer table of scikit-learn has 30 columns. Beside them stand 30 columns of
noise: the same numbers, each column shuffled by itself, so that each looks like a real one
and says nothing. A small network weighs all 60, `SelectiveAttention(axis=-1)`, and learns
to tell benign from malignant. Do its weights rank the real columns first? `SelectKBest`
and permutation importance of a random forest are asked the same.

    python examples/select_features.py
"""

import argparse

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_breast_cancer
from sklearn.ensemble import RandomForestClassifier
from sklearn.feature_selection import SelectKBest, f_classif
from sklearn.inspection import permutation_importance
from sklearn.model_selection import train_test_split

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="Select columns with selective attention.")
parser.add_argument("--quick", action="store_true", help="one network, few epochs")
parser.add_argument("--output", default="runs/select_features", help="where to write")
parser.add_argument("--networks", type=int, help="how many networks to average")
options = parser.parse_args()
networks = options.networks or (1 if options.quick else 5)
epochs = 20 if options.quick else 40
sizes = (10, 20, 30)

# The data, standardized by what the training part is like.

table = load_breast_cancer()
rng = np.random.default_rng(0)
noise = rng.permuted(table.data, axis=0)  # each column in an order of its own
x = np.concatenate([table.data, noise], axis=1)
names = [*table.feature_names, *(f"noise like {name}" for name in table.feature_names)]
# In any order, so that columns that are thought equal are not ranked by what they are.
places = rng.permutation(x.shape[1])
x, names = x[:, places], [names[place] for place in places]
is_real = places < table.data.shape[1]
train_x, test_x, train_y, test_y = train_test_split(
    x, table.target, test_size=0.3, stratify=table.target, random_state=0
)
mean, spread = train_x.mean(axis=0), train_x.std(axis=0)
train_x = ((train_x - mean) / spread).astype("float32")
test_x = ((test_x - mean) / spread).astype("float32")

# The network. Its weights start nearly equal, and the layer behind them is held small, so
# that what matters has to gain weight. Dropout makes columns that say the same share it.


def build():
    return keras.Sequential(
        [
            keras.Input((x.shape[1],)),
            keras_sam.SelectiveAttention(
                axis=-1,
                pool=False,
                dropout=0.5,
                kernel_initializer=keras.initializers.RandomNormal(stddev=0.1),
                name="select",
            ),
            layers.Dense(16, activation="relu", kernel_regularizer="l2"),
            layers.Dense(1, activation="sigmoid"),
        ]
    )


weights, accuracies = [], []
for seed in range(networks):
    keras.utils.set_random_seed(seed)
    model = build()
    model.compile(keras.optimizers.Adam(1e-2), "binary_crossentropy", metrics=["accuracy"])
    callbacks = []
    if seed == networks - 1:
        callbacks = [
            keras.callbacks.TensorBoard(options.output),
            AttentionTensorBoard(options.output, test_x[:64]),
        ]
    print(f"\nNetwork {seed + 1} of {networks}:")
    model.fit(
        train_x, train_y, batch_size=64, epochs=epochs, callbacks=callbacks, verbose=2
    )
    accuracies.append(model.evaluate(test_x, test_y, verbose=0)[1])
    with keras_sam.record_attention() as maps:
        model(train_x, training=False)
    (of_all,) = maps.values()  # (B, H, T)
    weights.append(np.mean(of_all, axis=(0, 1)))

# The same question to scikit-learn. Shuffled columns are missed on rows that the forest has
# not seen: it knows the others by heart. So it alone is told about the test part.

forest = RandomForestClassifier(100, random_state=0).fit(train_x, train_y)
shuffled = permutation_importance(
    forest, test_x, test_y, n_repeats=2 if options.quick else 10, random_state=0
)
rankings = {
    "SelectiveAttention": np.mean(weights, axis=0),
    "SelectKBest": SelectKBest(f_classif).fit(train_x, train_y).scores_,
    "permutation importance": shuffled.importances_mean,
}

# The result: of the columns that each ranks first, how many are real?

order = np.argsort(-rankings["SelectiveAttention"])
print("\nThe columns of the largest weight, where 1 would be the average:")
for column in order[:10]:
    print(f"{len(order) * rankings['SelectiveAttention'][column]:6.2f}  {names[column]}")
share = rankings["SelectiveAttention"][is_real].sum()
print(f"All real columns together have {share:.1%} of the weight.")
print(f"\n{'Real columns among the first':>28}" + "".join(f"{size:8}" for size in sizes))
for name, scores in rankings.items():
    first = np.argsort(-scores, kind="stable")
    found = [is_real[first[:size]].mean() for size in sizes]
    print(f"{name:>28}" + "".join(f"{share:8.1%}" for share in found))
# A network alone is less sure than the mean of all.
alone = [is_real[np.argsort(-each)[: sizes[-1]]].mean() for each in weights]
print(
    f"Real columns among the first {sizes[-1]} of each network alone: {np.mean(alone):.1%} "
    f"({min(alone):.1%} to {max(alone):.1%})"
)
print(f"Drawn blindly: {is_real.mean():.0%}")
spread = f"{min(accuracies):.1%} to {max(accuracies):.1%}"
print(f"Test accuracy of {networks} networks: {np.mean(accuracies):.1%} ({spread})")
print(f"Test accuracy of the forest: {forest.score(test_x, test_y):.1%}")
print(f"\nSee the weights: tensorboard --logdir {options.output}")
