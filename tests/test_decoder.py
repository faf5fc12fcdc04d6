"""`Decoder`: models decode as they compute, or are refused."""

import itertools

import keras
import numpy as np
import pytest
from common import numpy, random
from fresh_process import run_python
from keras import layers, ops

import keras_sam
from keras_sam import samplers, scores

VOCABULARY, WIDTH, LENGTH = 13, 16, 11
PROMPTS = [[3, 1, 4], [1, 5, 9, 2, 6, 5], [2]]


def block(x, **arguments):
    attend = keras_sam.SelfAttention(2, causal=True, **arguments)
    x = x + attend(layers.LayerNormalization()(x))
    return x + layers.Dense(WIDTH, activation="gelu")(x)


def functional(mask_zero=False, positions=None):
    """One full cache and one ring."""
    tokens = keras.Input((None,), dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH, mask_zero=mask_zero)(tokens)
    if positions is not None:
        x = x + positions(x)
    x = block(x, score=[scores.Rotary(), "scaled_dot"])
    x = block(x, score=["scaled_dot", scores.ALiBi()], sliding_window=4)
    return keras.Model(tokens, layers.Dense(VOCABULARY)(layers.BatchNormalization()(x)))


def sequential():
    score = [scores.Rotary(), "scaled_dot"]
    return keras.Sequential(
        [
            keras.Input((None,), dtype="int32"),
            layers.Embedding(VOCABULARY, WIDTH),
            keras_sam.SelfAttention(2, causal=True, score=score),
            layers.LayerNormalization(),
            keras_sam.SelfAttention(2, causal=True, selective=True),
            layers.Dense(VOCABULARY),
        ]
    )


