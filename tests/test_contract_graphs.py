"""The contract in graphs: traced for any batch, and then differentiated for one example."""

import numpy as np
import pytest
from cases import CASES, Case
from common import assert_rounded_alike, numpy, randomize

from keras_sam.layers import SelectiveAttention, SelfAttention, UnprojectedAttention

pytestmark = pytest.mark.tensorflow

# Long enough for kernels that are compiled, and for loops over blocks of rows.
LONG = {"shapes": ((300, 4),), "open_shapes": ((None, 4),)}
LOOPS = {
    "self, blocks of two rows": Case(
        SelfAttention, {"num_heads": 2, "block_size": 2}, ((5, 6),), ((None, 6),)
    ),
    "self, long": Case(SelfAttention, {"num_heads": 2}, **LONG),
    "self, long, by blocks": Case(
        SelfAttention, {"num_heads": 2, "block_size": 64}, **LONG
    ),
    "self, long, additive": Case(
        SelfAttention, {"num_heads": 2, "score": "additive"}, **LONG
    ),
    "self, long, entmax": Case(
        SelfAttention, {"num_heads": 2, "normalizer": "entmax"}, **LONG
    ),
    "self, long, selective": Case(
        SelfAttention, {"num_heads": 2, "causal": True, "selective": True}, **LONG
    ),
    "unprojected, long": Case(
        UnprojectedAttention,
        {"block_size": 64, "causal": True},
        ((300, 4), (200, 4)),
        ((None, 4), (None, 4)),
    ),
    "selective, long, self": Case(SelectiveAttention, {"relation": "self"}, **LONG),
    "selective, long, self, additive": Case(
        SelectiveAttention,
        {"relation": "self", "score": "additive", "num_heads": 2},
        **LONG,
    ),
    "selective, long, not pooled": Case(
        SelectiveAttention, {"relation": "self", "pool": False, "top_k": 7}, **LONG
    ),
}


# Where loops are chosen, lengths are known and unknown by turns.
TABLE = {
    name: (case, name in LOOPS and list(LOOPS).index(name) % 2 == 0)
    for name, case in {**CASES, **LOOPS}.items()
}


@pytest.mark.parametrize("name", TABLE)
def test_one_function_in_every_graph(name):
    """A function of any batch gives the same wherever it is called from.

    In `predict` and `tf.data`, and differentiated for a batch of one: in a graph, in a
    loop of one, and eagerly, one after the other. Short cases take turns at these.
    """
    import tensorflow as tf

    case, unknown = TABLE[name]
    model = randomize(case.model(unknown))
    one = [tf.constant(x) for x in case.inputs(batch=1)]
    three = case.inputs(batch=3)
    expected = numpy(model(three))
    assert_rounded_alike(model.predict(three, batch_size=2, verbose=0), expected)
    data = tf.data.Dataset.from_tensor_slices(tuple(three)).batch(2)
    mapped = list(data.map(lambda *x: model(list(x))))
    assert_rounded_alike(np.concatenate(list(map(numpy, mapped))), expected)

    specs = [tf.TensorSpec(x.shape, x.dtype) for x in model.inputs]
    of_any_batch = tf.function(lambda *x: model(list(x)), input_signature=specs)

    def slopes(call, inputs):
        with tf.GradientTape() as tape:
            tape.watch(inputs)
            total = tf.reduce_sum(call(*inputs) ** 2)
        return tape.gradient(total, inputs)

    def plain(*inputs):
        return model(list(inputs))

    def in_a_loop(call, inputs):
        def body(index, inputs, found):  # shapes stay as they are, or TensorFlow refuses
            return index + 1, inputs, slopes(call, inputs)

        zeros = [tf.zeros_like(x) for x in inputs]
        start = tf.constant(0), inputs, zeros
        return tf.while_loop(lambda index, *_: index < 1, body, start)[2]

    right = [numpy(x) for x in slopes(plain, one)]
    graph = tf.function(slopes, autograph=False)
    ways = [
        lambda: graph(plain, one),
        lambda: tf.function(in_a_loop, autograph=False)(plain, one),
        lambda: graph(of_any_batch, one),
        lambda: slopes(of_any_batch, one),
    ]
    if name not in LOOPS:
        ways = ways[list(CASES).index(name) % 2 :: 2]
    for way in ways:
        for slope, other in zip(way(), right, strict=True):
            assert_rounded_alike(numpy(slope), other)
