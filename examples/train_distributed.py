"""Trains one model on several devices, and prints the loss of each epoch.

On one device, on eight simulated ones with split batches, and with split heads as well:

    KERAS_BACKEND=jax python examples/train_distributed.py --how single
    KERAS_BACKEND=jax python examples/train_distributed.py --how data --devices 8
    KERAS_BACKEND=jax python examples/train_distributed.py --how model --devices 8

In two processes, each with a command of its own, at the same time:

    KERAS_BACKEND=jax python examples/train_distributed.py --how data --process 0 --of 2
    KERAS_BACKEND=jax python examples/train_distributed.py --how data --process 1 --of 2

On TensorFlow, with a replica on each of two logical devices:

    KERAS_BACKEND=tensorflow python examples/train_distributed.py --how mirrored --devices 2

All print the same losses, to rounding. `--logs FOLDER` writes what the layers attend to;
of several processes only the first one writes.
"""

import argparse
import contextlib
import os

parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
parser.add_argument("--how", choices=("single", "data", "model", "mirrored"))
parser.add_argument("--devices", type=int, default=1, help="simulated ones of a CPU")
parser.add_argument("--process", type=int, default=0)
parser.add_argument("--of", type=int, default=1, help="how many processes there are")
parser.add_argument("--address", default="127.0.0.1:12355", help="of the first process")
parser.add_argument("--epochs", type=int, default=3)
parser.add_argument("--logs", help="a folder for TensorBoard")

BATCH = 32


def make_model(keras, keras_sam):
    words = keras.Input((12,), dtype="int32")
    x = keras.layers.Embedding(50, 16)(words)
    x = keras_sam.SelfAttention(num_heads=4, score="additive", name="attend")(x)
    x = keras_sam.SelectiveAttention(num_heads=4, name="select")(x)
    return keras.Model(words, keras.layers.Dense(1)(x))


def make_data(np):
    """Sentences of random words; is the first word there a second time?"""
    words = np.random.default_rng(0).integers(0, 50, (256, 12)).astype("int32")
    again = (words[:, 1:] == words[:, :1]).any(axis=1)
    return words, again[:, None].astype("float32")


def strategy_for(options, keras, keras_sam):
    """Chooses where the model is to be; returns the scope in which it is made."""
    if options.how == "mirrored":
        import tensorflow as tf

        cpu = tf.config.list_physical_devices("CPU")[0]
        logical = [tf.config.LogicalDeviceConfiguration()] * options.devices
        tf.config.set_logical_device_configuration(cpu, logical)
        names = [f"CPU:{n}" for n in range(options.devices)]
        return tf.distribute.MirroredStrategy(names).scope()
    if options.of > 1:
        keras.distribution.initialize(options.address, options.of, options.process)
    if options.how == "data":
        # Each process gives its own part of a batch.
        distribution = keras.distribution.DataParallel(auto_shard_dataset=False)
        keras.distribution.set_distribution(distribution)
    if options.how == "model":
        devices = keras.distribution.list_devices()
        mesh = keras.distribution.DeviceMesh(
            (len(devices) // 4, 4), ("batch", "model"), devices
        )
        keras.distribution.set_distribution(
            keras.distribution.ModelParallel(
                layout_map=keras_sam.distribution.layout_map(mesh), batch_dim_name="batch"
            )
        )
    return contextlib.nullcontext()


def main():
    options = parser.parse_args()
    os.environ["XLA_FLAGS"] = (
        f"{os.environ.get('XLA_FLAGS', '')} "
        f"--xla_force_host_platform_device_count={options.devices}"
    )
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    import keras
    import numpy as np

    import keras_sam

    scope = strategy_for(options, keras, keras_sam)
    keras.utils.set_random_seed(0)
    with scope:
        model = make_model(keras, keras_sam)
        model.compile(keras.optimizers.Adam(0.01), "mse")
    x, y = make_data(np)
    callbacks = []
    if options.logs:
        callbacks = [keras_sam.callbacks.AttentionTensorBoard(options.logs, x[:2])]
    # The rows of each batch that are this process's.
    part = BATCH // options.of
    own = np.arange(len(x)).reshape(-1, options.of, part)[:, options.process].reshape(-1)
    history = model.fit(
        x[own],
        y[own],
        batch_size=part,
        epochs=options.epochs,
        shuffle=False,
        verbose=0,
        callbacks=callbacks,
    )
    for loss in history.history["loss"]:
        print(f"loss {loss:.6f}", flush=True)
    if options.how == "model":
        kernel = model.get_layer("attend").query_dense.kernel
        shard = kernel.value.addressable_shards[0].data.shape
        print(f"kernel {tuple(kernel.shape)}, on each device {shard}")


if __name__ == "__main__":
    main()
