"""KerasHub's attention becomes ours, in layers, blocks, backbones and tasks."""

import base64
import inspect
import json
import pathlib
import pkgutil
import re
from importlib import import_module

import keras
import numpy as np
import pytest
from common import assert_rounded_alike, numpy, random, randomize, refused
from fresh_process import run_python
from hub_models import BACKBONES, WORDS, B, H, S, T, hub, models, padding, tokens
from keras import ops

from keras_sam import (
    CrossAttention,
    Decoder,
    SelfAttention,
    convert,
    record_attention,
    show,
)
from keras_sam.convert.hub.adapter import HubAttention
from keras_sam.convert.hub.places import is_of
from keras_sam.convert.hub.table import KINDS, REFUSED
from keras_sam_viewer import records

C = 16
GROUPED = {"num_query_heads": H, "num_key_value_heads": 2}
CAUSAL = np.broadcast_to(np.tri(T, dtype=bool), (B, T, T))
LLAMA3 = {
    "rope_frequency_adjustment_factor": 8.0,
    "rope_low_freq_factor": 1.0,
    "rope_high_freq_factor": 4.0,
    "rope_pretraining_sequence_length": 16,
}
WINDOW = {"use_sliding_window_attention": True, "sliding_window_size": 3}


def hub_class(name):
    """A class of KerasHub that it does not export, by its name."""
    for module in modules():
        if name in vars(module):
            return vars(module)[name]
    raise AssertionError(name)


def modules():
    """The 28 modules of KerasHub's models with an attention layer, and one with another."""
    root = pathlib.Path(hub.__file__).parent / "src" / "models"
    for folder in sorted(root.iterdir()):
        for _, name, _ in pkgutil.iter_modules([str(folder)]):
            if name.endswith("attention"):
                yield import_module(f"keras_hub.src.models.{folder.name}.{name}")
    yield import_module("keras_hub.src.layers.modeling.cached_multi_head_attention")


# The class and its arguments: each in a version that uses what it has of its own.
LAYERS = {
    "Llama": ("LlamaAttention", GROUPED),
    "Llama 3": ("LlamaAttention", {**GROUPED, **LLAMA3}),
    "Llama, factor ignored": (
        "LlamaAttention",
        {**GROUPED, "rope_position_scaling_factor": 4.0},
    ),
    "Mistral": ("CachedMistralAttention", {**GROUPED, "head_dim": 6}),
    "Mixtral": ("CachedMixtralAttention", GROUPED),
    "Qwen": ("QwenAttention", {**GROUPED, **WINDOW}),
    "Qwen MoE": ("QwenMoeAttention", {**GROUPED, "rope_scaling_factor": 2.0}),
    "Qwen 3": ("Qwen3Attention", {**GROUPED, "head_dim": 6, "sliding_window_size": 3}),
    "Qwen 3 MoE": ("Qwen3MoeAttention", {**GROUPED, "head_dim": 6}),
    "Qwen 3.5": (
        "Qwen3_5Attention",
        {**GROUPED, "head_dim": 8, "partial_rotary_factor": 0.5},
    ),
    "Gemma": ("CachedGemmaAttention", {**GROUPED, "head_dim": 6}),
    "Gemma 2": (
        "CachedGemmaAttention",
        {
            **GROUPED,
            **WINDOW,
            "head_dim": 6,
            "logit_soft_cap": 2.0,
            "query_head_dim_normalize": False,
        },
    ),
    "Gemma 3": (
        "CachedGemma3Attention",
        {
            **GROUPED,
            **WINDOW,
            "head_dim": 6,
            "use_query_key_norm": True,
            "rope_scaling_factor": 4.0,
        },
    ),
    "Phi-3": ("Phi3Attention", GROUPED),
    "GPT-OSS": (
        "GptOssAttention",
        {**GROUPED, "sliding_window": 2, "rope_scaling_factor": 32.0},
    ),
    "GPT-NeoX": (
        "GPTNeoXAttention",
        {"num_heads": H, "hidden_dim": C, "rotary_percentage": 0.5},
    ),
    "Bloom": ("BloomAttention", {"num_heads": H}),
    "Falcon": ("FalconAttention", {"num_heads": H, "attention_dropout_rate": 0.0}),
    "ESM": ("EsmSelfAttention", {"heads": H, "head_size": 6, "use_bias": True}),
    "RoFormer V2": ("RoformerAttention", {"heads": H, "head_size": 6}),
    "cached": ("CachedMultiHeadAttention", {"num_heads": H, "key_dim": 5}),
    "Whisper": ("WhisperCachedMultiHeadAttention", {"num_heads": H, "key_dim": 5}),
}


