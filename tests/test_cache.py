"""Layers with a cache: each step gives what the whole pass gives."""

import keras
import numpy as np
import pytest
from common import numpy, random, randomize
from keras import ops

import keras_sam
from keras_sam import masks, scores

BATCH, LENGTH, WIDTH = 3, 13, 16
ROTARY = (scores.Rotary, "scaled_dot")
STEPS = (scores.QKNorm, scores.Rotary, "scaled_dot", lambda: scores.SoftCap(5.0))

# Arguments of `SelfAttention(4, 8)`; a step is made anew for each layer.
LAYERS = {
    "plain": {"causal": True},
    "grouped": {"causal": True, "num_key_value_heads": 2, "score": ROTARY},
    "ring": {"causal": True, "sliding_window": 5, "num_key_value_heads": 1},
    "all steps": {
        "causal": True,
        "score": (*STEPS, scores.ALiBi, scores.Sinks),
        "use_gate": True,
    },
    "all steps in a ring": {
        "causal": True,
        "sliding_window": 5,
        "score": (*STEPS, scores.T5Bias, scores.Sinks),
        "use_gate": True,
    },
    "window or global": {
        "mask": masks.Causal() & (masks.Window(5) | masks.Global(2)),
    },
    "dilated": {"mask": masks.Causal() & masks.Dilated(2)},
    "additive": {"causal": True, "score": "additive", "normalizer": "sparsemax"},
    "bilinear in a ring": {
        "causal": True,
        "sliding_window": 4,
        "score": "bilinear",
        "normalizer": "sigmoid",
        "num_key_value_heads": 2,
    },
    "cosine": {"causal": True, "score": "cosine", "normalizer": "entmax"},
    "grid": {"causal": True, "score": ("scaled_dot", lambda: scores.GridBias((4, 4)))},
    "selective": {"causal": True, "selective": True},
    "selective in a ring": {
        "causal": True,
        "selective": True,
        "sliding_window": 5,
        "num_key_value_heads": 2,
    },
    "selective additive": {"causal": True, "selective": True, "score": "additive"},
}
CHUNKS = {
    "one": (1,) * LENGTH,
    "three": (3, 3, 3, 3, 1),
    "all": (LENGTH,),
    "mixed": (4, 1, 1, 6, 1),
}


def make(name, dtype=None):
    """Returns a built layer of the table with random weights."""
    arguments = dict(LAYERS[name])
    if isinstance(arguments.get("score"), tuple):
        steps = arguments["score"]
        arguments["score"] = [step() if callable(step) else step for step in steps]
    layer = keras_sam.SelfAttention(4, 8, dtype=dtype, **arguments)
    layer.build((None, LENGTH, WIDTH))
    return randomize(layer)


def inputs(seed=0):
    return random(BATCH, LENGTH, WIDTH, seed=seed, scale=0.5)


def decode(layer, x, chunks, cache, index_of=int, masks=None):
    """Returns the outputs of all steps side by side, and the last cache."""
    start, outputs = 0, []
    for rows in chunks:
        part = slice(start, start + rows)
        mask = None if masks is None else masks[:, part]
        output, cache = layer(
            x[:, part], mask=mask, cache=cache, cache_update_index=index_of(start)
        )
        outputs.append(numpy(output))
        start += rows
    return np.concatenate(outputs, axis=1), cache


def tensor_index(start):
    return ops.convert_to_tensor(start, dtype="int32")


def index_of_each(start):
    return ops.full((BATCH,), start, dtype="int32")


def close(found, expected, tolerance=3e-6):
    np.testing.assert_allclose(
        found, expected, rtol=0, atol=tolerance * np.abs(expected).max()
    )


