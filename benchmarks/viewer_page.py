"""How fast the viewer's page is in headless Chromium, on causal maps of three sizes.

Hovering and panning in frames a second, a change of step whose map is loaded and one whose
map is not (median and 95th percentile), and the time to the first map on the screen: over
routes like the plugin's, and as one offline file.

    python benchmarks/viewer_page.py [512 1024 128]
"""

import pathlib
import sys
import tempfile

import numpy as np

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "tests"))

import viewer_runs
from viewer_pages import chromium
from viewer_server import serve

from keras_sam_viewer.html import make_page

STEPS = tuple(range(0, 120, 10))

FRAMES = """async (isPan) => {
    const app = document.body.kerasSam;
    const box = app.main.stage.getBoundingClientRect();
    const panel = app.main.display.panelAt(0, 0);
    if (isPan) app.zoomAt(panel, 4, panel.x + panel.width / 2, panel.y + panel.height / 2);
    const frame = () => new Promise(requestAnimationFrame);
    await frame(); await frame();
    const scripts = [];
    const flush = app.state.flush.bind(app.state);
    app.state.flush = () => {
        const start = performance.now();
        flush();
        scripts.push(performance.now() - start);
    };
    const start = performance.now();
    let frames = 0;
    while (performance.now() - start < 2000) {
        const t = frames / 40;
        const x = panel.x + panel.width * (0.5 + 0.4 * Math.sin(t));
        const y = panel.y + panel.height * (0.5 + 0.4 * Math.cos(1.3 * t));
        if (isPan) {
            const {factor} = app.state.values.zoom;
            const across = panel.columns * (1 - 1 / factor) * (0.5 + 0.4 * Math.sin(t));
            app.state.set({zoom: {factor, query: across, key: across * 0.7}});
        } else {
            app.main.stage.dispatchEvent(new PointerEvent("pointermove",
                {clientX: box.x + x, clientY: box.y + y, bubbles: true}));
        }
        await frame();
        frames++;
    }
    const seconds = (performance.now() - start) / 1000;
    app.state.flush = flush;
    app.state.point(null, null);
    app.state.set({zoom: {factor: 1, query: 0, key: 0}});
    return {frames: frames / seconds, scripts};
}"""

CHANGES = """async (isLoaded) => {
    const app = document.body.kerasSam;
    const {steps, run, layerIndex, example} = app.scene;
    const frame = () => new Promise(requestAnimationFrame);
    const pause = (time) => new Promise((resolve) => setTimeout(resolve, time));
    const times = [];
    if (isLoaded) {
        for (const step of steps) app.store.map(run.name, layerIndex, step, example);
        while (steps.some((step) => !app.store.has(run.name, layerIndex, step, example))) {
            await pause(20);
        }
    }
    for (let n = 0; n < 24; n++) {
        const step = steps[(5 * n + 3) % steps.length];
        if (!isLoaded) {
            app.store.drop();
            while (app.store.flying.size) await pause(20);
            app.store.maps.clear();
        }
        const start = performance.now();
        app.state.set({step});
        do await frame(); while (app.scene.step !== step || !app.scene.map);
        await frame();
        times.push(performance.now() - start);
        await pause(60);
    }
    return times;
}"""

PAINTED = """() => {
    const app = document.body.kerasSam;
    return app?.main.shown ? performance.now() : null;
}"""


def make_run(name, layers, heads, length):
    return viewer_runs.make_run(
        name,
        lambda p: viewer_runs.causal_layers(0.2 * p, layers, heads, length),
        STEPS,
        examples=["one"],
        label_lists=[(viewer_runs.TOKENS * 40)[:1024]],
        labels=[[(0, 0)]] * layers,
    )


# 1024 x 1024 pairs are the most of a head that are kept whole.
RUNS = {
    "512": lambda: make_run("4 x 4 x 512", 4, 4, 512),
    "1024": lambda: make_run("1024 x 1024", 1, 1, 1024),
    "128": lambda: make_run("12 x 8 x 128", 12, 8, 128),
}


def spread(times):
    return f"{np.median(times):.0f} / {np.percentile(times, 95):.0f} ms"


def measure(browser, url):
    page = browser.new_page()
    page.goto(url)
    first = page.wait_for_function(PAINTED).json_value()
    page.wait_for_timeout(1500)
    row = [f"{first / 1000:.2f} s"]
    for is_pan in (False, True):
        found = page.evaluate(FRAMES, is_pan)
        row.append(f"{found['frames']:.0f} fps, {spread(found['scripts'])}")
    row.append(spread(page.evaluate(CHANGES, True)))
    row.append(spread(page.evaluate(CHANGES, False)))
    page.close()
    return row


def main():
    columns = ["first map", "hover", "pan", "step, loaded", "step, not loaded"]
    print(f"{'':24}" + "".join(f"{column:>26}" for column in columns))
    runs = [make() for name, make in RUNS.items() if name in (sys.argv[1:] or RUNS)]
    with tempfile.TemporaryDirectory() as folder:
        sites = {str(n): {run.name: run} for n, run in enumerate(runs)}
        with serve(sites) as address, chromium(f"{folder}/profile") as browser:
            for n, run in enumerate(runs):
                path = pathlib.Path(folder, f"{n}.html")
                path.write_text(make_page([run]), encoding="utf-8")
                size = path.stat().st_size / 1e6
                for name, url in [
                    (run.name, f"{address}{n}/"),
                    (f"{run.name}, {size:.0f} MB", path.as_uri()),
                ]:
                    row = measure(browser, url)
                    cells = "".join(f"{cell:>26}" for cell in row)
                    print(f"{name:24}{cells}", flush=True)


if __name__ == "__main__":
    main()