def made(name, **others):
    make, arguments = LAYERS[name]
    layer = hub_class(make)(**arguments, **others)
    shape = (None, None, C)
    layer.build(*[shape] * (2 if "value_shape" in parameters(layer.build) else 1))
    return randomize(layer)


def parameters(function):
    return inspect.signature(function).parameters


def called(layer, x, mask):
    """The output of a layer of KerasHub for a mask of pairs."""
    needed = parameters(layer.call)
    tensors = [x, x] if "value" in needed else [x]
    others = {}
    if "alibi" in needed:  # the decoder makes it of slopes and positions of keys
        slopes = 2.0 ** (-8 * np.arange(1, H + 1) / H)
        alibi = slopes[:, None, None] * np.arange(T)
        others["alibi"] = ops.convert_to_tensor(alibi[None].astype("float32"))
    if "heads" in dir(layer):  # a mask of rows, all of which are read
        mask = np.ones((B, T), bool)
    output = layer(*tensors, attention_mask=mask, **others)
    return output[0] if isinstance(output, tuple) else output


@pytest.mark.parametrize("name", LAYERS)
def test_layers_alone(name, tmp_path):
    old, x = made(name), random(B, T, C)
    before = [numpy(weight) for weight in old.weights]
    new = convert(old)
    assert (new.name, new.dtype_policy) == (old.name, old.dtype_policy)
    masked = {} if "heads" in dir(old) else {"attention_mask": CAUSAL}
    tensors = [x, x] if isinstance(new, CrossAttention) else [x]
    output = numpy(new(*tensors, **masked))
    assert_rounded_alike(output, numpy(called(old, x, CAUSAL)))
    for array, weight in zip(before, old.weights, strict=True):
        np.testing.assert_array_equal(array, numpy(weight))
    trained = {id(v): v for v in new.trainable_variables}
    assert sum(np.prod(v.shape) for v in trained.values()) == sum(map(np.size, before))
    symbols = [keras.Input((None, C)) for _ in tensors]
    model = keras.Model(symbols, new(*symbols))
    model.save(tmp_path / "model.keras")
    loaded = keras.saving.load_model(tmp_path / "model.keras")
    if not masked:
        np.testing.assert_array_equal(output, numpy(loaded(tensors)))
    assert type(loaded.layers[-1]) is type(new)


@pytest.mark.parametrize("name", ["Llama", "Qwen 3", "Gemma 3", "GPT-OSS", "Bloom"])
def test_layers_alone_in_half_precision(name):
    old, x = made(name, dtype="mixed_bfloat16"), random(B, T, C)
    new = convert(old)
    assert new.compute_dtype == "bfloat16"
    output, expected = (
        numpy(each) for each in (new(x, attention_mask=CAUSAL), called(old, x, CAUSAL))
    )
    np.testing.assert_allclose(output, expected, rtol=0, atol=0.03 * abs(expected).max())


def converted(name, **others):
    """A small random backbone, what it is converted to, and inputs."""
    make, arguments, inputs, _ = BACKBONES[name]
    model = randomize(make(**arguments, **others))
    return model, convert(model), inputs()


def read(model, inputs):
    """The outputs of a backbone, without what is computed for padding."""
    outputs = model(inputs, training=False)
    outputs = outputs if isinstance(outputs, dict) else {"": outputs}
    found = {}
    for name, output in outputs.items():
        output = numpy(output)
        masks = (
            [m for n, m in inputs.items() if "padding_mask" in n]
            if isinstance(inputs, dict)
            else []
        )
        masks = [m for m in masks if m.shape == output.shape[:2]]
        found[name] = output[masks[-1].astype(bool)] if masks else output
    return found