@pytest.mark.parametrize("name", LAYERS)
def test_steps_equal_the_whole(name):
    layer, x = make(name), inputs()
    whole = numpy(layer(x))
    ways = ("one", int), ("all", int), ("three", index_of_each), ("mixed", tensor_index)
    for chunks, index_of in ways:
        cache = layer.make_cache(BATCH, LENGTH)
        close(decode(layer, x, CHUNKS[chunks], cache, index_of)[0], whole)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        ("grouped", "mixed_bfloat16"),
        ("ring", "mixed_float16"),
        ("all steps", "mixed_bfloat16"),
        ("selective in a ring", "mixed_bfloat16"),
    ],
)
def test_mixed_precision(name, dtype):
    layer, x = make(name, dtype), inputs()
    whole = numpy(layer(x))
    found, cache = decode(layer, x, CHUNKS["mixed"], layer.make_cache(BATCH, LENGTH))
    close(found, whole, 2e-2)
    tensors = keras.tree.flatten(cache)
    assert keras.backend.standardize_dtype(tensors[0].dtype) == dtype[6:]
    if name == "selective in a ring":  # what is summed up over rows stays wide
        assert keras.backend.standardize_dtype(cache["selected"].dtype) == "float32"


# Prompts of unequal length --------------------------------------------------------------

COUNTS = LENGTH, 5, 8
PADDED = "plain", "ring", "all steps", "selective in a ring"


def fill_up(x, side):
    """Returns examples of `COUNTS` tokens with padding that is no number, and the mask."""
    mask = np.arange(LENGTH)[None] < np.array(COUNTS)[:, None]
    padded = np.where(mask[..., None], x, np.nan).astype("float32")
    if side == "right":
        return padded, mask
    rolled = [np.roll(row, LENGTH - n, 0) for row, n in zip(padded, COUNTS, strict=True)]
    return np.stack(rolled), mask[:, ::-1]


@pytest.mark.parametrize(
    ("side", "chunks"), [("left", "one"), ("left", "all"), ("right", "three")]
)
@pytest.mark.parametrize("name", PADDED)
def test_padded_examples_get_what_they_get_alone(name, side, chunks):
    layer, x = make(name), inputs()
    padded, mask = fill_up(x, side)
    first = np.array(COUNTS) - LENGTH if side == "left" else np.zeros(BATCH, "int32")
    cache = layer.make_cache(BATCH, LENGTH, padding=True)

    def index_of(start):
        return ops.convert_to_tensor(first + start, dtype="int32")

    found, _ = decode(layer, padded, CHUNKS[chunks], cache, index_of, mask)
    for example, count in enumerate(COUNTS):
        alone = numpy(layer(x[example : example + 1, :count]))[0]
        close(found[example][mask[example]], alone)


@pytest.mark.parametrize("first", [0, "each"])
@pytest.mark.parametrize("name", PADDED)
def test_each_example_goes_on_where_its_prompt_ends(name, first):
    layer, x = make(name), inputs()
    whole = numpy(layer(x))
    counts = np.array([2, 6, 4], "int32")
    mask = np.arange(6)[None] < counts[:, None]
    prompt = np.where(mask[..., None], x[:, :6], np.nan).astype("float32")
    index = np.zeros(BATCH, "int32") if first == "each" else first
    cache = layer.make_cache(BATCH, LENGTH, padding=True)
    _, cache = layer(prompt, mask=mask, cache=cache, cache_update_index=index)
    for _ in range(4):
        rows = np.stack([x[b, n] for b, n in enumerate(counts)])[:, None]
        output, cache = layer(rows, cache=cache, cache_update_index=counts)
        expected = np.stack([whole[b, n] for b, n in enumerate(counts)])
        close(numpy(output)[:, 0], expected)
        counts = counts + 1


@pytest.mark.parametrize("name", ["plain", "ring", "selective"])
def test_padding_in_between_is_what_it_is_in_the_whole(name):
    layer, x = make(name), inputs()
    mask = random(BATCH, LENGTH, seed=3) > -0.5
    whole = numpy(layer(x, mask=mask))
    cache = layer.make_cache(BATCH, LENGTH, padding=True)
    found, _ = decode(layer, x, CHUNKS["mixed"], cache, masks=mask)
    close(found[mask], whole[mask])


