"""Configurations of strangers: they run no code and take no memory for absurd sizes."""

import inspect

import keras
import numpy as np
import pytest

import keras_sam
from keras_sam import layers, scores

SHAPE = (1, 6, 6, 4)
HUGE = 10**8, 2**31, 10**30  # top_k may be more than there are parts

# The arguments that are sizes, by what else has to be given for them to count.
SIZES = {
    "num_heads": {},
    "key_dim": {},
    "value_dim": {},
    "num_key_value_heads": {"num_heads": 2},
    "output_shape": {},
    "attention_axes": {},
    "units": {},
    "hidden_units": {},
    "reduction": {},
    "kernel_size": {},
    "dilation_rate": {"kernel_size": 7},
    "top_k": {},
    "rank": {},
    "head_size": {},
}
REQUIRED = {
    "SelfAttention": {"num_heads": 2},
    "CrossAttention": {"num_heads": 2},
    "CBAM": {"reduction": 2},
}


def parameters(cls):
    found = {}
    for base in cls.__mro__:
        found |= inspect.signature(base.__init__).parameters
    return found


CASES = [
    (name, argument, value)
    for name in layers.__all__
    for argument in SIZES
    if argument in parameters(getattr(layers, name))
    for value in HUGE[1 if argument == "top_k" else 0 :]
]


def build(layer):
    tensors = [keras.KerasTensor(SHAPE)]
    if isinstance(layer, layers.CrossAttention | layers.UnprojectedAttention):
        tensors = [keras.KerasTensor((1, 6, 4))] * 2
    if isinstance(layer, layers.SpatialGate):
        tensors = [keras.KerasTensor(SHAPE)] * 2
    layer(*tensors)


@pytest.mark.parametrize(("name", "argument", "value"), CASES)
def test_sizes_of_no_model_are_refused(name, argument, value):
    cls = getattr(layers, name)
    config = REQUIRED.get(name, {}) | SIZES[argument] | {argument: value}
    with pytest.raises((ValueError, TypeError), match=argument):
        build(cls(**config))


@pytest.mark.parametrize("window", [2**31, 10**30])
def test_windows_beyond_int32_are_refused(window):
    with pytest.raises(ValueError, match=r"`sliding_window` must be .* at most 2147483647"):
        keras_sam.SelfAttention(2, sliding_window=window)
    x = np.ones((1, 1, 3, 4), "float32")
    with pytest.raises(ValueError, match=r"`sliding_window` must be .* at most 2147483647"):
        keras_sam.attend(x, x, x, sliding_window=window)


def test_sizes_that_are_large_together_are_refused():
    with pytest.raises(ValueError, match=r"`num_heads` and `key_dim` must not make"):
        build(keras_sam.SelfAttention(2**15, 2**15))
    with pytest.raises(ValueError, match=r"`num_heads` and `units` must not make"):
        build(keras_sam.SelectiveAttention(num_heads=2**15, units=2**15))
    with pytest.raises(ValueError, match=r"must not make a weight of more than"):
        build(keras_sam.SelfAttention(2, score=scores.Additive(2**20), key_dim=2**10))
    with pytest.raises(ValueError, match=r"must reach over at most 4096 positions"):
        build(keras_sam.SpatialAttention(dilation_rate=10**9))


@pytest.mark.parametrize(
    ("layer", "kind"),
    [
        (keras_sam.SelfAttention(2), "score"),
        (keras_sam.CrossAttention(2), "normalizer"),
        (keras_sam.SelectiveAttention(relation="self"), "score"),
        (keras_sam.UnprojectedAttention(), "score"),
        (keras_sam.SpatialAttention(), "normalizer"),
        (keras_sam.CBAM(), "kernel_initializer"),
    ],
    ids=str,
)
def test_nesting_beyond_reason_is_refused(layer, kind):
    config = layer.get_config()
    for _ in range(900):
        config[kind] = {"class_name": "Dot", "config": {"inner": config[kind]}}
    with pytest.raises(ValueError, match=f"`{kind}` must be nested at most"):
        type(layer).from_config(config)


CODE = [
    {
        "class_name": "__lambda__",
        "config": {"value": ["4wAAAA==", None, None]},
    },
    {"module": "os", "class_name": "function", "config": "system", "registered_name": "x"},
    {"module": "builtins", "class_name": "eval", "config": {"x": "1"}},
    {
        "module": "keras.utils",
        "class_name": "function",
        "config": "get_file",
        "registered_name": "get_file",
    },
]


@pytest.mark.parametrize("argument", ["score", "normalizer", "kernel_initializer"])
@pytest.mark.parametrize("value", CODE, ids=lambda value: value["class_name"])
def test_configurations_run_no_code(argument, value):
    config = keras_sam.SelfAttention(2).get_config() | {argument: value}
    with pytest.raises((ValueError, TypeError)):
        keras_sam.SelfAttention.from_config(config)