def attention_of(model):
    """The attention layers in a model: adapters, and layers of KerasHub and Keras."""
    layers = model._flatten_layers()
    ours = [layer for layer in layers if isinstance(layer, HubAttention)]
    theirs = [
        x for x in layers if is_of(x, "keras", "keras_hub") and type(x).__name__ in KINDS
    ]
    return ours, theirs


# Without those that cannot be converted, and some whose attention another one has.
LEFT_OUT = ("DeBERTa V3", "XLNet", "OPT", "RoBERTa")
WHOLE = [name for name in BACKBONES if name not in LEFT_OUT]
# Models that are recorded before they are converted as well: layers keep their paths.
NAMED = ("Llama", "Gemma 3", "BERT", "Whisper", "ALBERT")
# Those whose layers have weights or steps that no other has.
SAVED = (
    "Llama",
    "T5",
    "T5Gemma 2",
    "Gemma 3n",
    "Gemma 4",
    "Phi-3, long",
    "Qwen",
    "GPT-OSS",
)
# KerasHub's T5 warns by itself of a mask that it does not pass on.
quiet = pytest.mark.filterwarnings("ignore:.*does not support masking:UserWarning")


@quiet
@pytest.mark.parametrize("name", WHOLE)
def test_backbones(name, reload):
    """Equal outputs, the same maps, the original untouched, saved and loaded."""
    model, new, inputs = converted(name)
    expected = read(model, inputs)
    ours, theirs = attention_of(new)
    assert ours
    assert not theirs
    assert not attention_of(model)[0]
    assert isinstance(new, type(model))
    found = read(new, inputs)
    assert found.keys() == expected.keys()
    for key, output in found.items():
        assert_close(output, expected[key])
    with record_attention() as recorded:
        again = read(new, inputs)
    for key, output in again.items():
        assert_close(output, expected[key])
    kinds = [(recorded.details[p].kind, *recorded[p].shape[2:]) for p in recorded]
    assert kinds == BACKBONES[name][3]
    if name in NAMED:
        with record_attention() as before:
            model(inputs, training=False)
        assert list(before) == list(recorded)
    if name not in SAVED:
        return
    loaded = reload(new)
    assert len(attention_of(loaded)[0]) == len(ours)
    for key, output in read(loaded, inputs).items():
        np.testing.assert_array_equal(output, found[key])


def assert_close(output, expected):
    np.testing.assert_allclose(output, expected, rtol=0, atol=1e-5 * abs(expected).max())


HALVES = ["Llama", "BERT"]


@pytest.mark.parametrize("name", HALVES)
def test_backbones_in_half_precision(name):
    model, new, inputs = converted(name, dtype="mixed_bfloat16")
    for key, expected in read(model, inputs).items():
        output = read(new, inputs)[key]
        atol = 0.1 * abs(expected).max()
        np.testing.assert_allclose(output, expected, rtol=0, atol=atol)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["GPT-2", "Gemma 3", "GPT-OSS"])
def test_gradients(name):
    import tensorflow as tf

    model, new, inputs = converted(name)
    found = []
    for each in (model, new):
        table = each.token_embedding.embeddings
        with tf.GradientTape() as tape:
            output = each(inputs, training=False)
            rows = ops.cast(padding()[..., None], output.dtype)
            loss = ops.sum(ops.square(output) * rows)
        gradient = tape.gradient(loss, table.value)
        found.append(numpy(tf.convert_to_tensor(gradient)))
    assert_close(found[1], found[0])
    sizes = [sum(np.prod(v.shape) for v in m.trainable_variables) for m in (model, new)]
    assert sizes[0] == sizes[1]


