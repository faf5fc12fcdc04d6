"""Models with Keras's attention become models with ours, and back: equal, and saved."""

import keras
import numpy as np
import pytest
from common import BACKEND, assert_rounded_alike, numpy, random, randomize, refused
from keras.layers import AdditiveAttention, Attention, MultiHeadAttention
from keras.layers import GroupQueryAttention as GroupedQueryAttention

import keras_sam
from keras_sam import CrossAttention, SelfAttention, UnprojectedAttention, convert, scores

B, T, S, C = 2, 5, 7, 6
MULTI = {"num_heads": 3, "key_dim": 4}
GROUPED = {"num_query_heads": 4, "num_key_value_heads": 2, "head_dim": 4}
KERAS = {
    "kernel_initializer": "he_normal",
    "bias_initializer": keras.initializers.RandomNormal(seed=3),
    "kernel_regularizer": keras.regularizers.L2(0.01),
    "bias_regularizer": keras.regularizers.L1(0.01),
    "activity_regularizer": keras.regularizers.L2(0.02),
    "kernel_constraint": keras.constraints.MaxNorm(2.0),
    "bias_constraint": keras.constraints.MaxNorm(3.0),
}
VALUE_DIM = {} if BACKEND == "jax" else {"value_dim": 5}  # Keras's own fails on JAX
MASK = np.tril(np.ones((T, S), bool))
PADDING = np.arange(S) < np.array([[4], [S]])
ROW_PADDING = np.arange(T) < np.array([[T], [2]])

# How to make a layer of Keras, and the arguments of its call beside the tensors.
LAYERS = {
    "multi": (lambda: MultiHeadAttention(**MULTI), {}),
    "multi, every argument": (
        lambda: MultiHeadAttention(
            **MULTI, **VALUE_DIM, output_shape=(3, 2), use_gate=True, seed=3, **KERAS
        ),
        {},
    ),
    "multi, no bias": (lambda: MultiHeadAttention(**MULTI, use_bias=False), {}),
    "multi, causal": (lambda: MultiHeadAttention(**MULTI), {"use_causal_mask": True}),
    "multi, window": (lambda: MultiHeadAttention(**MULTI, sliding_window=2), {}),
    "multi, pairs": (lambda: MultiHeadAttention(**MULTI), {"attention_mask": MASK}),
    "multi, padding": (lambda: MultiHeadAttention(**MULTI), {"value_mask": PADDING}),
    "grouped": (lambda: GroupedQueryAttention(**GROUPED), {}),
    "grouped, every argument": (
        lambda: GroupedQueryAttention(
            **GROUPED,
            use_gate=True,
            sliding_window=3,
            seed=3,
            # Keras penalizes the activity of the layer itself as well, here only.
            **{**KERAS, "activity_regularizer": None},
        ),
        {"use_causal_mask": True},
    ),
    "attention": (lambda: Attention(), {}),
    "attention, scale": (lambda: Attention(use_scale=True, seed=3), {}),
    "attention, concat": (lambda: Attention(score_mode="concat"), {}),
    "attention, concat, scale": (
        lambda: Attention(score_mode="concat", use_scale=True),
        {"use_causal_mask": True},
    ),
    "attention, padding": (lambda: Attention(), {"mask": [None, PADDING]}),
    "additive": (lambda: AdditiveAttention(), {}),
    "additive, no scale": (
        lambda: AdditiveAttention(use_scale=False),
        {"use_causal_mask": True},
    ),
}
every_layer = pytest.mark.parametrize("name", LAYERS)
DTYPES = ("float32", "mixed_float16")


def call(layer, tensors, options):
    listed = isinstance(layer, Attention)
    return layer(list(tensors), **options) if listed else layer(*tensors, **options)


def inputs(key=False):
    tensors = [random(B, T, C), random(B, S, C, seed=1)]
    return [*tensors, random(B, S, C, seed=2)] if key else tensors


def model_of(layer, options, key=False):
    symbols = [keras.Input((None, C)) for _ in inputs(key)]
    outputs = call(layer, symbols, {**options, "return_attention_scores": True})
    return keras.Model(symbols, list(outputs))


