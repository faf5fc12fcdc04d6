// The middle of the screen: title, views, the stage with its two canvases, the legend.
//
// Cells are on the lower canvas, what follows the pointer on the upper one, so that
// moving the pointer never repaints cells.
import {BarsDisplay} from "./bars.js";
import {CompareDisplay} from "./compare.js";
import {build, fillSelect, sizeCanvas} from "./dom.js";
import {formatMultiple, formatWeight} from "./format.js";
import {GateDisplay} from "./gate.js";
import {Legend} from "./legend.js";
import {LinesDisplay} from "./lines.js";
import {MapDisplay} from "./map.js";
import {PictureDisplay} from "./picture.js";
import {watchPointer} from "./pointer.js";
import {ReferenceSelect} from "./reference.js";
import {keptOf, subtitleOf} from "./titles.js";

const VIEW_NAMES = [["map", "Map"], ["lines", "Lines"], ["compare", "Compare"]];

export class MainPart {
  constructor(app) {
    this.app = app;
    const {state} = app;
    this.displays = {
      map: new MapDisplay(),
      lines: new LinesDisplay(state),
      compare: new CompareDisplay(state),
      picture: new PictureDisplay(state, () => state.touch("picture")),
      gate: new GateDisplay(state, () => state.touch("picture")),
      bars: new BarsDisplay(state),
    };
    this.title = build("h2", {class: "ks-title"});
    this.subtitle = build("p", {class: "ks-subtitle"});
    this.buttons = VIEW_NAMES.map(([view, name]) =>
      build("button", {type: "button", onclick: () => state.set({view}), title: `${name} (${view[0]})`, "data-view": view}, name),
    );
    this.other = new ReferenceSelect(app);
    this.scale = build("select", {"aria-label": "Scale of the colours", onchange: () => state.set({scale: this.scale.value})});
    const zoom = (label, text, by) =>
      build("button", {type: "button", class: "ks-zoom", "aria-label": label, title: label, onclick: () => this.zoomBy(by)}, text);
    this.fit = build("button", {type: "button", title: "Show the whole map (0)", onclick: () => state.set({zoom: {factor: 1, query: 0, key: 0}})}, "Fit");
    this.zooms = build("div", {class: "ks-group"}, zoom("Zoom out", "−", 1 / 1.5), zoom("Zoom in", "+", 1.5), this.fit);
    this.cells = build("canvas", {"aria-hidden": "true"});
    this.above = build("canvas", {"aria-hidden": "true", class: "ks-above"});
    this.notice = build("p", {class: "ks-notice", role: "status"});
    this.stage = build("div", {
      class: "ks-stage", tabindex: "0", role: "application", "aria-roledescription": "attention map",
    }, this.cells, this.above, this.notice);
    this.kept = build("p", {class: "ks-kept", hidden: true});
    this.legend = new Legend();
    this.readout = build("p", {class: "ks-readout", "aria-live": "polite"});
    this.root = build("section", {class: "ks-card ks-main", "aria-label": "Attention map"},
      build("header", {class: "ks-main-head"},
        build("div", {class: "ks-names"}, this.title, this.subtitle),
        build("div", {class: "ks-group", role: "group", "aria-label": "View"}, ...this.buttons),
        this.other.root, this.scale, this.zooms),
      this.kept,
      this.stage,
      build("footer", {class: "ks-main-foot"}, this.legend.root, this.readout));
    watchPointer(this);
    new ResizeObserver(() => state.touch("size")).observe(this.stage);
  }

  displayFor(scene) {
    const {view} = scene.state.values;
    if (scene.display === "gate" || scene.display === "bars") return this.displays[scene.display];
    if (view === "map") return this.displays[scene.display];
    return scene.map.rows > 1 ? this.displays[view] : this.displays[scene.display];
  }