def test_loads_in_another_process(tmp_path):
    _, new, inputs = converted("Mistral")
    new.save(tmp_path / "model.keras")
    np.savez(tmp_path / "data.npz", **inputs, output=numpy(new(inputs, training=False)))
    script = tmp_path / "load.py"
    script.write_text(
        "import keras, numpy as np, keras_sam\n"
        "model = keras.saving.load_model('model.keras')\n"
        "data = dict(np.load('data.npz'))\n"
        "expected = data.pop('output')\n"
        "output = keras.ops.convert_to_numpy(model(data, training=False))\n"
        "np.testing.assert_allclose(output, expected, rtol=1e-5, atol=1e-6)\n"
        "print(type(model).__name__)\n"
    )
    assert "MistralBackbone" in run_python(script, cwd=tmp_path)


def test_blocks_in_models_of_keras(reload):
    """KerasHub's layers in a functional model, beside Keras's own attention."""
    inputs = keras.Input((None,), dtype="int32")
    x = hub.layers.TokenAndPositionEmbedding(WORDS, 8, C)(inputs)
    x = hub.layers.TransformerEncoder(intermediate_dim=8, num_heads=2)(x)
    x = keras.layers.MultiHeadAttention(2, 4)(x, x)
    memory = hub.layers.TransformerEncoder(intermediate_dim=8, num_heads=2)(x)
    x = hub.layers.TransformerDecoder(intermediate_dim=8, num_heads=2)(x, memory)
    model = randomize(keras.Model(inputs, keras.layers.Dense(3)(x)))
    new = convert(model)
    assert len(attention_of(new)[0]) == 4
    assert sum(isinstance(layer, SelfAttention) for layer in new.layers) == 1
    words = tokens()
    expected = numpy(model(words))
    assert_close(numpy(new(words)), expected)
    assert_close(numpy(reload(new)(words)), expected)


def test_backbones_in_models_of_keras(reload):
    make, arguments, inputs, _ = BACKBONES["BERT"]
    backbone, data = make(**arguments), inputs()
    symbols = {name: keras.Input((None,), dtype="int32", name=name) for name in data}
    x = backbone(symbols)["pooled_output"]
    model = randomize(keras.Model(symbols, keras.layers.Dense(3)(x)))
    new = convert(model)
    assert len(attention_of(new)[0]) == 2
    expected = numpy(model(data))
    assert_close(numpy(new(data)), expected)
    assert_close(numpy(reload(new)(data)), expected)


def test_attention_of_kerashub_in_models_of_keras(reload):
    inputs, memory = keras.Input((None, C)), keras.Input((None, C))
    attend = hub.layers.CachedMultiHeadAttention(2, 4)
    model = randomize(keras.Model([inputs, memory], attend(inputs, memory)))
    new = convert(model)
    assert isinstance(new.layers[-1], CrossAttention)
    data = [random(B, T, C), random(B, S, C, seed=1)]
    assert_close(numpy(new(data)), numpy(model(data)))
    assert_close(numpy(reload(new)(data)), numpy(model(data)))


def test_an_unbuilt_layer_is_converted_when_it_is_built():
    layer = convert(hub.layers.TransformerDecoder(intermediate_dim=8, num_heads=2))
    assert not layer.built
    x = random(B, T, C)
    output = layer(x)
    ((adapter,), _) = attention_of(layer)
    assert isinstance(adapter.attention, SelfAttention)
    assert adapter.attention.is_causal
    assert tuple(output.shape) == x.shape


# The task of each of these backbones, whose cache has a layout of its own.
LANGUAGE_MODELS = {
    "GPT-2": "GPT2CausalLM",
    "Gemma 2": "GemmaCausalLM",
    "Gemma 3n": "Gemma3nCausalLM",
    "BART": "BartSeq2SeqLM",
    "T5Gemma": "T5GemmaSeq2SeqLM",
}