@keras.saving.register_keras_serializable(package="test_decoder")
class Subclassed(keras.Model):
    """Calls one layer twice, which has two caches."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.embed = layers.Embedding(VOCABULARY, WIDTH)
        self.attend = keras_sam.SelfAttention(2, causal=True, sliding_window=4)
        self.out = layers.Dense(VOCABULARY)

    def call(self, tokens, training=False):
        x = self.embed(tokens)
        for _ in range(2):
            x = x + self.attend(x)
        return self.out(x)


def subclassed():
    model = Subclassed()
    model(np.ones((1, 2), "int32"))
    return model


class Counting(layers.Layer):
    """Positions, as tutorials add them, and counted from the right one."""

    def build(self, shape):
        self.table = self.add_weight(shape=(LENGTH, shape[-1]), initializer="normal")

    def call(self, x, start_index=0):
        positions = ops.arange(ops.shape(x)[1], dtype="int32") + start_index
        return x + ops.take(self.table, positions, axis=0)


class NeverRight(Counting):
    def call(self, x):
        return super().call(x)


def counting():
    return functional(positions=Counting())


def of_hub(name, **arguments):
    def make():
        hub = pytest.importorskip("keras_hub")
        return functional(positions=getattr(hub.layers, name)(**arguments))

    return make


MODELS = {
    "functional": functional,
    "masked": lambda: functional(mask_zero=True),
    "sequential": sequential,
    "subclassed": subclassed,
    "counting": counting,
    "learned positions": of_hub("PositionEmbedding", sequence_length=LENGTH),
    "sines": of_hub("SinePositionEncoding"),
}


def made(name):
    """Returns a model of the table with random weights."""
    return randomized(MODELS[name]())


def randomized(model):
    for index, weight in enumerate(model.trainable_weights):
        weight.assign(random(*weight.shape, seed=index, scale=0.4))
    return model


def some_tokens(seed=0):
    shape = (3, LENGTH)
    return np.random.default_rng(seed).integers(1, VOCABULARY, shape).astype("int32")


def close(found, expected):
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-6 * np.abs(expected).max())


def in_steps(decode, tokens, chunks, cache):
    start, outputs = 0, []
    for rows in chunks:
        found, cache = decode(tokens[:, start : start + rows], cache, start)
        outputs.append(numpy(found))
        start += rows
    return np.concatenate(outputs, axis=1)


@pytest.mark.parametrize("name", MODELS)
def test_steps_equal_the_whole(name):
    model, tokens = made(name), some_tokens()
    decode, whole = keras_sam.Decoder(model), numpy(model(tokens))
    more = [(1,) * LENGTH, (LENGTH,)] if name in ("functional", "masked") else []
    for chunks in [(5, 1, 1, 4), *more]:
        close(in_steps(decode, tokens, chunks, decode.make_cache(3, LENGTH)), whole)
    close(numpy(model(tokens)), whole)  # as before


def test_a_saved_model_decodes(reload):
    model, tokens = reload(made("functional")), some_tokens()
    decode = keras_sam.Decoder(model)
    cache = decode.make_cache(3, LENGTH)
    close(in_steps(decode, tokens, (5, 6), cache), numpy(model(tokens)))
    slots = sorted(x.shape[2] for x in cache.values())
    assert slots == [4, LENGTH]
    assert all(name.startswith("self_attention") for name in cache)


@pytest.mark.parametrize("name", ["functional", "masked", "learned positions"])
def test_padded_prompts(name):
    model, tokens = made(name), some_tokens()
    decode, whole = keras_sam.Decoder(model, check=False), numpy(model(tokens))
    counts = np.array([2, 6, 4], "int32")
    mask = np.arange(6)[None] < counts[:, None]
    cache = decode.make_cache(3, LENGTH, padding=True)
    found, cache = decode(np.where(mask, tokens[:, :6], 0), cache, 0, mask=mask)
    close(numpy(found)[mask], whole[:, :6][mask])
    for _ in range(4):
        row = np.take_along_axis(tokens, counts[:, None], axis=1)
        found, cache = decode(row, cache, counts)
        close(numpy(found)[:, 0], whole[np.arange(3), counts])
        counts = counts + 1


def with_memory():
    """A decoder whose memory is an input of its own."""
    tokens = keras.Input((None,), dtype="int32", name="tokens")
    memory = keras.Input((None, 5), name="memory")
    x = block(layers.Embedding(VOCABULARY, WIDTH)(tokens))
    x = x + keras_sam.CrossAttention(2, 8)(x, memory)
    x = x + keras_sam.CrossAttention(2, 8, sliding_window=3)(x, memory)
    return keras.Model([memory, tokens], layers.Dense(VOCABULARY)(x))


def with_encoder():
    """A whole model of encoder and decoder: the encoder is not causal."""
    source = keras.Input((None,), dtype="int32", name="source")
    tokens = keras.Input((None,), dtype="int32", name="target")
    memory = layers.Embedding(VOCABULARY, WIDTH, mask_zero=True)(source)
    memory = layers.Bidirectional(layers.LSTM(4, return_sequences=True))(memory)
    memory = keras_sam.SelfAttention(2)(memory)
    x = block(layers.Embedding(VOCABULARY, WIDTH)(tokens))
    x = x + keras_sam.CrossAttention(2, 8)(x, memory)
    attend = layers.MultiHeadAttention(2, 4)
    return keras.Model([source, tokens], layers.Dense(VOCABULARY)(x + attend(x, memory)))


@pytest.mark.parametrize(
    ("make", "name", "other"),
    [
        (with_memory, "tokens", random(3, 7, 5, seed=9)),
        (with_encoder, "target", some_tokens(seed=9)[:, :7]),
    ],
)
def test_cross_attention_to_something_fixed(make, name, other):
    model, tokens = randomized(make()), some_tokens()
    with pytest.raises(ValueError, match=r"`tokens` must be the index or the name of one"):
        keras_sam.Decoder(model)
    decode = keras_sam.Decoder(model, tokens=name)
    whole, cache, outputs = numpy(model([other, tokens])), decode.make_cache(3, LENGTH), []
    for start in range(0, LENGTH, 4):
        found, cache = decode([other, tokens[:, start : start + 4]], cache, start)
        outputs.append(numpy(found))
    close(np.concatenate(outputs, axis=1), whole)
    if make is with_memory:
        call = {"sampler": samplers.Beam(1), "context": other}  # as greedy, and repeats it
        found = decode.generate(tokens[:, :3], 6, **call)
        check_greedy(lambda x: model([other, x]), found, tokens[:, :3])
    with pytest.raises(ValueError, match=r"`context` must be the other inputs"):
        decode.generate(tokens[:, :3], 6)


@pytest.mark.skipif(keras.backend.backend() == "torch", reason="is not converted there")
@pytest.mark.parametrize("name", ["GPT2", "Llama"])
def test_converted_models_of_keras_hub(name):
    hub = pytest.importorskip("keras_hub")
    sizes = {"vocabulary_size": VOCABULARY, "num_layers": 2, "hidden_dim": WIDTH}
    if name == "GPT2":
        more = {"num_heads": 2, "max_sequence_length": LENGTH}
    else:
        more = {"num_query_heads": 4, "num_key_value_heads": 2}
    backbone = getattr(hub.models, f"{name}Backbone")
    original = randomized(backbone(intermediate_dim=24, **sizes, **more))
    converted, tokens = keras_sam.convert(original), some_tokens()
    whole = original({"token_ids": tokens, "padding_mask": np.ones_like(tokens)})
    with pytest.raises(ValueError, match=r"`keras_sam.convert"):
        keras_sam.Decoder(original)
    decode = keras_sam.Decoder(converted)
    found = in_steps(decode, tokens, (4, 1, 1, 5), decode.make_cache(3, LENGTH))
    close(found, numpy(whole))


# What is refused ------------------------------------------------------------------------


def over_tokens(*between, causal=True, attention=True):
    """A model with other layers between embedding and attention."""

    def make():
        x = tokens = keras.Input((None,), dtype="int32")
        x = layers.Embedding(VOCABULARY, WIDTH)(x)
        for layer in between:
            x = layer()(x)
        if attention:
            x = keras_sam.SelfAttention(2, causal=causal)(x)
        return keras.Model(tokens, layers.Dense(VOCABULARY)(x))

    return make


class Convolved(layers.Layer):
    """Mixes positions, and nobody knows."""

    def call(self, x):
        return x + ops.flip(x, axis=1)


def attends_to_itself(kind, **arguments):
    def make():
        x = tokens = keras.Input((None,), dtype="int32")
        x = layers.Embedding(VOCABULARY, WIDTH)(x)
        x = kind(**arguments)(x, x) + keras_sam.SelfAttention(2, causal=True)(x)
        return keras.Model(tokens, x)

    return make


def mean():
    x = tokens = keras.Input((None,), dtype="int32")
    x = keras_sam.SelfAttention(2, causal=True)(layers.Embedding(VOCABULARY, WIDTH)(x))
    return keras.Model(tokens, layers.Dense(3)(layers.GlobalAveragePooling1D()(x)))


def of_one_length():
    tokens = keras.Input((4,), dtype="int32")
    x = layers.Embedding(VOCABULARY, WIDTH)(tokens)
    return keras.Model(tokens, keras_sam.SelfAttention(2, causal=True)(x))


def conv(**arguments):
    return lambda: layers.Conv1D(WIDTH, 3, padding="same", **arguments)


REFUSED = {
    "not causal": (over_tokens(causal=False), "it needs `causal=True`"),
    "no attention": (over_tokens(attention=False), "at least one causal"),
    "LSTM": (over_tokens(lambda: layers.LSTM(WIDTH, return_sequences=True)), "LSTM"),
    "Conv1D": (over_tokens(conv()), "it mixes positions"),
    "pooling": (mean, "GlobalAveragePooling1D"),
    "norm": (over_tokens(lambda: layers.GroupNormalization(4)), "GroupNormalization"),
    "gate": (over_tokens(lambda: keras_sam.ChannelAttention()), "ChannelAttention"),
    "positions": (over_tokens(NeverRight), "must take `start_index` in its call"),
    "flipped": (over_tokens(Convolved), "outputs in steps that differ by"),
    "of Keras": (
        attends_to_itself(layers.MultiHeadAttention, num_heads=2, key_dim=4),
        r"`keras_sam\.convert`.*MultiHeadAttention",
    ),
    "cross": (
        attends_to_itself(keras_sam.CrossAttention, num_heads=2),
        "use `keras_sam.SelfAttention`",
    ),
    "length": (of_one_length, "must take sequences of any length"),
    "no model": (lambda: layers.Dense(2), "`model` must be a built keras.Model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_models_that_are_refused(name):
    make, message = REFUSED[name]
    model = make()
    with pytest.raises(ValueError, match=message):
        keras_sam.Decoder(model)


def test_a_plain_convolution_is_fine():
    model = over_tokens(lambda: layers.Conv1D(WIDTH, 1))()
    keras_sam.Decoder(model)


def test_bad_calls():
    decode, tokens = keras_sam.Decoder(made("functional"), check=False), some_tokens()
    cache = decode.make_cache(3, LENGTH)
    with pytest.raises(ValueError, match=r"must leave room for 2 more positions"):
        decode(tokens[:, :2], cache, LENGTH - 1)
    beyond = ops.convert_to_tensor(LENGTH, dtype="int32")
    if keras.backend.backend() != "torch":  # which raises an `IndexError`
        found, _ = decode(tokens[:, :1], cache, beyond)
        assert np.isnan(numpy(found)).all()
    with pytest.raises(ValueError, match=r"`cache` must be what `make_cache` of the same"):
        decode(tokens[:, :1], {}, 0)
    with pytest.raises(ValueError, match=r"`cache` must be a dictionary"):
        decode(tokens[:, :1], None, 0)
    with pytest.raises(ValueError, match=r"`padding=True`"):
        decode(tokens[:, :2], cache, 0, mask=np.ones((3, 2), bool))
    with pytest.raises(ValueError, match=r"`inputs` must be 1 tensors"):
        decode([tokens, tokens], cache, 0)
    decode = keras_sam.Decoder(made("counting"), check=False)
    with pytest.raises(ValueError, match=r"`index` must be one number for all examples"):
        decode(tokens[:, :1], decode.make_cache(3, LENGTH), np.zeros(3, "int32"))


def test_more_positions_than_a_table_has_are_refused():
    decode = keras_sam.Decoder(made("learned positions"))
    with pytest.raises(ValueError, match=r"`length` must be at most 11"):
        decode.make_cache(1, LENGTH + 1)


# Generation -----------------------------------------------------------------------------


def check_greedy(call, found, prompts):
    """Checks that each token is the most likely one after those before it, as a whole."""
    likely = numpy(call(found)).argmax(-1)
    for row, next_ones, prompt in zip(found, likely, prompts, strict=True):
        count = len(prompt)
        np.testing.assert_array_equal(row[:count], prompt)
        np.testing.assert_array_equal(row[count:], next_ones[count - 1 : -1])


@pytest.mark.parametrize(
    ("name", "jit_compile"),
    [
        ("functional", False),
        ("functional", True),
        ("masked", False),
    ],
)
def test_generate(name, jit_compile):
    if jit_compile and keras.backend.backend() == "torch":
        pytest.skip("PyTorch is not compiled")
    model = made(name)
    decode = keras_sam.Decoder(model)
    found = decode.generate(PROMPTS, LENGTH, jit_compile=jit_compile)
    check_greedy(model, found, PROMPTS)
    if name == "functional" and not jit_compile:
        one = decode.generate(PROMPTS[1], LENGTH)
        np.testing.assert_array_equal(one, found[1])
        equal = np.array([PROMPTS[0], PROMPTS[1][:3]])
        np.testing.assert_array_equal(decode.generate(equal, LENGTH)[0], found[0])


def test_generation_ends_at_a_stop_token():
    model = made("functional")
    decode = keras_sam.Decoder(model)
    whole = decode.generate(PROMPTS, LENGTH)
    stop = int(whole[0, len(PROMPTS[0]) + 1])
    found = decode.generate(PROMPTS, LENGTH, stop_token_ids=[stop], pad_token_id=0)
    for row, expected, prompt in zip(found, whole, PROMPTS, strict=True):
        ends = np.flatnonzero(expected[len(prompt) :] == stop)
        end = len(prompt) + ends[0] + 1 if len(ends) else LENGTH
        np.testing.assert_array_equal(row[:end], expected[:end])
        assert not row[end:].any()
    assert (found != whole).any()


@pytest.mark.tensorflow
def test_a_program_serves_prompts_of_all_lengths():
    decode = keras_sam.Decoder(made("functional"), check=False)
    for count in (2, 3, 4):
        decode.generate(some_tokens()[:, :count], LENGTH, seed=count)
    for program, _ in decode._generation._programs.values():
        assert program.experimental_get_tracing_count() <= 2


def test_a_seed_gives_the_same_tokens():
    decode = keras_sam.Decoder(made("functional"), check=False)
    one, same, other = (
        decode.generate(PROMPTS, LENGTH, sampler="random", seed=seed) for seed in (1, 1, 2)
    )
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()
    for row, prompt in zip(one, PROMPTS, strict=True):
        assert row[: len(prompt)].tolist() == prompt


def drawn(sampler, logits, count=2000):
    """Returns how often each token is drawn."""
    logits = ops.repeat(ops.convert_to_tensor(logits)[None], count, axis=0)
    seed = samplers._Fixed(ops.convert_to_tensor(7), ops.convert_to_tensor(3))
    tokens = ops.convert_to_numpy(sampler.choose(logits, seed))
    return np.bincount(tokens, minlength=logits.shape[1]) / count


def test_samplers_draw_by_the_probabilities():
    logits = np.array([2.0, 0.0, 1.0, -1.0, 1.5], "float32")

    def softmax(x):
        return np.exp(x - x.max()) / np.exp(x - x.max()).sum()

    assert drawn(samplers.Greedy(), logits)[0] == 1
    for temperature in (0.5, 1.0, 2.0):
        expected = softmax(logits / temperature)
        found = drawn(samplers.Random(temperature), logits)
        np.testing.assert_allclose(found, expected, atol=0.05)
    kept = np.where(logits >= 1, logits, -np.inf)
    np.testing.assert_allclose(drawn(samplers.TopK(k=3), logits), softmax(kept), atol=0.05)
    # Shares 0.45, 0.27, 0.17, ...: two tokens have more than a half.
    kept = np.where(logits >= 1.5, logits, -np.inf)
    np.testing.assert_allclose(
        drawn(samplers.TopP(p=0.5), logits), softmax(kept), atol=0.05
    )
    assert drawn(samplers.TopP(p=0.1), logits)[0] == 1
    np.testing.assert_allclose(
        drawn(samplers.TopP(p=1.0), logits), softmax(logits), atol=0.05
    )


def all_continuations(model, prompt, length, stop=None):
    """Returns the most likely of all continuations up to a length."""
    free = itertools.product(range(VOCABULARY), repeat=length - len(prompt))
    tokens = np.array([[*prompt, *added] for added in free])
    logits = numpy(ops.log_softmax(model(tokens), axis=-1))
    chances = np.zeros(len(tokens))
    for row, sequence in enumerate(tokens):
        for at in range(len(prompt), length):
            chances[row] += logits[row, at - 1, sequence[at]]
            if sequence[at] == stop:
                break
    return tokens[chances.argmax()]


def test_beam_search_finds_the_most_likely_sequence():
    model = made("functional")
    decode = keras_sam.Decoder(model, check=False)
    prompts = [[3, 1, 4], [5, 9]]
    found = decode.generate(prompts, 5, sampler=samplers.Beam(VOCABULARY))
    np.testing.assert_array_equal(found[0], all_continuations(model, prompts[0], 5))
    stop = int(found[0, 3])
    stopped = decode.generate(
        prompts[:1], 5, sampler=samplers.Beam(VOCABULARY), stop_token_ids=[stop]
    )
    best = all_continuations(model, prompts[0], 5, stop)
    end = 3 + list(best[3:]).index(stop) + 1 if stop in best[3:] else 5
    np.testing.assert_array_equal(stopped[0][:end], best[:end])


def test_samplers_of_keras_hub():
    hub = pytest.importorskip("keras_hub").samplers
    decode = keras_sam.Decoder(made("functional"), check=False)
    equal = [prompt[:1] for prompt in PROMPTS]
    pairs = [
        ("greedy", hub.TopKSampler(k=1)),
        (samplers.Beam(3), hub.BeamSampler(num_beams=3)),
    ]
    for ours, theirs in pairs:
        np.testing.assert_array_equal(
            decode.generate(equal, LENGTH, sampler=theirs),
            decode.generate(equal, LENGTH, sampler=ours),
        )
    found = decode.generate(PROMPTS, LENGTH, sampler=hub.RandomSampler(seed=1))
    for row, prompt in zip(found, PROMPTS, strict=True):
        assert row[: len(prompt)].tolist() == prompt


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sampler": "best"}, "`sampler` must be one of 'greedy'"),
        ({"prompt": [[1] * 12]}, "`prompt` must be integers"),
        ({"prompt": []}, "`prompt` must be integers"),
        ({"prompt": [[]]}, "`prompt` must be integers"),
        ({"prompt": [[0.5]]}, "`prompt` must be integers"),
        ({"max_length": 0}, "`max_length` must be a positive integer"),
        ({"seed": 0.5}, "`seed` must be an integer"),
    ],
)
def test_bad_arguments_of_generate(arguments, message):
    decode = keras_sam.Decoder(made("sequential"), check=False)
    with pytest.raises(ValueError, match=message):
        decode.generate(**{"prompt": PROMPTS, "max_length": LENGTH, **arguments})


def test_bad_samplers():
    for make in (
        lambda: samplers.Random(0),
        lambda: samplers.TopK(k=0),
        lambda: samplers.TopP(p=0),
        lambda: samplers.TopP(p=1.5),
        lambda: samplers.Beam(0),
    ):
        with pytest.raises(ValueError, match="must be"):
            make()


def test_a_loop_of_ones_own():
    """The one of the design: all of it in `ops.while_loop`."""
    model = made("functional")
    decode = keras_sam.Decoder(model)
    prompt = np.array([PROMPTS[0]], "int32")

    def generate(prompt):
        count = prompt.shape[1]
        tokens = ops.pad(prompt, ((0, 0), (0, LENGTH - count)))
        logits, cache = decode(prompt, decode.make_cache(1, LENGTH), 0)

        def step(tokens, logits, cache, index):
            token = ops.cast(ops.argmax(logits[:, -1:], axis=-1), "int32")
            tokens = ops.slice_update(tokens, (0, index), token)
            return tokens, *decode(token, cache, index), index + 1

        start = tokens, logits[:, -1:], cache, ops.convert_to_tensor(count)
        return ops.while_loop(lambda t, x, c, i: i < LENGTH, step, start)[0]

    if keras.backend.backend() == "tensorflow":
        import tensorflow as tf

        generate = tf.function(generate, autograph=False)
    found = ops.convert_to_numpy(generate(ops.convert_to_tensor(prompt)))
    check_greedy(model, found, PROMPTS[:1])


def test_recording_what_a_token_attends_to_while_it_is_written():
    model, tokens = made("functional"), some_tokens()
    decode = keras_sam.Decoder(model)
    with keras_sam.record_attention() as maps:
        model(tokens)
    whole = numpy(next(iter(maps.values())))
    _, cache = decode(tokens[:, :5], decode.make_cache(3, LENGTH), 0)
    with keras_sam.record_attention() as maps:
        decode(tokens[:, 5:6], cache, 5)
    assert len(maps) == 2
    found = numpy(next(iter(maps.values())))
    np.testing.assert_allclose(found[:, :, 0, :6], whole[:, :, 5, :6], atol=1e-5)
    np.testing.assert_array_equal(found[:, :, 0, 6:], 0)


# Export ---------------------------------------------------------------------------------

SERVED = """
import sys
import numpy as np
import tensorflow as tf
served = tf.saved_model.load("served")
tokens = np.load("tokens.npy")
found = dict(served.start(tokens[:, :4]))
outputs = [found.pop("logits").numpy()]
for index in range(4, tokens.shape[1]):
    found = dict(served.decode(tokens[:, index : index + 1], found, tf.constant(index)))
    outputs.append(found.pop("logits").numpy())
assert "keras_sam" not in sys.modules
assert set(served.signatures) == {"start", "decode", "serving_default"}
np.save("found.npy", np.concatenate(outputs, axis=1))
"""


@pytest.mark.tensorflow
def test_a_saved_model_decodes_in_a_fresh_process(tmp_path):
    model, tokens = made("masked"), some_tokens()
    decode = keras_sam.Decoder(model, check=False)
    decode.export_saved_model(tmp_path / "served", length=LENGTH, verbose=False)
    np.save(tmp_path / "tokens.npy", tokens)
    run_python("-c", SERVED, cwd=tmp_path)
    close(np.load(tmp_path / "found.npy"), numpy(model(tokens)))


@pytest.mark.skipif(keras.backend.backend() == "tensorflow", reason="it can there")
def test_export_needs_tensorflow(tmp_path):
    decode = keras_sam.Decoder(made("functional"), check=False)
    with pytest.raises(ValueError, match="needs the TensorFlow backend"):
        decode.export_saved_model(tmp_path / "served", length=LENGTH)
