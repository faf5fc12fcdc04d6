"""The codec of the viewer's records: round trips, and bytes that are no record."""

import contextlib
import json
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of
from viewer_runs import causal_layers, picture_layers, softmax, translating_layers

from keras_sam_viewer import codes, maps, records
from keras_sam_viewer.layers import Extent, Layer
from keras_sam_viewer.runs import Run
from keras_sam_viewer.steps import Options, encode_layer, encode_map, encode_stats

DTYPES = [np.float32, np.uint32, np.uint16, np.uint8]
some_arrays = st.dictionaries(
    st.text(max_size=5),
    st.sampled_from(DTYPES).flatmap(
        lambda dtype: arrays_of.arrays(
            dtype, arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
        )
    ),
    max_size=4,
)
GOOD = records.pack({"code": "x"}, {"codes": np.arange(300, dtype=np.uint16)})


@settings(max_examples=60, deadline=None)
@given(some_arrays, st.dictionaries(st.sampled_from("abc"), st.integers() | st.text()))
def test_round_trip(arrays, attributes):
    attributes = {
        k: v for k, v in attributes.items() if not isinstance(v, str) or v.isascii()
    }
    found, back = records.unpack(records.pack(attributes, arrays))
    assert found == attributes
    assert list(back) == list(arrays)
    for name, array in arrays.items():
        assert back[name].dtype == array.dtype
        np.testing.assert_array_equal(back[name], array)


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_damaged_records_raise_the_one_error(data):
    blob = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(blob) - 1))
        blob[place] ^= 1 << data.draw(st.integers(0, 7))
    blob = bytes(blob[: data.draw(st.integers(0, len(blob)))])
    for read in (records.unpack, records.unpack_json, records.check_blob, maps.read_map):
        try:
            read(blob)
        except records.RecordError as error:
            assert str(error).endswith(".")  # noqa: PT017


headers = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(
            st.sampled_from(["v", "arrays", "name", "dtype", "shape", "code", "levels"]),
            inner,
            max_size=5,
        )
    ),
    max_leaves=20,
)


@settings(max_examples=200, deadline=None)
@given(headers, st.binary(max_size=40))
def test_any_header_raises_the_one_error(header, rest):
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 4)
    blob = records.deflate(b"KSAM" + struct.pack("<I", len(text)) + text + rest)
    for read in (records.unpack, maps.read_map):
        with contextlib.suppress(records.RecordError):
            read(blob)


def entry(**changes):
    return {"name": "a", "dtype": "u1", "shape": [4], **changes}


def container(arrays, v=1, data=bytes(4), magic=b"KSAM"):
    text = json.dumps({"v": v, "arrays": arrays}).encode()
    text += b" " * (-len(text) % 4)
    return records.deflate(magic + struct.pack("<I", len(text)) + text + data)