@quiet
@pytest.mark.tensorflow
@pytest.mark.parametrize("name", LANGUAGE_MODELS)
def test_generation(name):
    """Greedy decoding with KerasHub's own loop: the same tokens, prompts of two lengths."""
    make, arguments, _, _ = BACKBONES[name]
    task = getattr(models, LANGUAGE_MODELS[name])
    task = randomize(task(backbone=make(**arguments), preprocessor=None))
    length = 8
    known = (np.arange(length) < [[3], [5]]).astype("int32")
    words = {"token_ids": tokens(length) * known, "padding_mask": known}
    if "Seq2Seq" in LANGUAGE_MODELS[name]:
        words = {f"decoder_{key}": value for key, value in words.items()}
        words["encoder_token_ids"] = tokens(S, seed=1) * padding(S)
        words["encoder_padding_mask"] = padding(S)
    found = []
    for each in (task, convert(task)):
        each.compile(sampler="greedy", run_eagerly=True)
        written = each.generate(words, stop_token_ids=None)
        key = "decoder_token_ids" if "decoder_token_ids" in written else "token_ids"
        found.append(written[key])
    np.testing.assert_array_equal(*found)
    assert len(np.unique(found[0])) > 2


def test_a_cache_of_two_tensors():
    """Gemma 3 keeps keys apart from values, and says which rows are to be kept."""
    make, arguments, _, _ = BACKBONES["Gemma 3"]
    task = models.Gemma3CausalLM(preprocessor=None, backbone=randomize(make(**arguments)))
    words, found = tokens(8), []
    keep = np.array([[True], [False]])
    for each in (task, convert(task)):
        cache = [(ops.zeros((B, 8, 2, 6)), ops.zeros((B, 8, 2, 6))) for _ in range(2)]
        first, _, cache = each.call_with_cache(words[:, :5], cache, 0)
        again, _, cache = each.call_with_cache(
            words[:, 4:5], cache, 4, cache_update_mask=keep
        )
        found.append((numpy(first), numpy(again), *map(numpy, cache[1])))
    for one, other in zip(*found, strict=True):
        assert_close(one, other)


@pytest.mark.parametrize("name", ["Llama", "GPT-2"])
def test_decoder(name):
    """Our `Decoder` runs converted backbones without KerasHub's caches."""
    new = converted(name)[1]
    words = {"token_ids": tokens(8), "padding_mask": np.ones((B, 8), "int32")}
    whole = numpy(new(words, training=False))
    decode = Decoder(new)
    cache, found = decode.make_cache(B, 8), []
    for start, stop in ((0, 5), (5, 6), (6, 8)):
        part = {key: value[:, start:stop] for key, value in words.items()}
        output, cache = decode(part, cache, start)
        found.append(numpy(output))
    assert_close(np.concatenate(found, axis=1), whole)


def test_show_sees_converted_layers(tmp_path):
    _, new, inputs = converted("BERT")
    page = show(new, inputs, path=tmp_path / "page.html")
    for index in range(2):
        assert f"transformer_layer_{index}/self_attention_layer" in labels_of(page)


def labels_of(page):
    meta = re.search(r'id="ks:0:meta">([^<]*)</script>', page.text).group(1)
    layers = records.unpack_json(base64.b64decode(meta))["layers"]
    return json.dumps(layers)


@pytest.mark.tensorflow
def test_training(reload):
    """A converted model fits, drops weights, and goes on from a file."""
    make, arguments, inputs, _ = BACKBONES["GPT-2"]
    data = inputs()
    model = make(**{**arguments, "dropout": 0.5})
    new = convert(model)
    first, second = (numpy(new(data, training=True)) for _ in range(2))
    assert abs(first - second).max() > 0.01
    task = convert(models.GPT2CausalLM(backbone=model, preprocessor=None))
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    task.compile("adam", loss, run_eagerly=True)
    kernels = [v for v in task.trainable_variables if v.path.endswith("kernel")]
    before = [numpy(v) for v in kernels]
    losses = task.fit(data, tokens(seed=1), epochs=3, verbose=0, shuffle=False).history[
        "loss"
    ]
    assert losses[-1] < losses[0]
    for kernel, array in zip(kernels, before, strict=True):
        assert abs(numpy(kernel) - array).max() > 0


