"""Recording layers that know nothing of keras_sam."""

import functools

import keras
import numpy as np
import oracles
import pytest
from common import BACKEND, numpy, random
from keras import layers, ops
from keras.src import backend
from threads import recorded_in_threads

from keras_sam import AttentionDetails, SelfAttention, export_saved_model, record_attention
from keras_sam.foreign.maps import read_dot_products, read_softmax

B, T, S, C, H = 2, 5, 7, 6, 4
POLICIES = ("float32", "mixed_bfloat16", "mixed_float16")
PATCHED = (
    (layers.Layer, "__call__"),
    (backend.nn, "softmax"),
    (backend.nn, "dot_product_attention"),
)
ORIGINALS = [getattr(owner, name) for owner, name in PATCHED]


def replaced():
    current = [getattr(owner, name) for owner, name in PATCHED]
    return [now is not before for now, before in zip(current, ORIGINALS, strict=True)]


@pytest.fixture(autouse=True)
def nothing_stays_replaced():
    assert not any(replaced())
    yield
    assert not any(replaced())


def record(layer, *args, **kwargs):
    """Returns the outputs of a call, and the one map of it with its details and mask."""
    with record_attention() as maps:
        outputs = layer(*args, **kwargs)
    (path,) = maps
    assert path == layer.path
    return outputs, maps[path], maps.details[path], maps.allowed[path]


def same(one, other):
    np.testing.assert_array_equal(numpy(one), numpy(other))


# Keras's layers

MHA, GQA = layers.MultiHeadAttention, layers.GroupQueryAttention
KERAS = {
    "multi-head": lambda **k: MHA(H, 3, **k),
    "flash off": lambda **k: MHA(H, 3, flash_attention=False, **k),
    "gated": lambda **k: MHA(H, 3, use_gate=True, **k),
    "grouped": lambda **k: GQA(3, H, 2, **k),
    "window": lambda **k: GQA(3, H, 2, sliding_window=2, **k),
    "dot": lambda **k: layers.Attention(use_scale=True, **k),
    "concat": lambda **k: layers.Attention(score_mode="concat", **k),
    "additive": lambda **k: layers.AdditiveAttention(**k),
}
UNPROJECTED = ("dot", "concat", "additive")


def inputs_of(name, length):
    """The call arguments of self-attention, or of cross-attention to `length` keys."""
    query = random(B, T, C)
    pair = [query, query if length == T else random(B, length, C, seed=1)]
    return [pair] if name in UNPROJECTED else pair


