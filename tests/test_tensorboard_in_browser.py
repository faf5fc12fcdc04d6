"""What AttentionTensorBoard writes, in a real TensorBoard in a real browser."""

import json
import socket
import subprocess
import sys
import time
import urllib.request

import keras
import numpy as np
import pytest
from pixels import contains
from viewer_pages import CHROMIUM, chromium, watch

from keras_sam import SelfAttention, record_attention
from keras_sam.callbacks import AttentionTensorBoard, _colors

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

HOSTILE = '<img src=x onerror="window.hacked=1">'
STEPS, T = (*range(-1, 11), 12), 6
CELL = 29  # pixels of a map of so many positions
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
    with chromium(tmp_path_factory.mktemp("profile")) as browser:
        page = browser.new_page()
        page.set_default_timeout(1000 * SECONDS)
        errors, requests = watch(page)
        page.goto(address + "#images")
        yield page
        hacked = page.evaluate("window.hacked")
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
    for head in weights[1]:
        codes = _colors.codes(T * head, None, _colors.Multiples(T))
        assert contains(pixels[..., :3], _colors.PALETTE[codes], CELL)


def test_scalars_and_a_hostile_name_are_shown(page):
    show(page, "scalars")
    for name in ("entropy", "distance", "max"):
        page.get_by_text(f"epoch_attention_{name}", exact=True).first.wait_for()
    cleaned = HOSTILE.replace('"', "_")
    page.get_by_text(f"epoch_attention_entropy/{cleaned}").first.wait_for()
    # A card for each layer, whatever the number of heads.
    cards = page.locator("tf-scalar-card").filter(has_text="epoch_attention_distance/")
    assert cards.count() == 2


def test_custom_scalars_have_a_line_for_each_head(page):
    show(page, "custom_scalars")
    page.get_by_text("epoch attention: keys used", exact=True).first.wait_for()
    page.get_by_text("epoch attention: similarity", exact=True).first.wait_for()
    # The layer, and its two heads.
    page.get_by_text("Matches (3)").first.wait_for()


def test_the_first_and_the_last_steps_are_there(page, address):
    for kind in ("images/images", "text/text"):
        tag = "image" if kind.startswith("images") else "tokens"
        query = f"run=attention/examples&tag=plain/attention/{tag}&sample=0"
        url = f"{address}data/plugin/{kind}?{query}"
        with urllib.request.urlopen(url, timeout=SECONDS) as reply:
            steps = [each["step"] for each in json.load(reply)]
        assert steps == [-1, 1, 3, 5, 7, 9, 12]


def test_tokens_are_a_table(page):
    show(page, "text")
    page.get_by_text("plain/attention/tokens").first.wait_for()
    table = page.locator("table").filter(has_text="query").first
    table.wait_for()
    rows = [row.split("\t") for row in table.inner_text().strip().splitlines()]
    cells = [cell.strip() for row in rows for cell in row if cell.strip()]
    assert {"1 cat", f"3 {HOSTILE}", "4 **on**"} <= set(cells)
