"""The plugin in a real TensorBoard, through both of its data providers, by HTTP."""

import gzip
import importlib.metadata
import json
import os
import pathlib
import socket
import struct
import subprocess
import sys
import time
import urllib.error
import urllib.parse
import urllib.request
import zlib

import pytest
from viewer_logs import write_log
from viewer_runs import HOSTILE, causal_run, hostile_run, picture_run

from keras_sam_viewer import records
from keras_sam_viewer.__main__ import main
from keras_sam_viewer.reader import read_log_dir

ROOT = pathlib.Path(__file__).parents[1]
SECONDS = 120  # a busy machine starts TensorBoard slowly
RUNS = {
    "plain/attention": lambda: causal_run(length=32, steps=(-1, 0, 7)),
    "pictures": picture_run,
    "a & b=c#d": hostile_run,
}


@pytest.fixture(scope="module")
def log_dir(tmp_path_factory):
    log_dir = tmp_path_factory.mktemp("logs")
    for name, make in RUNS.items():
        write_log(log_dir / name, make())
    damaged = causal_run(length=8, steps=(0, 1))
    damaged.blobs["map/0/0/0"] = damaged.blobs["map/0/0/0"][:-30]
    damaged.blobs["map/1/0/0"] = b"\x1f\x8b" + b"nothing" * 9
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = [packer.compress(bytes(2**20)) for _ in range(1024)]
    damaged.blobs["map/1/1/0"] = b"".join([*zeros, packer.flush()])
    write_log(log_dir / "damaged", damaged)
    return log_dir