@pytest.mark.parametrize("length", [T, S], ids=["self", "cross"])
@pytest.mark.parametrize("name", KERAS)
def test_layers_of_keras(name, length):
    causal = (tuple(KERAS).index(name) + (length == T)) % 2 == 0  # by turns
    layer, args = KERAS[name](), inputs_of(name, length)
    kwargs = {"use_causal_mask": causal}
    _, expected = layer(*args, **kwargs, return_attention_scores=True)
    outputs, weights, details, allowed = record(layer, *args, **kwargs)
    same(outputs, layer(*args, **kwargs))
    heads = 1 if name in UNPROJECTED else H
    assert tuple(weights.shape) == tuple(allowed.shape) == (B, heads, T, length)
    expected = numpy(expected).reshape(weights.shape)
    np.testing.assert_allclose(numpy(weights), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(numpy(weights).sum(axis=-1), 1, rtol=1e-5)
    assert details == AttentionDetails("self" if length == T else "cross")
    pairs = np.subtract.outer(np.arange(T), np.arange(length))
    pairs = (pairs >= 0 if causal else pairs < np.inf) & (
        (abs(pairs) < 2) if name == "window" else True
    )
    np.testing.assert_array_equal(numpy(allowed), np.broadcast_to(pairs, allowed.shape))
    # Asking for the weights gives them twice.
    (_, again), recorded, *_ = record(layer, *args, **kwargs, return_attention_scores=True)
    same(again, ops.reshape(recorded, again.shape))


DROPPING = ("multi-head", "grouped", "dot", "concat", "additive")


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("name", DROPPING)
def test_recording_changes_no_bit(name, policy):
    """In training with dropout, and without, by turns."""
    training = (DROPPING.index(name) + POLICIES.index(policy)) % 2 == 1
    dropout = 0.5 if training else 0.0
    layer, args = KERAS[name](dropout=dropout, dtype=policy), inputs_of(name, S)
    layer(*args)
    state = [np.array(ops.convert_to_numpy(variable)) for variable in layer.variables]
    keras.utils.set_random_seed(5)  # PyTorch's dropout has no state of its own
    before = layer(*args, training=training)
    for variable, value in zip(layer.variables, state, strict=True):
        variable.assign(value)
    keras.utils.set_random_seed(5)
    outputs, *_ = record(layer, *args, training=training)
    same(outputs, before)
    if dropout and training:
        assert not np.array_equal(numpy(before), numpy(layer(*args, training=False)))


@pytest.mark.parametrize("dropout", [0.0, 0.5], ids=["fused", "explicit"])
@pytest.mark.parametrize("name", ["multi-head", "grouped"])
def test_masks(name, dropout):
    layer = KERAS[name](dropout=dropout)
    query, value = inputs_of(name, S)
    query_mask, value_mask = (np.arange(n) < np.array([[n], [2]]) for n in (T, S))
    pairs = random(B, T, S, seed=2) > -1
    masks = {"query_mask": query_mask, "value_mask": value_mask, "attention_mask": pairs}
    expected = value_mask[:, None] & pairs
    if name == "grouped":  # the other one leaves rows of padding as they are
        expected &= query_mask[:, :, None]
    _, expected_weights = layer(query, value, **masks, return_attention_scores=True)
    _, weights, _, allowed = record(layer, query, value, **masks)
    np.testing.assert_array_equal(
        numpy(allowed), np.broadcast_to(expected[:, None], (B, H, T, S))
    )
    np.testing.assert_allclose(
        numpy(weights), numpy(expected_weights), rtol=1e-5, atol=1e-7
    )
    assert (numpy(weights)[~numpy(allowed)] == 0).all()


@pytest.mark.parametrize("name", ["dot", "additive"])
def test_masks_of_unprojected_layers(name):
    mask = np.arange(S) < np.array([[S], [2]])
    _, weights, _, allowed = record(KERAS[name](), *inputs_of(name, S), mask=[None, mask])
    expected = np.broadcast_to(mask[:, None, None], allowed.shape)
    np.testing.assert_array_equal(numpy(allowed), expected)
    assert (numpy(weights)[~expected] == 0).all()


def test_several_axes():
    picture = random(B, 3, 2, C)
    layer = MHA(H, 3)
    _, expected = layer(picture, picture, return_attention_scores=True)
    _, weights, details, allowed = record(layer, picture, picture)
    assert details == AttentionDetails("self", (3, 2), (3, 2))
    assert tuple(weights.shape) == tuple(allowed.shape) == (B, H, 6, 6)
    same(ops.reshape(weights, expected.shape), expected)
    # Over the rows of each column: columns and heads side by side.
    layer = MHA(H, 3, attention_axes=1)
    _, expected = layer(picture, picture, return_attention_scores=True)
    _, weights, details, _ = record(layer, picture, picture)
    assert details == AttentionDetails("self")
    assert tuple(weights.shape) == (B, 2 * H, 3, 3)
    same(ops.reshape(weights, expected.shape), expected)


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("keys", [H, 2, 1])
@pytest.mark.parametrize("extra", ["nothing", "mask", "bias", "scale"])
def test_dot_products_against_an_oracle(extra, keys, causal):
    query, key = random(B, T, H, 3), random(B, S, keys, 3, seed=1)
    mask = random(B, 1, T, S, seed=2) > -1
    bias = random(1, H, T, S, seed=3)
    given = {"mask": mask, "bias": bias, "scale": 0.3, "nothing": None}
    options = {} if extra == "nothing" else {extra: given[extra]}
    seen = read_dot_products(query, key, is_causal=causal, **options)
    wide = np.repeat(key.astype("float64"), H // keys, axis=2)
    scores = np.einsum("bthd,bshd->bhts", query.astype("float64"), wide)
    scores = scores * options.get("scale", 3**-0.5) + options.get("bias", 0)
    allowed = np.broadcast_to(options.get("mask", True), scores.shape)
    if causal:
        allowed = allowed & np.tri(T, S, dtype=bool)
    expected = oracles.softmax(np.where(allowed, scores, -1e30)) * allowed
    np.testing.assert_allclose(numpy(seen.weights), expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_array_equal(numpy(seen.allowed), allowed)


@pytest.mark.parametrize("behind", [1e6, np.inf, np.nan])
def test_what_is_behind_a_mask_masks_nothing_else(behind):
    scores, mask = random(B, H, T, S), np.arange(S) < 4
    scores[..., 4:] = behind
    weights = layers.Softmax()(scores, mask=ops.convert_to_tensor(mask))
    seen = read_softmax(weights, scores, -1, mask)
    np.testing.assert_array_equal(numpy(seen.allowed), np.broadcast_to(mask, (B, H, T, S)))


# Layers of one's own


class Plain(layers.Layer):
    """Dot products, without heads; `route` is how the softmax is taken."""

    def __init__(self, route="softmax", **kwargs):
        super().__init__(**kwargs)
        self.route = route
        self.normalize = layers.Softmax()

    def call(self, x):
        scores = ops.matmul(x, ops.swapaxes(x, -1, -2))
        if self.route == "layer":
            return ops.matmul(self.normalize(scores), x)
        softmax = {
            "softmax": ops.softmax,
            "nn": ops.nn.softmax,
            "activations": keras.activations.softmax,
            "src": keras.src.ops.softmax,
        }[self.route]
        return ops.matmul(softmax(scores), x)


class MyAttention(Plain):
    pass


class AttentionTransposed(layers.Layer):
    """Scores of queries in rows, normalized over the rows."""

    def call(self, x):
        scores = ops.matmul(x, ops.swapaxes(x, -1, -2))
        return ops.matmul(ops.swapaxes(ops.softmax(scores, axis=1), 1, 2), x)


class HeadsInBatchAttention(layers.Layer):
    num_heads = 2

    def call(self, x):
        heads = ops.reshape(x, (B * 2, T, C // 2))
        weights = ops.softmax(ops.matmul(heads, ops.swapaxes(heads, 1, 2)))
        return ops.reshape(ops.matmul(weights, heads), (B, T, C))


class PoolingAttention(layers.Layer):
    """Weighs positions, not pairs: a map without queries."""

    def call(self, x):
        return ops.sum(ops.softmax(ops.sum(x, axis=-1))[..., None] * x, axis=1)


class AttentionClassifier(keras.Model):
    """Labels every position; `way` is how the probabilities are made."""

    def __init__(self, way):
        super().__init__()
        self.way = way
        self.dense = layers.Dense(3, activation="softmax" if way == "dense" else None)
        self.activation = layers.Activation("softmax")
        self.softmax = layers.Softmax()
        self.attention = MHA(H, 3)

    def call(self, x):
        x = self.dense(self.attention(x, x))
        if self.way == "activation":
            return self.activation(x)
        if self.way == "layer":
            return self.softmax(x)
        if self.way == "several":
            return ops.softmax(x), x
        if self.way == "by name":
            return {"labels": ops.softmax(x)}
        return x if self.way == "dense" else ops.softmax(x)


class Router(layers.Layer):
    def call(self, x):
        return x * ops.sum(ops.softmax(x)[..., :2], axis=-1, keepdims=True)


class RoutedAttention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.router, self.attention = Router(), MyAttention(name="inner")

    def call(self, x):
        return self.attention(self.router(x))


class DeformableAttention(Plain):
    pass


class Block(layers.Layer):
    def call(self, x):
        heads = ops.reshape(x, (B, T, 2, 3))
        return ops.reshape(ops.dot_product_attention(heads, heads, heads), (B, T, C))


class OursInsideAttention(layers.Layer):
    def __init__(self):
        super().__init__()
        self.ours = SelfAttention(2, name="ours", block_size=None)

    def call(self, x):
        return self.ours(x)


# The layer, and the ends of the paths that are recorded.
OWN = {
    **{
        f"softmax by {route}": (lambda r=route: MyAttention(r, name="mine"), ["mine"])
        for route in ("softmax", "nn", "activations", "src", "layer")
    },
    "a name without attention": (Plain, []),
    "points of a picture": (DeformableAttention, []),
    "positions": (PoolingAttention, []),
    "another axis": (lambda: AttentionTransposed(name="mine"), ["mine"]),
    "heads in the batch": (lambda: HeadsInBatchAttention(name="mine"), ["mine"]),
    "any layer of dot products": (lambda: Block(name="block"), ["block"]),
    "a router": (RoutedAttention, ["inner"]),
    "ours inside": (OursInsideAttention, ["ours"]),
    **{
        f"labels by {way}": (lambda w=way: AttentionClassifier(w), ["multi_head_attention"])
        for way in ("dense", "activation", "layer", "several", "by name", "softmax")
    },
}


@pytest.mark.parametrize("name", OWN)
def test_own_layers(name):
    make, ends = OWN[name]
    layer, x = make(), random(B, T, C)
    keras.backend.clear_session()
    before = layer(x)
    with record_attention() as maps:
        outputs = layer(x)
    keras.tree.map_structure(same, outputs, before)
    assert [path.split("/")[-1].rstrip("_0123456789") for path in maps] == ends
    for weights in maps.values():
        assert tuple(weights.shape)[::2] == (B, T)
        np.testing.assert_allclose(numpy(weights).sum(axis=-1), 1, rtol=1e-5)


def test_values_of_own_layers():
    x = random(B, T, C)
    expected = oracles.softmax(np.einsum("btc,bsc->bts", x, x))
    for layer in (MyAttention(), MyAttention("layer"), AttentionTransposed()):
        _, weights, details, _ = record(layer, x)
        np.testing.assert_allclose(numpy(weights)[:, 0], expected, rtol=1e-5, atol=1e-7)
        assert details == AttentionDetails("self")
    _, weights, *_ = record(HeadsInBatchAttention(), x)
    heads = x.reshape(B, 2, T, C // 2)
    expected = oracles.softmax(np.einsum("bhtc,bhsc->bhts", heads, heads))
    np.testing.assert_allclose(numpy(weights), expected, rtol=1e-5, atol=1e-7)


class Context(MyAttention):
    def call(self, x, context=None, mask=None):
        return super().call(x)


@pytest.mark.parametrize(
    ("layer", "kinds"),
    [
        (Context, {"none": "self", "same": "self", "other": "cross"}),
        (lambda: MHA(H, 3), {"same": "self", "other": "cross", "key": "self"}),
    ],
    ids=["context", "multi-head"],
)
def test_kinds(layer, kinds):
    layer, x, other = layer(), random(B, T, C), random(B, T, C, seed=1)
    name = "context" if isinstance(layer, Context) else "value"
    calls = {
        "none": {},
        "same": {name: x},
        "other": {name: other},
        "key": {name: other, "key": x},  # positions are added to queries and keys only
    }
    for call, kind in kinds.items():
        *_, details, _ = record(layer, x, **calls[call])
        assert details.kind == kind, call


# Models


class Encoder(keras.Model):
    def __init__(self, name="encoder"):
        super().__init__(name=name)
        self.attend = MHA(H, 3, name="attend")
        self.ours = SelfAttention(2, name="ours", block_size=None)

    def call(self, x, training=None):
        return self.ours(self.attend(x, x, training=training))


def functional():
    x = keras.Input((None, C))
    return keras.Model(x, layers.Dense(3)(MHA(H, 3, name="attend")(x, x)))


def nested():
    x = keras.Input((None, C))
    inner = keras.Model(x, MHA(H, 3, name="attend")(x, x), name="inner")
    y = keras.Input((None, C))
    return keras.Model(y, MHA(H, 3, name="outer")(inner(y), inner(y)))


MODELS = {
    "functional": (functional, ["attend"]),
    "nested": (nested, ["attend", "attend#2", "outer"]),
    "subclassed": (Encoder, ["encoder/attend", "encoder/ours"]),
    "sequential": (
        lambda: keras.Sequential([Encoder()], name="s"),
        ["s/encoder/attend", "s/encoder/ours"],
    ),
    "in time": (
        lambda: layers.TimeDistributed(MyAttention(name="mine")),
        [f"time_distributed/mine{end}" for end in ("", "#2", "#3", "#4", "#5")],
    ),
}


@pytest.mark.parametrize("built", [False, True], ids=["first call", "later call"])
@pytest.mark.parametrize("name", MODELS)
def test_models(name, built):
    make, paths = MODELS[name]
    keras.backend.clear_session()
    model, x = make(), random(B, T, C)
    if name == "in time":
        x = random(B, T, 3, C)
    if built:
        model(x)
    with record_attention() as maps:
        outputs = model(x)
    assert list(maps) == list(maps.details) == list(maps.allowed) == paths
    same(outputs, model(x))


def test_a_loaded_model(reload):
    model, x = functional(), random(B, T, C)
    with record_attention() as maps:
        model(x)
    with record_attention() as loaded:
        reload(model)(x)
    same(loaded["attend"], maps["attend"])


# Where recording begins and ends


def test_replaced_while_somebody_records():
    with record_attention():
        assert all(replaced())
        with record_attention():
            assert all(replaced())
        assert all(replaced())


def test_recorders_inside_one_another():
    layer, x = MHA(H, 3, name="attend"), random(B, T, C)
    with record_attention() as outer:
        layer(x, x)
        with record_attention() as inner:
            layer(x, x)
        layer(x, x)
    assert list(outer) == ["attend", "attend#2"]
    assert list(inner) == ["attend"]


def test_a_layer_that_records():
    """Recorders see what is called while they are open, the innermost one of them."""

    class RecordingAttention(layers.Layer):
        def __init__(self):
            super().__init__()
            self.inner = MyAttention(name="inner")

        def call(self, x):
            with record_attention() as maps:
                x = self.inner(x)
            recorded.append(maps)
            return ops.matmul(ops.softmax(ops.matmul(x, ops.swapaxes(x, 1, 2))), x)

    recorded = []
    layer, x = RecordingAttention(), random(B, T, C)
    layer(x)
    with record_attention() as maps:
        layer(x)
    assert list(maps) == [layer.path]
    assert list(recorded[-1]) == [layer.inner.path]


def test_an_exception_ends_the_recording():
    layer, x = MHA(H, 3, name="attend"), random(B, T, C)

    def fail():
        with record_attention() as maps:
            recorded.append(maps)
            layer(x, x)
            layer(x, random(B, S, C + 1))

    layer(x, x)
    recorded = []
    with pytest.raises(Exception, match=r"."):
        fail()
    assert list(recorded[0]) == ["attend"]
    with record_attention() as maps:  # and the next one begins with nothing
        layer(x, x)
    assert list(maps) == ["attend"]


def test_threads_do_not_see_each_other():
    names = ("one", "other")
    made = {name: MHA(H, 3, name=name) for name in names}
    x = random(B, T, C)
    for layer in made.values():
        layer(x, x)
    calls = {name: functools.partial(layer, x, x) for name, layer in made.items()}
    recorded, maps = recorded_in_threads(calls)
    assert maps == {}
    assert recorded == {name: [name, f"{name}#2", f"{name}#3"] for name in names}


@pytest.mark.skipif(BACKEND == "torch", reason="PyTorch compiles nothing by default")
def test_a_compiled_model_is_not_recorded():
    model, x = functional(), random(B, T, C)
    model.compile("sgd", "mse")
    for _ in range(2):  # traced meanwhile, and traced before
        with record_attention() as maps:
            model.predict(x, verbose=0)
            model.fit(x, random(B, T, 3), verbose=0)
        assert maps == {}
        with pytest.raises(KeyError, match="is not recorded from outside"):
            maps["attend"]


def test_symbolic_calls_record_nothing():
    with record_attention() as maps:
        functional()
        Encoder()(keras.Input((T, C)))
    assert maps == {}


@pytest.mark.tensorflow
@pytest.mark.parametrize(("jit_compile", "autograph"), [(False, True), (True, False)])
def test_inside_a_function(jit_compile, autograph):
    import tensorflow as tf

    model = functional()
    signature = [tf.TensorSpec([None, None, C])]

    @tf.function(jit_compile=jit_compile, autograph=autograph, input_signature=signature)
    def explain(x):
        with record_attention() as maps:
            outputs = model(x, training=False)
        return outputs, dict(maps), maps.allowed

    for length in (T, S):
        x = random(B, length, C)
        outputs, maps, allowed = explain(x)
        _, expected = model.layers[1](x, x, return_attention_scores=True)
        np.testing.assert_allclose(outputs, model(x), rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(maps["attend"], expected, rtol=1e-4, atol=1e-6)
        assert numpy(allowed["attend"]).all()


@pytest.mark.skipif(BACKEND != "jax", reason="JAX only")
def test_inside_a_function_of_jax():
    import jax

    layer, x = MHA(H, 3, name="attend"), random(B, T, C)
    _, expected = layer(x, x, return_attention_scores=True)

    @jax.jit
    def explain(x):
        with record_attention() as maps:
            layer(x, x)
        return dict(maps)

    np.testing.assert_allclose(explain(x)["attend"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.tensorflow
def test_exported_model(tmp_path):
    import tensorflow as tf

    model, x = functional(), random(B, T, C)
    export_saved_model(model, tmp_path, verbose=False)
    served = tf.saved_model.load(tmp_path)
    _, expected = model.layers[1](x, x, return_attention_scores=True)
    maps = served.attention(x)
    assert list(maps) == ["attend"]
    np.testing.assert_allclose(maps["attend"], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(served.serve(x), model(x), rtol=1e-5, atol=1e-6)


@pytest.mark.tensorflow
def test_callback_writes(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from keras_sam.callbacks import AttentionTensorBoard

    model, x = functional(), random(B, T, C)
    model.compile("sgd", "mse")
    watch = AttentionTensorBoard(tmp_path, x)
    model.fit(x, random(B, T, 3), epochs=2, callbacks=[watch], verbose=0)
    tags = set()
    for run in ("attention", "attention/examples"):
        events = EventAccumulator(str(tmp_path / run)).Reload()
        tags |= set(events.Tags()["tensors"])
    assert {"attend/attention/image", "epoch_attention_entropy/attend"} <= tags