@pytest.mark.parametrize("name", ["plain", "ring", "all steps"])
def test_what_comes_later_changes_no_bit(name):
    layer, x = make(name), inputs()
    other = np.concatenate([x[:, :7], inputs(seed=1)[:, 7:]], axis=1)
    cache = layer.make_cache(BATCH, LENGTH)
    used = decode(layer, inputs(seed=2), CHUNKS["all"], cache)[1]  # then begun anew
    results = [
        decode(layer, tensor, CHUNKS["mixed"], start)[0][:, :6]
        for tensor in (x, other)
        for start in (cache, used)
    ]
    for result in results:
        np.testing.assert_array_equal(result, results[0])


def test_segments():
    causal = masks.Causal() & masks.Segments()
    x, ids = inputs(), np.repeat([[0] * 4 + [1] * 6 + [2] * 3], BATCH, 0).astype("int32")
    for mask in (causal, causal & masks.Window(5)):
        layer = keras_sam.SelfAttention(4, 8, mask=mask)
        whole = numpy(layer(x, segment_ids=ids))
        cache, outputs = layer.make_cache(BATCH, LENGTH), []
        for start in range(0, LENGTH, 2):
            part = slice(start, start + 2)
            output, cache = layer(
                x[:, part],
                segment_ids=ids[:, part],
                cache=cache,
                cache_update_index=start,
            )
            outputs.append(numpy(output))
        close(np.concatenate(outputs, axis=1), whole)


# Weights and recording ------------------------------------------------------------------


@pytest.mark.parametrize("name", ["grouped", "ring", "selective", "additive"])
def test_weights_are_in_the_order_of_positions(name):
    layer, x = make(name), inputs()
    whole = numpy(layer(x, return_attention_scores=True)[1])
    cache, start = layer.make_cache(BATCH, LENGTH), 0
    slots = keras.tree.flatten(cache)[0].shape[2]
    is_ring = name == "ring"
    for rows in CHUNKS["mixed"]:
        call = {"cache": cache, "cache_update_index": start}
        part, stop = x[:, start : start + rows], start + rows
        with keras_sam.record_attention() as maps:
            _, weights, cache = layer(part, return_attention_scores=True, **call)
        recorded, weights = numpy(maps[layer.path]), numpy(weights)
        np.testing.assert_array_equal(recorded, weights)
        expected = whole[:, :, start:stop]
        if is_ring:  # the last key is that of the last row
            keys = min(weights.shape[-1], stop)
            assert weights.shape[-1] == slots + (rows if rows > 1 else 0)
            np.testing.assert_allclose(weights[..., :-keys], 0)
            weights, expected = weights[..., -keys:], expected[..., stop - keys : stop]
        np.testing.assert_allclose(weights, expected, atol=2e-6)
        allowed = ops.convert_to_numpy(maps.allowed[layer.path])
        allowed = np.broadcast_to(allowed, recorded.shape)
        assert not recorded[~allowed].any()
        assert maps.details[layer.path].kind == "self"
        start = stop


@pytest.mark.parametrize("rows", [1, 3])
def test_mask_and_bias_over_slots(rows):
    layer, x = make("grouped"), inputs()
    mask = random(LENGTH, LENGTH, seed=4) > -1
    bias = random(BATCH, 4, LENGTH, LENGTH, seed=5)
    whole = numpy(layer(x, attention_mask=mask, attention_bias=bias))
    cache, outputs = layer.make_cache(BATCH, LENGTH), []
    for start in range(0, LENGTH, rows):
        part = slice(start, start + rows)
        output, cache = layer(
            x[:, part],
            attention_mask=mask[part],
            attention_bias=bias[:, :, part],
            cache=cache,
            cache_update_index=start,
        )
        outputs.append(numpy(output))
    close(np.concatenate(outputs, axis=1), whole)


# Graphs ---------------------------------------------------------------------------------


@pytest.mark.tensorflow
@pytest.mark.parametrize("jit_compile", [False, True])
@pytest.mark.parametrize("name", ["grouped", "ring", "all steps", "selective in a ring"])
def test_a_compiled_loop(name, jit_compile):
    import tensorflow as tf

    layer, x = make(name), inputs()
    whole = numpy(layer(x))

    @tf.function(jit_compile=jit_compile)
    def run(x):
        cache = layer.make_cache(BATCH, LENGTH)

        def step(index, outputs, cache):
            row = ops.take(x, index, axis=1)[:, None]
            output, cache = layer(row, cache=cache, cache_update_index=index)
            return index + 1, ops.slice_update(outputs, (0, index, 0), output), cache

        start = tf.constant(0), tf.zeros_like(x), cache
        return ops.while_loop(lambda index, *_: index < LENGTH, step, start)[1]

    close(numpy(run(x)), whole)


