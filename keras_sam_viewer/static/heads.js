// The matrix of all heads: a thumbnail, the chosen statistic and badges for each.
import {build, fillSelect, sizeCanvas} from "./dom.js";
import {ChangedList} from "./changed.js";
import {badgesOf, FOR_PAIRS, formatStatistic, isGateKind, statisticFor, statisticLabel, statisticMeaning, STATISTICS} from "./statistics.js";
import {rampColor, textOnRamp} from "./colors.js";
import {drawThumbnail} from "./thumbnails.js";

const GAP = 5;
const NUMBER = 15; // height of the statistic below a thumbnail
const STRIP = 5; // height of the statistic where a number does not fit

export class HeadsPart {
  constructor(app) {
    this.app = app;
    const {state} = app;
    this.select = build("select", {"aria-label": "Statistic", onchange: () => state.set({statistic: this.select.value})});
    this.matrix = build("div", {class: "ks-matrix", role: "group", "aria-label": "Heads: arrow keys move, Enter selects"});
    this.matrix.addEventListener("keydown", (event) => this.move(event));
    this.scroll = build("div", {class: "ks-matrix-scroll"}, this.matrix);
    this.changedList = new ChangedList(app);
    this.root = build("section", {class: "ks-card ks-heads", "aria-label": "Heads"},
      build("header", {}, build("h2", {}, "Heads"), this.select), this.scroll, this.changedList.root);
    new ResizeObserver(() => state.touch("size")).observe(this.scroll);
    this.cells = [];
  }

  update(scene, changed) {
    if (!scene.meta) {
      this.matrix.replaceChildren();
      this.changedList.root.hidden = true;
      this.cells = [];
      this.built = null;
      return;
    }
    const {meta, state} = scene;
    this.changedList.root.hidden = false;
    const has = new Set(meta.statistics);
    const hasPairs = meta.layers.some((layer) => !isGateKind(layer.kind));
    const names = Object.keys(STATISTICS).filter((name) => has.has(name) && (hasPairs ? FOR_PAIRS.includes(name) : !FOR_PAIRS.includes(name)));
    const chosen = names.includes(state.values.statistic) ? state.values.statistic : names[0];
    fillSelect(this.select, names.map((name) => [name, statisticLabel(name)]), chosen);
    this.select.title = statisticMeaning(chosen);
    const size = this.sizeOf(scene);
    const key = JSON.stringify([scene.run.name, meta.layers.map((layer) => [layer.path, layer.heads]), size]);
    const isNew = key !== this.built;
    if (isNew) this.rebuild(scene, size, key);
    const isHoverOnly = [...changed].every((name) => name === "hover");
    if (isHoverOnly && !isNew && !scene.picture) return;
    if (!isHoverOnly || isNew) this.changedList.update(scene);
    for (const cell of this.cells) this.updateCell(cell, scene, isHoverOnly && !isNew);
  }

  /** The largest cells that let every head be seen at once, if there are such. */
  sizeOf({meta, shortNames}) {
    const columns = Math.max(...meta.layers.map((layer) => layer.heads));
    const {clientWidth} = this.scroll;
    const spare = Math.max(74, clientWidth - 20 - columns * (56 + GAP + 2));
    const nameWidth = Math.min(spare, 14 + 6.2 * Math.max(...shortNames.map((name) => name.length)));
    const wide = Math.floor((clientWidth - nameWidth - 14) / columns) - GAP - 2;
    const list = this.changedList.root;
    const least = getComputedStyle(list).display === "none" ? 4 : 92;
    const most = this.root.clientHeight - this.root.firstElementChild.offsetHeight - least - 26;
    const high = Math.floor(most / meta.layers.length) - GAP - 2;
    let side = Math.max(18, Math.min(56, wide));
    if (side >= 34 && high - NUMBER < side) side = high - NUMBER;
    if (side < 34) side = Math.max(18, Math.min(wide, 33, high - STRIP));
    return {side, nameWidth, columns, isSmall: side < 34};
  }

