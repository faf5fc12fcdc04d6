"""keras_sam beside the real TensorFlow Addons, in one process.

Not collected by itself: `test_addons_real.py` runs it where the package is installed.
"""

import pathlib
import subprocess
import sys

import addons_cases
import keras
import make_addons_data
import numpy as np
import pytest
import tensorflow as tf
import tensorflow_addons as tfa
import tf_keras
from common import stored_arrays

import keras_sam
from keras_sam import addons
from keras_sam.normalizers.masking import attention_weights

HERE = pathlib.Path(__file__).parent
DATA = HERE / "data" / "addons"
WIDE = {"rtol": 0, "atol": 2e-5}

# What TensorFlow Addons says of itself, and Keras 2 of its initializers.
pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning:tensorflow_addons"),
    pytest.mark.filterwarnings("ignore:The initializer GlorotUniform is unseeded"),
]


def draw(*shape, seed=0):
    return np.random.default_rng(seed).standard_normal(shape).astype("float32")


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Makes the stored files anew, in a process that has never seen keras_sam."""
    folder = tmp_path_factory.mktemp("made")
    command = [sys.executable, str(HERE / "make_addons_data.py"), str(folder), "--more"]
    subprocess.run(command, check=True, cwd=HERE, capture_output=True)
    return folder


def test_the_stored_outputs_are_those_of_the_real_package(made):
    stored, fresh = (stored_arrays(x / "expected.npz") for x in (DATA, made))
    assert set(stored) == set(fresh)
    for key, want in stored.items():
        name, _, policy = key.partition("/")
        if name == "layer":
            atol = addons_cases.tolerance(policy, want)
        else:  # the models are four layers deep
            policy = "float16" if name == "mixed" else "float32"
            # Its sparsemax is of numbers of this size, whose rounding it hands on.
            largest = 241 if name == "shared" else want
            atol = addons_cases.tolerance(policy, largest, layers=4)
        np.testing.assert_allclose(want, fresh[key], rtol=0, atol=atol, err_msg=key)


@pytest.mark.parametrize(
    "source",
    ["functional.h5", "functional.keras", "functional.weights.h5", "functional_saved"],
)
def test_weights_of_every_form_load(made, source):
    model = keras.models.load_model(DATA / "functional.h5", compile=False)
    want = model.get_weights()
    model.set_weights([np.zeros_like(each) for each in want])
    addons.load_weights(model, made / source)
    for got, wanted in zip(model.get_weights(), want, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_a_sequential_model_with_two_inputs_says_what_is_missing(made):
    """Keras 3 does not build it, and so has no weights for the file's."""
    with pytest.raises(ValueError, match="Layer count mismatch"):
        keras.models.load_model(made / "sequential.h5", compile=False)
    layers = [addons.MultiHeadAttention(4, 2), keras.layers.BatchNormalization()]
    model = keras.Sequential([*layers, keras.layers.Dense(2)])
    inputs = [draw(2, 3, 7), draw(2, 5, 11)]
    model(inputs)
    addons.load_weights(model, made / "sequential.h5")
    old = tf_keras.models.load_model(made / "sequential.h5", compile=False)
    np.testing.assert_allclose(model(inputs), old(inputs), **WIDE)


def test_every_registered_name_is_brought_over_or_says_what_to_do():
    theirs = {
        name
        for name, thing in tf_keras.utils.get_custom_objects().items()
        if name.startswith("Addons>") and "callbacks" not in thing.__module__
    }
    ours = {
        each for each in keras.saving.get_custom_objects() if each.startswith("Addons>")
    }
    assert len(theirs) > 70
    seq2seq = {"Luong", "Bahdanau", "LuongMonotonic", "BahdanauMonotonic"}
    assert ours - theirs == {f"Addons>{name}Attention" for name in seq2seq}
    assert theirs - ours == set()


def test_tensorflow_addons_goes_on_as_before(made):
    assert addons.import_tfa() is tfa
    model = tf_keras.models.load_model(made / "sequential.h5", compile=False)
    kinds = [type(layer) for layer in model.layers]
    assert tfa.layers.MultiHeadAttention in kinds
    assert addons.MultiHeadAttention not in kinds


@pytest.mark.parametrize("name", ["functional", "nested"])
def test_models_load_from_their_folder(made, name):
    model = addons.load_model(made / f"{name}_saved")
    stored = stored_arrays(DATA / "expected.npz")
    inputs = make_addons_data.model_inputs(name)
    outputs = model(inputs[0] if len(inputs) == 1 else inputs)
    outputs = outputs if isinstance(outputs, list) else [outputs]
    for index, output in enumerate(outputs):
        want = stored[f"{name}/{index}"]
        atol = addons_cases.tolerance("float32", want, layers=4)
        np.testing.assert_allclose(output, want, rtol=0, atol=atol)


