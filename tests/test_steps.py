"""Steps of a score: their formulas, and that every kernel differentiates them."""

import keras
import numpy as np
import oracles
import pytest
from common import BACKEND, label, numpy, random, refused
from gradients import in_float64, second_order
from keras import ops
from kernels import ANY, COMPILED, SOFTMAX, assert_alike

import keras_sam
from keras_sam import masks, scores
from keras_sam.masks.pairs import whole_call
from keras_sam.scores.steps.alibi import slopes

B, H, ROWS, KEYS, D, DV = 2, 3, 23, 19, 8, 5


@keras.saving.register_keras_serializable(package="tests")
class Decay(scores.Score):
    """A step of one's own, with a weight for each head."""

    def __init__(self, rate=0.1, **kwargs):
        super().__init__(**kwargs)
        self.rate = rate

    def build(self, query_shape, key_shape):
        self.factor = self.add_weight(shape=(query_shape[1],), initializer="ones")

    def modify(self, scores, pairs):
        distance = ops.cast(ops.abs(pairs.query - pairs.key), scores.dtype)
        factor = ops.take(ops.cast(self.factor, scores.dtype), pairs.head)
        return scores - self.rate * factor * distance


# The steps of a score, each with the place of the score among them.
CHAINS = {
    "soft_cap": lambda: [scores.ScaledDot(), scores.SoftCap(1.5)],
    "alibi": lambda: [scores.ScaledDot(), scores.ALiBi()],
    "t5": lambda: [scores.Dot(), scores.T5Bias(8, 6)],
    "t5_causal": lambda: [scores.Dot(), scores.T5Bias(8, 6, bidirectional=False)],
    "grid": lambda: [scores.ScaledDot(), scores.GridBias((4, 6))],
    "sinks": lambda: [scores.ScaledDot(), scores.Sinks()],
    "qk_norm": lambda: [scores.QKNorm(), scores.ScaledDot()],
    "layer_norm": lambda: [scores.QKNorm("layer", shift=1.0), scores.ScaledDot()],
    "rotary": lambda: [scores.Rotary(50.0), scores.ScaledDot()],
    "own": lambda: [scores.ScaledDot(), Decay()],
    "additive": lambda: [scores.Additive(units=4), scores.SoftCap(1.0), scores.Sinks()],
    "all": lambda: [
        scores.QKNorm(),
        scores.Rotary(50.0, fraction=0.5, interleaved=True),
        scores.ScaledDot(),
        scores.SoftCap(2.0),
        Decay(),
        scores.T5Bias(8, 6),
        scores.Sinks(),
    ],
}


def chain(name):
    """A built chain with random weights, near one where they are factors."""
    found = scores.Chain(CHAINS[name]())
    found.build((B, H, ROWS, D), (B, H, KEYS, D))
    for index, weight in enumerate(found.weights):
        value = random(*weight.shape, seed=index, scale=0.5)
        weight.assign(value + ("scale" in weight.name))
    return found


def arrays(rows=ROWS, keys=KEYS):
    shapes = (B, H, rows, D), (B, H, keys, D), (B, H, keys, DV)
    return [random(*shape, seed=i) for i, shape in enumerate(shapes)]


def with_weights(score, **arguments):
    """`attend` as a function of tensors and of the weights of a score."""
    variables = score.trainable_variables

    def run(query, key, value, *weights):
        with keras.StatelessScope(list(zip(variables, weights, strict=True))):
            return keras_sam.attend(query, key, value, score=score, **arguments)

    return run


def weights_of(score):
    return [numpy(variable) for variable in score.trainable_variables]


# What the steps compute, in float64


def pairs_of(rows, keys, heads=1):
    found = whole_call(rows, keys)
    object.__setattr__(found, "head", ops.arange(heads)[None, :, None, None])
    return found