BAD = {
    "empty": (b"", "cut short"),
    "no gzip": (b"x" * 40, "not compressed with gzip"),
    "cut": (GOOD[:-20], "too large, or cut short|cut short|damaged"),
    "something behind": (GOOD + b"more", "too large|damaged"),
    "two members": (GOOD + GOOD, "larger than it says|damaged"),
    "magic": (container([entry()], magic=b"ELSE"), "not one of keras_sam"),
    "version": (container([entry()], v=2), "another version"),
    "no list": (container({"a": 1}), "list its arrays"),
    "dtype": (container([entry(dtype="f8")]), "describe its arrays"),
    "negative": (container([entry(shape=[-4])]), "describe its arrays"),
    "a flag": (container([entry(shape=[True])]), "describe its arrays"),
    "a fraction": (container([entry(shape=[4.0])]), "describe its arrays"),
    "huge": (container([entry(shape=[2**31 - 1] * 8)]), "cut short"),
    "many axes": (container([entry(shape=[1] * 9)]), "describe its arrays"),
    "too short": (container([entry(shape=[5])]), "cut short"),
    "too long": (container([entry(shape=[4])], data=bytes(8)), "another length"),
    "one name": (container([entry(), entry()], data=bytes(8)), "two arrays"),
    "deep": (records.deflate(b"[" * 100_000), "not one|damaged"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_records_say_why(name):
    blob, message = BAD[name]
    with pytest.raises(records.RecordError, match=message):
        records.unpack(blob)


def test_a_deeply_nested_header_is_refused():
    with pytest.raises(records.RecordError, match="damaged"):
        records.unpack_json(records.deflate(b"[" * 100_000))


def bomb(size):
    """A blob of so many zeros."""
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    parts = [packer.compress(bytes(2**20)) for _ in range(size // 2**20)]
    return b"".join([*parts, packer.flush()])


def test_a_bomb_is_refused_before_it_is_inflated():
    blob = bomb(2**30)
    assert len(blob) < 2**21
    with pytest.raises(records.RecordError, match="too large"):
        records.check_blob(blob)
    # One that lies about its size is followed no further than that.
    liar = blob[:-4] + struct.pack("<I", 2**20)
    with pytest.raises(records.RecordError, match="larger than it says"):
        records.check_blob(liar)


@pytest.mark.parametrize("dtype", ["float64", "int64", "bool", "int32"])
def test_other_types_are_refused(dtype):
    with pytest.raises(TypeError, match="`a` must be of type float32"):
        records.pack({}, {"a": np.zeros(3, dtype)})


# Layers, options, and how far weights may be off.
LAYERS = {
    "causal": (causal_layers(0.7, 1, 2, 40), Options(), "roots"),
    "causal, 63 levels": (causal_layers(0.7, 1, 2, 40), Options(63), "roots"),
    "causal, 16 bits": (causal_layers(0.7, 1, 2, 40), Options(fine=True), "range"),
    "padding": (translating_layers(0.8), Options(), "roots"),
    "pictures": (picture_layers(0.6), Options(), "any"),
    "flat": ([Layer("a", "self", softmax(np.zeros((1, 2, 5, 5))))], Options(), "roots"),
    "nothing": ([Layer("a", "cross", np.zeros((1, 2, 5, 3), "f4"))], Options(), "roots"),
    "no number": ([Layer("a", "cross", np.full((1, 2, 5, 3), np.nan))], Options(), "nan"),
}


@pytest.mark.parametrize("name", LAYERS)
def test_maps_come_back(name):
    layers, options, _ = LAYERS[name]
    for index, layer in enumerate(layers):
        extent = Extent.of(layer)
        of_layer = encode_layer(layer, extent, options)
        for example in range(layer.examples):
            blob = encode_map(of_layer, index, example, 7)
            attributes, weights, allowed = maps.read_map(blob)
            assert (attributes["layer"], attributes["example"]) == (index, example)
            expected = (
                layer.gate(example)[None] if layer.is_gate else layer.weights[example]
            )
            expected = np.nan_to_num(expected)
            levels = attributes.get("levels")
            largest = expected.max(-1, keepdims=True)
            if levels:
                # Half a code of the root: the derivative of a square is twice the root.
                error = (np.sqrt(expected * largest) + largest / levels) / levels
            else:
                flat = expected.reshape(len(expected), -1)
                error = np.ptp(flat, axis=1).max() / 65535
            assert (np.abs(weights - expected) <= error + 1e-6).all()
            self_check_mask(layer, extent, example, allowed, weights)


def self_check_mask(layer, extent, example, allowed, weights):
    if layer.allowed is None or not layer.is_pairs:
        return
    told = np.broadcast_to(layer.allowed, layer.weights.shape)[example]
    if allowed is None:
        size = extent.query_lengths[example], extent.key_lengths[example]
        allowed = np.zeros(told.shape, bool)
        allowed[:, : size[0], : size[1]] = True
    np.testing.assert_array_equal(np.broadcast_to(allowed, told.shape), told)


def test_octaves():
    multiples = np.array([-1, 0, 1 / 16, 1, 2, 4, 1e30], "f4")
    assert list(codes.encode_octaves(multiples)) == [0, 1, 1, 65, 81, 97, 255]
    some = codes.decode_octaves(codes.encode_octaves(multiples))
    np.testing.assert_allclose(some[3:6], multiples[3:6])
    assert some[0] == -1


def test_fewer_levels_are_smaller():
    layers = causal_layers(0.3, 1, 4, 64)
    of_layer = encode_layer(layers[0], Extent.of(layers[0]))
    run = Run("a", {"map/0/0/0": encode_map(of_layer, 0, 0, 0), "map/0/0/1": b"damaged"})
    small = run.coarser(63)
    assert small.size < 0.9 * run.size
    attributes, weights, _ = maps.read_map(small.blobs["map/0/0/0"])
    assert attributes["levels"] == 63
    np.testing.assert_allclose(weights, layers[0].weights[0], atol=0.02)
    assert small.blobs["map/0/0/1"] == b"damaged"


def test_steps_are_thinned_with_both_ends():
    blobs = {"meta": b"", **{f"stats/{i}": b"" for i in range(-1, 40)}}
    run = Run("a", {**blobs, "map/-1/0/0": b"", "map/1/0/0": b""}).thinned(5)
    assert run.steps == [-1, 9, 19, 29, 39]
    assert "map/-1/0/0" in run.blobs
    assert "map/1/0/0" not in run.blobs


def test_numbers_that_are_none_become_null():
    layers = causal_layers(0, 1, 1, 4)
    found = [encode_layer(layers[0], Extent.of(layers[0]))]
    blob = encode_stats(found, 3, {"loss": float("nan"), "accuracy": np.float32(0.5)})
    attributes, arrays = records.unpack(blob)
    assert attributes["scalars"] == {"loss": None, "accuracy": 0.5}
    assert arrays["statistics"].shape == (1, 1, 1, 15)
