"""Every layer, score and normalizer as LiteRT runs it, without Flex operations."""

import keras
import numpy as np
import pytest
from cases import CASES
from common import NORMALIZERS, SCORES, assert_rounded_alike, numpy, random, randomize

import keras_sam
from keras_sam import SelectiveAttention, SelfAttention, export_litert, normalizers

pytestmark = [
    pytest.mark.tensorflow,
    pytest.mark.filterwarnings("ignore:.*tf.lite.Interpreter is deprecated"),
]
OPEN = pytest.mark.parametrize("unknown", [False, True], ids=["fixed", "open"])
TABLE = (2, 4), (7, 11)  # batches and lengths, where they are open


def interpreter(path):
    """The runtime of its own, or the one that TensorFlow still has."""
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        import tensorflow as tf

        Interpreter = tf.lite.Interpreter
    return Interpreter(str(path))


def run(path, arrays):
    runner = interpreter(path).get_signature_runner()
    names = sorted(runner.get_input_details(), key=lambda name: int(name[1:]))
    feed = dict(zip(names, arrays, strict=True))
    # Copies, because the arrays are those of the interpreter, which ends here.
    return [np.array(value) for value in runner(**feed).values()]


def assert_converts(model, calls, tmp_path):
    """Converts a model once, and compares it with the converted one in each call."""
    path = tmp_path / "model.tflite"
    signature = [
        keras.InputSpec(shape=x.shape, dtype=x.dtype, name=f"x{i}")
        for i, x in enumerate(model.inputs)
    ]
    # A functional model has one positional argument: the list of its inputs.
    in_a_list = not isinstance(model, keras.Sequential)
    export_litert(model, path, [signature] if in_a_list else signature)
    for arrays in calls:
        expected = model(arrays if in_a_list else arrays[0])
        for found, one in zip(run(path, arrays), keras.tree.flatten(expected), strict=True):
            assert_rounded_alike(found, numpy(one))


@pytest.mark.parametrize("masked", [False, True], ids=["unmasked", "masked"])
@OPEN
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layers(case, unknown, masked, tmp_path):
    symbols = case.symbols(unknown)
    masks = {}
    if masked:
        masks = {
            name: keras.Input(symbols[i].shape[1:-1], dtype="bool")
            for name, i in case.masks.items()
        }
    model = keras.Model([*symbols, *masks.values()], case.make()(*symbols, **masks))
    calls = []
    for batch in TABLE[0]:
        for length in TABLE[1] if unknown else (None,):
            inputs = case.inputs(batch, unknown=length)
            given = case.padding(inputs)
            calls.append([*inputs, *(given[name] for name in masks)])
    assert_converts(randomize(model), calls, tmp_path)


ATTENTION = {
    **{f"score={name}": {"score": name} for name in SCORES},
    **{f"normalizer={name}": {"normalizer": name} for name in NORMALIZERS},
    "alpha=1.3": {"normalizer": normalizers.Entmax(1.3)},
    "alpha=3": {"normalizer": normalizers.Entmax(3.0)},
    "-log(length)": {"normalizer": normalizers.Sigmoid("-log(length)")},
    "causal": {"causal": True},
    "window": {"causal": True, "sliding_window": 3},
    "selective": {"causal": True, "selective": True},
}
SELECTIVE = {
    "context": {},
    "context, not pooled": {"pool": False},
    "self": {"relation": "self"},
    "self, additive": {"relation": "self", "score": "additive", "num_heads": 2},
    "top_k": {"top_k": 2},
    "a share": {"top_k": 0.5},
    "a share, not pooled": {"top_k": 0.5, "pool": False},
    "heads": {"num_heads": 3},
}
LAYERS = {
    **{
        name: lambda options=o: SelfAttention(2, **options) for name, o in ATTENTION.items()
    },
    **{
        name: lambda options=o: SelectiveAttention(**options)
        for name, o in SELECTIVE.items()
    },
}


@OPEN
@pytest.mark.parametrize("name", LAYERS)
def test_arguments(name, unknown, tmp_path):
    model = keras.Sequential([keras.Input((None if unknown else 5, 8)), LAYERS[name]()])
    lengths = TABLE[1] if unknown else (5,)
    calls = [[random(b, length, 8, seed=b)] for b in TABLE[0] for length in lengths]
    assert_converts(randomize(model), calls, tmp_path)


@OPEN
def test_an_embedding_with_a_mask(unknown, tmp_path):
    model = keras.Sequential(
        [
            keras.Input((None if unknown else 7,), dtype="int32"),
            keras.layers.Embedding(11, 8, mask_zero=True),
            SelfAttention(2),
            SelectiveAttention(),
        ]
    )
    words = np.random.default_rng(0).integers(0, 11, (3, 7)).astype("int32")
    words[:, 0] = 1
    assert_converts(randomize(model), [[words]], tmp_path)


def additive_with_one_head():
    layer = SelectiveAttention(relation="self", score="additive")
    return keras.Sequential([keras.Input((5, 8)), layer])


REFUSED = {
    "additive, one head": (additive_with_one_head(), "model.tflite", "`score` must not"),
    "no model": (keras.layers.Dense(3), "model.tflite", "`model` must be a built"),
    "not built": (keras.Sequential(), "model.tflite", "`model` must be a built"),
    "another name": (None, "model.onnx", "`filepath` must end in .tflite"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name, tmp_path):
    model, file, message = REFUSED[name]
    if model is None:
        model = keras.Sequential([keras.Input((5, 8)), SelfAttention(2)])
    with pytest.raises(ValueError, match=message):
        keras_sam.export_litert(model, tmp_path / file)
    assert not list(tmp_path.iterdir())