def assert_alike(model, other, arrays):
    found, expected = other(arrays), model(arrays)
    assert keras.tree.assert_same_structure(found, expected) is None
    for one, two in zip(
        keras.tree.flatten(found), keras.tree.flatten(expected), strict=True
    ):
        assert one.shape == two.shape
        assert_rounded_alike(numpy(one), numpy(two))


@pytest.mark.parametrize("key", [False, True], ids=["value", "key and value"])
@every_layer
def test_models_of_one_layer(name, key, reload):
    """There and back again, saved and loaded in between."""
    make, options = LAYERS[name]
    model = randomize(model_of(make(), options, key))
    arrays = inputs(key)
    ours = convert(model)
    layer, old = ours.layers[-1], model.layers[-1]
    expected = UnprojectedAttention if isinstance(old, Attention) else CrossAttention
    assert type(layer) is expected
    assert layer.causal == ("use_causal_mask" in options)
    assert (layer.name, layer.dropout, layer.seed) == (old.name, 0, old.seed)
    assert len(layer.weights) == len(old.weights)
    assert_alike(model, ours, arrays)
    assert_alike(model, reload(ours), arrays)
    np.testing.assert_allclose(
        *(sorted(float(numpy(x)) for x in each.losses) for each in (ours, model)), rtol=1e-5
    )
    back = convert(ours, to="keras")
    assert type(back.layers[-1]) is type(old)
    configs = [without_axes(each.layers[-1].get_config()) for each in (back, model)]
    assert configs[0] == configs[1]
    assert_alike(model, back, arrays)
    assert_alike(model, reload(back), arrays)


def without_axes(config):
    """Keras fills in the axes when it builds."""
    return {name: value for name, value in config.items() if name != "attention_axes"}


@pytest.mark.parametrize("dtype", DTYPES)
@every_layer
def test_layers_alone(name, dtype):
    make, options = LAYERS[name]
    causal = options.get("use_causal_mask", False)
    old = make()
    old = type(old).from_config({**old.get_config(), "dtype": dtype})
    unbuilt = convert(old)
    assert not unbuilt.built
    arrays = inputs()
    call(old, arrays, options)
    randomize(old)
    new = convert(old)
    assert new.dtype_policy.name == dtype
    renamed = dict(options)
    masks = zip(("query_mask", "value_mask"), renamed.pop("mask", ()), strict=False)
    found = new(*arrays, **renamed, **dict(masks))
    expected = numpy(call(old, arrays, options))
    if dtype == "float32":
        assert_rounded_alike(numpy(found), expected)
        back = convert(new, to="keras")
        assert_rounded_alike(numpy(call(back, arrays, options)), expected)
    else:
        scale = np.abs(expected.astype("float32")).max()
        np.testing.assert_allclose(numpy(found), expected, rtol=0, atol=0.005 * scale)
    assert not causal or not new.causal  # of a layer alone, the call says so


def test_rows_of_padding(reload):
    """Keras's Attention makes them zero, and so does its counterpart."""
    symbols = [keras.Input((n,), dtype="int32") for n in (T, S)]
    embed = keras.layers.Embedding(11, C, mask_zero=True)
    outputs = Attention(use_scale=True)([embed(symbol) for symbol in symbols])
    model = randomize(keras.Model(symbols, outputs))
    arrays = [mask.astype("int32") for mask in (ROW_PADDING, PADDING)]
    ours = convert(model)
    for other in (ours, reload(ours), convert(ours, to="keras")):
        assert_alike(model, other, arrays)
    explicit = model_of(Attention(), {"mask": [ROW_PADDING, PADDING]})
    explicit = keras.Model(explicit.inputs, explicit.outputs[0])
    assert_alike(explicit, convert(explicit), inputs())


SELF = {
    "positional": lambda layer, x: layer(x, x),
    "key": lambda layer, x: layer(x, x, x),
    "named": lambda layer, x: layer(query=x, value=x, key=x),
    "causal": lambda layer, x: layer(x, x, use_causal_mask=True),
    "pairs": lambda layer, x: layer(x, x, attention_mask=np.tril(np.ones((T, T)))),
    "training": lambda layer, x: layer(x, x, training=False, use_causal_mask=False),
}
KINDS = {
    "multi": lambda: MultiHeadAttention(**MULTI),
    "grouped": lambda: GroupedQueryAttention(**GROUPED),
}


