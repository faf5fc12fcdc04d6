"""A Darknet configuration with [sam], trained in Keras to find a digit in a picture.

    python examples/darknet_sam.py
    python examples/darknet_sam.py --pictures 4000 --epochs 20 --output runs/darknet_sam

The configuration below is a small YOLOv4 with spatial attention: a residual block, and
at two scales a 1 x 1 logistic convolution with the [sam] layer that multiplies by it. It
is built, trained on digits among clutter, and written back as model.cfg and
model.weights, which Darknet reads. attention.png shows the gate of each [sam], averaged
over its channels; `tensorboard --logdir runs/darknet_sam` shows how it came about. The
model is trained from three seeds, and the files and the logs are those of the last.

Nothing in [sam] makes a gate close: what it lets through, the next layer can ignore.
Trained on boxes alone, the mean gate is as open beside the digit as on it. Here an open
gate costs something (--penalty, which the loss adds times the mean gate), so gates open
where it pays. `--penalty 0` shows the difference.
"""

import argparse
import pathlib

import keras
import matplotlib
import numpy as np
from keras import ops
from sklearn.datasets import load_digits

import keras_sam
from keras_sam import darknet
from keras_sam.callbacks import AttentionTensorBoard

SIZE = 48
CFG = """
[net]
width=48
height=48
channels=3

[convolutional]
batch_normalize=1
filters=16
size=3
stride=2
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=32
size=3
stride=2
pad=1
activation=mish

# a residual block

[convolutional]
batch_normalize=1
filters=16
size=1
stride=1
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=32
size=3
stride=1
pad=1
activation=mish

[shortcut]
from=-3
activation=linear

# spatial attention: the layer before [sam] gates the one before that

[convolutional]
batch_normalize=1
filters=32
size=1
stride=1
pad=1
activation=logistic

[sam]
from=-2

[convolutional]
batch_normalize=1
filters=64
size=3
stride=2
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=64
size=3
stride=1
pad=1
activation=mish

[convolutional]
batch_normalize=1
filters=64
size=1
stride=1
pad=1
activation=logistic

[sam]
from=-2

[convolutional]
filters=15
size=1
stride=1
pad=1
activation=linear

[yolo]
mask=0
anchors=16,16
classes=10
num=1
scale_x_y=1.1
"""


def make_pictures(count, rng):
    """Places a digit on each picture, among pieces of others; returns boxes, too."""
    digits = load_digits()
    images = np.kron(digits.images / 16, np.ones((2, 2))).astype("float32")  # 16 x 16
    pictures = rng.uniform(0, 0.2, (count, SIZE, SIZE, 3)).astype("float32")
    corners = rng.integers(0, SIZE - 16, (count, 2))
    chosen = rng.integers(len(images), size=count)
    for picture, (top, left), index in zip(pictures, corners, chosen, strict=True):
        for _ in range(8):
            y, x = rng.integers(0, SIZE - 5, 2)
            row, column = rng.integers(0, 11, 2)
            piece = images[rng.integers(len(images)), row : row + 5, column : column + 5]
            picture[y : y + 5, x : x + 5] += piece[..., None] * rng.uniform(0, 1, 3)
        digit = images[index, :, :, None] * rng.uniform(0.6, 1, 3)
        picture[top : top + 16, left : left + 16] += digit
    boxes = np.concatenate([corners, corners + 16], axis=1) / SIZE
    return pictures.clip(0, 1), boxes.astype("float32"), digits.target[chosen]


def make_targets(boxes, classes, cells=6):
    """Returns what the [yolo] layer should say: x, y, w, h, objectness, classes."""
    targets = np.zeros((len(boxes), cells, cells, 15), "float32")
    middle = (boxes[:, :2] + boxes[:, 2:]) / 2 * cells
    row, column = middle.astype(int).T
    n = np.arange(len(boxes))
    targets[n, row, column, 0] = middle[:, 1] - column
    targets[n, row, column, 1] = middle[:, 0] - row
    targets[n, row, column, 4] = 1  # w and h are 0: the box is its anchor
    targets[n, row, column, 5 + classes] = 1
    return targets