def weights_by_formula(change=lambda s: s, sinks=None, query=None, key=None):
    """Softmax of scaled dot products that are changed, and of sinks."""
    q, k, _ = (x.astype("float64") for x in arrays())
    q, k = q if query is None else query, k if key is None else key
    found = change(np.einsum("bhtd,bhsd->bhts", q, k) / np.sqrt(D))
    if sinks is None:
        return oracles.softmax(found)
    column = np.broadcast_to(sinks[:, None, None], (B, H, ROWS, 1))
    return oracles.softmax(np.concatenate([found, column], -1))[..., :-1]


def turned(x, frequencies, positions, interleaved=False):
    """Rotates pairs of channels, as complex numbers."""
    half = x.shape[-1] // 2
    one, other = (
        (x[..., 0::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    )
    both = (one + 1j * other) * np.exp(1j * positions[:, None] * frequencies)
    found = np.empty_like(x)
    if interleaved:
        found[..., 0::2], found[..., 1::2] = both.real, both.imag
    else:
        found[..., :half], found[..., half:] = both.real, both.imag
    return found


def bucket(distance, count, most, bidirectional):
    """The bucket of one distance, as the paper of T5 and its code have it."""
    first = 0
    if bidirectional:
        count //= 2
        first = count if distance > 0 else 0
        distance = abs(distance)
    else:
        distance = max(-distance, 0)
    exact = count // 2
    if distance < exact:
        return first + distance
    grown = exact + int(np.log(distance / exact) / np.log(most / exact) * (count - exact))
    return first + min(grown, count - 1)


def formula(name, score):
    """The weights of a chain, by NumPy."""
    weight = {w.name: numpy(w).astype("float64") for w in score.weights}
    i, j = np.arange(ROWS)[:, None], np.arange(KEYS)
    q, k, _ = (x.astype("float64") for x in arrays())
    if name == "soft_cap":
        return weights_by_formula(lambda s: 1.5 * np.tanh(s / 1.5))
    if name == "alibi":  # three heads: those of two, and the first of four
        rates = np.array([2.0**-4, 2.0**-8, 2.0**-2])
        return weights_by_formula(lambda s: s - rates[:, None, None] * np.abs(i - j))
    if name in ("t5", "t5_causal"):
        at = np.vectorize(lambda d: bucket(d, 8, 6, name == "t5"))(j - i)
        bias = np.moveaxis(weight["table"][at], -1, 0)
        return weights_by_formula(lambda s: s * np.sqrt(D) + bias)
    if name == "grid":
        rows, columns = j // 6 - i // 6 + 3, j % 6 - i % 6 + 5
        bias = np.moveaxis(weight["table"].reshape(7, 11, H)[rows, columns], -1, 0)
        return weights_by_formula(lambda s: s + bias)
    if name == "sinks":
        return weights_by_formula(sinks=weight["sinks"])
    if name == "qk_norm":
        q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) for x in (q, k))
        q, k = q * weight["query_scale"], k * weight["key_scale"]
        return weights_by_formula(query=q, key=k)
    if name == "layer_norm":
        q, k = (x - x.mean(-1, keepdims=True) for x in (q, k))
        q, k = (x / np.sqrt((x**2).mean(-1, keepdims=True) + 1e-6) for x in (q, k))
        q, k = q * (1 + weight["query_scale"]), k * (1 + weight["key_scale"])
        return weights_by_formula(query=q, key=k)
    if name == "rotary":
        frequencies = 50.0 ** -(np.arange(0, D, 2) / D)
        q, k = (turned(x, frequencies, np.arange(x.shape[2])) for x in (q, k))
        return weights_by_formula(query=q, key=k)
    assert name == "own"
    factor = next(iter(weight.values()))[:, None, None]
    return weights_by_formula(lambda s: s - 0.1 * factor * np.abs(i - j))


