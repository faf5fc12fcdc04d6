"""Masks: what they allow, what they tell of tiles, and that every kernel obeys them."""

import dataclasses

import keras
import numpy as np
import oracles
import pytest
from common import BACKEND, label, numpy, random, randomize, refused
from gradients import in_float64, second_order
from keras import ops
from kernels import ANY, COMPILED, PLAIN, SOFTMAX, assert_alike

import keras_sam
from keras_sam import masks, normalizers
from keras_sam.attention.positions import Positions
from keras_sam.attention.tile_share import tile_share
from keras_sam.attention.tile_table import TileTable
from keras_sam.masks import And, Causal, Dilated, Global, Not, Or, Prefix, Segments, Window
from keras_sam.masks.pairs import Bounds, whole_call

B, H, D, DV = 2, 3, 5, 7
ROWS, KEYS = 23, 19


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class Banded(masks.Mask):
    """A mask of one's own: every third band of four keys, another one for each head."""

    shift: int = 0

    def allowed(self, pairs):
        return (pairs.key // 4 + pairs.head + self.shift) % 3 == 0


@keras.saving.register_keras_serializable(package="tests")
@dataclasses.dataclass(frozen=True)
class OneTile(masks.Mask):
    """A mask of one's own that does not depend on heads."""

    def allowed(self, pairs):
        return ops.logical_and(pairs.query < 8, pairs.key >= pairs.query)


# Masks and their formula for a row `i` and a key `j`, of segments `a` and `b`.
FORMULAS = {
    "causal": (Causal(), lambda i, j, a, b: j <= i),
    "causal_end": (Causal("end"), lambda i, j, a, b: j <= i + KEYS - ROWS),
    "window": (Window(4), lambda i, j, a, b: abs(i - j) < 4),
    "prefix": (Prefix(6), lambda i, j, a, b: j <= i or j < 6),
    "global": (Global(3), lambda i, j, a, b: i < 3 or j < 3),
    "segments": (Segments(), lambda i, j, a, b: a == b),
    "dilated": (Dilated(3), lambda i, j, a, b: (i - j) % 3 == 0),
    "not": (~Window(4), lambda i, j, a, b: abs(i - j) >= 4),
    "and": (
        Causal() & (Window(4) | Global(2)),
        lambda i, j, a, b: j <= i and (i - j < 4 or j < 2 or i < 2),
    ),
    "or": (
        Causal() & Window(4) | Global(2),
        lambda i, j, a, b: 0 <= i - j < 4 or j < 2 or i < 2,
    ),
    "packed": (Causal() & Segments(), lambda i, j, a, b: j <= i and a == b),
    "strided": (
        Window(9) & Dilated(2),
        lambda i, j, a, b: abs(i - j) < 9 and (i - j) % 2 == 0,
    ),
    "own": (OneTile(), lambda i, j, a, b: i < 8 and j >= i),
    "own_and_window": (
        OneTile() & Window(3),
        lambda i, j, a, b: i < 8 and j >= i and abs(i - j) < 3,
    ),
}
every_mask = pytest.mark.parametrize("name", FORMULAS)


def segments():
    """Segments of rows and keys, in growing order in one example and in none in another."""
    generator = np.random.default_rng(2)
    found = [generator.integers(0, 4, (B, length)) for length in (ROWS, KEYS)]
    for ids in found:
        ids[0].sort()
    return tuple(ids.astype("int32") for ids in found)


def arrays(rows=ROWS, keys=KEYS):
    shapes = (B, H, rows, D), (B, H, keys, D), (B, H, keys, DV)
    return [random(*shape, seed=i) for i, shape in enumerate(shapes)]


def allowed_by(name, rows=ROWS, keys=KEYS):
    """All pairs by the formula, `(B, 1, T, S)`."""
    _, formula = FORMULAS[name]
    of_rows, of_keys = segments()
    found = np.zeros((B, 1, rows, keys), bool)
    for b, _, i, j in np.ndindex(found.shape):
        found[b, 0, i, j] = formula(i, j, of_rows[b, i], of_keys[b, j])
    return found


def of_mask(mask):
    """The arguments of `attend` for a mask."""
    found = {"pattern": mask}
    if mask.needs_segments:
        found |= dict(
            zip(("query_segment_ids", "key_segment_ids"), segments(), strict=True)
        )
    return found


@every_mask
def test_as_array_is_the_formula(name):
    mask, _ = FORMULAS[name]
    expected = allowed_by(name)[:, 0]
    found = mask.as_array(ROWS, KEYS, segments() if mask.needs_segments else None)
    assert found.dtype == bool
    np.testing.assert_array_equal(found, expected if found.ndim == 3 else expected[0])


def test_as_array_from_a_later_row_on():
    found = (Causal() & Window(3)).as_array(2, 6, query_start=3)
    np.testing.assert_array_equal(found, oracles.allowed_positions(6, 6, True, 3)[3:5])


def test_drawings():
    assert str(Causal() & Window(2)).splitlines()[:3] == [
        "1 . . . . . . .",
        "1 1 . . . . . .",
        ". 1 1 . . . . .",
    ]
    assert str(Segments()).splitlines()[3] == ". . . 1 1 1 . ."
    assert (
        repr(Causal() | Window(2)) == "Or(left=Causal(align='start'), right=Window(size=2))"
    )


@pytest.mark.parametrize("tile", [(1, 1), (4, 5), (8, 3), (23, 19), (64, 64)], ids=str)
@every_mask
def test_tiles_are_never_wrong(name, tile):
    """What is called empty is empty, and what is called whole is whole.

    Simple masks call all of them so that are.
    """
    mask, _ = FORMULAS[name]
    rows, keys = tile
    given = segments() if mask.needs_segments else (None, None)
    bounds = Bounds(whole_call(ROWS, KEYS, given), rows, keys)
    shape = (B, 1, -(-ROWS // rows), -(-KEYS // keys))
    some, every = (np.broadcast_to(numpy(x), shape) for x in mask.any_all(bounds))
    allowed = allowed_by(name)
    for b, _, r, c in np.ndindex(shape):
        here = allowed[b, 0, r * rows : (r + 1) * rows, c * keys : (c + 1) * keys]
        assert some[b, 0, r, c] >= here.any()
        assert every[b, 0, r, c] <= here.all()
        if name in ("causal", "causal_end", "window", "prefix", "global", "own"):
            assert some[b, 0, r, c] == here.any()
            assert every[b, 0, r, c] == here.all()
        if name == "segments" and b == 0:  # in order
            assert some[b, 0, r, c] == here.any()


def test_a_table_lists_whole_tiles_first_and_no_empty_ones():
    mask = Causal() & Window(5)
    pairs = whole_call(8, 8)
    table = TileTable(pairs, Positions(mask=mask), 2, 2, (1, 1))
    found = []
    for row in range(4):
        order, whole, read = map(numpy, table.row((0, 0), row))
        found.append((sorted(order[:whole].tolist()), sorted(order[whole:read].tolist())))
    assert found == [([], [0]), ([0], [1]), ([1], [0, 2]), ([2], [1, 3])]


def test_the_tiles_of_a_mask_are_as_many_as_its_share():
    """Of 32 x 32 tiles, a local mask reads those near the diagonal and the first ones."""
    mask = Causal() & (Window(128) | Global(16))
    table = TileTable(whole_call(4096, 4096), Positions(mask=mask), 128, 128, (1, 1))
    read = numpy(table.counts)[0, 0, :, 1]
    assert read.tolist() == [1, 2, *[3] * 30]
    assert tile_share(Positions.of(mask), 4096, 4096, 128, 128) == sum(read) / 32**2


def test_the_share_of_tiles_that_depend_on_more_than_positions_is_unknown():
    for mask in (Segments(), Causal() & Segments(), Banded(), ~Banded() | Causal()):
        assert tile_share(Positions.of(mask), 64, 64, 8, 8) is None


@pytest.mark.parametrize("way", [*ANY, *SOFTMAX, *PLAIN])
@every_mask
def test_every_kernel_obeys_every_mask(name, way, uncompiled):
    mask, _ = FORMULAS[name]
    allowed = allowed_by(name)

    def expected(*tensors):
        return keras_sam.attend(*tensors, mask=allowed, block_size=None)

    def found(*tensors):
        arguments = (ANY | SOFTMAX | PLAIN)[way]
        return keras_sam.attend(*tensors, **of_mask(mask), **arguments)

    assert_alike(expected, found, arrays())


def test_values_of_the_formula():
    """The same against NumPy, in float64."""
    query, key, value = (x.astype("float64") for x in arrays())
    mask, _ = FORMULAS["packed"]
    scores = np.einsum("bhtd,bhsd->bhts", query, key) / np.sqrt(D)
    allowed = np.broadcast_to(allowed_by("packed"), scores.shape)
    weights = oracles.attention_weights(scores, oracles.softmax, allowed)
    for way in (ANY | SOFTMAX).values():
        output = numpy(keras_sam.attend(*arrays(), **of_mask(mask), **way))
        np.testing.assert_allclose(output, weights @ value, rtol=0, atol=2e-6)


@pytest.mark.parametrize("way", ["rows", "chunked"])
@pytest.mark.parametrize("name", ["and", "packed", "own"])
@pytest.mark.parametrize("normalizer", ["sigmoid", "sparsemax", "entmax"])
def test_other_normalizers(normalizer, name, way, uncompiled):
    mask, _ = FORMULAS[name]
    options = {"normalizer": normalizer, "score": "cosine"}
    score = keras_sam.scores.Cosine()
    score.build((B, H, ROWS, D), (B, H, KEYS, D))
    options["score"] = score

    def expected(*tensors):
        return keras_sam.attend(*tensors, mask=allowed_by(name), block_size=None, **options)

    def found(*tensors):
        return keras_sam.attend(*tensors, **of_mask(mask), **options, **ANY[way])

    assert_alike(expected, found, arrays())


@pytest.mark.parametrize("way", ["reference", "chunked", "flash", "dense"])
def test_a_mask_may_tell_heads_apart(way, uncompiled):
    head, key = np.arange(H)[:, None, None], np.arange(KEYS)
    allowed = np.broadcast_to((key // 4 + head + 1) % 3 == 0, (H, ROWS, KEYS))[None]

    def expected(*tensors):
        return keras_sam.attend(*tensors, mask=allowed, block_size=None)

    def found(*tensors):
        arguments = (ANY | SOFTMAX | PLAIN)[way]
        return keras_sam.attend(*tensors, pattern=Banded(1), **arguments)

    assert_alike(expected, found, arrays())


@pytest.mark.tensorflow
@pytest.mark.parametrize(
    ("kernel", "name"), [("flash", "packed"), ("flash", "and"), ("chunked", "packed")]
)
def test_compiled_kernels(kernel, name):
    mask, _ = FORMULAS[name]
    allowed = allowed_by(name)
    more = {"dropout": 0.3, "seed": 4}

    def expected(*tensors):
        return keras_sam.attend(*tensors, mask=allowed, block_size=None, **more)

    def found(*tensors):
        return keras_sam.attend(*tensors, **of_mask(mask), **more, **COMPILED[kernel])

    assert_alike(expected, found, arrays())


@pytest.mark.tensorflow
@pytest.mark.parametrize("way", ["chunked", "flash", None])
@pytest.mark.parametrize("name", ["and", "segments", "own"])
def test_unknown_sizes(name, way):
    import tensorflow as tf

    mask, _ = FORMULAS[name]
    ids = [tf.TensorSpec((None, None), "int32")] * 2
    specs = [tf.TensorSpec((None, H, None, n), "float32") for n in (D, D, DV)]

    @tf.function(input_signature=[*specs, *ids])
    def run(query, key, value, rows, keys):
        given = {"pattern": mask}
        if mask.needs_segments:
            given |= {"query_segment_ids": rows, "key_segment_ids": keys}
        way_of = {} if way is None else (ANY | SOFTMAX)[way]
        tensors = [query, key, value]
        with tf.GradientTape() as tape:
            tape.watch(tensors)
            output = keras_sam.attend(*tensors, **given, **way_of)
        return output, tape.gradient(output, tensors)

    output, gradients = run(*arrays(), *segments())
    tensors = [tf.constant(x) for x in arrays()]
    with tf.GradientTape() as tape:
        tape.watch(tensors)
        expected = keras_sam.attend(*tensors, mask=allowed_by(name), block_size=None)
    wanted = tape.gradient(expected, tensors)
    np.testing.assert_allclose(output, expected, rtol=0, atol=2e-6)
    for one, other in zip(gradients, wanted, strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=8e-6)


@pytest.mark.parametrize("way", [*ANY, *SOFTMAX, *PLAIN])
@pytest.mark.parametrize("name", ["and", "packed", "prefix"])
def test_what_is_masked_changes_no_bit(name, way, uncompiled):
    mask, _ = FORMULAS[name]
    allowed = allowed_by(name)
    query, key, value = arrays()
    arguments = {**of_mask(mask), **(ANY | SOFTMAX | PLAIN)[way]}
    before = numpy(keras_sam.attend(query, key, value, **arguments))
    for position in (0, 7, KEYS - 1):
        key_after, value_after = key.copy(), value.copy()
        key_after[:, :, position] *= -50.0
        value_after[:, :, position] = 1e6
        after = numpy(keras_sam.attend(query, key_after, value_after, **arguments))
        for b in range(B):
            blind = ~allowed[b, 0, :, position]
            np.testing.assert_array_equal(after[b][:, blind], before[b][:, blind])
            assert (after[b][:, ~blind] != before[b][:, ~blind]).any() or blind.all()


@pytest.mark.parametrize("way", ["reference", "chunked", "flash", "dense"])
def test_positions_of_ones_own(way, uncompiled):
    """Rows that come late, and keys in a ring with empty slots."""
    query, key, value = arrays()
    arguments = (ANY | SOFTMAX | PLAIN)[way]
    mask = Causal() & (Window(6) | Global(2))
    start, length = 9, 5
    full = keras_sam.attend(query[:, :, :KEYS], key, value, pattern=mask, block_size=None)
    expected = numpy(full)[:, :, start : start + length]
    order = np.random.default_rng(0).permutation(KEYS)
    at = np.where(np.arange(KEYS) < start + length, np.arange(KEYS), -1)[order]
    ring = key[:, :, order].copy(), value[:, :, order].copy()
    ring[1][:, :, at < 0] = 1e9  # empty slots hold anything
    rows = np.arange(start, start + length)
    given = {"pattern": mask, "query_positions": rows, "key_positions": at}
    found = keras_sam.attend(
        query[:, :, start : start + length], *ring, **given, **arguments
    )
    np.testing.assert_allclose(numpy(found), expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("way", ["reference", "chunked", "flash", "dense"])
def test_positions_of_each_example(way, uncompiled):
    """Prompts of unequal length, filled up in front."""
    query, key, value = arrays(KEYS, KEYS)
    arguments = (ANY | SOFTMAX | PLAIN)[way]
    missing = np.array([0, 6])
    at = np.arange(KEYS)[None] - missing[:, None]
    given = {"causal": True, "query_positions": at, "key_positions": at}
    found = numpy(keras_sam.attend(query, key, value, **given, **arguments))
    for b, skip in enumerate(missing):
        alone = [x[b : b + 1, :, skip:] for x in (query, key, value)]
        expected = numpy(keras_sam.attend(*alone, causal=True, block_size=None))
        np.testing.assert_allclose(found[b : b + 1, :, skip:], expected, rtol=0, atol=2e-6)


@pytest.mark.skipif(BACKEND == "jax", reason="float64 is asked for elsewhere there")
def test_second_derivatives(uncompiled):
    mask, _ = FORMULAS["and"]
    given = [x.astype("float64") for x in arrays(7, 7)]
    directions = [random(*x.shape, seed=i).astype("float64") for i, x in enumerate(given)]

    def products(**arguments):
        def run(*tensors):
            return ops.square(keras_sam.attend(*tensors, **arguments))

        with in_float64():
            return second_order(run)(given, directions)[1]

    allowed = mask.as_array(7)
    expected = products(mask=allowed, block_size=None)
    for found in (products(pattern=mask, **SOFTMAX["flash"]), products(pattern=mask)):
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_allclose(one, other, rtol=0, atol=1e-9)


# Short ways


@pytest.mark.parametrize(
    ("mask", "causal", "window"),
    [
        (Causal(), True, None),
        (Window(3), False, 3),
        (Causal() & Window(3), True, 3),
        (Window(5) & (Causal() & Window(3)), True, 3),
    ],
    ids=label,
)
def test_simple_masks_are_planned_as_their_short_ways(mask, causal, window):
    assert Positions.of(mask) == Positions(causal, window)
    assert Positions.of(None, causal, window) == Positions(causal, window)


def test_the_rest_of_a_mask_is_kept():
    found = Positions.of(Window(9) & Segments() & Causal(), sliding_window=4)
    assert found == Positions(True, 4, Segments())
    assert found.whole == Causal() & (Window(4) & Segments())


@pytest.mark.parametrize(
    ("mask", "reach"),
    [
        (Causal(), (None, 0)),
        (Causal("end"), (None, None)),
        (Window(6), (5, 5)),
        (Causal() & Window(6), (5, 0)),
        (Window(6) | Window(3), (5, 5)),
        (Causal() & (Window(6) | Global(2)), (None, 0)),
        (Causal() & Segments(), (None, 0)),
        (~Causal(), (None, None)),
    ],
    ids=label,
)
def test_reach(mask, reach):
    assert mask.reach() == reach
    assert Positions.of(mask).reach() == reach


# Layers


def model(mask, with_segments):
    x = keras.Input((None, 12))
    inputs, call = [x], {}
    if with_segments:
        inputs.append(keras.Input((None,), dtype="int32"))
        call["segment_ids"] = inputs[1]
    return keras.Model(inputs, keras_sam.SelfAttention(3, mask=mask)(x, **call))


@pytest.mark.parametrize("name", [name for name in FORMULAS if name != "causal_end"])
def test_layers_save_and_load(name, tmp_path):
    mask, _ = FORMULAS[name]
    saved = randomize(model(mask, mask.needs_segments))
    x = ops.convert_to_tensor(random(B, KEYS, 12))
    ids = ops.convert_to_tensor(segments()[1])
    given = [x, ids] if mask.needs_segments else x
    saved.save(tmp_path / "model.keras")
    loaded = keras.models.load_model(tmp_path / "model.keras")
    assert loaded.layers[-1].mask == mask
    np.testing.assert_array_equal(numpy(loaded(given)), numpy(saved(given)))
    layer = saved.layers[-1]
    call = {"segment_ids": ids} if mask.needs_segments else {}
    plain = keras_sam.SelfAttention(3)
    plain.build(x.shape)
    plain.set_weights(layer.get_weights())
    pairs = mask.as_array(KEYS, segment_ids=segments()[1] if call else None)
    expected = plain(x, attention_mask=ops.convert_to_tensor(pairs))
    np.testing.assert_allclose(numpy(layer(x, **call)), numpy(expected), rtol=0, atol=2e-6)


@pytest.mark.tensorflow
def test_an_exported_model_has_segments(tmp_path):
    import tensorflow as tf

    exported = randomize(model(Causal() & Segments(), True))
    given = [ops.convert_to_tensor(x) for x in (random(B, KEYS, 12), segments()[1])]
    exported.export(str(tmp_path), verbose=False)
    loaded = tf.saved_model.load(str(tmp_path))
    np.testing.assert_allclose(loaded.serve(given), exported(given), rtol=0, atol=2e-6)


def test_cross_attention_has_segments_of_both():
    rows, keys = map(ops.convert_to_tensor, segments())
    query, value = random(B, ROWS, 12), random(B, KEYS, 12, seed=1)
    layer = keras_sam.CrossAttention(3, mask=Segments())
    given = {"query_segment_ids": rows, "value_segment_ids": keys}
    _, weights = layer(query, value, return_attention_scores=True, **given)
    allowed = numpy(rows)[:, None, :, None] == numpy(keys)[:, None, None]
    assert (numpy(weights)[np.broadcast_to(~allowed, weights.shape)] == 0).all()
    unprojected = keras_sam.UnprojectedAttention(mask=Segments())
    _, weights = unprojected(query, value, return_attention_scores=True, **given)
    assert (numpy(weights)[~allowed[:, 0]] == 0).all()


def test_pictures_have_segments_as_well():
    layer = keras_sam.SelfAttention(2, mask=Segments())
    ids = np.arange(2 * 3 * 4).reshape(2, 3, 4) // 5
    _, weights = layer(random(2, 3, 4, 8), segment_ids=ids, return_attention_scores=True)
    flat = ids.reshape(2, 12)
    allowed = flat[:, None, :, None] == flat[:, None, None]
    assert ((numpy(weights) > 0) == np.broadcast_to(allowed, weights.shape)).all()


def test_selective_attention_takes_a_causal_mask():
    x = random(B, 9, 8)
    layers = [
        keras_sam.SelfAttention(2, selective=True, **options)
        for options in ({"causal": True}, {"mask": Causal()})
    ]
    layers[0].build(x.shape)
    layers[1].build(x.shape)
    layers[1].set_weights(layers[0].get_weights())
    np.testing.assert_array_equal(*[numpy(layer(x)) for layer in layers])


# Values


@pytest.mark.parametrize("name", [*FORMULAS])
def test_masks_come_back_from_their_configuration(name):
    mask, _ = FORMULAS[name]
    assert masks.deserialize(masks.serialize(mask)) == mask
    assert hash(masks.deserialize(masks.serialize(mask))) == hash(mask)
    assert masks.get(mask) is mask


def test_names_and_none():
    assert masks.get("causal") == Causal()
    assert masks.get("segments") == Segments()
    assert masks.get(None) is None
    assert isinstance(~(Causal() & Window(2) | Window(1)), Not)
    assert isinstance(Causal() | Window(2), Or)
    assert isinstance(Causal() & Window(2), And)


@dataclasses.dataclass(frozen=True)
class Unregistered(masks.Mask):
    def allowed(self, pairs):
        return pairs.key == pairs.query


@keras.saving.register_keras_serializable(package="tests")
class NoDataclass(masks.Mask):
    def __init__(self, size):
        self.size = size


BAD = {
    "size": (lambda: Window(0), "`size` must be a positive integer. Received: size=0"),
    "float": (lambda: Window(2.0), "`size` must be a positive integer"),
    "length": (lambda: Prefix(-1), "`length` must be a positive integer"),
    "count": (lambda: Global(True), "`count` must be a positive integer"),
    "step": (lambda: Dilated(0), "`step` must be a positive integer"),
    "align": (lambda: Causal("middle"), "`align` must be one of 'start', 'end'"),
    "part": (lambda: And(Causal(), 3), "`right` must be a keras_sam.masks.Mask"),
    "negated": (lambda: Not(3), "`mask` must be a keras_sam.masks.Mask"),
    "lambda": (
        lambda: keras_sam.SelfAttention(2, mask=lambda pairs: True),
        "`mask` must be a name or an instance of keras_sam.masks.Mask",
    ),
    "array": (
        lambda: keras_sam.SelfAttention(2, mask=np.ones((3, 3), bool)),
        "`mask` must be a name or an instance of keras_sam.masks.Mask",
    ),
    "name": (lambda: keras_sam.CrossAttention(2, mask="local"), "Unknown mask"),
    "unregistered": (
        lambda: keras_sam.SelfAttention(2, mask=Unregistered()),
        "`mask` must be an instance of a class registered with",
    ),
    "unregistered_part": (
        lambda: keras_sam.SelfAttention(2, mask=Causal() & ~Unregistered()),
        "`mask` must be an instance of a class registered with",
    ),
    "no_dataclass": (
        lambda: keras_sam.SelfAttention(2, mask=NoDataclass(3)),
        "`mask` must have a `get_config` of its own",
    ),
    "selective": (
        lambda: keras_sam.SelfAttention(2, selective=True, mask=Prefix(3)),
        "`causal` must be True where `selective` is",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_masks_are_refused_when_they_are_made(name):
    make, message = BAD[name]
    with refused(message, "Received: "):
        make()


IDS = np.zeros((B, KEYS), "int32")
BAD_SEGMENTS = {
    "missing": (Segments(), None, "must be integers of the shape (2, 19)"),
    "shorter": (Segments(), IDS[:, 1:], "must be integers of the shape (2, 19)"),
    "flat": (Segments(), IDS[0], "must be integers of the shape (2, 19)"),
    "floats": (Segments(), IDS.astype("float32"), "must be integers of the shape"),
    "not_wanted": (Causal(), IDS, "must be None where `mask` has no"),
    "no_mask": (None, IDS, "must be None where `mask` has no"),
}


@pytest.mark.parametrize("name", BAD_SEGMENTS)
def test_bad_segments_are_refused_when_a_layer_is_called(name):
    mask, ids, message = BAD_SEGMENTS[name]
    ids = None if ids is None else ops.convert_to_tensor(ids)
    layer = keras_sam.SelfAttention(3, mask=mask)
    with refused("`segment_ids` " + message, "Received: segment_ids="):
        layer(random(B, KEYS, 12), segment_ids=ids)
    cross = keras_sam.CrossAttention(3, mask=mask)
    good = {"query_segment_ids": IDS if mask == Segments() else None}
    with refused("`value_segment_ids` " + message):
        cross(random(B, KEYS, 12), random(B, KEYS, 12), value_segment_ids=ids, **good)


BAD_CALLS = {
    "mask": ({"mask": Causal()}, "`mask` must be a boolean tensor; a mask is a `pattern`"),
    "no_segments": ({"pattern": Segments()}, "`query_segment_ids` must be integers"),
    "segments": ({"query_segment_ids": IDS}, "`query_segment_ids` must be None where"),
    "short": (
        {"pattern": Segments(), "query_segment_ids": IDS[:, 2:]},
        "`query_segment_ids` must be integers of the shape (2, 19)",
    ),
    "positions": (
        {"query_positions": np.zeros(3, "int32")},
        "`query_positions` must be integers of the shape (1, 19)",
    ),
    "float_positions": (
        {"key_positions": np.zeros((B, KEYS), "float32")},
        "`key_positions` must be integers of the shape (2, 19)",
    ),
}


@pytest.mark.parametrize("name", BAD_CALLS)
def test_bad_calls_of_attend_are_refused(name):
    arguments, message = BAD_CALLS[name]
    with refused(message, "Received: "):
        keras_sam.attend(*arrays(KEYS, KEYS), **arguments)


def test_normalizers_say_which_share_a_sum():
    sharing = {
        name: normalizers.get(name).shares_a_sum
        for name in ("softmax", "sparsemax", "entmax", "sigmoid", "hard_sigmoid")
    }
    assert [name for name, shares in sharing.items() if not shares] == [
        "sigmoid",
        "hard_sigmoid",
    ]