  update(scene, changed) {
    const {values} = scene.state;
    this.scene = scene;
    this.other.update(scene);
    this.root.classList.toggle("ks-comparing", values.view === "compare");
    for (const button of this.buttons) {
      const view = button.dataset.view;
      const isPossible = !scene.layer || !(scene.isGate || scene.display === "bars" || scene.map?.rows === 1) || view === "map" || (view === "compare" && scene.display === "gate");
      button.disabled = !isPossible;
      const shown = isPossible && view === values.view;
      button.setAttribute("aria-pressed", String(shown));
    }
    if (scene.layer) {
      const isGate = scene.isGate;
      this.title.textContent = isGate ? scene.layer.path : `${scene.layer.path} · head ${scene.head}`;
      this.title.title = this.title.textContent;
      this.subtitle.textContent = this.subtitle.title = subtitleOf(scene);
      fillSelect(this.scale, isGate
        ? [["log", "0 to 1"], ["linear", "min to max"]]
        : [["log", "× uniform (log)"], ["linear", "weight (linear)"]], values.scale);
    }
    if (!scene.map) {
      if (!scene.isLoading || !this.shown) this.clear(scene);
      else this.stage.classList.add("ks-waiting");
      return;
    }
    this.stage.classList.remove("ks-waiting");
    this.notice.textContent = "";
    this.legend.root.hidden = false;
    this.kept.textContent = keptOf(scene);
    this.kept.hidden = !this.kept.textContent;
    const display = this.displayFor(scene);
    const isOnlyHover = [...changed].every((name) => name === "hover") && display === this.display && display !== this.displays.lines;
    this.changeDisplay(display);
    const {clientWidth: width, clientHeight: height} = this.stage;
    if (width < 10 || height < 10) return;
    if (!isOnlyHover) {
      const context = sizeCanvas(this.cells, width, height);
      display.layout(context, scene, width, height);
      display.paint(context, scene);
      this.legend.draw(scene, values.view === "compare");
      this.shown = true;
    }
    const context = sizeCanvas(this.above, width, height);
    display.overlay(context, scene);
    this.zooms.hidden = !display.canZoom;
    this.readout.textContent = readoutOf(scene);
    this.stage.setAttribute("aria-label", `${this.title.textContent}, ${this.subtitle.textContent}. ${this.readout.textContent}`);
  }

  changeDisplay(display) {
    if (display === this.display) return;
    this.display?.node?.remove();
    if (display.node) this.stage.append(display.node);
    this.display = display;
  }

  clear(scene) {
    this.shown = false;
    this.display?.node?.remove();
    this.display = null;
    this.zooms.hidden = true;
    this.legend.root.hidden = true;
    this.kept.hidden = true;
    for (const canvas of [this.cells, this.above]) sizeCanvas(canvas, this.stage.clientWidth, this.stage.clientHeight);
    this.notice.textContent = scene.sentence ?? "Loading …";
    this.readout.textContent = "";
    if (!scene.layer) {
      this.title.textContent = "";
      this.subtitle.textContent = "";
    }
  }

  zoomBy(by) {
    const {display, app} = this;
    if (!display?.canZoom || !this.scene?.map) return;
    const panel = display.panelAt(0, 0);
    app.zoomAt(panel, by, panel.x + panel.width / 2, panel.y + panel.height / 2);
  }
}

function readoutOf(scene) {
  const {map, head, labels, state, query, key, isGate} = scene;
  const isFocused = state.hover.query !== null || state.hover.key !== null || state.values.key !== null;
  if (isGate) {
    if (!isFocused) return "Point at a value; click holds it.";
    return `${labels.key.spoken(key)}: ${formatWeight(map.values[key])}`;
  }
  if (!isFocused) return "Point at a cell; click holds it.";
  const pair = map.rows > 1 ? `${labels.query.spoken(query)} → ${labels.key.spoken(key)}` : labels.key.spoken(key);
  if (!map.isAllowed(head, query, key)) return `${pair}: masked`;
  const weight = map.row(head, query)[key];
  if (Number.isNaN(weight)) return `${pair}: not among the ${map.strongest} strongest keys`;
  return `${pair}: ${formatWeight(weight)}, ${formatMultiple(weight * map.count(head, query))} uniform`;
}