@pytest.mark.tensorflow
@pytest.mark.parametrize("name", ["grouped", "ring", "selective"])
def test_unknown_sizes(name):
    import tensorflow as tf

    layer, x = make(name), inputs()
    whole = numpy(layer(x))
    cache = layer.make_cache(BATCH, LENGTH)
    specs = keras.tree.map_structure(
        lambda t: tf.TensorSpec([None, *t.shape[1:]], t.dtype), cache
    )
    rows = tf.TensorSpec([None, None, WIDTH])

    @tf.function(input_signature=[rows, specs, tf.TensorSpec([], "int32")])
    def step(rows, cache, index):
        return layer(rows, cache=cache, cache_update_index=index)

    start, outputs = 0, []
    for count in CHUNKS["mixed"]:
        output, cache = step(x[:, start : start + count], cache, start)
        outputs.append(numpy(output))
        start += count
    close(np.concatenate(outputs, axis=1), whole)


def test_symbolic_calls():
    layer = make("selective")
    tensors = layer.make_cache(BATCH, LENGTH)
    x = keras.Input((3, WIDTH), batch_size=BATCH)
    cache = keras.tree.map_structure(
        lambda t: keras.Input(batch_shape=tuple(t.shape), dtype=t.dtype), tensors
    )
    outputs = layer(x, cache=cache, cache_update_index=0, return_attention_scores=True)
    assert [tuple(t.shape) for t in outputs[:2]] == [(BATCH, 3, WIDTH), (BATCH, 4, 3, 13)]
    model = keras.Model([x, cache], outputs)
    found = model([ops.convert_to_tensor(inputs()[:, :3]), tensors])
    close(numpy(found[0]), numpy(layer(inputs()[:, :3])))


# Cross-attention ------------------------------------------------------------------------

CROSS = {
    "plain": {},
    "grouped": {"num_key_value_heads": 2},
    "all steps": {
        "score": (scores.QKNorm, scores.Rotary, "scaled_dot", scores.ALiBi, scores.Sinks),
        "use_gate": True,
    },
    "window": {"sliding_window": 3, "num_key_value_heads": 2},
    "additive": {"score": "additive", "normalizer": "entmax"},
}


@pytest.mark.parametrize("padded", [False, True])
@pytest.mark.parametrize("name", CROSS)
def test_cross_attention(name, padded):
    arguments = dict(CROSS[name])
    if isinstance(arguments.get("score"), tuple):
        steps = arguments["score"]
        arguments["score"] = [step() if callable(step) else step for step in steps]
    layer = keras_sam.CrossAttention(4, 8, **arguments)
    query, value = inputs(), random(BATCH, 7, 12, seed=1, scale=0.5)
    mask = np.arange(7)[None] < np.array([[7], [3], [5]]) if padded else None
    if padded:
        value[~mask] = np.nan
    layer.build((BATCH, LENGTH, WIDTH), (BATCH, 7, 12))
    randomize(layer)
    call = {"value_mask": mask, "return_attention_scores": True}
    whole, weights = map(numpy, layer(query, value, **call))
    cache = layer.make_cache(value, value_mask=mask)
    start = 0
    for rows in CHUNKS["mixed"]:
        stop = start + rows
        found = layer(
            query[:, start:stop],
            cache=cache,
            cache_update_index=start,
            return_attention_scores=True,
        )
        close(numpy(found[0]), whole[:, start:stop])
        np.testing.assert_allclose(numpy(found[1]), weights[:, :, start:stop], atol=2e-6)
        start = stop
    if name == "plain":  # where nobody looks at positions, no index is needed
        close(numpy(layer(query, cache=cache)[0]), whole)
    elif name == "window":
        with pytest.raises(ValueError, match=r"`cache_update_index` must be the position"):
            layer(query, cache=cache)