def yolo_loss(targets, outputs):
    """Objectness everywhere; place, size and class where the digit is."""
    there = targets[..., 4]
    objectness = keras.losses.binary_crossentropy(targets[..., 4:5], outputs[..., 4:5])
    classes = keras.losses.binary_crossentropy(targets[..., 5:], outputs[..., 5:])
    place = ops.sum(ops.square(targets[..., :4] - outputs[..., :4]), axis=-1)
    loss = objectness + there * (10 * classes + 5 * place)
    return ops.sum(loss, axis=(1, 2))


def overlap(boxes, others):
    """Returns the intersection over the union of boxes, pair by pair."""
    first = np.maximum(boxes[:, :2], others[:, :2])
    last = np.minimum(boxes[:, 2:], others[:, 2:])
    shared = np.prod(np.maximum(last - first, 0), axis=1)
    areas = [np.prod(b[:, 2:] - b[:, :2], axis=1) for b in (boxes, others)]
    return shared / (sum(areas) - shared)


def attention_maps(model, pictures):
    """Returns by name the gates, averaged over channels, at the size of pictures."""
    with keras_sam.record_attention() as recorded:
        model(pictures, training=False)
    maps = {}
    for name, gate in recorded.items():
        gate = np.mean(gate, axis=-1)
        scale = SIZE // gate.shape[1]  # 4 and 8: gates are 12 x 12 and 6 x 6
        maps[name] = gate.repeat(scale, axis=1).repeat(scale, axis=2)
    return maps


def share_inside(maps, boxes):
    """Returns the mean attention inside the boxes over that outside."""
    edges = np.rint(boxes * SIZE).astype(int)
    ratios = []
    for attention, (top, left, bottom, right) in zip(maps, edges, strict=True):
        inside = np.zeros_like(attention, bool)
        inside[top:bottom, left:right] = True
        ratios.append(attention[inside].mean() / attention[~inside].mean())
    return float(np.mean(ratios))


def share_pointing(maps, boxes):
    """Returns how often the most open position lies in the box."""
    edges = np.rint(boxes * SIZE).astype(int)
    hits = []
    for attention, (top, left, bottom, right) in zip(maps, edges, strict=True):
        rows, columns = np.nonzero(attention == attention.max())  # of one cell
        row, column = rows.mean(), columns.mean()
        hits.append(top <= row < bottom and left <= column < right)
    return float(np.mean(hits))


def gate_penalty(targets, gates):
    """Returns how open the gates of each picture are; there are no targets."""
    return ops.mean(gates, axis=(1, 2, 3))


def draw(path, pictures, maps, boxes, found):
    """A row of pictures with boxes, and one for each layer with its attention."""
    matplotlib.use("agg")
    from matplotlib import pyplot as plt

    rows, columns = 1 + len(maps), len(pictures)
    figure, axes = plt.subplots(rows, columns, figsize=(2 * columns, 2.2 * rows))
    for panel in axes.flat:
        panel.set(xticks=[], yticks=[])
    for column, picture in enumerate(pictures):
        axes[0, column].imshow(picture)
        for box, color in ((boxes[column], "white"), (found[column], "red")):
            top, left, bottom, right = box * SIZE - 0.5
            corner, width, height = (left, top), right - left, bottom - top
            axes[0, column].add_patch(
                plt.Rectangle(corner, width, height, fill=False, edgecolor=color)
            )
    axes[0, 0].set_ylabel("truth white, found red")
    for row, (name, gates) in zip(axes[1:], maps.items(), strict=True):
        row[0].set_ylabel(f"mean gate of {name}")
        for panel, picture, gate in zip(row, pictures, gates, strict=False):
            panel.imshow(picture.mean(axis=-1), cmap="gray")
            panel.imshow(gate, cmap="viridis", alpha=0.6)
    figure.tight_layout()
    figure.savefig(path, dpi=100)
    plt.close(figure)