@pytest.mark.parametrize("name", [n for n in CHAINS if n not in ("additive", "all")])
def test_steps_are_their_formula(name):
    score = chain(name)
    expected = formula(name, score)
    value = arrays()[2].astype("float64")
    for way in ({"block_size": None}, SOFTMAX["flash"]):
        found = numpy(keras_sam.attend(*arrays(), score=score, **way))
        np.testing.assert_allclose(found, expected @ value, rtol=0, atol=4e-6)


def encoded(step, tensor, positions):
    """What a step makes of a tensor `(T, D)`, as queries and as keys."""
    step.build((1, 1, None, tensor.shape[-1]), (1, 1, None, tensor.shape[-1]))
    tensor, at = ops.convert_to_tensor(tensor[None, None]), ops.array(positions[None])
    query, key = step.encode(tensor, tensor, at, at)
    np.testing.assert_array_equal(numpy(query), numpy(key))
    return numpy(query)[0, 0]


PLAIN = 100.0 ** -(np.arange(0, 8, 2) / 8)


def test_rotary_positions_in_part_interleaved_and_later():
    x, at = random(5, 16), np.array([0, 3, 4, 9, 40], "int32")
    found = encoded(scores.Rotary(100.0, fraction=0.5), x, at)
    expected = turned(x.astype("float64")[:, :8], PLAIN, at)
    np.testing.assert_allclose(found[:, :8], expected, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(found[:, 8:], x[:, 8:])
    x = x[:, :8]
    found = encoded(scores.Rotary(100.0, interleaved=True, start=7), x, at)
    expected = turned(x.astype("float64"), PLAIN, at + 7, interleaved=True)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


def test_rotary_positions_of_pictures():
    x, at = random(12, 16), np.arange(12, dtype="int32")
    found = encoded(scores.Rotary(100.0, grid=(3, 4)), x, at)
    wide = x.astype("float64")
    np.testing.assert_allclose(found[:, :8], turned(wide[:, :8], PLAIN, at // 4), atol=1e-5)
    np.testing.assert_allclose(found[:, 8:], turned(wide[:, 8:], PLAIN, at % 4), atol=1e-5)


def test_scores_of_rotary_positions_depend_on_distances():
    score = scores.Chain([scores.Rotary(), scores.ScaledDot()])
    tensors = arrays(KEYS, KEYS)
    at = np.arange(KEYS)
    plain = keras_sam.attend(*tensors, score=score)
    later = keras_sam.attend(
        *tensors, score=score, query_positions=at + 70, key_positions=at + 70
    )
    np.testing.assert_allclose(numpy(later), numpy(plain), rtol=0, atol=1e-5)


def llama3(frequency, factor=8.0, low=1.0, high=4.0, length=8192):
    wavelength = 2 * np.pi / frequency
    if wavelength < length / high:
        return frequency
    if wavelength > length / low:
        return frequency / factor
    smooth = (length / wavelength - low) / (high - low)
    return (1 - smooth) * frequency / factor + smooth * frequency


def yarn(
    c, frequency, width, base, factor=4.0, fast=32.0, slow=1.0, length=4096, whole=True
):
    """Peng et al. 2023, eqs. 17 to 23, with the edges of the ramp of its code."""

    def channel(turns):
        return width * np.log(length / (turns * 2 * np.pi)) / (2 * np.log(base))

    first, last = channel(fast), channel(slow)
    if whole:
        first, last = np.floor(first), np.ceil(last)
    divided = min(max((c - first) / (last - first), 0), 1)
    return frequency / factor * divided + frequency * (1 - divided)


@pytest.mark.parametrize(
    "scaling", ["linear", "llama3", "yarn", "yarn_smooth", "proportional"]
)
def test_scalings(scaling):
    width, base = 64, 10000.0
    plain = base ** -(np.arange(0, width, 2) / width)
    made, expected = {
        "linear": (scores.Linear(3.0), plain / 3),
        "llama3": (scores.Llama3(), [llama3(f) for f in plain]),
        "yarn": (scores.YaRN(4.0), [yarn(c, f, width, base) for c, f in enumerate(plain)]),
        "yarn_smooth": (
            scores.YaRN(4.0, truncate=False),
            [yarn(c, f, width, base, whole=False) for c, f in enumerate(plain)],
        ),
        "proportional": (
            scores.Proportional(0.25, 2.0),
            [f / 2 if c < 8 else 0.0 for c, f in enumerate(plain)],
        ),
    }[scaling]
    found = made.frequencies(plain, base, width)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    magnitude = 0.1 * np.log(4) + 1 if "yarn" in scaling else 1.0
    assert made.magnitude == pytest.approx(magnitude, rel=1e-15)
    x, at = random(3, width), np.array([0, 1, 50], "int32")
    turns = turned(x.astype("float64"), np.asarray(expected), at) * magnitude
    np.testing.assert_allclose(
        encoded(scores.Rotary(scaling=made), x, at), turns, atol=2e-5
    )


@pytest.mark.parametrize("last", [7, 8])
def test_long_sequences_turn_by_other_factors(last):
    width, base = 4, 10000.0
    step = scores.Rotary(base, scores.LongRoPE([1.0, 2.0], [3.0, 4.0], 8, 1.5))
    step = type(step).from_config(step.get_config())
    factors = np.array([[1.0, 2.0], [3.0, 4.0]][last >= 8])
    frequencies = base ** -(np.arange(0, width, 2) / width) / factors
    x, at = random(3, width), np.array([0, 1, last], "int32")
    expected = 1.5 * turned(x.astype("float64"), frequencies, at)
    np.testing.assert_allclose(encoded(step, x, at), expected, atol=2e-6)


@pytest.mark.parametrize("rate", [1.0, 100.0])
def test_normalized_values_have_one_length(rate):
    """Values that are longer change nothing."""
    layer = SELF(2, 4, score=["dot", scores.ValueNorm(1e-12)], use_bias=False)
    x = random(1, 3, 8)
    layer.build(x.shape)
    before = numpy(layer(x))
    layer.value_dense.kernel.assign(rate * numpy(layer.value_dense.kernel))
    np.testing.assert_allclose(numpy(layer(x)), before, rtol=1e-5, atol=1e-6)
    value = numpy(layer.value_dense(x))
    np.testing.assert_allclose((value**2).mean(axis=-1), 1, rtol=1e-5)


def test_slopes_of_the_paper():
    np.testing.assert_allclose(slopes(8), 2.0 ** -np.arange(1, 9))
    twelve = [*2.0 ** -np.arange(1, 9), *2.0 ** -np.array([0.5, 1.5, 2.5, 3.5])]
    np.testing.assert_allclose(slopes(12), twelve)


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_of_the_paper(bidirectional):
    step = scores.T5Bias(bidirectional=bidirectional)
    distance = np.arange(-300, 301)
    expected = [bucket(d, 32, 128, bidirectional) for d in distance]
    # (int() of a logarithm that should be a whole number may be one less.)
    found = numpy(step.bucket(ops.convert_to_tensor(distance.astype("int32"))))
    assert (np.abs(found - expected) <= np.isin(np.abs(distance), 2 ** np.arange(9))).all()


@pytest.mark.parametrize("shape", [(1, 1), (1, 8), (8, 1), (5, 7), (16, 5)], ids=str)
@pytest.mark.parametrize("first", [0, 3, 40])
def test_biases_that_are_laid_out_are_those_of_each_pair(shape, first):
    step = scores.T5Bias(8, 6)
    step.build((B, H, None, D), (B, H, None, D))
    step.table.assign(random(8, H))
    rows, keys = shape
    for start in ((first, 0), (0, first)):
        pairs = masks.Pairs(
            example=ops.zeros((1, 1, 1, 1), "int32"),
            head=ops.arange(H, dtype="int32")[None, :, None, None],
            query=start[0] + ops.arange(rows, dtype="int32")[None, None, :, None],
            key=start[1] + ops.arange(keys, dtype="int32")[None, None, None, :],
            query_length=rows,
            key_length=keys,
        )
        nothing = ops.zeros((1, H, rows, keys))
        found = numpy(step.modify(nothing, pairs))
        object.__setattr__(pairs, "in_a_row", False)
        np.testing.assert_array_equal(found, numpy(step.modify(nothing, pairs)))


# Kernels

MASKS = {
    "all": {},
    "causal": {"causal": True},
    "local": {"pattern": masks.Causal() & (masks.Window(5) | masks.Global(2))},
}


def cases():
    """Every chain in every way, and the masks by turns."""
    for number, name in enumerate(CHAINS):
        ways = ANY if name == "additive" else ANY | SOFTMAX  # tiles are for dot products
        for index, way in enumerate(ways):
            turn = ("all", "local")[(number + index) % 2]
            for mask in MASKS if name == "all" else (turn,):
                yield name, way, mask


CASES = list(cases())


@pytest.mark.parametrize(("name", "way", "mask"), CASES)
def test_every_kernel_differentiates_every_step(name, way, mask, uncompiled):
    score = chain(name)
    expected = with_weights(score, block_size=None, **MASKS[mask])
    found = with_weights(score, **MASKS[mask], **(ANY | SOFTMAX)[way])
    assert_alike(expected, found, [*arrays(), *weights_of(score)])


@pytest.mark.parametrize("name", ["all", "additive", "t5"])
@pytest.mark.parametrize(
    "normalizer", ["sparsemax", "entmax", keras_sam.normalizers.Softmax(2.0)], ids=label
)
def test_other_normalizers(normalizer, name, uncompiled):
    score = chain(name)
    options = {"normalizer": normalizer, "causal": True}
    expected = with_weights(score, block_size=None, **options)
    found = with_weights(score, **options, **ANY["chunked"])
    assert_alike(expected, found, [*arrays(), *weights_of(score)])


def test_sigmoid_has_steps_but_no_sinks(uncompiled):
    score = chain("t5")
    options = {"normalizer": "sigmoid"}
    expected = with_weights(score, block_size=None, **options)
    found = with_weights(score, **options, **ANY["rows"])
    assert_alike(expected, found, [*arrays(), *weights_of(score)])


@pytest.mark.tensorflow
@pytest.mark.parametrize("kernel", COMPILED)
def test_compiled_kernels(kernel):
    """With all steps, a mask, dropout and a bias; heads and examples are shared out."""
    score = chain("all")
    bias = random(1, H, ROWS, KEYS, seed=7)
    more = {**MASKS["local"], "dropout": 0.3, "seed": 4, "bias": bias}
    expected = with_weights(score, block_size=None, **more)
    found = with_weights(score, **more, **COMPILED[kernel])
    assert_alike(expected, found, [*arrays(), *weights_of(score)])


@pytest.mark.tensorflow
@pytest.mark.parametrize("way", ["chunked", "flash"])
def test_unknown_sizes(way):
    import tensorflow as tf

    score = chain("all")
    specs = [tf.TensorSpec((None, H, None, n), "float32") for n in (D, D, DV)]

    @tf.function(input_signature=specs)
    def run(*tensors):
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            arguments = (ANY | SOFTMAX)[way]
            output = keras_sam.attend(*tensors, score=score, causal=True, **arguments)
        return output, tape.gradient(output, [*tensors, *score.trainable_variables])

    tensors = [tf.constant(x) for x in arrays()]
    output, gradients = run(*tensors)
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        expected = keras_sam.attend(*tensors, score=score, causal=True, block_size=None)
    wanted = tape.gradient(expected, [*tensors, *score.trainable_variables])
    np.testing.assert_allclose(output, expected, rtol=0, atol=4e-6)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=2e-5)


@pytest.mark.parametrize("way", [*ANY, *SOFTMAX])
def test_the_future_changes_no_bit(way, uncompiled):
    score = chain("all")
    arguments = {"score": score, "causal": True, **(ANY | SOFTMAX)[way]}
    query, key, value = arrays()
    before = numpy(keras_sam.attend(query, key, value, **arguments))
    key[:, :, 9:] *= 30
    value[:, :, 9:] = 1e6
    after = numpy(keras_sam.attend(query, key, value, **arguments))
    np.testing.assert_array_equal(after[:, :, :9], before[:, :, :9])
    assert (after[:, :, 9:] != before[:, :, 9:]).any()


@pytest.mark.parametrize("way", ["reference", "chunked", "flash"])
def test_a_row_with_nothing_to_attend_to_gives_all_to_its_sink(way, uncompiled):
    score = chain("sinks")
    key_mask = np.array([[False] * KEYS, [True] * KEYS])
    arguments = {"key_mask": key_mask, **(ANY | SOFTMAX)[way]}
    found = numpy(keras_sam.attend(*arrays(), score=score, **arguments))
    np.testing.assert_array_equal(found[0], np.zeros_like(found[0]))
    assert np.isfinite(found).all()
    assert (found[1] != 0).all()


@pytest.mark.parametrize("way", ["reference", "chunked", "flash"])
def test_rows_of_a_cache_are_rows_of_the_whole(way, uncompiled):
    score = chain("all")
    arguments = {"score": score, **(ANY | SOFTMAX)[way]}
    query, key, value = arrays(KEYS, KEYS)
    full = numpy(keras_sam.attend(query, key, value, causal=True, score=score))
    order = np.random.default_rng(0).permutation(KEYS)
    given = {"causal": True, "query_positions": np.arange(9, 13), "key_positions": order}
    tensors = query[:, :, 9:13], key[:, :, order], value[:, :, order]
    found = numpy(keras_sam.attend(*tensors, **given, **arguments))
    np.testing.assert_allclose(found, full[:, :, 9:13], rtol=0, atol=4e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="float64 is asked for elsewhere there")
def test_second_derivatives(uncompiled):
    score = scores.Chain([scores.ScaledDot(), scores.SoftCap(1.5), scores.Sinks()])
    score.build((B, H, 7, D), (B, H, 7, D))
    given = [x.astype("float64") for x in arrays(7, 7)]
    directions = [random(*x.shape, seed=i).astype("float64") for i, x in enumerate(given)]

    def products(**arguments):
        def run(*tensors):
            return ops.square(keras_sam.attend(*tensors, score=score, **arguments))

        with in_float64():
            return second_order(run)(given, directions)[1]

    expected = products(block_size=None)
    for one, other in zip(products(**SOFTMAX["flash"]), expected, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


# Layers


@pytest.mark.parametrize("name", [n for n in CHAINS if n != "grid"])
def test_layers_save_and_load(name, tmp_path):
    x = keras.Input((None, 24))
    layer = keras_sam.SelfAttention(3, D, score=CHAINS[name](), causal=True)
    model = keras.Model(x, layer(x))
    for index, weight in enumerate(layer.trainable_weights):
        weight.assign(random(*weight.shape, seed=index, scale=0.3))
    model.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    given = ops.convert_to_tensor(random(2, 11, 24))
    np.testing.assert_array_equal(numpy(loaded(given)), numpy(model(given)))
    assert [type(s) for s in loaded.layers[-1].score.steps] == [
        type(s) for s in layer.score.steps
    ]
    assert len(loaded.trainable_weights) == len(model.trainable_weights)


@pytest.mark.tensorflow
def test_a_model_with_steps_trains_and_is_exported(tmp_path):
    import tensorflow as tf

    x = keras.Input((None, 24))
    layer = keras_sam.SelfAttention(
        4, D, num_key_value_heads=2, causal=True, score=CHAINS["all"]()
    )
    model = keras.Model(x, layer(x))
    model.compile("sgd", "mse")
    given = random(4, 11, 24)
    before = [numpy(weight).copy() for weight in layer.score.trainable_weights]
    model.fit(given, given, verbose=0)
    after = layer.score.trainable_weights
    assert all((numpy(w) != old).any() for w, old in zip(after, before, strict=True))
    model.export(str(tmp_path), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.serve(given), model(given), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("dtype", "error"),
    [("mixed_bfloat16", 0.03), ("mixed_float16", 0.004), ("float16", 0.004)],
)
def test_half_precision(dtype, error):
    """Scores are changed in float32, whatever a layer computes in."""
    x = random(2, 11, 24)
    layers = [
        keras_sam.SelfAttention(3, D, score=CHAINS["all"](), dtype=each)
        for each in ("float32", dtype)
    ]
    for layer in layers:
        layer.build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    exact, half = (layer(ops.cast(x, layer.compute_dtype)) for layer in layers)
    assert keras.backend.standardize_dtype(half.dtype) == layers[1].compute_dtype
    np.testing.assert_allclose(numpy(half), numpy(exact), rtol=0, atol=error)


def test_equal_layers_share_kernels_and_others_do_not():
    def modification(score):
        score.build((B, H, ROWS, D), (B, H, KEYS, D))
        return score.as_modification(0)[0]

    assert modification(scores.SoftCap(2.0)) == modification(scores.SoftCap(2.0))
    assert modification(scores.SoftCap(2.0)) != modification(scores.SoftCap(3.0))
    assert modification(scores.T5Bias()) == modification(scores.T5Bias())
    other = scores.ALiBi()
    other.build((B, 2 * H, ROWS, D), (B, 2 * H, KEYS, D))
    assert modification(scores.ALiBi()) != other.as_modification(0)[0]


def test_names_in_a_list_follow_the_layer():
    layer = keras_sam.SelfAttention(
        2, score=["scaled_dot", scores.Sinks()], dtype="float16"
    )
    assert layer.score.compared.dtype_policy.name == "float16"


SELF = keras_sam.SelfAttention
BAD = {
    "two_scores": (
        lambda: SELF(2, score=["dot", "additive"]),
        "`score` must have exactly one score beside its steps",
    ),
    "no_score": (
        lambda: SELF(2, score=[scores.Rotary()]),
        "`score` must have exactly one score beside its steps",
    ),
    "empty": (lambda: SELF(2, score=[]), "`score` must be a list of scores and steps"),
    "alone": (
        lambda: SELF(2, score=scores.Sinks()),
        "`score` must be a score, or a list of one and of steps",
    ),
    "two_rotary": (
        lambda: SELF(2, score=[scores.Rotary(), "dot", scores.Rotary(2.0)]),
        "`score` must have one step for rotary positions at most",
    ),
    "two_biases": (
        lambda: SELF(2, score=["dot", scores.ALiBi(), scores.T5Bias()]),
        "`score` must have one step for a bias by position at most",
    ),
    "two_sinks": (
        lambda: SELF(2, score=["dot", scores.Sinks(), scores.Sinks()]),
        "`score` must have one step for sinks at most",
    ),
    "sinks_of_sigmoid": (
        lambda: SELF(2, score=["dot", scores.Sinks()], normalizer="sigmoid"),
        "`normalizer` must be one whose weights share a sum",
    ),
    "sinks_unprojected": (
        lambda: keras_sam.UnprojectedAttention(
            score=["dot", scores.Sinks()], normalizer="hard_sigmoid"
        ),
        "`normalizer` must be one whose weights share a sum",
    ),
    "selective": (
        lambda: SELF(2, causal=True, selective=True, score=["dot", scores.SoftCap()]),
        "`selective` must be False where a step of `score`",
    ),
    "importance": (
        lambda: keras_sam.SelectiveAttention(
            relation="self", score=["dot", scores.ALiBi()]
        ),
        "`score` must be a score without steps",
    ),
    "lambda": (
        lambda: SELF(2, score=["dot", lambda scores, pairs: scores]),
        "`score` must be a name or an instance of keras_sam.scores.Score",
    ),
    "name": (lambda: SELF(2, score=["dot", "alibi"]), "Unknown score"),
    "chain": (
        lambda: SELF(2, score=[scores.Chain([scores.Dot()])]),
        "`score` must be a list of names and instances",
    ),
    "cap": (lambda: scores.SoftCap(0), "`cap` must be a positive number"),
    "scale": (lambda: scores.ALiBi("a"), "`scale` must be a number"),
    "buckets": (lambda: scores.T5Bias(6), "`num_buckets` must be a multiple of 4"),
    "odd_buckets": (
        lambda: scores.T5Bias(5, bidirectional=False),
        "`num_buckets` must be an even number",
    ),
    "distance": (
        lambda: scores.T5Bias(32, 8),
        "`max_distance` must be an integer above 8",
    ),
    "grid": (lambda: scores.GridBias(3), "`grid` must be the height and the width"),
    "no_grid": (lambda: scores.GridBias(None), "`grid` must be the height and the width"),
    "norm": (lambda: scores.QKNorm("batch"), "`norm` must be one of 'rms', 'layer'"),
    "epsilon": (lambda: scores.QKNorm(epsilon=0), "`epsilon` must be a positive number"),
    "wavelength": (lambda: scores.Rotary(1), "`max_wavelength` must be a number above 1"),
    "scaling": (lambda: scores.Rotary(scaling=2.0), "`scaling` must be keras_sam.scores"),
    "fraction": (lambda: scores.Rotary(fraction=0), "`fraction` must be a number above 0"),
    "start": (lambda: scores.Rotary(start=0.5), "`start` must be an integer"),
    "factor": (lambda: scores.Linear(0), "`factor` must be a positive number"),
    "low": (lambda: scores.Llama3(low=4.0), "`high` must be a number above `low`"),
    "share": (lambda: scores.Proportional(0), "`fraction` must be a positive number"),
    "short": (lambda: scores.LongRoPE(2.0, [1.0], 8), "`short` must be a list of numbers"),
    "long": (lambda: scores.LongRoPE([1.0], [0], 8), "`long` must be a list of positive"),
    "value_norm": (lambda: scores.ValueNorm(0), "`epsilon` must be a positive number"),
    "no_projections": (
        lambda: keras_sam.layers.UnprojectedAttention(["dot", scores.ValueNorm()]),
        "`score` must be one without `ValueNorm`",
    ),
    "truncate": (lambda: scores.YaRN(2.0, truncate=1), "`truncate` must be True or False"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_steps_are_refused_when_they_are_made(name):
    make, message = BAD[name]
    with refused(message, "Received: "):
        make()


BAD_BUILDS = {
    "odd": ([scores.Rotary(), "dot"], 3, "`key_dim` must be such that a multiple of 2"),
    "part": (
        [scores.Rotary(fraction=0.6), "dot"],
        8,
        "`key_dim` must be such that a multiple of 2",
    ),
    "picture": (
        [scores.Rotary(grid=(3, 4)), "dot"],
        6,
        "`key_dim` must be such that a multiple of 4",
    ),
    "grid": (["dot", scores.GridBias((3, 3))], 8, "`grid` must have a position for each"),
}


@pytest.mark.parametrize("name", BAD_BUILDS)
def test_bad_steps_are_refused_when_a_layer_is_built(name):
    score, key_dim, message = BAD_BUILDS[name]
    with refused(message, "Received: "):
        SELF(2, key_dim, score=score).build((2, 12, 16))


def test_a_step_with_weights_is_not_taken_twice():
    score = ["dot", scores.Sinks()]
    score[1].build((B, H, ROWS, D), (B, H, KEYS, D))
    with refused("`score` must not have weights yet"):
        SELF(2, score=score)
