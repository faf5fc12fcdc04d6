"""The viewer's page in headless Chromium, against a small server and as one file."""

# ruff: noqa: RUF001  (the page writes multiplication signs and curly quotes)

import copy
import json

import numpy as np
import pytest
import viewer_runs
from viewer_pages import CHROMIUM, chromium, watch
from viewer_server import serve

from keras_sam_viewer.html import make_page
from keras_sam_viewer.layers import Layer
from keras_sam_viewer.records import unpack
from keras_sam_viewer.statistics import STATISTICS

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

HOSTILE = viewer_runs.HOSTILE
BADGE = "top_key", "top_key_share"


def broken(run, key, change):
    """A copy of a run under the name "broken" with one blob changed."""
    run = copy.copy(run)
    run.name, run.blobs = "broken", dict(run.blobs)
    run.blobs[key] = change(run.blobs[key])
    return run


@pytest.fixture(scope="module")
def runs():
    made = [
        viewer_runs.causal_run(),
        viewer_runs.make_run(
            "512 tokens",
            lambda progress: viewer_runs.causal_layers(0.2 * progress, 1, 2, 512),
            (0, 10),
            examples=["one"],
            label_lists=[(viewer_runs.TOKENS * 20)[:512]],
            labels=[[(0, 0)]],
        ),
        viewer_runs.translating_run(),
        viewer_runs.picture_run(),
        viewer_runs.long_run(length=1100),
        viewer_runs.hostile_run(),
    ]
    made.append(broken(made[0], "map/100/1/0", lambda blob: blob[: len(blob) // 2]))
    second = copy.copy(made[0])
    second.name = "another run"
    made.append(second)
    return {run.name: run for run in made}


@pytest.fixture(scope="module")
def sites(runs):
    return {"all": runs, "empty": {}, "growing": {}}


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    with chromium(tmp_path_factory.mktemp("profile")) as context:
        yield context


@pytest.fixture(scope="module")
def address(sites):
    with serve(sites) as address:
        yield address


@pytest.fixture(scope="module")
def page(browser, address):
    """One page for all tests; afterwards it must have been quiet and stayed at home."""
    page = browser.new_page()
    errors, addresses = watch(page)
    page.goto(address + "all/")
    page.locator(".ks-cell").first.wait_for()
    yield page
    assert errors == []
    allowed = (address, "data:image/png", f"blob:{address}")
    assert [url for url in addresses if not url.startswith(allowed)] == []
    assert not page.evaluate("window.hacked")


def go(page, **state):
    """Shows a state through the address and waits until it is drawn."""
    defaults = {"view": "map", "scale": "log", "statistic": "entropy"}
    page.mouse.move(3, 3)
    page.evaluate(
        """async (state) => {
        const app = document.body.kerasSam;
        app.state.set({query: null, key: null, step: null, reference: null, pins: [],
                       zoom: {factor: 1, query: 0, key: 0}});
        const part = ([name, value]) => name + "=" + encodeURIComponent(value);
        const parts = Object.entries(state).map(part);
        location.hash = "#" + parts.join("&");
        const done = () => app.scene && !app.scene.isLoading && app.scene.run
            && app.scene.run.name === state.run && !app.state.changed.size;
        await new Promise((resolve) => setTimeout(resolve, 50));
        await app.following;
        while (!done()) await new Promise((resolve) => setTimeout(resolve, 20));
        await new Promise((resolve) => setTimeout(resolve, 120));
    }""",
        {**defaults, **state},
    )


def text(page, selector):
    return page.locator(selector).first.inner_text()


def settle(page):
    page.wait_for_timeout(160)


COLOURS = """([selector, share]) => {
    const canvas = document.querySelector(selector);
    const {width, height} = canvas;
    const context = canvas.getContext("2d");
    const top = share === null ? 0 : Math.floor(height * share);
    const data = context.getImageData(0, top, width, share === null ? height : 1).data;
    const seen = new Set();
    for (let n = 0; n < data.length; n += 4) {
        if (data[n + 3]) seen.add((data[n] << 16) | (data[n + 1] << 8) | data[n + 2]);
    }
    return seen.size;
}"""


def colours(page, selector=".ks-stage canvas", share=None):
    """How many colours a canvas has, in all or in the row at a share of its height."""
    return page.evaluate(COLOURS, [selector, share])


def test_it_opens_on_the_head_that_changed_most(page):
    go(page, run="causal LM")
    ranked = page.locator(".ks-changed-row").all_inner_texts()
    assert len(ranked) >= 5
    first = page.locator(".ks-changed-row").first
    assert first.get_attribute("aria-current") == "true"
    assert text(page, ".ks-title") in first.get_attribute("title").replace(
        " head", " · head"
    )
    assert text(page, ".ks-subtitle") == "128 queries × 128 keys, causal"


def test_a_late_row_of_a_causal_map_has_many_colours(page):
    go(page, run="512 tokens", layer="block_0/attend", head=0, step=10)
    row = page.evaluate(
        """() => {
        const {main, scene} = document.body.kerasSam;
        const part = main.display.part(scene);
        return (part.y + part.height * 450.5 / 512) / main.stage.clientHeight;
    }"""
    )
    assert colours(page, share=row) >= 50


def test_thumbnails_and_badges_tell_the_statistics(page, runs):
    run = runs["causal LM"]
    go(page, run="causal LM")
    assert page.locator(".ks-cell").count() == 16
    assert colours(page, ".ks-cell canvas") > 5
    badges = page.locator(".ks-cell").evaluate_all(
        """cells => cells.map((cell) =>
            [...cell.querySelectorAll(".ks-badge")].map((badge) => badge.textContent))"""
    )
    assert "= h3" in badges[4 + 2]  # heads 2 and 3 of layer 1 have the same weights
    assert "= h2" in badges[4 + 3]
    assert badges[8][0] == "1 key"
    assert "1 key" not in badges[8 + 1]
    label = page.locator(".ks-cell").nth(8).get_attribute("aria-label")
    _, arrays = unpack(run.blobs["stats/200"])
    key, share = arrays["statistics"][2, 0, 0, [STATISTICS.index(n) for n in BADGE]]
    assert share > 0.5
    assert f"key {key:.0f} receives {100 * share:.0f} % of the weight" in label
    go(page, run="causal LM", step=0)
    flat = page.locator(".ks-cell").first
    assert "flat" in flat.get_attribute("aria-label")


def test_pointing_previews_and_clicking_holds(page):
    go(page, run="causal LM", layer="block_0/attend", head=0)
    part = page.evaluate(
        """() => {
        const {main, scene} = document.body.kerasSam;
        const box = main.stage.getBoundingClientRect();
        const part = main.display.part(scene);
        const [w, h] = [part.cellWidth, part.cellHeight];
        return {x: box.x + part.x, y: box.y + part.y, w, h};
    }"""
    )
    x, y = part["x"] + 20.5 * part["w"], part["y"] + 100.5 * part["h"]
    page.mouse.move(x, y)
    settle(page)
    assert "100 → " in text(page, ".ks-readout")
    assert " 20: " in text(page, ".ks-readout")
    assert "100 looks at" in text(page, ".ks-side h2")
    assert "20 is seen by" in text(page, ".ks-seen h2")
    page.mouse.move(3, 3)
    settle(page)
    assert "100 looks at" not in text(page, ".ks-side h2")
    page.mouse.click(x, y)
    page.mouse.move(3, 3)
    settle(page)
    assert "100 looks at" in text(page, ".ks-side h2")
    assert "100 over time" in text(page, ".ks-over h3")
    page.keyboard.press("Escape")
    settle(page)
    assert "100 looks at" not in text(page, ".ks-side h2")


def test_ranked_keys_add_up(page, runs):
    go(page, run="causal LM", layer="block_0/attend", head=1, q=90, step=10)
    rows = page.locator(".ks-side > .ks-ranked .ks-row").all_inner_texts()
    weights = runs["causal LM"].layers[10][0].weights[0, 1, 90]
    parsed = [row.split("\n") for row in rows]
    assert int(parsed[0][0]) == int(weights.argmax())
    assert float(parsed[0][-2]) == pytest.approx(weights.max(), abs=0.002)
    rest = float(text(page, ".ks-rest .ks-number"))
    shown = sum(float(row[-2]) for row in parsed)
    assert shown + rest == pytest.approx(1, abs=0.02)


def test_the_keyboard_reaches_everything(page):
    go(page, run="causal LM", layer="block_1/attend", head=0, q=50, k=10)
    page.locator(".ks-stage").focus()
    read = "() => { const {values} = document.body.kerasSam.state; return values; }"
    for keys, name, value in [
        ("ArrowDown", "query", 51),
        ("Shift+ArrowDown", "query", 61),
        ("ArrowRight", "key", 11),
        ("Shift+ArrowLeft", "key", 1),
        ("]", "head", 1),
        ("[", "head", 0),
        ("}", "layer", 2),
        ("{", "layer", 1),
        (",", "step", 100),
        (".", "step", None),
        ("l", "view", "lines"),
        ("c", "view", "compare"),
        ("m", "view", "map"),
        ("s", "scale", "linear"),
        ("s", "scale", "log"),
        ("Escape", "query", None),
    ]:
        page.keyboard.press(keys)
        page.wait_for_timeout(40)
        assert page.evaluate(read)[name] == value, keys
    page.keyboard.press("+")
    assert page.evaluate(read)["zoom"]["factor"] == pytest.approx(1.5)
    page.keyboard.press("0")
    assert page.evaluate(read)["zoom"]["factor"] == 1
    page.keyboard.press("p")
    settle(page)
    assert text(page, ".ks-pin").startswith("block_1/attend h0")
    page.keyboard.press("r")
    settle(page)
    assert page.evaluate(read)["reference"] == {
        "run": "causal LM",
        "layer": 1,
        "head": 0,
        "step": 200,
    }
    page.keyboard.press("r")
    page.keyboard.press("?")
    assert page.locator("dialog.ks-help").is_visible()
    page.keyboard.press("Escape")
    assert page.locator("dialog.ks-help").is_hidden()
    page.locator('.ks-cell[aria-pressed="true"]').focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert page.evaluate(read)["head"] == 1
    page.keyboard.press("Space")  # on a button, it presses that button
    assert page.evaluate("!document.body.kerasSam.foot.timer")


def test_a_view_survives_in_the_address(page, browser, address):
    go(page, run="translate", layer="align", example=1, q=4, k=2, step=50, view="lines")
    page.keyboard.press("c")
    page.wait_for_function("() => location.hash.includes('view=compare')")
    link = page.evaluate("location.href")
    assert "step=50" in link
    other = browser.new_page()
    errors, _ = watch(other)
    other.goto(link)
    other.locator(".ks-moved-row").first.wait_for()
    assert text(other, ".ks-title") == "align · head 0"
    assert "20 × 3 of 30 × 5, padding cropped" in text(other, ".ks-subtitle")
    assert text(other, ".ks-step").startswith("step 50")
    assert "4 looks at" in text(other, ".ks-side h2")
    assert errors == []
    other.close()


def test_compare_shows_what_moved(page, runs):
    go(page, run="causal LM", layer="block_0/attend", head=0, view="compare")
    assert page.locator(".ks-moved-row").count() >= 5
    assert "%" in text(page, ".ks-moved-row")
    layers = runs["causal LM"].layers
    before, after = (layers[step][0].weights[0, 0] for step in (0, 200))
    moved = abs(after - before).sum(-1)[1:].mean() / 2
    share = page.evaluate(
        """() => {
        const {main, scene} = document.body.kerasSam;
        const {map, head, reference} = scene;
        return main.display.movedBetween(reference.map, reference.head, map, head).share;
    }"""
    )
    assert share == pytest.approx(moved, abs=0.01)
    assert colours(page) > 50


def test_two_runs_are_compared(page):
    go(page, run="causal LM", layer="block_2/attend", head=1, view="compare", step=20)
    page.get_by_label("Compare with").select_option(label="with run another run")
    page.wait_for_function("() => document.body.kerasSam.scene.reference?.map")
    name = page.evaluate("document.body.kerasSam.scene.reference.name")
    assert name == "another run · block_2/attend head 1 · step 200"
    page.locator(".ks-moved-row").first.wait_for()
    page.get_by_label("Compare with").select_option(index=0)
    settle(page)
    name = page.evaluate("document.body.kerasSam.scene.reference.name")
    assert name == "block_2/attend head 1 · step 0"


def test_lines_link_queries_and_keys(page):
    go(page, run="causal LM", layer="block_0/attend", head=2, view="lines", step=10, q=100)
    assert text(page, ".ks-lines-bar") == "above 2.0× uniform"
    few = colours(page)
    assert few > 20
    drawn = "[...document.body.kerasSam.main.display.links.values()].flat().length"
    before = page.evaluate(drawn)
    slider = page.get_by_label("Least multiple of uniform that is drawn")
    slider.fill("40")
    settle(page)
    assert page.evaluate(drawn) < before


@pytest.mark.parametrize(
    ("layer", "side", "subtitle"),
    [
        ("mix", "looks at", "64 queries × 64 keys"),
        ("gate", "r", "spatial gate, 16 × 16 positions"),
        ("pool", "Weights", "selective: one weight for each of 64 positions"),
        ("channels", "channel ", "channel gate, 24 channels"),
        ("cube", "z", "pointwise spatial gate (mean over channels), 4 × 6 × 5 positions"),
    ],
)
def test_pictures_and_gates(page, layer, side, subtitle):
    go(page, run="digits", layer=layer, example=1)
    assert text(page, ".ks-subtitle") == subtitle
    assert side in text(page, ".ks-side h2")
    above = colours(page, ".ks-above")
    assert max(colours(page), above) > 8
    page.mouse.move(600, 300)
    settle(page)
    assert text(page, ".ks-readout") not in ("", "Point at a cell; click holds it.")
    page.keyboard.press("c")
    settle(page)
    assert max(colours(page), colours(page, ".ks-above")) > 8


def test_long_sequences_say_what_was_kept(page):
    go(page, run="long", layer="long", head=0)
    assert "exact rows for 64 chosen queries" in text(page, ".ks-kept")
    assert "16 strongest keys" in text(page, ".ks-kept")
    assert colours(page) > 8
    go(page, run="long", layer="long", head=0, q=3)
    assert "strongest of 4" in text(page, ".ks-side .ks-note")


def test_hostile_names_are_text(page):
    go(page, run=HOSTILE)
    assert text(page, ".ks-title") == f"{HOSTILE} · head 1"
    assert page.locator(".ks-foot").is_hidden()  # one step
    assert HOSTILE in text(page, ".ks-texts")
    assert HOSTILE in text(page, ".ks-top select")
    assert page.locator("img").count() == 0
    assert not page.evaluate("window.hacked")


def test_every_control_has_a_name(page):
    go(page, run="causal LM", view="compare")
    nameless = page.evaluate(
        """() => [...document.querySelectorAll("button, select, input, [role=img]")]
        .filter((node) => !(node.getAttribute("aria-label") || node.textContent.trim()))
        .map((node) => node.outerHTML)"""
    )
    assert nameless == []
    spoken = page.locator(".ks-stage").get_attribute("aria-label")
    assert "128 queries" in spoken


@pytest.mark.parametrize("size", [(1440, 900), (1240, 800), (1100, 700), (980, 700)])
def test_it_fits(page, size):
    go(page, run="causal LM")
    page.set_viewport_size({"width": size[0], "height": size[1]})
    settle(page)
    outside = page.evaluate(
        """() => {
        const {clientWidth, clientHeight} = document.documentElement;
        return [...document.querySelectorAll(".ks-card, .ks-card button, .ks-card select")]
            .filter((node) => node.offsetParent)
            .filter((node) => !node.closest(".ks-matrix-scroll, .ks-ranked, .ks-seen"))
            .filter((node) => {
                const box = node.getBoundingClientRect();
                return box.right > clientWidth + 1 || box.bottom > clientHeight + 1;
            }).map((node) => node.outerHTML.slice(0, 80));
    }"""
    )
    assert outside == []
    assert page.locator(".ks-stage").bounding_box()["height"] > 180
    scrolled = "document.querySelector('.ks-matrix-scroll')"
    assert page.evaluate(f"{scrolled}.scrollWidth <= {scrolled}.clientWidth")
    page.set_viewport_size({"width": 1440, "height": 900})


def test_light_and_dark(page):
    go(page, run="causal LM", layer="block_0/attend", head=0)
    pixel = """() => {
        const {main, scene} = document.body.kerasSam;
        const part = main.display.part(scene);
        const ratio = devicePixelRatio;
        const data = main.cells.getContext("2d").getImageData(
            (part.x + 1) * ratio, (part.y + part.height - 2) * ratio, 1, 1).data;
        return data[0] + data[1] + data[2];
    }"""
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="dark")
    page.wait_for_function("() => document.body.dataset.theme === 'dark'")
    settle(page)
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    assert isinstance(page.evaluate(pixel), int)
    page.emulate_media(color_scheme="light")
    page.wait_for_function("() => document.body.dataset.theme === 'light'")
    page.keyboard.press("t")
    assert page.evaluate("document.body.dataset.theme") == "dark"
    page.keyboard.press("t")


def test_what_is_missing_is_said(page):
    go(page, run="nothing")
    assert text(page, ".ks-notice") == "There is no run “nothing” here."
    go(page, run="causal LM", step=7)
    assert "There is no step 7 in this run" in text(page, ".ks-notice")
    go(page, run="broken", layer="block_1/attend", step=100)
    assert text(page, ".ks-notice") == "This record is cut short."
    page.keyboard.press(".")
    settle(page)
    assert text(page, ".ks-notice") == ""


def test_picture_and_table_are_saved(page, runs, tmp_path):
    go(page, run="translate", layer="align", example=0, step=100)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="CSV").click()
    waiting.value.save_as(tmp_path / "map.csv")
    lines = (tmp_path / "map.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 28
    assert lines[0].startswith('query,"0 five"')
    found = np.array([line.rsplit(",", 5)[1:] for line in lines[1:]], float)
    weights = runs["translate"].layers[100][2].weights[0, 0, :27, :5]
    np.testing.assert_allclose(found, weights, atol=0.005)
    with page.expect_download() as waiting:
        page.get_by_role("button", name="PNG").click()
    waiting.value.save_as(tmp_path / "map.png")
    assert (tmp_path / "map.png").read_bytes().startswith(b"\x89PNG")


def test_no_data_yet_and_live_reload(browser, address, sites, runs):
    page = browser.new_page()
    errors, _ = watch(page)
    page.goto(address + "growing/")
    page.locator(".ks-empty").wait_for()
    snippet = text(page, ".ks-empty pre")
    assert len(snippet.splitlines()) == 3
    assert "AttentionTensorBoard" in snippet
    whole = runs["causal LM"]
    young = copy.copy(whole)
    young.steps = whole.steps[:2]
    sites["growing"]["causal LM"] = young
    page.evaluate("document.body.kerasSam.reload()")
    page.locator(".ks-cell").first.wait_for()
    assert text(page, ".ks-step").startswith("step 10")
    sites["growing"]["causal LM"] = whole
    page.evaluate("document.body.kerasSam.reload()")
    page.wait_for_function(
        "() => document.querySelector('.ks-step').textContent.startsWith('step 200')"
    )
    assert errors == []
    page.close()


def test_rows_without_weight_are_said(browser, tmp_path):
    page = browser.new_page()
    errors, _ = watch(page)
    weights = np.full((2, 1, 3, 3), np.nan, "f4")  # the second example is all padding
    allowed = np.array([True, False]).reshape(2, 1, 1, 1)
    layer = Layer("attend", "self", weights, np.broadcast_to(allowed, weights.shape))
    run = viewer_runs.make_run(
        "none", lambda progress: [layer], (0,), examples=["one", "two"]
    )
    path = tmp_path / "page.html"
    path.write_text(make_page([run]), encoding="utf-8")
    for example, sentence in enumerate(["all are 0 or no numbers", "0 of 0 keys"]):
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}#example={example}")
        page.locator(f".ks-side .ks-note:text-is('{sentence}')").wait_for()
        settle(page)
    assert errors == []
    page.close()


def test_layers_may_have_fewer_examples_than_others(browser, tmp_path):
    """As attention over windows has more of them than what follows it."""
    page = browser.new_page()
    errors, _ = watch(page)
    sizes = {"windows": (3, 2, 4, 4), "whole": (1, 2, 6, 6)}
    layers = [Layer(p, "self", np.full(s, 1 / s[-1], "f4")) for p, s in sizes.items()]
    run = viewer_runs.make_run("swin", lambda progress: layers, (0,), examples="abc")
    path = tmp_path / "page.html"
    path.write_text(make_page([run]), encoding="utf-8")
    for state, seen in {
        "layer=windows&example=2": "4 queries × 4 keys",
        "layer=whole&example=0": "6 queries × 6 keys",
        "layer=whole&example=2": "This layer has 1 example, fewer than others have.",
    }.items():
        page.goto("about:blank")
        page.goto(f"{path.as_uri()}#run=swin&{state}")
        page.get_by_text(seen).first.wait_for(timeout=5000)
        settle(page)
        assert page.locator(".ks-cell").count() == 4
    assert errors == []
    page.close()


@pytest.mark.parametrize("how", ["file", "srcdoc"])
def test_one_file_holds_everything(browser, runs, tmp_path, how):
    page = browser.new_page()
    errors, addresses = watch(page)
    html = make_page([runs["translate"], runs[HOSTILE]])
    path = tmp_path / "page.html"
    if how == "file":
        path.write_text(html, encoding="utf-8")
        page.goto(path.as_uri() + "#run=translate&layer=align&head=0")
        frame = page
    else:
        path.write_text("<!doctype html><iframe width=980 height=700></iframe>")
        page.goto(path.as_uri())
        page.evaluate("html => { document.querySelector('iframe').srcdoc = html }", html)
        frame = page.frame_locator("iframe")
    frame.locator(".ks-row").first.wait_for()
    assert frame.locator(".ks-title").inner_text().startswith(("align", "write"))
    assert frame.locator(".ks-cell").count() == 9
    assert errors == []
    assert [
        url for url in addresses if not url.startswith(("file:", "data:", "blob:"))
    ] == []
    assert json.dumps(HOSTILE) not in (
        frame.locator(".ks-top").inner_html() if how == "file" else ""
    )
    page.close()
