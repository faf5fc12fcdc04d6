"""The contract of padding: whatever lies behind a mask changes no bit, even if it is NaN.

Each case of `cases.py` is compared with itself where padding is a finite number.
"""

import inspect

import keras
import numpy as np
import pytest
from cases import CASES
from common import numpy, random
from gradients import value_and_gradients
from keras import ops

from keras_sam import attend, scores
from keras_sam.attention.policy import Policy
from keras_sam.layers import CrossAttention, SelfAttention

FILLERS = (np.nan, -np.inf, 1e30)
DTYPES = ("float32", "float64", "mixed_float16", "mixed_bfloat16")
every = pytest.mark.parametrize("case", CASES.values(), ids=CASES)


def filled(arrays, masks, filler):
    """Arrays with `filler` behind the mask of each, if it has one."""
    return [
        x if mask is None else np.where(mask[..., None], x, np.float32(filler))
        for x, mask in zip(arrays, masks, strict=True)
    ]


def padding(case, inputs):
    """The masks of a call, and for each input its mask; one example is all padding."""
    masks = case.padding(inputs)
    for mask in masks.values():
        mask[-1] = False
    of_inputs = [None] * len(inputs)
    for name, index in case.masks.items():
        of_inputs[index] = masks[name]
    # Keys and values are masked together.
    if case.layer is CrossAttention:
        together = np.logical_and.reduce([masks[name] for name in masks if name[0] in "vk"])
        of_inputs[1:] = [together] * (len(inputs) - 1)
    return masks, of_inputs


def results(layer, arrays, call, output_mask=None, training=False):
    """The output, what else the layer returns, and all gradients, as bits."""
    trainable = [numpy(v) for v in layer.trainable_variables]
    others = [v.value for v in layer.non_trainable_variables]
    count = len(arrays)
    if "training" in inspect.signature(layer.call).parameters:
        call = {**call, "training": training}

    def counted(*tensors):
        outputs, _ = layer.stateless_call(
            list(tensors[count:]), others, *tensors[:count], **call
        )
        outputs = ops.cast(outputs, "float32")
        if output_mask is not None:
            outputs = ops.where(output_mask[..., None], outputs, ops.zeros_like(outputs))
        return outputs * random(*outputs.shape, seed=5)

    dtype = "float64" if layer.compute_dtype == "float64" else "float32"
    tensors = [x.astype(dtype) for x in arrays], [x.astype(dtype) for x in trainable]
    value, gradients = value_and_gradients(counted, *tensors[0], *tensors[1])
    return [value, *gradients]


