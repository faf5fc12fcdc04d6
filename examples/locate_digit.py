"""Where is the digit, and which one is it? Spatial attention against clutter.

Real handwritten digits of several sizes, somewhere in a picture among torn pieces of other
digits. A small residual network says the class and the box; each of its two blocks has no
gate, CBAM's (one map for all channels) or YOLOv4's (one for every channel). Is the box
found better, and does the gate look into it?

    python examples/locate_digit.py
"""

import argparse
import pathlib

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="Locate digits with spatial attention.")
parser.add_argument("--quick", action="store_true", help="one seed, few pictures")
parser.add_argument("--output", default="runs/locate_digit", help="where to write")
parser.add_argument("--seeds", type=int, help="how many times to train each network")
options = parser.parse_args()
output = pathlib.Path(options.output)
seeds = options.seeds or (1 if options.quick else 3)
epochs = 2 if options.quick else 20
pictures = 400 if options.quick else 4000
side = 32  # of a picture; digits have 8 to 16 pixels

# The data. Digits are split before they are placed: no digit of the test is trained on.

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8) / 16).astype("float32")
split = train_test_split(images, labels, test_size=0.3, stratify=labels, random_state=0)


def enlarged(image, size):
    index = np.arange(size) * len(image) // size
    return image[np.ix_(index, index)]


def place(count, images, labels, seed):
    """Returns pictures, classes and boxes (top, left, bottom, right, from 0 to 1)."""
    rng = np.random.default_rng(seed)
    canvas = 0.1 * rng.random((count, side, side)).astype("float32")
    chosen = rng.integers(len(images), size=count)
    boxes = np.zeros((count, 4), "float32")
    for picture, box, index in zip(canvas, boxes, chosen, strict=True):
        size = rng.integers(8, 17)
        top, left = rng.integers(side - size + 1, size=2)
        box[:] = np.array([top, left, top + size, left + size]) / side
        for _ in range(12):
            # A torn piece: a corner of another digit, of the size of a digit's parts.
            piece = enlarged(images[rng.integers(len(images))], rng.integers(8, 17))
            height, width = rng.integers(4, 8, size=2)
            down, right = (rng.integers(len(piece) - n + 1) for n in (height, width))
            piece = piece[down : down + height, right : right + width]
            y, x = rng.integers(side - height + 1), rng.integers(side - width + 1)
            above_or_below = y + height <= top or y >= top + size
            if above_or_below or x + width <= left or x >= left + size:
                area = picture[y : y + height, x : x + width]
                np.maximum(area, piece, out=area)
        area = picture[top : top + size, left : left + size]
        np.maximum(area, enlarged(images[index], size), out=area)
    return canvas[..., None], labels[chosen], boxes


train = place(pictures, split[0], split[2], seed=1)
test = place(pictures // 2, split[1], split[3], seed=2)

# The networks: a stem, two residual blocks of 16 x 16 and 8 x 8 places, two heads.

gates = {
    "no gate": None,
    "CBAM's gate": keras_sam.layers.SpatialAttention,
    "YOLOv4's gate": keras_sam.layers.PointwiseSpatialAttention,
}


def build(gate):
    inputs = keras.Input((side, side, 1))
    x = inputs
    for block, channels in ((1, 16), (2, 32)):
        x = layers.Conv2D(channels, 3, strides=2, padding="same", use_bias=False)(x)
        x = layers.ReLU()(layers.BatchNormalization()(x))
        y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(x)
        y = layers.ReLU()(layers.BatchNormalization()(y))
        y = layers.Conv2D(channels, 3, padding="same", use_bias=False)(y)
        y = layers.BatchNormalization()(y)
        if gate is not None:  # behind the last convolution of the block
            y = gate(use_batch_norm=True, name=f"gate_{block}")(y)
        x = layers.ReLU()(layers.Add()([x, y]))
    digit = layers.Dense(10, name="digit")(layers.GlobalAveragePooling2D()(x))
    box = layers.Flatten()(layers.Conv2D(8, 1, activation="relu")(x))
    box = layers.Dense(4, activation="sigmoid", name="box")(box)
    return keras.Model(inputs, {"digit": digit, "box": box})


def fit(name, seed):
    keras.utils.set_random_seed(seed)
    model = build(gates[name])
    rate = keras.optimizers.schedules.CosineDecay(3e-3, epochs * pictures // 64)
    of_digit = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(
        keras.optimizers.Adam(rate),
        {"digit": of_digit, "box": "mae"},
        loss_weights={"digit": 1.0, "box": 10.0},
    )
    callbacks = []
    if seed == 0 and gates[name] is not None:
        folder = output / name.split("'")[0]
        callbacks = [AttentionTensorBoard(folder, test[0][:4], max_examples=4)]
    x, digit, box = train
    model.fit(
        x,
        {"digit": digit, "box": box},
        batch_size=64,
        epochs=epochs,
        callbacks=callbacks,
        verbose=2,
    )
    return model


# What counts: classes, boxes, and how much of a map lies in the true box.


def overlap(boxes, others):
    """Intersection over union."""
    low = np.maximum(boxes[:, :2], others[:, :2])
    high = np.minimum(boxes[:, 2:], others[:, 2:])
    both = np.prod(np.maximum(high - low, 0), axis=1)
    areas = [np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes, others)]
    return both / (areas[0] + areas[1] - both)


def inside(weights, boxes):
    """The share of the weights of each map in its box, pixel by pixel of the picture."""
    factor = side // weights.shape[1]
    weights = weights.mean(-1).repeat(factor, 1).repeat(factor, 2)
    centers = (np.arange(side) + 0.5) / side
    rows = (centers > boxes[:, :1]) & (centers < boxes[:, 2:3])
    columns = (centers > boxes[:, 1:2]) & (centers < boxes[:, 3:])
    masks = rows[:, :, None] & columns[:, None, :]
    return (weights * masks).sum((1, 2)) / weights.sum((1, 2))


def measure(model):
    x, digit, box = test
    found = model.predict(x, batch_size=256, verbose=0)
    row = [(found["digit"].argmax(1) == digit).mean(), overlap(found["box"], box).mean()]
    with keras_sam.record_attention() as maps:
        model(x[:512], training=False)
    maps = [keras.ops.convert_to_numpy(weights) for weights in maps.values()]
    shares = [inside(weights, box[:512]).mean() for weights in maps]
    return row + (shares or [np.nan, np.nan])


# Training all of them takes a while; the table comes at the end.

columns = ["digit right", "mean IoU", "in box, 16 x 16", "in box, 8 x 8"]
table = [
    f"{'':15}" + "".join(f"{column:>18}" for column in columns) + f"{'parameters':>12}"
]
for name in gates:
    rows = []
    for seed in range(seeds):
        print(f"{name}, seed {seed}:")
        model = fit(name, seed)
        rows.append(measure(model))
    cells = [
        "-" if np.isnan(column[0]) else f"{column.mean():.1%} ({np.ptp(column):.1%})"
        for column in np.array(rows).T
    ]
    cells = "".join(f"{cell:>18}" for cell in cells)
    table.append(f"{name:15}{cells}{model.count_params():>12}")

area = np.prod(test[2][:, 2:] - test[2][:, :2], axis=1).mean()
print(f"\n{pictures} pictures, {epochs} epochs, {seeds} seeds: means (and ranges)\n")
print("\n".join(table))
print(f"\nOf an even map, {area:.1%} lie in the box.")
print(f"See where the gates look (tab Images): tensorboard --logdir {output}")