# Keras's GroupQueryAttention hands masks to projections that do not know them.
@pytest.mark.filterwarnings("ignore:.*was passed an input with a mask:UserWarning")
@pytest.mark.filterwarnings("ignore:Exception encountered when calling:UserWarning")
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", SELF)
def test_self_attention(name, kind, reload):
    symbol = keras.Input((T,), dtype="int32")
    embedded = keras.layers.Embedding(11, C, mask_zero=name == "positional")(symbol)
    attended = SELF[name](KINDS[kind](), embedded)
    model = randomize(keras.Model(symbol, attended))
    tokens = np.random.default_rng(0).integers(1, 11, (B, T))
    ours = convert(model)
    layer = ours.layers[-1]
    assert type(layer) is SelfAttention
    assert layer.causal == (name == "causal")
    for other in (ours, reload(ours), convert(ours, to="keras")):
        assert_alike(model, other, tokens)
    if name == "positional":
        tokens[1, 3:] = 0  # Keras promises nothing for the rows of padding
        for other in (ours, convert(ours, to="keras")):
            found, expected = numpy(other(tokens)), numpy(model(tokens))
            assert_rounded_alike(found[tokens > 0], expected[tokens > 0])


def test_a_layer_of_several_calls():
    """Shared layers stay shared; a call with another value makes it CrossAttention."""
    one, other = keras.Input((None, C)), keras.Input((None, C))
    for second, kind in ((lambda x, y: y, SelfAttention), (lambda x, y: x, CrossAttention)):
        layer = MultiHeadAttention(**MULTI)
        first = layer(one, one, use_causal_mask=True)
        outputs = [first, layer(other, second(one, other))]
        model = randomize(keras.Model([one, other], outputs))
        ours = convert(model)
        (found,) = (each for each in ours.layers if isinstance(each, kind))
        assert not found.causal  # not in every call
        assert len(ours.weights) == len(model.weights)
        assert_alike(model, ours, inputs())
        assert_alike(model, convert(ours, to="keras"), inputs())


@keras.saving.register_keras_serializable(package="test_convert")
class Doubled(keras.layers.Layer):
    """A layer of one's own, beside those that are converted."""

    def __init__(self, factor=2.0, **kwargs):
        super().__init__(**kwargs)
        self.factor = factor
        self.inner = keras.layers.Dense(C, name="inner")

    def build(self, input_shape):
        self.inner.build(input_shape)

    def call(self, inputs):
        return self.factor * self.inner(inputs)

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def block(name, attention):
    x = keras.Input((None, C))
    y = attention(x)
    y = keras.layers.LayerNormalization()(x + y)
    z = keras.layers.Dense(C, activation="gelu")(y)
    return keras.Model(x, keras.layers.Add()([y, z]), name=name)


def of_self(x):
    return MultiHeadAttention(**MULTI)(x, x)


def of_additive(x):
    return AdditiveAttention()([x, x])


def functional():
    x = keras.Input((T, C), name="features")
    normalization = keras.layers.Normalization()
    normalization.adapt(random(16, T, C, scale=3) + 2)
    y = Doubled()(normalization(x))
    y = keras.layers.BatchNormalization()(y)
    y = block("first", of_self)(y)
    y = block("second", of_additive)(y)
    y = keras.layers.Dropout(0.5)(keras.ops.relu(y) + 1.0)
    return keras.Model({"features": x}, {"output": y, "sum": keras.ops.sum(y, axis=1)})


def sequential():
    inner = keras.Sequential([keras.Input((None, C)), block("inner", of_self)])
    return keras.Sequential(
        [
            keras.Input((T, C)),
            keras.layers.Dense(C),
            inner,
            keras.layers.Lambda(lambda x: 2 * x),
            block("outer", of_self),
        ],
        name="stack",
    )


def shared_block():
    x = keras.Input((None, C))
    same = block("same", of_self)
    stack = keras.Sequential([keras.Input((None, C)), same, keras.layers.Dense(C)])
    return keras.Model(x, same(stack(x)))