# KerasHub's tasks have a `compile` of their own, of which Keras warns when it loads one.
@pytest.mark.filterwarnings("ignore:.compile... was not called:UserWarning")
def test_tasks(reload):
    make, arguments, inputs, _ = BACKBONES["GPT-2"]
    task = models.GPT2CausalLM(backbone=make(**arguments), preprocessor=None)
    randomize(task)
    new = convert(task)
    assert type(new) is models.GPT2CausalLM
    assert len(attention_of(new)[0]) == 2
    data = inputs()
    expected = read(task, data)[""]
    assert_close(read(new, data)[""], expected)
    assert_close(read(reload(new), data)[""], expected)
    bert, arguments, inputs, _ = BACKBONES["BERT"]
    task = models.BertTextClassifier(bert(**arguments), num_classes=3, preprocessor=None)
    data = inputs()
    new = convert(randomize(task))
    assert_close(numpy(new(data)), numpy(task(data)))


def test_frozen_layers_stay_frozen():
    make, arguments, _, _ = BACKBONES["Llama"]
    model = make(**arguments)
    model.transformer_layers[0]._self_attention_layer.trainable = False
    model.transformer_layers[1]._self_attention_layer._key_dense.trainable = False
    new = convert(model)
    one, two = (layer._self_attention_layer.attention for layer in new.transformer_layers)
    assert not one.trainable_variables
    assert [v.path.split("/")[-2] for v in two.trainable_variables] == [
        "query",
        "value",
        "attention_output",
    ]


class OfMyOwn(hub.layers.CachedMultiHeadAttention):
    pass


def test_refusals():
    for name, reason in (("DeBERTa V3", "third and fourth term"), ("XLNet", "two streams")):
        make, arguments, _, _ = BACKBONES[name]
        with refused("can be converted only", reason, "_0/"):
            convert(make(**arguments))
    layer = made("Llama")
    layer._query_dense.quantize("int8")
    with refused("LlamaAttention", "quantized", "'query'"):
        convert(layer)
    own = OfMyOwn(2, 4)
    own.build((None, None, C), (None, None, C))
    with refused("OfMyOwn", "inherits from CachedMultiHeadAttention"):
        convert(own)
    with refused("LlamaAttention", "it is not built"):
        convert(hub_class("LlamaAttention")(**GROUPED))
    with refused("for the way back"):
        convert(made("Llama"), to="keras")
    _, new, _ = converted("Llama")
    with refused("that is not ours yet"):
        convert(new)
    with refused("with attention that is not ours yet"):
        plain = hub.layers.PositionEmbedding(T)
        plain.build((None, T, C))
        convert(plain)
    block = hub.layers.TransformerDecoder(intermediate_dim=8, num_heads=2)
    block.build((None, T, C))
    new = convert(block)
    with refused("`use_causal_mask` must be True"):
        new(random(B, T, C), use_causal_mask=False)


def test_the_page_lists_what_the_table_has():
    page = (pathlib.Path(__file__).parents[1] / "docs" / "converting.md").read_text()
    listed = re.findall(r"^\| `(\w+)` \|", page, re.MULTILINE)
    assert len(listed) == len(set(listed))
    taken, refused_ones = page.split("Refused, because")
    assert sorted(re.findall(r"^\| `(\w+)` \|", taken, re.MULTILINE)) == sorted(KINDS)
    found = re.findall(r"^\| `(\w+)` \|", refused_ones, re.MULTILINE)
    assert sorted(found) == sorted(REFUSED)


def test_every_module_with_attention_is_known():
    """24 of 28, by the modules of KerasHub's models that are named after attention."""
    taken = refused_ones = 0
    for module in list(modules())[:-1]:
        found = [
            name
            for name, cls in vars(module).items()
            if "Attention" in name
            and inspect.isclass(cls)
            and cls.__module__ == module.__name__
            and "Encoder" not in name
        ]
        if not found:
            continue
        taken += any(name in KINDS for name in found)
        refused_ones += not any(name in KINDS for name in found)
        assert any(name in KINDS or name in REFUSED for name in found), module
    assert (taken, refused_ones) == (24, 4)
