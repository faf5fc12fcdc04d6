"""Makes docs/tensorboard.png: the quickstart's attention, in TensorBoard, in Chromium.

Trains the quickstart (about a minute), starts TensorBoard and takes the picture:

    python docs/tensorboard_picture.py

Needs playwright and Chromium on the PATH, or its path in the variable CHROMIUM.
"""

import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from playwright.sync_api import sync_playwright

ROOT = pathlib.Path(__file__).parent.parent
PICTURE = ROOT / "docs" / "tensorboard.png"
SECONDS = 180


def train(folder):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, str(ROOT / "examples" / "quickstart.py"), "--output", folder]
    subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)


def wait_for_run(address):
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        try:
            with urllib.request.urlopen(f"{address}data/runs", timeout=SECONDS) as reply:
                if b"attention/examples" in reply.read():
                    return
        except OSError:
            pass
        time.sleep(0.2)
    raise SystemExit("TensorBoard did not start.")


def take_picture(address):
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    flags = ["--headless", "--no-sandbox", "--disable-gpu"]
    with sync_playwright() as engine:
        browser = engine.chromium.launch(executable_path=chromium, args=flags)
        page = browser.new_page(viewport={"width": 1400, "height": 900})
        page.set_default_timeout(1000 * SECONDS)
        page.goto(address + "?tagFilter=compare#images")
        page.get_by_text("Show actual image size").click()
        image = page.locator("tf-image-loader img").first
        image.wait_for()
        page.wait_for_function(
            "image => image.complete && image.naturalWidth", arg=image.element_handle()
        )
        page.wait_for_timeout(1000)  # for what moves until it is at rest
        page.screenshot(path=PICTURE)
        browser.close()


def main():
    with tempfile.TemporaryDirectory() as folder:
        train(folder)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [sys.executable, "-m", "tensorboard.main", "--logdir", folder]
        server = subprocess.Popen(
            [*command, "--port", str(port)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            wait_for_run(f"http://127.0.0.1:{port}/")
            take_picture(f"http://127.0.0.1:{port}/")
        finally:
            server.terminate()
            server.wait()


if __name__ == "__main__":
    main()