MODELS = {
    "functional": (functional, {"features": random(B, T, C)}),
    "sequential": (sequential, random(B, T, C)),
    "shared": (shared_block, random(B, T, C)),
}


@pytest.mark.parametrize("name", MODELS)
def test_whole_models(name, reload):
    make, arrays = MODELS[name]
    model = randomize(make())
    model.compile("adam", "mse")
    ours = convert(model)
    assert type(ours) is type(model)
    assert ours.name == model.name
    assert not ours.compiled
    assert not any(type(layer).__module__.startswith("keras.src.layers.attention")
                   for layer in ours._flatten_layers())  # fmt: skip
    for old, new in zip(model.weights, ours.weights, strict=True):
        score = "/tanh_sum" in new.path  # Keras has the weight in the layer
        assert new.path == old.path or (score and old.path.endswith("/scale"))
    back = convert(ours, to="keras")
    for other in (ours, back):
        assert_alike(model, other, arrays)
    if name == "functional":  # Keras loads no lambda, and no model that is in two others
        assert_alike(model, reload(ours), arrays)
    for weight, other in zip(model.weights, ours.weights, strict=True):
        before = numpy(weight).copy()
        other.assign(numpy(other) + 1)  # each has weights of its own
        np.testing.assert_array_equal(numpy(weight), before)


def test_a_sequential_model_becomes_functional_on_the_way_back(reload):
    model = keras.Sequential(
        [keras.Input((None, C)), SelfAttention(3, causal=True), keras.layers.Dense(2)]
    )
    randomize(model)
    theirs = convert(model, to="keras")
    assert isinstance(theirs.layers[1], MultiHeadAttention)
    assert_alike(model, theirs, random(B, T, C))
    assert_alike(model, reload(theirs), random(B, T, C))
    again = convert(theirs)
    assert again.layers[1].causal
    assert_alike(model, again, random(B, T, C))


def test_what_is_frozen_stays_frozen():
    x = keras.Input((T, C))
    attention, dense = MultiHeadAttention(**MULTI), keras.layers.Dense(C)
    model = keras.Model(x, dense(attention(x, x)))
    cases = {
        "a layer": lambda: setattr(attention, "trainable", False),
        "a projection": lambda: setattr(attention._query_dense, "trainable", False),
        "a model": lambda: setattr(model, "trainable", False),
        "nothing": lambda: None,
    }
    for freeze in cases.values():
        model.trainable = True
        freeze()
        ours = convert(model)
        back = convert(ours, to="keras")
        expected = [weight.path for weight in model.trainable_weights]
        assert [weight.path for weight in ours.trainable_weights] == expected
        assert [weight.path for weight in back.trainable_weights] == expected


def test_trained_alike():
    """Converted models learn what the original learns."""
    model = randomize(functional())
    ours = convert(model)
    x = {"features": random(16, T, C)}
    y = {"output": random(16, T, C, seed=1), "sum": random(16, C, seed=2)}
    losses = []
    for each in (model, ours):
        for layer in each._flatten_layers():
            if isinstance(layer, keras.layers.Dropout):
                layer.rate = 0.0
        each.compile(keras.optimizers.SGD(0.001), "mse")
        history = each.fit(x, y, batch_size=8, epochs=3, shuffle=False, verbose=0)
        losses.append(history.history["loss"])
    np.testing.assert_allclose(*losses, rtol=1e-5)


def test_images(reload):
    shape = (3, 4, C)
    for axes in (None, 2, (1, 2)):
        x = keras.Input(shape)
        attend = MultiHeadAttention(**MULTI, attention_axes=axes)
        model = randomize(keras.Model(x, attend(x, x)))
        ours = convert(model)
        assert ours.layers[-1].attention_axes == ((2,) if axes == 2 else None)
        for other in (ours, reload(ours), convert(ours, to="keras")):
            assert_alike(model, other, random(B, *shape))
        attend = MultiHeadAttention(**MULTI, attention_axes=axes)
        several = keras.Model(x, attend(x, x, return_attention_scores=True))
        if axes != 2:
            with refused("`return_attention_scores` must be False where positions have"):
                convert(several)


# Errors -------------------------------------------------------------------------------


