"""The cores of a CPU, and sharing out heads over them.

Each share is one compiled function of a TensorFlow graph, which runs them at the same
time. On two cores that is a third faster than one compiled function whose every product
is divided between the cores: no core waits, and each tile stays in the cache of its core.
"""

import functools
import os

import keras

from keras_sam.backend.xla import on_cpu


@functools.cache
def processors():
    """Returns how many compiled functions can run at the same time: 1 but on a CPU.

    That is the number of cores that this process may run on, unless TensorFlow was told
    to use another number of threads.
    """
    if keras.backend.backend() != "tensorflow" or not on_cpu():
        return 1
    import tensorflow as tf

    threads = tf.config.threading.get_inter_op_parallelism_threads()
    return threads or available_cores()


def available_cores():
    """Returns the number of cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def shares(total, cores=None):
    """Returns how many of `total` items each core gets."""
    count = max(min(cores or processors(), total), 1)
    return [(total + i) // count for i in range(count)]