  rebuild(scene, size, key) {
    const {meta, shortNames} = scene;
    const {side, nameWidth, columns, isSmall} = size;
    this.built = key;
    this.matrix.classList.toggle("ks-small", isSmall);
    this.matrix.style.gridTemplateColumns = `${nameWidth}px repeat(${columns}, ${side + 2}px)`;
    const nodes = [build("span")];
    for (let head = 0; head < columns; head++) nodes.push(build("span", {class: "ks-head-name"}, `h${head}`));
    this.cells = [];
    meta.layers.forEach((layer, layerIndex) => {
      nodes.push(build("span", {class: "ks-layer-name", title: layer.path}, shortNames[layerIndex]));
      for (let head = 0; head < columns; head++) {
        if (head >= layer.heads) {
          nodes.push(build("span"));
          continue;
        }
        const cell = this.makeCell(layer, layerIndex, head, side);
        this.cells.push(cell);
        nodes.push(cell.node);
      }
    });
    this.matrix.replaceChildren(...nodes);
  }

  makeCell(layer, layerIndex, head, side) {
    const canvas = build("canvas", {"aria-hidden": "true"});
    const number = build("span", {class: "ks-cell-number"});
    const badges = build("span", {class: "ks-badges"});
    const node = build("button", {
      type: "button", class: "ks-cell", tabindex: "-1",
      onclick: () => this.app.select(layerIndex, head),
    }, canvas, badges, number);
    return {node, canvas, number, badges, layer, layerIndex, head, side};
  }

  updateCell(cell, scene, isHoverOnly) {
    const {layer, layerIndex, head} = cell;
    const {stats, example, theme, state} = scene;
    const isChosen = layerIndex === scene.layerIndex && head === scene.head;
    sizeCanvas(cell.canvas, cell.side, cell.side);
    drawThumbnail(cell.canvas.getContext("2d"), scene, cell, this.app.store);
    if (isHoverOnly) return;
    const name = statisticFor(layer, state.values.statistic);
    const value = stats ? stats.value(layerIndex, example, head, name) : NaN;
    const isSmall = this.matrix.classList.contains("ks-small");
    cell.number.textContent = isSmall ? "" : formatStatistic(name, value);
    const isShare = STATISTICS[name]?.[3] ?? false;
    const t = Number.isNaN(value) ? 0 : isShare ? value : Math.min(1, value / this.largest(scene, name));
    cell.number.style.background = Number.isNaN(value) ? "transparent" : rampColor(theme, 0.12 + 0.62 * t);
    cell.number.style.color = textOnRamp(theme, 0.12 + 0.62 * t);
    cell.node.setAttribute("aria-pressed", String(isChosen));
    cell.node.tabIndex = isChosen ? 0 : -1;
    const badges = stats ? badgesOf(stats, layerIndex, layer, example, head) : [];
    const words = [isGateKind(layer.kind) ? layer.path : `${layer.path} head ${head}`];
    if (!Number.isNaN(value)) words.push(`${statisticLabel(name)} ${formatStatistic(name, value)}`);
    for (const [text, , meaning] of badges) words.push(`${text}: ${meaning}`);
    if (cell.words === words.join("\n")) return;
    cell.words = words.join("\n");
    cell.node.title = cell.words;
    cell.node.setAttribute("aria-label", words.join(", "));
    const isDot = cell.side < 44;
    cell.badges.replaceChildren(...badges.slice(0, isDot ? 1 : 2).map(([text, isWarning]) =>
      build("span", {class: `ks-badge${isWarning ? " ks-warning" : ""}${isDot ? " ks-dot" : ""}`}, isDot ? "" : text)));
  }

  largest({stats, meta, example}, name) {
    let largest = 1e-9;
    meta.layers.forEach((layer, index) => {
      for (let head = 0; head < layer.heads; head++) {
        const value = stats.value(index, example, head, name);
        if (value > largest) largest = value;
      }
    });
    return largest;
  }

  /** Arrow keys move from head to head. */
  move(event) {
    const steps = {ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0]};
    if (!(event.key in steps) || event.ctrlKey || event.metaKey || event.altKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [down, right] = steps[event.key];
    this.app.moveHead(down, right);
    requestAnimationFrame(() => this.matrix.querySelector('[aria-pressed="true"]')?.focus());
  }
}