@keras.saving.register_keras_serializable(package="test_convert")
class Block(keras.layers.Layer):
    def __init__(self, attention=MultiHeadAttention, **kwargs):
        super().__init__(**kwargs)
        self.attend = attention(**MULTI)

    def call(self, inputs):
        return self.attend(inputs, inputs)


class Own(MultiHeadAttention):
    pass


class OwnModel(keras.Model):
    def __init__(self):
        super().__init__()
        self.attend = MultiHeadAttention(**MULTI)

    def call(self, inputs):
        return self.attend(inputs, inputs)


def built(layer, count=1):
    layer(*[random(B, T, C)] * count)
    return layer


def quantized():
    layer = built(MultiHeadAttention(**MULTI), 2)
    layer._query_dense.quantize("int8")
    return layer


def lora():
    layer = built(MultiHeadAttention(**MULTI), 2)
    layer._query_dense.enable_lora(2)
    return layer


def model_with(attend):
    x = keras.Input((T, C))
    return keras.Model(x, attend(x))


OURS_ONLY = [
    ("score", SelfAttention(3, 2, score="additive")),
    ("score", SelfAttention(3, 2, score=scores.ScaledDot(0.3))),
    ("score", CrossAttention(3, 2, score="dot")),
    ("normalizer", CrossAttention(3, 2, normalizer="sparsemax")),
    ("normalizer", SelfAttention(3, normalizer=keras_sam.normalizers.Softmax(0.5))),
    ("causal", SelfAttention(3, 2, causal=True)),
    ("key_dim", SelfAttention(3)),
    ("value_dim", SelfAttention(4, 2, value_dim=3, num_key_value_heads=2)),
    ("output_shape", SelfAttention(4, 2, output_shape=3, num_key_value_heads=2)),
    ("attention_axes", SelfAttention(4, 2, attention_axes=1, num_key_value_heads=2)),
    ("score", UnprojectedAttention("scaled_dot")),
    ("score", UnprojectedAttention(scores.TanhSum(learn_scale=True))),
    ("sliding_window", UnprojectedAttention(sliding_window=3)),
]


@pytest.mark.parametrize(("name", "layer"), OURS_ONLY, ids=lambda value: str(value)[:9])
def test_what_keras_has_not(name, layer):
    with refused(f"`{name}` must be ", "for a layer of Keras", f"Received: {name}="):
        convert(layer, to="keras")


def test_selective_masking_is_not_in_keras():
    model = model_with(SelfAttention(3, 2, causal=True, selective=True))
    with refused("`selective` must be False", "Received: selective=True"):
        convert(model, to="keras")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: keras.layers.Dense(2), "`target` must be a functional or Sequential"),
        (lambda: "model", "`target` must be a functional or Sequential"),
        (lambda: SelfAttention(3), "exactly one of MultiHeadAttention, Grouped"),
        (lambda: Own(**MULTI), "exactly one of MultiHeadAttention"),
        (OwnModel, "`target` must be a functional or Sequential"),
        (lambda: keras.Sequential([keras.layers.Dense(2)]), "with an attention layer"),
        (lambda: model_with(lambda x: Own(**MULTI)(x, x)), "exactly one of"),
        (lambda: model_with(Block()), "make the layer of keras_sam where that class is"),
        (lambda: keras.Sequential([keras.Input((T, C)), Block()]), "'block"),
        (quantized, "neither quantized nor have LoRA weights"),
        (lora, "neither quantized nor have LoRA weights"),
    ],
)
def test_what_cannot_be_converted(make, message):
    with refused(message, "Received: "):
        convert(make())


def test_wrong_directions():
    with refused("`to` must be one of 'keras_sam', 'keras'. Received: to='torch'"):
        convert(MultiHeadAttention(**MULTI), to="torch")
    with refused("exactly one of SelfAttention, CrossAttention, Unproj"):
        convert(MultiHeadAttention(**MULTI), to="keras")


CALLS = {
    "attention_bias": lambda x: SelfAttention(3)(x, attention_bias=np.ones((T, T))),
    "attention_mask": lambda x: UnprojectedAttention()(
        x, x, attention_mask=np.ones((T, T), bool)
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_calls_that_keras_does_not_take(name):
    with refused(f"`{name}`", "Received: "):
        convert(model_with(CALLS[name]), to="keras")
