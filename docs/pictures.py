"""Takes the pictures of the viewer that README.md and the guides show.

    python benchmarks/viewer_logs.py --output runs/viewer
    python docs/pictures.py runs/viewer

Needs playwright and Chromium (on the PATH, or in the variable CHROMIUM).
"""

import argparse
import io
import os
import pathlib
import shutil
import tempfile
import urllib.parse

from PIL import Image
from playwright.sync_api import sync_playwright

from keras_sam_viewer.html import make_page

WIDE, LOW, CELL = (1440, 900), (1100, 700), (980, 700)

# Name, run, theme, size, what is in the address, and where the pointer is (as shares of
# the stage).
HELD = {"layer": "block_3", "head": 0, "q": 416, "k": 286}
ALIGN = {"layer": "align", "example": 2}
PICTURES = [
    ("map", "language", "light", WIDE, HELD, None),
    ("map_dark", "language", "dark", WIDE, HELD, None),
    ("compare", "language", "dark", WIDE, {"view": "compare"}, (0.46, 0.4)),
    ("lines", "language", "light", WIDE, {"view": "lines"}, (0.12, 0.7)),
    ("translate", "translate entmax", "light", LOW, ALIGN, None),
    ("runs", "translate softmax", "light", WIDE, {**ALIGN, "view": "compare"}, None),
    ("picture", "digits", "light", WIDE, {"layer": "mix_2"}, (0.25, 0.5)),
    ("gate", "gates", "dark", WIDE, {"layer": "cbam_2/spatial_attention"}, (0.6, 0.4)),
    ("channels", "gates", "light", WIDE, {"layer": "cbam_2/channel_attention"}, None),
    ("notebook", "digits", "dark", CELL, {"layer": "mix_1"}, (0.3, 0.4)),
]
COMPARED = {"runs": "translate entmax"}  # the other run of a picture
FLAGS = ["--headless", "--no-sandbox", "--disable-gpu"]
LARGEST = 300_000  # bytes of a picture


def take(runs, folder, chosen=None):
    """Writes the pictures of a list of `Run`s into a folder."""
    runs = {run.name.removesuffix("/attention"): run for run in runs}
    with tempfile.TemporaryDirectory() as temporary, sync_playwright() as engine:
        browser = engine.chromium.launch(
            executable_path=os.environ.get("CHROMIUM") or shutil.which("chromium"),
            args=FLAGS,
        )
        path = pathlib.Path(temporary, "page.html")
        path.write_text(make_page(list(runs.values())), encoding="utf-8")
        for name, run, theme, size, state, pointer in PICTURES:
            if run not in runs or (chosen and name not in chosen):
                continue
            width, height = size
            page = browser.new_page(
                viewport={"width": width, "height": height}, color_scheme=theme
            )
            state = urllib.parse.urlencode(
                {"run": runs[run].name, **state}, quote_via=urllib.parse.quote
            )
            page.goto(f"{path.as_uri()}#{state}")
            page.wait_for_function("() => document.body.kerasSam?.main.shown")
            page.wait_for_timeout(2500)
            if name in COMPARED:
                other = runs[COMPARED[name]].name
                page.get_by_label("Compare with").select_option(f"run {other}")
                page.wait_for_timeout(800)
            if pointer:
                box = page.locator(".ks-stage").bounding_box()
                x, y = (box[side] for side in ("x", "y"))
                page.mouse.move(
                    x + pointer[0] * box["width"], y + pointer[1] * box["height"]
                )
                page.wait_for_timeout(500)
            save(page.screenshot(), folder / f"viewer_{name}.png")
            page.close()
        browser.close()


def save(data, path):
    """Writes a picture, with at most 256 colours if it is too large otherwise."""
    picture = Image.open(io.BytesIO(data)).convert("RGB")
    picture.save(path, optimize=True)
    if path.stat().st_size > LARGEST:
        picture.quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    size = path.stat().st_size
    print(f"{path}: {size / 1000:.0f} kB")
    if size > LARGEST:
        raise RuntimeError(f"{path} is larger than {LARGEST} bytes.")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("logdir", help="what benchmarks/viewer_logs.py wrote")
    parser.add_argument(
        "--output", default=pathlib.Path(__file__).parent, type=pathlib.Path
    )
    parser.add_argument("pictures", nargs="*", help=", ".join(p[0] for p in PICTURES))
    options = parser.parse_args()
    from keras_sam_viewer.reader import read_log_dir

    take(read_log_dir(options.logdir), options.output, options.pictures)


if __name__ == "__main__":
    main()