# What is refused ------------------------------------------------------------------------


def call(name, change=None, rows=2, index=0, **arguments):
    layer = make(name)
    cache = layer.make_cache(BATCH, LENGTH)
    x = arguments.pop("x", inputs()[:, :rows])
    cache = cache if change is None else change(cache)
    return layer(x, cache=cache, cache_update_index=index, **arguments)


BAD_CALLS = {
    "room": (
        {"index": LENGTH - 1},
        "must leave room for 2 more positions in a cache of 13",
    ),
    "beyond": ({"index": LENGTH, "rows": 1}, "must leave room for 1 more positions"),
    "negative": ({"index": -1}, "must be a position"),
    "no index": ({"index": None}, "`cache_update_index` must be an integer"),
    "float index": ({"index": np.float32(1)}, "`cache_update_index` must be an integer"),
    "two indices": ({"index": np.array([0, 0])}, "`cache_update_index` must be an integer"),
    "batch": ({"x": inputs()[:2, :2]}, "`cache` must be what `make_cache`"),
    "dtype": ({"change": lambda c: ops.cast(c, "float16")}, "dtype float32"),
    "heads": ({"change": lambda c: c[:, :, :, :2]}, "keys_values of shape"),
    "rank": ({"change": lambda c: c[:, 0]}, "keys_values of shape"),
    "names": ({"change": lambda c: {"keys": c}}, "a dictionary with 'keys'"),
    "mask": ({"mask": np.ones((BATCH, 2), bool)}, "`padding=True`, because there is a"),
    "training": ({"training": True}, "`training` must be False where there is a cache"),
    "mask size": ({"attention_mask": np.ones((2, 2), bool)}, "`attention_mask` must have"),
    "picture": ({"x": random(BATCH, 2, 2, WIDTH)}, "expected ndim=3"),
}


@pytest.mark.parametrize("bad", BAD_CALLS)
def test_bad_calls(bad):
    arguments, message = BAD_CALLS[bad]
    with pytest.raises(ValueError, match=message.replace("(", r"\(")):
        call("plain", **arguments)


def test_a_mask_over_a_ring_is_refused():
    with pytest.raises(ValueError, match=r"take the slots of earlier ones"):
        call("ring", attention_mask=np.ones((2, 5), bool))


def test_an_index_without_a_cache_is_refused():
    with pytest.raises(ValueError, match=r"`cache_update_index` must be None"):
        make("plain")(inputs(), cache_update_index=0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({}, "must not let a row see what comes after it"),
        ({"sliding_window": 3}, "must not let a row see what comes after it"),
        ({"mask": masks.Prefix(3)}, "must not let a row see what comes after it"),
        ({"mask": masks.Causal("end")}, "must not let a row see what comes after it"),
        ({"causal": True, "value_dim": 3}, "`value_dim` must be `key_dim`"),
    ],
)
def test_layers_without_a_cache(arguments, message):
    layer = keras_sam.SelfAttention(4, 8, **arguments)
    with pytest.raises(ValueError, match=r"must be built before it has a cache"):
        layer.make_cache(1, 3)
    layer.build((None, None, WIDTH))
    with pytest.raises(ValueError, match=message):
        layer.make_cache(1, 3)


def test_an_index_that_is_a_tensor_beyond_the_cache_gives_no_number():
    indices = [ops.convert_to_tensor([0, LENGTH - 1, 1])]
    if keras.backend.backend() == "torch":
        with pytest.raises(IndexError, match="out of bounds"):
            call("plain", index=tensor_index(LENGTH - 1))
    else:
        indices.append(tensor_index(LENGTH - 1))
    for index in indices:
        output = numpy(call("plain", index=index)[0])
        beyond = [True] * 3 if len(index.shape) == 0 else [False, True, False]
        np.testing.assert_array_equal(np.isnan(output).all(axis=(1, 2)), beyond)
        np.testing.assert_array_equal(np.isnan(output).any(axis=(1, 2)), beyond)
