// The application: its parts, what they can ask for, and the way from a change to a frame.
import {build} from "./dom.js";
import {FootPart} from "./foot.js";
import {HeadsPart} from "./heads.js";
import {Help} from "./help.js";
import {MainPart} from "./main.js";
import {SidePart} from "./side.js";
import {TopPart} from "./top.js";
import {decodeState, encodeState} from "./hash.js";
import {makeEmpty} from "./empty.js";
import {makeScene, referenceOf} from "./scene.js";
import {rankHeads} from "./changed.js";
import {reveal, zoomPanelAt} from "./geometry.js";
import {saveCsv, savePng} from "./export.js";
import {sentenceOf, Store} from "./store.js";
import {State} from "./state.js";
import {THEMES} from "./colors.js";
import {watchKeys} from "./keys.js";

const NO_ZOOM = {factor: 1, query: 0, key: 0};

export class App {
  constructor(root, source, address) {
    this.root = root;
    this.source = source;
    this.address = address;
    this.state = new State();
    this.store = new Store(source, () => this.state.touch("data"));
    this.help = new Help();
    this.top = new TopPart(this);
    this.heads = new HeadsPart(this);
    this.main = new MainPart(this);
    this.side = new SidePart(this);
    this.foot = new FootPart(this);
    this.empty = makeEmpty();
    this.parts = [this.top, this.heads, this.main, this.side, this.foot];
    this.grid = build("main", {class: "ks-grid"}, ...this.parts.map((part) => part.root), this.empty);
    root.classList.add("ks");
    root.append(this.grid, this.help.root);
    this.state.listen((changed) => this.draw(changed));
    new ResizeObserver(() => this.measure()).observe(root);
    this.measure();
    watchKeys(this);
    source.onReload(() => this.reload());
  }

  async start() {
    const patch = decodeState(this.address.read());
    this.applyTheme();
    this.address.onTheme(() => this.applyTheme());
    this.address.onChange((url) => {
      clearTimeout(this.addressTimer);
      this.following = this.follow(decodeState(this.address.read(url)));
    });
    try {
      await this.store.refresh();
    } catch (error) {
      this.failure = sentenceOf(error);
    }
    this.isListed = true;
    await this.follow(patch);
    this.isStarted = true;
    this.state.touch("start");
  }

  /** Goes to a state from the address; what is not in it is chosen well. */
  async follow({layerPath, ...patch}) {
    const name = patch.run ?? this.state.values.run ?? this.store.names[0];
    if (name === undefined) {
      this.state.touch("runs");
      return;
    }
    const run = await this.store.open(name);
    const next = {...patch, run: name};
    if (run.meta) {
      const known = run.meta.layers.findIndex((layer) => layer.path === layerPath);
      const example = Math.min(patch.example ?? 0, run.meta.examples.length - 1);
      if (known >= 0) Object.assign(next, {layer: known});
      else Object.assign(next, bestHead(run, example));
      next.example = example;
      next.head = Math.min(next.head ?? 0, run.meta.layers[next.layer].heads - 1);
    }
    this.state.set(next);
    if (patch.reference) await this.openReference();
  }

  async openRun(name) {
    const before = this.scene?.layer?.path;
    const {head, step, example} = this.state.values;
    await this.follow({
      run: name, layerPath: before, example,
      ...(this.store.steps.get(name)?.includes(step) ? {step} : {step: null}),
      ...(before ? {head} : {}),
      zoom: NO_ZOOM,
    });
  }

  async openReference() {
    const {reference} = this.state.values;
    if (!reference) return;
    await this.store.open(reference.run);
    this.state.touch("data");
  }

  async reload() {
    if (this.isReloading) return;
    this.isReloading = true;
    try {
      const isNew = await this.store.refresh();
      this.failure = null;
      if (!isNew) return;
      this.store.forgetFailures();
      for (const name of [...this.store.runs.keys()]) await this.store.open(name, true);
      if (this.state.values.run === null) await this.follow({});
      this.state.touch("data");
    } catch {
      // The server is gone for a while; what was read stays on the screen.
    } finally {
      this.isReloading = false;
    }
  }

  draw(changed) {
    const {state, store} = this;
    const hasRuns = !this.isListed || this.failure || store.names.length > 0 || state.values.run !== null;
    this.grid.classList.toggle("ks-is-empty", !hasRuns);
    this.empty.hidden = hasRuns;
    if (changed.has("run") || changed.has("step") || changed.has("layer") || changed.has("example")) store.drop();
    const scene = makeScene(state, store);
    if (this.failure && !scene.run) scene.sentence = this.failure;
    if (scene.map) {
      const isComparing = state.values.view === "compare" || state.values.reference;
      scene.reference = isComparing ? referenceOf(scene, store) : null;
      this.addTicks(scene);
    }
    this.scene = scene;
    this.grid.classList.toggle("ks-one-step", !scene.steps || scene.steps.length < 2);
    // Zooming and scrolling change nothing beside the map.
    const isMove = [...changed].every((name) => name === "zoom" || name === "scroll");
    for (const part of isMove ? [this.main] : this.parts) part.update(scene, changed);
    this.prefetch(scene);
    if (this.isStarted && [...changed].some((name) => name !== "hover" && name !== "data")) this.writeAddress(scene);
  }

