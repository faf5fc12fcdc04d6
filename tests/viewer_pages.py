"""Opening the viewer in headless Chromium: one browser, whose pages must stay quiet."""

import contextlib
import os
import shutil

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