def assert_equal_bits(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert np.isfinite(other).all()
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", DTYPES)
@every
def test_padding_changes_no_bit(case, dtype):
    """In training and in inference by turns: each case and each dtype sees both."""
    index = list(CASES.values()).index(case)
    training = (index + DTYPES.index(dtype)) % 2 == 1
    inputs = case.inputs()
    masks, of_inputs = padding(case, inputs)
    layer = case.make(dtype=dtype)
    layer(*inputs)
    output = numpy(layer(*inputs, **masks))
    output_mask = None
    if output.shape == inputs[0].shape:  # positions of the output may be padding
        output_mask = of_inputs[0]
    call = layer, masks, output_mask, training
    expected = results(call[0], filled(inputs, of_inputs, 3.0), *call[1:])
    for filler in FILLERS:
        found = results(call[0], filled(inputs, of_inputs, filler), *call[1:])
        assert_equal_bits(found, expected)


@every
def test_padding_changes_no_bit_of_the_weights(case):
    if not case.returns_weights:
        pytest.skip("it returns no weights")
    inputs = case.inputs()
    masks, of_inputs = padding(case, inputs)
    layer = case.make()
    layer(*inputs)
    call = {**masks, "return_attention_scores": True}
    results = [
        keras.tree.flatten(layer(*filled(inputs, of_inputs, filler), **call)[1])
        for filler in (3.0, *FILLERS)
    ]
    expected = [numpy(x) for x in results[0]]
    for found in results[1:]:
        assert_equal_bits([numpy(x) for x in found], expected)


@pytest.mark.parametrize("mode", ["graph", "compiled"])
@pytest.mark.tensorflow
def test_padding_changes_no_bit_in_a_graph(mode):
    """All layers in one function, of known sizes, with the gradient of the inputs."""
    import tensorflow as tf

    names = tuple(CASES)
    made = {name: CASES[name].make() for name in names}
    arrays = {name: CASES[name].inputs() for name in names}
    masks = {name: padding(CASES[name], arrays[name]) for name in names}
    for name in names:
        made[name](*arrays[name])

    @tf.function(jit_compile=mode == "compiled", autograph=False)
    def run(arrays):
        found = {}
        for name in names:
            with tf.GradientTape() as tape:
                tape.watch(arrays[name])
                call, of_inputs = masks[name]
                output = made[name](*arrays[name], **call)
                if output.shape == arrays[name][0].shape:
                    output = tf.where(of_inputs[0][..., None], output, 0.0)
                total = tf.reduce_sum(output**2)
            weights = made[name].trainable_variables
            slopes = tape.gradient(total, [arrays[name], weights])
            found[name] = [output, *keras.tree.flatten(slopes)]
        return found

    def with_filler(filler):
        return {
            name: [tf.constant(x) for x in filled(arrays[name], masks[name][1], filler)]
            for name in names
        }

    expected = run(with_filler(3.0))
    for filler in FILLERS:
        found = run(with_filler(filler))
        for name in names:
            assert_equal_bits(
                [x.numpy() for x in found[name]], [x.numpy() for x in expected[name]]
            )


PAIRS = {
    "attention_mask": lambda mask: mask,
    "attention_bias": lambda mask: np.where(mask, 0.5, -np.inf).astype("float32"),
}


@pytest.mark.parametrize("heads", [False, True], ids=["one for all heads", "heads"])
@pytest.mark.parametrize("argument", PAIRS)
@pytest.mark.parametrize("block_size", ["auto", 2, None])
@pytest.mark.parametrize("layer", [SelfAttention, CrossAttention])
def test_what_no_pair_reads(layer, block_size, argument, heads):
    """Padding that is told by the rows and columns of pairs."""
    rows, keys = np.arange(5) < 3, np.arange(5) < 4
    pairs = np.broadcast_to(rows[:, None] & keys, (2, 2, 5, 5) if heads else (2, 5, 5))
    call = {argument: PAIRS[argument](pairs)}
    one = layer(2, block_size=block_size)
    inputs = [random(2, 5, 8, seed=i) for i in range(1 + (layer is CrossAttention))]
    one(*inputs)
    if layer is SelfAttention:
        of_inputs = [np.broadcast_to(rows | keys, (2, 5))]
    else:
        of_inputs = [np.broadcast_to(x, (2, 5)) for x in (rows, keys)]
    expected = results(one, filled(inputs, of_inputs, 3.0), call)
    for filler in FILLERS:
        found = results(one, filled(inputs, of_inputs, filler), call)
        assert_equal_bits(found, expected)


@pytest.mark.parametrize("block_size", ["auto", 2, None])
@pytest.mark.parametrize("causal", [False, True], ids=["all", "causal"])
@pytest.mark.parametrize("normalizer", ["softmax", "sigmoid"])
@pytest.mark.parametrize("score", ["scaled_dot", "cosine"])
def test_padding_of_projected_tensors(score, normalizer, causal, block_size):
    """`attend` itself."""
    mask = np.array([[True] * 3 + [False] * 2, [False] * 5])
    masks = {"query_mask": mask, "key_mask": mask}
    inputs = [random(2, 3, 5, 4, seed=i) for i in range(3)]
    options = {"score": score, "normalizer": normalizer, "causal": causal, **masks}
    if score == "cosine":  # which has weights
        options["score"] = scores.Cosine()

    def run(filler):
        arrays = filled(inputs, [mask[:, None]] * 3, filler)
        value, gradients = value_and_gradients(
            lambda *tensors: attend(*tensors, block_size=block_size, **options), *arrays
        )
        return [value, *gradients]

    expected = run(3.0)
    for filler in FILLERS:
        assert_equal_bits(run(filler), expected)


MASKING = {"minus infinity": -np.inf, "-1e9": -1e9, "the lowest": np.finfo("float32").min}
KERNELS = {
    "reference": {"block_size": None},
    "dense": {},
    "chunked": {"block_size": 2},
    "flash": {"policy": Policy(kernel="flash", kept_pairs=0, kept_for_a_channel=0)},
    "chunked, compiled": {"policy": Policy(kernel="chunked", compiled=True)},
    "flash, compiled": {"policy": Policy(kernel="flash", compiled=True)},
}
BIASES = {
    "each head": (2, 3, 5, 7),
    "all heads": (2, 1, 5, 7),
    "all examples": (1, 3, 5, 7),
    "each row": (1, 1, 5, 1),
}


MASKED = [None, "mask", "key_mask", "causal"]


def rows_of_biases():
    """Every kernel with every bias, and the other masks by turns.

    The compiled ones, which take a second each, have one bias and all other masks.
    """
    biases = [(value, "each head") for value in MASKING]
    biases += [("minus infinity", shape) for shape in BIASES if shape != "each head"]
    kernels = [(kernel, "softmax") for kernel in KERNELS]
    kernels += [(kernel, "entmax") for kernel in ("reference", "chunked")]
    kernels.append(("chunked, compiled", "entmax"))
    for number, kernel in enumerate(kernels):
        if "compiled" in kernel[0]:
            yield from ((*kernel, "minus infinity", "each head", m) for m in MASKED)
            continue
        for index, bias in enumerate(biases):
            yield *kernel, *bias, MASKED[(number + index) % len(MASKED)]


@pytest.mark.parametrize(
    ("kernel", "normalizer", "value", "shape", "masked"), list(rows_of_biases())
)
def test_a_bias_masks_as_a_mask_does(kernel, normalizer, value, shape, masked):
    """Also a whole row, whose weights are zero and not equal."""
    shape = BIASES[shape]
    allowed = np.random.default_rng(3).random(shape) < 0.6
    allowed[:, :, 2] = False
    bias = random(*shape, seed=4)
    query, key, value_ = (random(2, 3, n, 4, seed=n) for n in (5, 7, 7))
    options = {"normalizer": normalizer, **KERNELS[kernel]}
    if masked == "causal":
        options["causal"] = True
    elif masked == "key_mask":
        options["key_mask"] = np.array([[True] * 4 + [False] * 3] * 2)
    other = np.ones((2, 1, 5, 7), bool)
    if masked == "mask":
        other = np.random.default_rng(5).random((2, 1, 5, 7)) < 0.7
    both = {"mask": other & allowed, "bias": bias}
    alone = {"bias": np.where(allowed, bias, np.float32(MASKING[value]))}
    if masked == "mask":
        alone["mask"] = other
    found, expected = (
        value_and_gradients(
            lambda *tensors, how=how: attend(*tensors, **options, **how), query, key, value_
        )
        for how in (alone, both)
    )
    for one, another in zip(
        [found[0], *found[1]], [expected[0], *expected[1]], strict=True
    ):
        np.testing.assert_allclose(one, another, rtol=0, atol=2e-6)
    assert (found[0][:, :, 2] == 0).all()


@pytest.mark.parametrize("return_attention_scores", [False, True])
@pytest.mark.parametrize("symbolic", [False, True], ids=["eager", "symbolic"])
@every
def test_an_explicit_mask_is_passed_on(case, symbolic, return_attention_scores):
    """As an implicit one is, whatever the name of the argument."""
    if return_attention_scores and not case.returns_weights:
        pytest.skip("it returns no weights")
    inputs = case.inputs()
    masks = case.padding(inputs)
    first = next(iter(masks))
    call = {name: ops.convert_to_tensor(mask) for name, mask in masks.items()}
    if symbolic:
        inputs = [keras.Input(batch_shape=x.shape) for x in inputs]
        call = {
            name: keras.Input(batch_shape=x.shape, dtype="bool")
            for name, x in masks.items()
        }
    options = {"return_attention_scores": True} if return_attention_scores else {}
    output = case.make()(*inputs, **call, **options)
    output = output[0] if return_attention_scores else output
    passed = getattr(output, "_keras_mask", None)
    positions = inputs[0].shape[:-1]
    if output.shape[: len(positions)] != positions:  # they are pooled
        assert passed is None
        return
    assert tuple(passed.shape) == masks[first].shape
    if not symbolic:
        np.testing.assert_array_equal(ops.convert_to_numpy(passed), masks[first])