def test_masks_are_added_to_scores_of_any_size():
    scores, mask, wanted = addons_cases.added_mask()
    layer = tfa.layers.MultiHeadAttention(
        4, 1, use_projection_bias=False, return_attn_coef=True
    )
    weights = addons_cases.weights_of_scores(layer, scores, mask)
    np.testing.assert_allclose(weights, wanted, rtol=1e-6)


@pytest.fixture
def global_policy():
    yield tf_keras.mixed_precision.set_global_policy
    tf_keras.mixed_precision.set_global_policy("float32")


@pytest.mark.parametrize("policy", ["float32", "mixed_float16"])
@pytest.mark.parametrize("bias", [True, False])
def test_live_layers_are_converted(policy, bias, global_policy):
    case = addons_cases.Case(
        3, 4, output_size=addons_cases.WIDTHS[0], use_projection_bias=bias
    )
    global_policy(policy)
    layer = tfa.layers.MultiHeadAttention(
        **{**case.config(), "dropout": 0.25}, kernel_regularizer="l2", name="attend"
    )
    layer.build([each.shape for each in case.inputs()])
    layer.set_weights(case.weights())
    new = addons.convert(layer)
    query, key, value = case.inputs()
    want, want_weights = layer([query, key, value])
    got, weights = new(query, value, key, return_attention_scores=True)
    rounding = WIDE if policy == "float32" else {"rtol": 0, "atol": 3e-2}
    np.testing.assert_allclose(got, want, **rounding)
    np.testing.assert_allclose(weights, want_weights, **rounding)
    assert (new.name, new.dropout, new.dtype_policy.name) == ("attend", 0.25, policy)
    assert isinstance(new.kernel_regularizer, keras.regularizers.L2)
    np.testing.assert_allclose(sum(new.losses), tf.add_n(layer.losses), rtol=1e-3)


def test_a_live_layer_becomes_self_attention():
    layer = tfa.layers.MultiHeadAttention(4, 2, return_attn_coef=True)
    x = draw(2, 3, 7)
    mask = np.tri(3, dtype="float32")
    want, want_weights = layer([x, x], mask=mask)
    new = addons.convert(layer, to=keras_sam.SelfAttention)
    got, weights = new(x, attention_mask=mask[None] > 0, return_attention_scores=True)
    np.testing.assert_allclose(got, want, **WIDE)
    np.testing.assert_allclose(weights, want_weights, **WIDE)


def test_a_subclass_is_converted_and_other_layers_are_refused():
    class Mine(tfa.layers.MultiHeadAttention):
        pass

    layer = Mine(4, 2)
    x = draw(2, 3, 7)
    want = layer([x, x])
    np.testing.assert_allclose(addons.convert(layer)(x, x), want, **WIDE)

    class Changed(tfa.layers.MultiHeadAttention):
        def call(self, inputs, training=None, mask=None):
            return 2 * super().call(inputs, training, mask)

    with pytest.raises(ValueError, match=r"its own `call` may not.*layer='changed'"):
        addons.convert(Changed(4, 2, name="changed"))
    with pytest.raises(ValueError, match=r"of type Maxout"):
        addons.convert(tfa.layers.Maxout(2))
    with pytest.raises(ValueError, match=r"called once"):
        addons.convert(tfa.layers.MultiHeadAttention(4, 2))


MECHANISMS = {
    "luong": lambda memory: tfa.seq2seq.LuongAttention(7, memory),
    "luong, scaled": lambda memory: tfa.seq2seq.LuongAttention(7, memory, scale=True),
    "bahdanau": lambda memory: tfa.seq2seq.BahdanauAttention(13, memory),
    "bahdanau, normalized": lambda memory: tfa.seq2seq.BahdanauAttention(
        13, memory, normalize=True
    ),
}


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("lengths", [None, (5, 2)])
def test_mechanisms_become_scores(name, lengths):
    query, memory = draw(2, 7), draw(2, 5, 11)
    mechanism = MECHANISMS[name](tf.constant(memory))
    state = tf.zeros((2, 5))
    mechanism([query, state])  # makes the weights
    drawn = [draw(*each.shape, seed=4) for each in mechanism.get_weights()]
    mechanism.set_weights(drawn)
    masked = [] if lengths is None else [tf.constant(lengths)]
    # Its keys are made of its weights.
    mechanism([tf.constant(memory), *masked], setup_memory=True)
    alignments, _ = mechanism([query, state])

    score = addons.convert(mechanism)
    scores = score(query[:, None], memory)
    expected = keras_sam.scores.Bilinear if "luong" in name else keras_sam.scores.Additive
    assert type(score) is expected
    allowed = None if lengths is None else tf.sequence_mask(lengths, 5)[:, None]
    weights = attention_weights(scores, keras_sam.normalizers.Softmax(), allowed)
    np.testing.assert_allclose(weights[:, 0], alignments, **WIDE)
    if lengths is not None:
        return
    # The softmax hides what is added to all; the probability function sees the scores.
    mechanism.probability_fn = lambda score, state: score
    np.testing.assert_allclose(scores[:, 0], mechanism([query, state])[0], **WIDE)


