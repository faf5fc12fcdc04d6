"""Records written by Python are read by the page's own JavaScript, under Node."""

import gzip
import json
import os
import pathlib
import shutil
import subprocess

import numpy as np
import pytest
import viewer_runs
from viewer_server import STATIC

from keras_sam_viewer import records

NODE = shutil.which("node")
pytestmark = pytest.mark.skipif(
    NODE is None and not os.environ.get("CI"), reason="needs Node"
)
SCRIPT = pathlib.Path(__file__).with_name("viewer_codec.mjs")


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    """A function that lets JavaScript read a list of `(blob, details)`."""
    folder = tmp_path_factory.mktemp("codec")
    shutil.copytree(STATIC, folder / "static")
    (folder / "static" / "package.json").write_text('{"type": "module"}')

    def ask(*questions):
        requests = []
        for number, (blob, details) in enumerate(questions):
            path = folder / f"{number}.gz"
            path.write_bytes(blob)
            requests.append({"file": str(path), **details})
        (folder / "requests.json").write_text(json.dumps(requests))
        command = [NODE, str(SCRIPT), str(folder / "static"), str(folder / "requests.json")]
        reply = subprocess.run(command, capture_output=True, text=True)
        assert reply.returncode == 0, reply.stderr
        return json.loads(reply.stdout)

    return ask


RUNS = {
    "translate": viewer_runs.translating_run,
    "digits": viewer_runs.picture_run,
    "hostile": viewer_runs.hostile_run,
    "long": lambda: viewer_runs.long_run(length=1500),
}


@pytest.fixture(scope="module", params=RUNS)
def run(request):
    return RUNS[request.param]()


def test_maps_are_what_the_layers_gave(ask, run):
    meta = records.unpack_json(run.blobs["meta"])
    step = run.steps[-1]
    questions, wanted = [], []
    for i, layer in enumerate(run.layers[step]):
        for j in range(layer.examples):
            details = {"layer": meta["layers"][i], "view": meta["views"][i][j]}
            questions.append((run.blobs[f"map/{step}/{i}/{j}"], details))
            wanted.append((layer, j))
    for answer, (layer, example) in zip(ask(*questions), wanted, strict=True):
        assert "error" not in answer
        check_map(answer, layer, example)


def check_map(answer, layer, example):
    if layer.is_gate:
        expected = layer.gate(example)
        assert np.ptp(expected) > 0.01
        np.testing.assert_allclose(answer["values"], expected.ravel(), atol=2e-5)
        return
    if layer.is_pairs:
        weights = np.asarray(layer.weights[example])
        allowed = np.ones(weights.shape[1:], bool)
        if layer.allowed is not None:
            masks = np.broadcast_to(
                layer.allowed, (layer.examples, *layer.allowed.shape[1:])
            )
            allowed = masks[example, 0] & allowed
    else:
        weights = layer.parts(example)[0][:, None]
        allowed = np.ones(weights.shape[1:], bool)
    found = np.array(answer["heads"], float)
    rows, keys = found.shape[1:]
    weights = weights[:, :rows, :keys]
    np.testing.assert_array_equal(answer["allowed"], allowed[:rows, :keys])
    np.testing.assert_array_equal(answer["counts"], allowed.sum(1)[:rows])
    # sqrt8 is off by half a code of 255, which is at most 0.4 % of the row's largest.
    atol = 0.005 * weights.max()
    known = ~np.isnan(found)
    np.testing.assert_allclose(found[known], weights[known], atol=atol)
    if answer["exact"] is None:
        assert known.all()
        return
    assert known[:, answer["exact"]].all()
    # Of the other rows the largest weights are kept, so what is missing is smaller.
    smallest = np.where(known & (found > 0), found, 1).min(-1)
    missing = np.where(known, 0, weights).max(-1)
    assert np.all(missing <= smallest + atol)
    received = answer["received"]
    np.testing.assert_allclose(received, weights[0].sum(0), rtol=1e-4, atol=1e-4)


def test_statistics_and_descriptions_are_equal(ask, run):
    step = run.steps[-1]
    stats, meta = ask(
        (run.blobs[f"stats/{step}"], {}), (run.blobs["meta"], {"isMeta": True})
    )
    header, arrays = records.unpack(run.blobs[f"stats/{step}"])
    assert stats["header"]["step"] == step == header["step"]
    assert [name for name, *_ in stats["arrays"]] == list(arrays)
    for name, shape, data in stats["arrays"]:
        assert tuple(shape) == arrays[name].shape
        np.testing.assert_array_equal(np.array(data, float), arrays[name].ravel())
    expected = records.unpack_json(run.blobs["meta"])
    assert {**meta["meta"], "v": 1} == {**expected, "v": 1}


def broken_records():
    run = viewer_runs.hostile_run()
    blob = run.blobs["map/3/0/0"]
    flipped = bytearray(blob)
    flipped[len(blob) // 2] ^= 255
    newer = gzip.decompress(blob).replace(b'"v":1', b'"v":2')
    other = gzip.decompress(blob).replace(b"KSAM", b"GIF8")
    return {
        "cut short": blob[: len(blob) // 2],
        "empty": b"",
        "flipped bits": bytes(flipped),
        "longer": gzip.compress(gzip.decompress(blob) + bytes(8)),
        "inside cut short": gzip.compress(gzip.decompress(blob)[:-8]),
        "another version": gzip.compress(newer),
        "another format": gzip.compress(other),
        "a bomb": gzip.compress(bytes(257 * 2**20), 1),
    }


def test_what_cannot_be_read_gives_a_sentence(ask):
    broken = broken_records()
    answers = ask(*((blob, {}) for blob in broken.values()))
    for name, answer in zip(broken, answers, strict=True):
        sentence = answer.get("error", "")
        assert sentence.startswith("This "), (name, answer)
        assert sentence.endswith("."), (name, answer)
    assert "short" in answers[0]["error"]
    assert "256 MiB" in answers[-1]["error"]
