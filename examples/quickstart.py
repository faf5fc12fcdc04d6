"""Train a digit classifier with all three mechanisms, serve it, and see where it looks.

The whole way in one file: real data, a model with spatial, self- and selective attention,
fit, TensorBoard, a `.keras` file, a SavedModel that answers without Keras, and the same
model without attention beside it.

    python examples/quickstart.py
"""

import argparse
import pathlib
import subprocess
import sys

import keras
import numpy as np
from keras import layers
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split

import keras_sam
from keras_sam.callbacks import AttentionTensorBoard

parser = argparse.ArgumentParser(description="The quickstart of keras_sam.")
parser.add_argument("--quick", action="store_true", help="train for a few epochs only")
parser.add_argument("--output", default="runs/quickstart", help="where to write")
options = parser.parse_args()
output = pathlib.Path(options.output)
epochs = 8 if options.quick else 30
width = 32

# The data: 1797 handwritten digits of 8 x 8 pixels; a quarter is for the test.

images, labels = load_digits(return_X_y=True)
images = (images.reshape(-1, 8, 8, 1) / 16).astype("float32")
train_images, test_images, train_labels, test_labels = train_test_split(
    images, labels, test_size=0.25, stratify=labels, random_state=0
)


# The model: a residual block on the pixels, whose last convolution spatial attention
# weighs; two transformer blocks over 4 x 4 patches, which self-attention lets know of one
# another; and a sum of the patches by weights of selective attention.


class Attentive:
    """The three mechanisms, where the model below asks for them."""

    def gate(self, x):
        return keras_sam.SpatialAttention(kernel_size=3, name="gate")(x)

    def mix(self, x, name):
        return keras_sam.SelfAttention(num_heads=4, name=name)(x)

    def pool(self, x):
        return keras_sam.SelectiveAttention(num_heads=2, name="pool")(x)


class Plain:
    """About as many weights, but no patch knows of another one before the mean."""

    def gate(self, x):
        return x

    def mix(self, x, name):
        hidden = layers.Dense(2 * width, activation="relu", name=f"{name}_hidden")(x)
        return layers.Dense(width, name=name)(hidden)

    def pool(self, x):
        x = layers.Dense(2 * width, activation="relu")(x)
        return layers.GlobalAveragePooling2D(name="pool")(x)


def build(parts):
    """A classifier of digits; `parts` makes what differs."""
    inputs = keras.Input((8, 8, 1))
    x = layers.Conv2D(16, 3, padding="same", activation="relu")(inputs)
    x = layers.Add()([x, parts.gate(layers.Conv2D(16, 3, padding="same")(x))])
    x = layers.Conv2D(width, kernel_size=2, strides=2)(x)
    # A bias for every place: without it, attention would not know where a patch is.
    spread = keras.initializers.RandomNormal(stddev=0.3)
    x = layers.EinsumDense(
        "bhwc,cd->bhwd", (4, 4, width), bias_axes="hwd", bias_initializer=spread
    )(x)
    for block in (1, 2):
        mixed = parts.mix(layers.LayerNormalization()(x), f"mix_{block}")
        x = layers.Add()([x, mixed])
        hidden = layers.Dense(2 * width, activation="relu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, layers.Dense(width)(hidden)])
    x = parts.pool(layers.LayerNormalization()(x))
    return keras.Model(inputs, layers.Dense(10, activation="softmax")(x))


def train(parts, callbacks=()):
    keras.utils.set_random_seed(0)
    model = build(parts)
    model.compile(
        keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", metrics=["accuracy"]
    )
    model.fit(
        train_images,
        train_labels,
        batch_size=32,
        epochs=epochs,
        validation_split=0.1,
        callbacks=list(callbacks),
    )
    return model


# Training, with and without attention. TensorBoard gets the losses and, after each epoch,
# what the attention layers look at in four test images.

print("With attention:")
watch = AttentionTensorBoard(output, test_images[:4], max_examples=4)
model = train(Attentive(), [keras.callbacks.TensorBoard(output), watch])
print("\nWithout attention:")
plain = train(Plain())

# Saving and reloading. The SavedModel is loaded by a new process that has TensorFlow only,
# and is asked for the classes ("serve") and for the weights of its attention ("attention").

expected = model.predict(test_images, verbose=0)
model.save(output / "model.keras")
reloaded = keras.saving.load_model(output / "model.keras").predict(test_images, verbose=0)

keras_sam.export_saved_model(model, output / "saved_model", verbose=False)
np.save(output / "images.npy", test_images)
SERVE = """
import sys
import numpy as np
import tensorflow as tf

folder = sys.argv[1]
images = np.load(folder + "/images.npy")
served = tf.saved_model.load(folder + "/saved_model")
np.save(folder + "/served.npy", served.serve(images))
np.savez(folder + "/attention.npz", **served.attention(images))
assert "keras_sam" not in sys.modules
"""
subprocess.run([sys.executable, "-c", SERVE, str(output)], check=True)
served = np.load(output / "served.npy")
weights = np.load(output / "attention.npz")

# The result.

print(
    f"\nLargest difference of model.keras, reloaded: {abs(reloaded - expected).max():.1e}"
)
print(f"Largest difference of the SavedModel, served: {abs(served - expected).max():.1e}")
for path in weights:
    print(f"Served attention of {path}: {weights[path].shape}")
for name, each in {"with attention": model, "without attention": plain}.items():
    accuracy = each.evaluate(test_images, test_labels, verbose=0)[1]
    print(f"Test accuracy {name}: {accuracy:.1%} ({each.count_params()} parameters)")
print("(Digits this small are easy without attention too. It decides where parts must find")
print("each other: see translate_numbers.py, answer_questions.py and locate_digit.py.)")
print(f"\nSee where it looks (tab Images): tensorboard --logdir {output}")