class Server:
    def __init__(self, log_dir, *options):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.log = log_dir.parent / f"tensorboard_{self.port}.log"
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
        command += ["--port", str(self.port), "--bind_all", *options]
        command[command.index("--bind_all")] = "--host=127.0.0.1"
        environment = {**os.environ, "PYTHONPATH": f"{plugin_folder(log_dir)}:{ROOT}"}
        with open(self.log, "wb") as file:
            self.process = subprocess.Popen(
                command, stdout=file, stderr=subprocess.STDOUT, env=environment
            )
        self.prefix = ""
        for option in options:
            if option.startswith("--path_prefix="):
                self.prefix = option.partition("=")[2]

    def get(self, route, method="GET", **parameters):
        """Returns status, headers and body."""
        query = urllib.parse.urlencode(parameters, doseq=True)
        address = f"http://127.0.0.1:{self.port}{self.prefix}/data/plugin/keras_sam{route}"
        request = urllib.request.Request(f"{address}?{query}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:
                return reply.status, reply.headers, reply.read()
        except urllib.error.HTTPError as error:
            return error.code, error.headers, error.read()

    def wait(self, runs):
        """Waits until all runs are loaded."""
        deadline = time.time() + SECONDS
        while time.time() < deadline:
            assert self.process.poll() is None, self.log.read_text()
            try:
                status, _, body = self.get("/runs")
            except OSError:
                status = None
            if status == 200 and len(json.loads(body)["runs"]) >= runs:
                return
            time.sleep(0.3)
        raise AssertionError(self.log.read_text())

    def close(self):
        self.process.terminate()
        self.process.wait(30)


def plugin_folder(log_dir):
    """A folder with the entry point, as an installed package has it, where none is."""
    folder = log_dir.parent / "entry_points"
    entries = importlib.metadata.entry_points(group="tensorboard_plugins")
    if any(entry.name == "keras_sam" for entry in entries):
        return folder
    info = folder / "keras_sam_for_tests-0.dist-info"
    info.mkdir(parents=True, exist_ok=True)
    text = "[tensorboard_plugins]\nkeras_sam = keras_sam_viewer.loader:Loader\n"
    (info / "entry_points.txt").write_text(text)
    (info / "METADATA").write_text(
        "Metadata-Version: 2.1\nName: keras_sam_for_tests\nVersion: 0\n"
    )
    return folder


@pytest.fixture(scope="module", params=["true", "false"], ids=["fast", "slow"])
def server(request, log_dir):
    server = Server(log_dir, f"--load_fast={request.param}", "--path_prefix=/some/where")
    try:
        server.wait(len(RUNS) + 1)
        yield server
    finally:
        server.close()


def inflate(body):
    return gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body


def test_runs_and_steps(server):
    status, _, body = server.get("/runs")
    assert status == 200
    found = {run["name"]: run["steps"] for run in json.loads(body)["runs"]}
    expected = {name: list(make().steps) for name, make in RUNS.items()}
    assert found == {**expected, "damaged": [0, 1]}


@pytest.mark.parametrize("name", RUNS)
def test_blobs_are_those_that_were_written(server, name):
    run = RUNS[name]()
    status, headers, body = server.get("/meta", run=name)
    assert (status, headers["X-Content-Type-Options"]) == (200, "nosniff")
    assert inflate(body) == records.inflate(run.blobs["meta"])
    status, _, body = server.get("/stats", run=name)
    assert status == 200
    for step in run.steps:
        (length,) = struct.unpack("<I", body[:4])
        assert body[4 : 4 + length] == run.blobs[f"stats/{step}"]
        body = body[4 + length :]
    assert body == b""
    for key, blob in run.blobs.items():
        if key.startswith("map/"):
            _, step, layer, example = key.split("/")
            status, _, body = server.get(
                "/map", run=name, layer=layer, step=step, example=example
            )
            assert status == 200
            assert inflate(body) == records.inflate(blob)


def asked(**changes):
    return {"run": "plain/attention", "layer": 0, "step": 0, "example": 0, **changes}


# Route, parameters, status, and a part of the sentence.
REFUSED = [
    ("/meta", {"run": "nobody"}, 404, "no such run"),
    ("/meta", {"run": ""}, 404, "no such run"),
    ("/meta", {"run": "../../etc/passwd"}, 404, "no such run"),
    ("/meta", {"run": HOSTILE}, 404, "no such run"),
    ("/meta", {"run": "\0\ud7ff"}, 404, "no"),
    ("/meta", {}, 400, "parameters of this address are: run."),
    ("/meta", {"run": ["pictures", "pictures"]}, 400, "parameters"),
    ("/meta", {"run": "pictures", "blob_key": "x"}, 400, "parameters"),
    ("/runs", {"run": "pictures"}, 400, "none"),
    ("/stats", {"run": "nobody"}, 404, "no such run"),
    ("/map", asked(layer=99), 404, "no such run or layer"),
    ("/map", asked(step=3), 404, "Step 3 has no map"),
    ("/map", asked(example=5), 404, "no such example"),
    ("/map", asked(example=-1), 400, "example must be an integer"),
    ("/map", asked(layer="0/../meta"), 400, "layer must be an integer"),
    ("/map", asked(step="1e3"), 400, "step must be an integer"),
    ("/map", asked(step="9" * 30), 400, "step must be an integer"),
    ("/map", asked(run="damaged"), 404, "cut short"),
    ("/map", asked(run="damaged", step=1), 404, "record"),
    ("/map", asked(run="damaged", step=1, layer=1), 404, "too large"),
]


@pytest.mark.parametrize(("route", "parameters", "status", "sentence"), REFUSED)
def test_what_is_not_there_gets_a_sentence(server, route, parameters, status, sentence):
    found, headers, body = server.get(route, **parameters)
    assert found == status
    assert headers.get_content_type() == "application/json"
    assert sentence in json.loads(inflate(body))["error"]


def test_only_reading(server):
    for method in ("POST", "PUT", "DELETE"):
        assert server.get("/runs", method=method)[0] == 405
    assert server.get("/runs", method="HEAD")[2] == b""


def test_only_the_files_of_the_viewer(server):
    status, headers, body = server.get("/index.js")
    assert (status, headers.get_content_type()) == (200, "application/javascript")
    assert b"render" in inflate(body)
    for path in (
        "/loader.py",
        "/../plugin.py",
        "/%2e%2e/plugin.py",
        "/static/index.js",
        "/x.js",
    ):
        assert server.get(path)[0] == 404


def test_there_is_no_traceback(server):
    for route, parameters, *_ in REFUSED:
        server.get(route, **parameters)
    assert "Traceback" not in server.log.read_text()


def test_the_command_reads_the_same_blobs(log_dir, tmp_path, capsys):
    found = {run.name: run for run in read_log_dir(log_dir)}
    for name, make in RUNS.items():
        assert found[name].blobs == make().blobs
    page = tmp_path / "page.html"
    assert main([str(log_dir), "-o", str(page), "--run", "pictures", "--steps", "2"]) == 0
    assert "1 runs, 2 steps" in capsys.readouterr().out
    text = page.read_text()
    assert 'id="ks:0:map/200/0/1"' in text
    assert 'id="ks:0:map/10/0/0"' not in text


BAD_COMMANDS = {
    "no directory": (["nowhere"], "There is no directory 'nowhere'."),
    "no run": (["{log_dir}", "--run", "x"], "There is no run 'x'."),
    "nothing": (["{empty}"], "No attention was recorded below"),
    "no file": (["{log_dir}", "-o", "{empty}/a/b.html"], "The page cannot be written"),
}


@pytest.mark.parametrize("name", BAD_COMMANDS)
def test_bad_commands_say_why(name, log_dir, tmp_path, capsys):
    arguments, message = BAD_COMMANDS[name]
    arguments = [a.format(log_dir=log_dir, empty=tmp_path) for a in arguments]
    assert main(arguments) == 1
    assert message in capsys.readouterr().err


def test_files_that_end_in_the_middle_are_read_up_to_there(log_dir, tmp_path):
    (source,) = (log_dir / "plain" / "attention").iterdir()
    data = source.read_bytes()
    whole = read_log_dir(log_dir / "plain")[0].blobs
    for part in (0.3, 0.6, 0.95):
        target = tmp_path / str(part) / source.name
        target.parent.mkdir()
        target.write_bytes(data[: int(part * len(data))])
    for run in read_log_dir(tmp_path):
        assert set(run.blobs.items()) < set(whole.items())


def test_a_broken_plugin_does_not_stop_tensorboard(log_dir):
    """Its import fails, and TensorBoard says so in a line and goes on."""
    folder = log_dir.parent / "broken"
    package = folder / "keras_sam_viewer"
    package.mkdir(parents=True)
    for name in ("__init__", "loader"):
        (package / f"{name}.py").write_text(
            (ROOT / "keras_sam_viewer" / f"{name}.py").read_text()
        )
    (package / "plugin.py").write_text("raise ImportError('on purpose')\n")
    program = f"""
import sys
sys.path[:0] = [{str(folder)!r}]
import logging
logging.basicConfig()
from keras_sam_viewer.loader import Loader
assert Loader().load(None) is None
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        cwd=folder,
        check=True,
    )
    assert "left out. ImportError: on purpose" in done.stderr
