"""Draw digits pixel by pixel, each looking back at those drawn before it.

A picture of 8 x 8 pixels is written like a text: the digit that is asked for, then 64
shades of gray, row by row. A causal model says which shade comes next. With attention,
rotary positions tell rows and columns; without it, blocks convolve over pixels beside and
above each other, with as many weights. Is what they draw what was asked for, and is it new?

    python examples/draw_digits.py
"""

import argparse
import pathlib
import time

import keras
import numpy as np
from keras import layers, ops
from PIL import Image, ImageDraw, ImageFont
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from sklearn.svm import SVC

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard
from keras_sam.scores import Rotary

parser = argparse.ArgumentParser(description="Draw digits with attention.")
parser.add_argument("--quick", action="store_true", help="one seed, few epochs")
parser.add_argument("--output", default="runs/draw_digits", help="where to write")
parser.add_argument("--seeds", type=int, help="how many times to train each network")
options = parser.parse_args()
output = pathlib.Path(options.output)
output.mkdir(parents=True, exist_ok=True)
seeds = options.seeds or (1 if options.quick else 3)
epochs, drawn = (1, 50) if options.quick else (16, 500)
side, shades, width, depth = 8, 17, 64, 3

# The data: 1797 pictures, of shades 0 to 16. The digits 0 to 9 are written as 17 to 26.

pixels, classes = load_digits(return_X_y=True)
pixels = pixels.astype("int32")
split = train_test_split(pixels, classes, test_size=0.3, stratify=classes, random_state=0)
known, new = (split[0], split[2]), (split[1], split[3])


def as_text(pixels, classes):
    """Returns what is read, the digit and all pixels but the last, and what comes next."""
    text = np.concatenate([shades + classes[:, None], pixels], axis=1).astype("int32")
    return text[:, :-1], text[:, 1:]


# The networks. Without attention, a block sees four pixels, beside or above each other, and
# is told at every pixel where it is and which digit is asked for. Attention finds that out.


@keras.saving.register_keras_serializable(package="draw_digits")
class Told(layers.Layer):
    """Adds a vector for the position, and one for the digit, to every pixel."""

    def build(self, shape):
        self.position = self.add_weight(
            shape=(side * side, shape[-1]), initializer="random_normal"
        )

    def call(self, x):
        return x + self.position[: ops.shape(x)[1]] + x[:, :1]


def build(attention):
    text = keras.Input((None,), dtype="int32")
    x = layers.Embedding(shades + 10, width)(text)
    if not attention:
        x = Told()(x)
    for block in range(depth):
        y = layers.RMSNormalization()(x)
        if attention:
            # The digit that is asked for stands before the first pixel, at -1.
            score = [Rotary(100.0, grid=(side, side), start=-1), "scaled_dot"]
            name = f"look_{block}"
            y = keras_sam.SelfAttention(4, causal=True, score=score, name=name)(y)
        else:
            step = side if block % 2 else 1
            y = layers.Conv1D(width, 4, padding="causal", dilation_rate=step)(y)
        x = layers.Add()([x, layers.Dropout(0.1)(y)])
        y = layers.RMSNormalization()(x)
        y = layers.Dense(2 * width, activation="gelu")(y)
        x = layers.Add()([x, layers.Dropout(0.1)(layers.Dense(width)(y))])
    return keras.Model(text, layers.Dense(shades)(layers.RMSNormalization()(x)))