  /** Bars carry the first step's values as ticks. */
  addTicks(scene) {
    if (scene.display !== "bars" && !scene.isGate) return;
    if (scene.reference?.map) {
      scene.tickMap = scene.reference.map;
      scene.tickName = scene.reference.name;
    } else if (scene.steps.length > 1 && scene.step !== scene.steps[0]) {
      const map = this.store.map(scene.run.name, scene.layerIndex, scene.steps[0], scene.example, false);
      scene.tickMap = map && !map.sentence ? map : null;
      scene.tickName = `step ${scene.steps[0]}`;
    }
  }

  /** The steps beside the shown one; over pictures, all layers, whose heads play along. */
  prefetch(scene) {
    if (!scene.map) return;
    const {run, steps, step, layerIndex, example} = scene;
    const index = steps.indexOf(step);
    for (const near of [steps[index + 1], steps[index - 1]]) {
      if (near !== undefined) this.store.map(run.name, layerIndex, near, example, false);
    }
    if (!scene.picture) return;
    scene.meta.layers.forEach((layer, n) => {
      if (layer.kind === "self") this.store.map(run.name, n, step, example, false);
    });
  }

  writeAddress(scene) {
    clearTimeout(this.addressTimer);
    this.addressTimer = setTimeout(() => this.address.write(encodeState(this.state.values, scene.meta?.layers)), 200);
  }

  // What parts, keys and buttons ask for.

  select(layer, head) {
    const isSame = layer === this.state.values.layer;
    this.state.set({layer, head, ...(isSame ? {} : {zoom: NO_ZOOM})});
  }

  moveHead(down, right) {
    const {meta, layerIndex, head} = this.scene ?? {};
    if (!meta) return;
    const layer = Math.max(0, Math.min(meta.layers.length - 1, layerIndex + down));
    this.select(layer, Math.max(0, Math.min(meta.layers[layer].heads - 1, head + right)));
  }

  moveStep(by, isRound = false) {
    const {steps, step} = this.scene ?? {};
    if (!steps) return;
    let index = Math.max(0, steps.indexOf(step)) + by;
    if (isRound) index = (index + steps.length) % steps.length;
    this.chooseStep(Math.max(0, Math.min(steps.length - 1, index)));
  }

  chooseStep(index) {
    const {steps} = this.scene;
    this.state.set({step: index === steps.length - 1 ? null : steps[index]});
  }

  moveCell(down, right) {
    const {map, query, key, isGate} = this.scene ?? {};
    if (!map) return;
    this.state.hover = {query: null, key: null};
    const clamp = (index, count) => Math.max(0, Math.min(count - 1, index));
    if (isGate || map.rows === 1) {
      const count = isGate ? map.values.length : map.keys;
      const across = map.width ?? this.scene.labels.key.grid?.at(-1) ?? 1;
      this.state.set({key: clamp(key + right + down * (this.scene.display === "bars" ? 1 : across), count)});
      return;
    }
    const next = {query: clamp(query + down, map.rows), key: clamp(key + right, map.keys)};
    const {display} = this.main;
    if (display?.canZoom) next.zoom = reveal(display.panelAt(0, 0), this.state.values.zoom, next.query, next.key);
    this.state.set(next);
  }

  holdFocus() {
    const {map, query, key, isGate} = this.scene ?? {};
    if (map) this.state.set(isGate ? {key} : {query, key});
  }

  release() {
    if (this.help.root.open) this.help.root.close();
    else this.state.set({query: null, key: null});
  }

  zoomAt(panel, by, x, y) {
    this.state.set({zoom: zoomPanelAt(panel, this.state.values.zoom, by, x, y)});
  }

  setReference() {
    const {run, layerIndex, head, step} = this.scene ?? {};
    if (!run) return;
    const reference = this.state.values.reference ? null : {run: run.name, layer: layerIndex, head, step};
    this.state.set({reference});
  }

  pin() {
    const {run, layerIndex, layer, head} = this.scene ?? {};
    if (!layer) return;
    const pin = {run: run.name, layer: layerIndex, path: layer.path, head};
    const pins = this.state.values.pins.filter((other) => JSON.stringify(other) !== JSON.stringify(pin));
    this.state.set({pins: [...pins, pin].slice(-6)});
  }

  unpin(index) {
    this.state.set({pins: this.state.values.pins.filter((_, n) => n !== index)});
  }

  async goTo(pin) {
    if (pin.run !== this.state.values.run) await this.openRun(pin.run);
    this.select(pin.layer, pin.head);
  }

  savePicture() {
    savePng(this.main, this.scene);
  }

  saveTable() {
    saveCsv(this.scene);
  }

  toggleTheme() {
    this.chosenTheme = this.state.theme === "dark" ? "light" : "dark";
    this.applyTheme();
  }

  applyTheme() {
    const theme = this.chosenTheme ?? this.address.theme();
    this.state.theme = theme;
    this.root.dataset.theme = theme;
    for (const [name, value] of Object.entries(THEMES[theme])) this.root.style.setProperty(`--${name}`, value);
    this.state.touch("theme");
  }

  measure() {
    const {clientWidth: width, clientHeight: height} = this.root;
    this.root.dataset.width = width <= 1000 ? "narrow" : width <= 1260 ? "middle" : "wide";
    this.root.dataset.height = height <= 760 ? "low" : "high";
    this.state.touch("size");
  }
}

/** The head that changed most; with one step, the one with the lowest entropy. */
function bestHead(run, example) {
  const [best] = rankHeads(run, example);
  return best ? {layer: best.layerIndex, head: best.head} : {layer: 0, head: 0};
}