@pytest.mark.parametrize("name", ["LuongAttention", "BahdanauAttention"])
def test_mechanisms_that_do_not_map_are_refused(name):
    memory, make = tf.constant(draw(2, 5, 7)), getattr(tfa.seq2seq, name)

    def called(mechanism):
        mechanism([draw(2, 7), tf.zeros((2, 5))])
        return mechanism

    with pytest.raises(ValueError, match='`probability_fn` must be "softmax"'):
        addons.convert(called(make(7, memory, probability_fn="hardmax")))
    biased = tf_keras.layers.Dense(7, name="biased")
    with pytest.raises(ValueError, match=r"must be `Dense` without bias .* 'biased'"):
        addons.convert(called(make(7, memory, memory_layer=biased)))
    monotonic = getattr(tfa.seq2seq, name.replace("Attention", "MonotonicAttention"))
    with pytest.raises(ValueError, match="nothing else of TensorFlow Addons maps"):
        addons.convert(called(monotonic(7, memory)))


def test_configurations_of_live_mechanisms_are_scores():
    memory = tf.constant(draw(2, 5, 11))
    for mechanism in (make(memory) for make in MECHANISMS.values()):
        name = f"Addons>{type(mechanism).__name__}"
        config = {"class_name": name, "config": mechanism.get_config()}
        score = keras_sam.scores.deserialize(config)
        assert score(draw(2, 3, 7), memory).shape == (2, 3, 5)


@pytest.mark.parametrize("axis", [-1, 0, 1])
@pytest.mark.parametrize("scale", [0.1, 1, 10])
def test_sparsemax_and_its_gradient(axis, scale):
    x = tf.constant(scale * draw(3, 5, 7))
    upstream = draw(3, 5, 7, seed=1)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        want = tfa.activations.sparsemax(x, axis=axis)
        got = addons.activations.sparsemax(x, axis=axis)
        sums = [tf.reduce_sum(each * upstream) for each in (want, got)]
    np.testing.assert_allclose(got, want, **WIDE)
    wanted, gradient = (tape.gradient(each, x) for each in sums)
    np.testing.assert_allclose(gradient, wanted, **WIDE)


@pytest.mark.parametrize(
    "x",
    [
        pytest.param([0.3, 1.0, -2.0, 0.9], id="one axis"),
        pytest.param([[1.0, -np.inf, 0.5]], id="nothing of a part"),
        pytest.param([[2.0], [-3.0]], id="one part"),
        pytest.param([[0.0] * 7], id="all alike"),
        pytest.param([[1e4, -1e4, 3.0]], id="large"),
        pytest.param([[np.inf, 0.0]], id="infinite"),
        pytest.param([[-np.inf] * 3], id="nothing at all"),
        pytest.param([[np.nan, 1.0]], id="not a number"),
    ],
)
def test_sparsemax_at_the_edges(x):
    """Its gradients, too, where there are any: not of what is not a number."""
    x = tf.constant(x)
    with tf.GradientTape(persistent=True) as tape:
        tape.watch(x)
        want, got = tfa.activations.sparsemax(x), addons.activations.sparsemax(x)
        firsts = [tf.reshape(each, [-1])[0] for each in (want, got)]
    np.testing.assert_allclose(got, want, atol=1e-6)
    if not np.isnan(want).any():
        wanted, gradient = (tape.gradient(each, x) for each in firsts)
        np.testing.assert_allclose(gradient, wanted, atol=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    "name",
    [
        "gelu",
        "hardshrink",
        "lisht",
        "mish",
        "snake",
        "softshrink",
        "sparsemax",
        "tanhshrink",
    ],
)
def test_activations(name, dtype):
    x = tf.cast(draw(3, 5), dtype)
    got = getattr(addons.activations, name)(x)
    want = getattr(tfa.activations, name)(x)
    assert got.dtype == want.dtype
    np.testing.assert_allclose(got, want, atol=1e-6 if dtype == "float32" else 4e-3)
