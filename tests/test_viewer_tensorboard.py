"""The viewer as a plugin of a real TensorBoard in headless Chromium."""

import contextlib
import importlib.metadata
import os
import pathlib
import socket
import subprocess
import sys
import time
import urllib.request

import pytest
import viewer_runs
from viewer_events import write_run
from viewer_pages import CHROMIUM, chromium, watch

import keras_sam_viewer

pytest.importorskip("tensorboard", reason="needs TensorBoard")
pytest.importorskip(
    "playwright.sync_api", reason="needs playwright (pip install playwright)"
)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="needs Chromium on the PATH, or its path in the variable CHROMIUM",
    ),
]

ROOT = pathlib.Path(keras_sam_viewer.__file__).parents[1]
HOSTILE = '<img src=x onerror="window.hacked=1">'
SECONDS = 120  # a busy machine starts TensorBoard slowly
# TensorBoard's own, with or without this plugin.
KNOWN = ("Multiple instances of Three.js", "Failed to load resource")


@pytest.fixture(scope="module")
def python_path(tmp_path_factory):
    """Where TensorBoard finds the package and its entry point without an installation."""
    paths = [str(ROOT)]
    entries = importlib.metadata.entry_points(group="tensorboard_plugins")
    if not any(entry.value.startswith("keras_sam_viewer") for entry in entries):
        folder = tmp_path_factory.mktemp("entry")
        info = folder / "keras_sam_viewer_entry-0.dist-info"
        info.mkdir()
        (info / "METADATA").write_text("Name: keras_sam_viewer_entry\nVersion: 0\n")
        entry = "[tensorboard_plugins]\nkeras_sam = keras_sam_viewer.loader:Loader\n"
        (info / "entry_points.txt").write_text(entry)
        paths.append(str(folder))
    return os.pathsep.join(paths)


@contextlib.contextmanager
def tensorboard(log_dir, python_path, *flags):
    """Starts a TensorBoard on a free port; yields its address and its log."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(log_dir)]
    command += ["--host", "127.0.0.1", "--port", str(port), "--reload_interval", "1"]
    environment = {**os.environ, "PYTHONPATH": python_path}
    log = pathlib.Path(log_dir).with_suffix(".log")
    with log.open("w") as output:
        server = subprocess.Popen(
            [*command, *flags], stdout=output, stderr=output, env=environment
        )
        try:
            yield f"http://127.0.0.1:{port}", log
        finally:
            server.terminate()
            server.wait()


def wait_for(address, text):
    """Waits until the plugin lists a run."""
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        with (
            contextlib.suppress(OSError),
            urllib.request.urlopen(address, timeout=SECONDS) as reply,
        ):
            if text in reply.read():
                return
        time.sleep(0.2)
    raise AssertionError(f"TensorBoard did not answer {text!r} at {address}.")


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        context.set_default_timeout(1000 * SECONDS)
        yield context


def plugin_frame(page):
    """The frame of the plugin, once the viewer is in it."""
    page.locator("iframe").first.wait_for(state="attached")
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        for frame in page.frames:
            if "plugin_entry" in frame.url:
                return frame
        page.wait_for_timeout(100)
    raise AssertionError("TensorBoard opened no frame for the plugin.")


@pytest.mark.parametrize(
    ("flags", "prefix"),
    [
        (["--load_fast=false", "--path_prefix=/a/prefix"], "/a/prefix"),
        (["--load_fast=true"], ""),
    ],
    ids=["python", "data server"],
)
def test_tensorboard_shows_attention(browser, python_path, tmp_path, flags, prefix):
    log_dir = tmp_path / "logs"
    log_dir.mkdir()
    run = viewer_runs.translating_run()
    with tensorboard(log_dir, python_path, *flags) as (address, log):
        runs = f"{address}{prefix}/data/plugin/keras_sam/runs"
        wait_for(runs, b"[]")
        page = browser.new_page()
        errors, addresses = watch(page)
        page.goto(f"{address}{prefix}/?darkMode=true#keras_sam")

        # Nothing is logged so far: the page says how, and waits.
        frame = plugin_frame(page)
        frame.locator(".ks-empty").wait_for()
        assert "AttentionTensorBoard" in frame.locator(".ks-empty pre").inner_text()

        # Training begins: two steps, and then the others.
        write_run(log_dir / "train/attention", run, run.steps[:2])
        wait_for(runs, b"10")
        reload(frame)
        frame.locator(".ks-cell").first.wait_for()
        assert frame.locator(".ks-step").inner_text().startswith("step 10")
        write_run(log_dir / "train/attention", run, run.steps[2:])
        wait_for(runs, b"200")
        reload(frame)
        frame.wait_for_function(
            "() => document.querySelector('.ks-step').textContent.startsWith('step 200')"
        )
        assert frame.locator(".ks-top select").first.input_value() == "train/attention"
        assert frame.locator(".ks-cell").count() == 9
        assert frame.evaluate("document.body.dataset.theme") == "dark"
        assert frame.evaluate("document.body.kerasSam.store.decoder.worker !== null")

        # A link to one cell, with a hostile name of a run beside it.
        write_run(log_dir / "<img src=x onerror=hacked>", viewer_runs.hostile_run())
        wait_for(runs, b"onerror")
        state = "run=train%2Fattention&layer=align&head=0&q=4&k=2&step=50&view=lines"
        link = state.replace("&", "&p.keras_sam.")
        page.goto("about:blank")
        page.goto(f"{address}{prefix}/#keras_sam&p.keras_sam.{link}")
        frame = plugin_frame(page)
        frame.locator(".ks-row").first.wait_for()
        assert frame.locator(".ks-title").inner_text() == "align · head 0"
        assert "4 looks at" in frame.locator(".ks-side h2").first.inner_text()
        assert frame.locator('[data-view="lines"]').get_attribute("aria-pressed") == "true"
        assert frame.evaluate("document.body.dataset.theme") == "light"
        frame.locator('[data-view="map"]').click()
        page.wait_for_function("() => location.hash.includes('p.keras_sam.view=map')")
        assert "onerror" in frame.locator(".ks-top select").first.inner_text()

        assert [error for error in errors if not error.startswith(KNOWN)] == []
        local = (address, "data:", "blob:", "about:")
        assert [url for url in addresses if not url.startswith(local)] == []
        page.close()
    assert "Traceback" not in log.read_text()


def reload(frame):
    """What TensorBoard's message and the page's own clock do."""
    frame.evaluate("document.body.kerasSam.reload()")