def train(options, seed):
    """Trains a model from one seed; returns it, test pictures, boxes and classes."""
    keras.utils.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    model = darknet.build_model(CFG)
    pictures, boxes, classes = make_pictures(options.pictures, rng)
    test_pictures, test_boxes, test_classes = make_pictures(200, rng)
    # The gate of a [sam] is the layer before it.
    gates = [
        model.get_layer(model.plan.layers[spec.sources[0]].name).output
        for spec in model.plan.layers
        if spec.section.name == "sam"
    ]
    trained = keras.Model(model.input, [model.output, *gates])
    trained.compile(
        keras.optimizers.Adam(2e-3),
        [yolo_loss] + [gate_penalty] * len(gates),
        loss_weights=[1.0] + [options.penalty] * len(gates),
    )
    is_last = seed == options.seeds - 1
    callbacks = [AttentionTensorBoard(options.output, test_pictures[:6])] if is_last else []
    nothing = np.zeros((len(pictures), 1, 1, 1), "float32")
    print(f"\nSeed {seed}:")
    trained.fit(
        pictures,
        [make_targets(boxes, classes)] + [nothing] * len(gates),
        batch_size=32,
        epochs=options.epochs,
        verbose=2,
        callbacks=callbacks,
    )
    return model, test_pictures, test_boxes, test_classes


def measure(found, maps, boxes, classes):
    """Returns by name how well digits are found, and how well the gates find them."""
    results = {
        "accuracy": float(np.mean(np.array(found.classes[:, 0]) == classes)),
        "mean IoU": float(np.mean(overlap(np.array(found.boxes[:, 0]), boxes))),
    }
    for name, gates in maps.items():
        results[f"{name}: in the box / outside"] = share_inside(gates, boxes)
        results[f"{name}: widest open in the box"] = share_pointing(gates, boxes)
    return results


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--pictures", type=int, default=2000)
    parser.add_argument("--epochs", type=int, default=12)
    parser.add_argument("--penalty", type=float, default=16, help="of open gates")
    parser.add_argument("--quick", action="store_true", help="64 pictures, one epoch")
    parser.add_argument("--seeds", type=int, help="how many times to train the model")
    parser.add_argument("--output", type=pathlib.Path, default="runs/darknet_sam")
    options = parser.parse_args(arguments)
    if options.quick:
        options.pictures, options.epochs = 64, 1
    options.seeds = options.seeds or (1 if options.quick else 3)
    options.output.mkdir(parents=True, exist_ok=True)

    by_seed = []
    for seed in range(options.seeds):
        model, pictures, boxes, classes = train(options, seed)
        outputs = model.predict(pictures, verbose=0)
        found = darknet.decode(outputs, model, score_threshold=0.0, max_detections=1)
        maps = attention_maps(model, pictures)
        by_seed.append(measure(found, maps, boxes, classes))
    print(f"\nMean (least to most) of {options.seeds} seeds:")
    results = {name: [each[name] for each in by_seed] for name in by_seed[0]}
    for name, values in results.items():
        spread = f"({min(values):.3f} to {max(values):.3f})"
        print(f"{name:<34}{np.mean(values):6.3f} {spread}")
    print("(by chance the widest open position is in the box in 0.111 of the pictures)")

    best = np.array(found.boxes[:, 0])
    draw(options.output / "attention.png", pictures[:6], maps, boxes, best)
    (options.output / "model.cfg").write_text(CFG)
    darknet.write_weights(model, options.output / "model.weights")
    again = darknet.load_model(
        options.output / "model.cfg", options.output / "model.weights"
    )
    same = np.array_equal(again.predict(pictures, verbose=0), outputs)
    print(f"Darknet's files give the same outputs: {same}")
    return results


if __name__ == "__main__":
    main()
