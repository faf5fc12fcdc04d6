"""One page of what a model looks at, and the records that the callback writes."""

import base64
import json
import re

import keras
import numpy as np
import pytest
from common import numpy, random

import keras_sam
from keras_sam import SelfAttention, record_attention, show
from keras_sam_viewer import maps, records

T, C = 5, 8
WORDS = ["the", "cat", "<b>sat</b>", "</script>", "."]


def model_of():
    inputs = keras.Input((T, C))
    return keras.Model(inputs, SelfAttention(2, causal=True, name="attend")(inputs))


def blobs_of(page):
    found = re.findall(r'id="ks:0:([^"]+)">([^<]*)</script>', page.text)
    return {key: base64.b64decode(text) for key, text in found}


def test_a_model_and_its_tokens(tmp_path):
    model, inputs = model_of(), random(2, T, C)
    path = tmp_path / "page.html"
    page = show(model, inputs, tokens=[WORDS, WORDS[:3]], path=path)
    assert path.read_text(encoding="utf-8") == page.text
    blobs = blobs_of(page)
    assert set(blobs) == {"meta", "stats/0", "map/0/0/0", "map/0/0/1"}
    meta = records.unpack_json(blobs["meta"])
    assert meta["label_lists"] == [WORDS, WORDS[:3]]
    assert meta["layers"][0]["causal"]
    with record_attention() as recorded:
        model(inputs)
    for example in range(2):
        _, weights, _ = maps.read_map(blobs[f"map/0/0/{example}"])
        np.testing.assert_allclose(weights, numpy(recorded["attend"])[example], atol=1e-5)


def test_what_was_recorded_and_a_cell_of_a_notebook():
    with record_attention() as recorded:
        model_of()(random(1, T, C))
    page = show(recorded, tokens=WORDS)
    frame = page._repr_html_()
    assert frame.startswith("<iframe srcdoc=")
    assert frame.isascii()
    assert frame.count("<") == 2  # the element itself
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page.text).group(1)
    assert "default-src 'none'" in policy
    assert "http" not in policy


def test_pictures():
    inputs = keras.Input((6, 6, 3))
    layer = keras_sam.layers.SpatialAttention(3, name="gate")
    model = keras.Model(inputs, layer(inputs))
    meta = records.unpack_json(blobs_of(show(model, random(2, 6, 6, 3)))["meta"])
    assert [view["picture"] for view in meta["views"][0]] == [0, 1]
    assert meta["pictures"][0]["url"].startswith("data:image/png;base64,")
    given = np.zeros((9, 4), np.uint8)
    page = show(model, random(1, 6, 6, 3), picture=given)
    (picture,) = records.unpack_json(blobs_of(page)["meta"])["pictures"]
    assert (picture["height"], picture["width"]) == (9, 4)


BAD = {
    "no inputs": (lambda: show(model_of()), "`inputs` must be one batch"),
    "no model": (lambda: show("model"), "`model` must be a model"),
    "no attention": (
        lambda: show(keras.layers.Dense(2), random(1, C)),
        "`model` must have at least one attention layer",
    ),
    "tokens": (lambda: show(model_of(), random(1, T, C), tokens=3), "`tokens` must be"),
    "path of tokens": (
        lambda: show(model_of(), random(1, T, C), tokens={"x": [WORDS]}),
        "`tokens` must have as paths those of recorded layers ('attend'). Received: ['x']",
    ),
    "more tokens than positions": (
        lambda: show(model_of(), random(1, T, C), tokens=[*WORDS, "more"]),
        "positions of the layer 'attend', 5 on the query side (give tokens",
    ),
    "more tokens than positions, by path": (
        lambda: show(
            model_of(),
            random(1, T, C),
            tokens={"attend": {"query": WORDS, "key": [*WORDS, "more"]}},
        ),
        "5 on the key side (give tokens",
    ),
    "tokens for no layer": (
        lambda: show(
            model_of(), random(1, T, C), tokens={"query": WORDS, "key": list(WORDS)}
        ),
        "{'attend': 'self'}",
    ),
    "no example": (
        lambda: show(model_of(), random(0, T, C)),
        "Weights must have an example and a position. Received: {'attend': (0, 2, 5, 5)}",
    ),
    "path of a picture": (
        lambda: show(model_of(), random(1, T, C), picture="cat.png"),
        "`picture` must be an array",
    ),
    "empty picture": (
        lambda: show(model_of(), random(1, T, C), picture=np.zeros((0, 4))),
        "`picture` must be an array",
    ),
    "picture": (
        lambda: show(model_of(), random(1, T, C), picture=np.ones(3)),
        "`picture` must be an array",
    ),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.filterwarnings("ignore:.*training.*")
def test_bad_arguments(name):
    call, message = BAD[name]
    with pytest.raises((ValueError, TypeError), match=re.escape(message)):
        call()


@pytest.mark.tensorflow
@pytest.mark.parametrize("levels", [255, 63])
def test_the_callback_writes_records(levels, tmp_path):
    from keras_sam.callbacks import AttentionTensorBoard
    from keras_sam_viewer.reader import read_log_dir

    model, inputs = model_of(), random(4, T, C)
    model.compile("sgd", "mse")
    watch = AttentionTensorBoard(tmp_path, inputs[:2], [WORDS, WORDS], levels=levels)
    model.fit(inputs, random(4, T, C), epochs=3, callbacks=[watch], verbose=0)
    (run,) = (run for run in read_log_dir(tmp_path) if run.blobs)
    assert {0, 1, 2} <= set(run.steps)
    attributes, _ = records.unpack(run.blobs["stats/2"])
    assert attributes["scalars"]["loss"] > 0
    meta = records.unpack_json(run.blobs["meta"])
    assert "loss" in meta["scalars"]
    assert meta["label_lists"] == [WORDS]
    attributes, weights, _ = maps.read_map(run.blobs["map/2/0/1"])
    assert attributes["levels"] == levels
    with record_attention() as recorded:
        model(inputs[:2])
    np.testing.assert_allclose(weights, numpy(recorded["attend"])[1], atol=0.02)
    size = len(json.dumps(meta))
    assert size < 4000


@pytest.mark.tensorflow
def test_the_callback_without_records(tmp_path):
    from keras_sam.callbacks import AttentionTensorBoard
    from keras_sam_viewer.reader import read_log_dir

    watch = AttentionTensorBoard(tmp_path, random(1, T, C), write_records=False)
    watch.write(model_of(), 0)
    watch.close()
    assert read_log_dir(tmp_path) == []
    with pytest.raises(ValueError, match="`levels` must be one of 63, 255"):
        AttentionTensorBoard(tmp_path, random(1, T, C), levels=100)
