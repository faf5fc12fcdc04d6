"""What AttentionTensorBoard writes, in a real TensorBoard in a real browser."""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request

import keras
import numpy as np
import pytest

from keras_sam import SelfAttention, record_attention
from keras_sam.callbacks import AttentionTensorBoard, _heatmaps

playwright = pytest.importorskip(
    "playwright.sync_api", reason="needs playwright (pip install playwright)"
)
CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(
        CHROMIUM is None,
        reason="needs Chromium on the PATH, or its path in the variable CHROMIUM",
    ),
]

HOSTILE = '<img src=x onerror="window.hacked=1">'
STEPS, T = (0, 1, 2), 6
SECONDS = 120  # a busy machine starts TensorBoard slowly


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """The log directory, and the weights that were logged last, by layer name."""
    log_dir = tmp_path_factory.mktemp("logs")
    keras.utils.set_random_seed(0)
    layers = [
        SelfAttention(num_heads=2, key_dim=4, name=name) for name in ("plain", HOSTILE)
    ]
    outputs = inputs = keras.Input((T, 8))
    for layer in layers:
        outputs = layer(outputs)
    model = keras.Model(inputs, outputs)
    x = np.random.default_rng(0).normal(size=(1, T, 8), scale=3).astype("float32")
    words = [["the", "cat", "sat", HOSTILE, "**on**", "mats"]]
    watch = AttentionTensorBoard(log_dir, x, tokens=words)
    for step in STEPS:
        watch.write(model, step)
    watch.close()
    with record_attention() as maps:
        model(x, training=False)
    return log_dir, maps["plain"].numpy()[0]


@pytest.fixture(scope="module")
def address(weights):
    """A TensorBoard of its own on a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", str(weights[0])]
    command += ["--host", "127.0.0.1", "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"http://127.0.0.1:{port}/"
    try:
        wait_for_run(server, address)
        yield address
    finally:
        server.terminate()
        server.wait()


def wait_for_run(server, address):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline and server.poll() is None:
        try:
            with urllib.request.urlopen(address + "data/runs", timeout=SECONDS) as reply:
                if b"attention" in reply.read():
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise AssertionError("TensorBoard did not start and read the run.")


@pytest.fixture(scope="module")
def page(address, tmp_path_factory):
    """One browser page for all tests, which must stay quiet and on this machine."""
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--disable-quic",
        "--no-first-run",
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
    ]
    profile = tmp_path_factory.mktemp("profile")
    with playwright.sync_playwright() as engine:
        browser = engine.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=flags,
            viewport={"width": 1400, "height": 900},
        )
        page, errors, requests = browser.new_page(), [], []
        page.set_default_timeout(1000 * SECONDS)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.on("console", lambda m: m.type == "error" and errors.append(m.text))
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address + "#images")
        yield page
        hacked = page.evaluate("window.hacked")
        browser.close()
    assert errors == []
    local = (address, "data:", "blob:")
    assert [url for url in requests if not url.startswith(local)] == []
    assert not hacked


def show(page, dashboard):
    page.evaluate("dashboard => { location.hash = dashboard }", dashboard)


READ_PIXELS = """image => {
    const canvas = document.createElement("canvas");
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const context = canvas.getContext("2d");
    context.drawImage(image, 0, 0);
    const data = context.getImageData(0, 0, canvas.width, canvas.height).data;
    return [canvas.height, canvas.width, Array.from(data)];
}"""


def test_images_show_the_weights_pixel_for_pixel(page, weights):
    show(page, "images")
    card = page.locator("tf-image-loader").filter(has_text="plain/attention/image")
    image = card.locator("img").first
    image.wait_for()
    page.wait_for_function(
        "image => image.complete && image.naturalWidth", arg=image.element_handle()
    )
    card.get_by_text(str(STEPS[-1]), exact=True).first.wait_for()
    height, width, data = image.evaluate(READ_PIXELS)
    pixels = np.array(data, np.uint8).reshape(height, width, 4)
    assert np.all(pixels[..., 3] == 255)
    cell = _heatmaps.cell_side((T, T))
    panels = [[_heatmaps.HeatMap(w, f"head {n}")] for n, w in enumerate(weights[1])]
    codes, corners = _heatmaps.page(panels, "rows: queries, columns: keys")
    assert (height, width) == codes.shape
    for head, (top, left) in zip(weights[1], corners, strict=True):
        centers = pixels[
            top + cell // 2 : top + T * cell : cell,
            left + cell // 2 : left + T * cell : cell,
            :3,
        ]
        expected = np.rint(head / head.max() * (_heatmaps.LEVELS - 1)).astype(int)
        np.testing.assert_array_equal(centers, _heatmaps.PALETTE[expected])


def test_scalars_and_a_hostile_name_are_shown(page):
    show(page, "scalars")
    for name in ("entropy", "distance", "max"):
        page.get_by_text(f"epoch_attention_{name}", exact=True).first.wait_for()
    cleaned = HOSTILE.replace('"', "_")
    page.get_by_text(f"epoch_attention_entropy/{cleaned}").first.wait_for()


def test_tokens_are_a_table(page):
    show(page, "text")
    page.get_by_text("plain/attention/tokens").first.wait_for()
    table = page.locator("table").filter(has_text="query").first
    table.wait_for()
    rows = [row.split("\t") for row in table.inner_text().strip().splitlines()]
    cells = [cell.strip() for row in rows for cell in row if cell.strip()]
    assert {"cat", HOSTILE, "**on**"} <= set(cells)