def train(attention, seed, callbacks=()):
    keras.utils.set_random_seed(seed)
    model = build(attention)
    steps = epochs * -(-len(known[0]) // 16)
    rate = keras.optimizers.schedules.CosineDecay(
        0.0, steps, warmup_target=3e-3, warmup_steps=steps // 10
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile(keras.optimizers.Adam(rate, clipnorm=1.0), loss)
    model.fit(
        *as_text(*known), batch_size=16, epochs=epochs, verbose=0, callbacks=list(callbacks)
    )
    return model


def draw(model, attention, digits, seed):
    """Draws a picture for each digit. Each shade is drawn by its chance, one by one.

    Logits are divided by a temperature of 0.8: likely shades become likelier.
    """
    text = shades + digits[:, None].astype("int32")
    if attention:  # with a cache: each step reads one pixel, and looks back at all others
        sampler = keras_sam.samplers.Random(temperature=0.8)
        decode = keras_sam.Decoder(model)
        return decode.generate(text, 1 + side * side, sampler, seed=seed)[:, 1:]
    rng = np.random.default_rng(seed)
    for _ in range(side * side):
        logits = np.array(model(text, training=False))[:, -1] / 0.8
        # The largest of logits with Gumbel noise is a sample.
        choice = (logits + rng.gumbel(size=logits.shape)).argmax(axis=1)
        text = np.concatenate([text, choice[:, None].astype("int32")], axis=1)
    return text[:, 1:]


# The judges. A classifier that learned from the real digits: does it see the digit that was
# asked for? And the nearest real digit: is a picture only a copy of one?

classifier = CalibratedClassifierCV(SVC(gamma=0.001, C=10), ensemble=False)
classifier.fit(known[0], known[1])


def distances(pictures):
    """Returns how far each picture is from the nearest that was trained on, in shades."""
    found = [np.square(picture - known[0]).mean(axis=1).min() for picture in pictures]
    return np.sqrt(found)


# Closer to a training picture than 99% of real digits are, one is called a copy.
of_real = distances(new[0])
copied = np.percentile(of_real, 1)


def judge(pictures, digits):
    chances = classifier.predict_proba(pictures)
    near = distances(pictures)
    return {
        "right digit": (chances.argmax(axis=1) == digits).mean(),
        "confidence": chances[range(len(digits)), digits].mean(),
        "copies": (near < copied).mean(),
        "distance": np.median(near) / np.median(of_real),
    }


# Training, drawing and judging, from each seed.

wanted = np.arange(drawn) % 10
places = [f"{row},{column}" for row in range(side) for column in range(side)]
read, next_shades = as_text(*new)
names = {"with": "with attention", "without": "without"}
results = {name: [] for name in names}
sheet, kept = {}, None
for seed in range(seeds):
    for name in names:
        callbacks = []
        if kept is None:  # TensorBoard sees the first training
            probe = read[:4]
            words = [[f"a {digit}", *places[:-1]] for digit in new[1][:4]]
            watch = AttentionTensorBoard(output, probe, tokens=words, max_examples=4)
            callbacks = [keras.callbacks.TensorBoard(output), watch]
        start = time.perf_counter()
        model = train(name == "with", seed, callbacks)
        kept = kept or model
        trained = time.perf_counter() - start
        loss = model.evaluate(read, next_shades, batch_size=256, verbose=0)
        pictures = draw(model, name == "with", wanted, seed)
        sheet.setdefault(name, pictures)
        found = {"bits": loss / np.log(2), **judge(pictures, wanted)}
        results[name].append(found)
        print(
            f"seed {seed}, {names[name]:14}: {found['bits']:.3f} bits a pixel, "
            f"{found['right digit']:.1%} the right digit ({trained:.0f} s)",
            flush=True,
        )

# The result.

real = judge(*new)
lines = {
    # name: (format, of real digits that were not trained on)
    "bits a pixel of real digits": ("bits", "{:.3f}", None),
    "the right digit": ("right digit", "{:.1%}", real["right digit"]),
    "how sure the classifier is": ("confidence", "{:.1%}", real["confidence"]),
    "copies of training pictures": ("copies", "{:.1%}", real["copies"]),
    "distance to the nearest": ("distance", "{:.2f}", real["distance"]),
}
print(f"\n{drawn} pictures; mean (least to most) of {seeds} seeds:")
print(f"{'':29}{'with attention':24}{'without':24}real digits")
for line, (key, form, beside) in lines.items():
    columns = ""
    for name in names:
        each = [found[key] for found in results[name]]
        mean, low, high = map(form.format, (np.mean(each), min(each), max(each)))
        columns += f"{f'{mean} ({low} to {high})':24}"
    print(f"{line:29}{columns}{'' if beside is None else form.format(beside)}".rstrip())
print("(Distances are multiples of that of real digits which were not trained on.)")

# The sheet: each digit four times, real, with attention and without.


def draw_sheet(path, blocks, zoom=5, gap=4, rows=4):
    step = side * zoom + gap
    margin, title = 3 * gap, 24
    size = 10 * step + 2 * margin, len(blocks) * (rows * step + title) + 2 * margin
    canvas = Image.new("L", size, 255)
    pen, font = ImageDraw.Draw(canvas), ImageFont.load_default(14)
    top = margin
    for name, (pictures, digits) in blocks.items():
        pen.text((margin, top), name, fill=0, font=font)
        top += title
        for digit in range(10):
            for row, picture in enumerate(pictures[digits == digit][:rows]):
                gray = (255 - picture.reshape(side, side) * 255 / 16).astype("uint8")
                image = Image.fromarray(gray).resize((side * zoom,) * 2, Image.NEAREST)
                canvas.paste(image, (margin + digit * step, top + row * step))
        top += rows * step
    canvas.save(path)


blocks = {names[name]: (sheet[name], wanted) for name in names}
draw_sheet(output / "digits.png", {"real": new, **blocks})
print(f"\nSee the pictures:    {output / 'digits.png'}")
print(f"See the attention:   tensorboard --logdir {output}")
