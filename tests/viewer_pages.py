"""Opening the viewer in headless Chromium: one browser, whose pages must stay quiet."""

import base64
import contextlib
import json
import os
import re
import shutil

from viewer_server import STATIC

CHROMIUM = os.environ.get("CHROMIUM") or shutil.which("chromium")
FLAGS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]


@contextlib.contextmanager
def chromium(profile):
    """Yields a browser context of Playwright."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as engine:
        context = engine.chromium.launch_persistent_context(
            profile,
            executable_path=CHROMIUM,
            args=FLAGS,
            viewport={"width": 1440, "height": 900},
            accept_downloads=True,
        )
        context.set_default_timeout(60_000)
        yield context
        context.close()


def watch(page):
    """Returns lists that fill with the errors and the addresses of a page."""
    errors, addresses = [], []
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda m: m.type == "error" and errors.append(m.text))
    page.on("request", lambda request: addresses.append(request.url))
    return errors, addresses


def joined_script():
    """All modules in one, as the offline page has them."""
    ordered = []

    def visit(name):
        text = (STATIC / name).read_text()
        for imported in re.findall(r'^import .* from "\./(.*)";$', text, re.MULTILINE):
            if imported not in ordered:
                visit(imported)
        if name not in ordered:
            ordered.append(name)

    visit("index.js")
    parts = [(STATIC / name).read_text() for name in ordered]
    text = re.sub(r"^import .*\n", "", "\n".join(parts), flags=re.MULTILINE)
    return re.sub(r"^export ", "", text, flags=re.MULTILINE)


def offline_page(*runs):
    """Returns the HTML of a page with all records of some runs inside."""
    listed = [{"name": run.name, "steps": list(run.steps)} for run in runs]
    data = [
        f'<script type="application/octet-stream" id="ks:{n}:{key}">'
        f"{base64.b64encode(blob).decode()}</script>"
        for n, run in enumerate(runs)
        for key, blob in run.blobs.items()
    ]
    return f"""<!doctype html><html><head><meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data: blob:;
script-src 'unsafe-inline' blob:; style-src 'unsafe-inline'; worker-src blob:">
<style>{(STATIC / "style.css").read_text()}</style></head><body>
<script type="application/json" id="ks:runs">{
        json.dumps({"runs": listed}).replace("<", chr(92) + "u003c")
    }</script>{"".join(data)}
<script type="module" id="ks:script">{joined_script()}</script></body></html>"""
