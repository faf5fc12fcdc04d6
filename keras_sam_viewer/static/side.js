// The selected query: its text, the keys it looks at, and who sees the key in focus.
import {build} from "./dom.js";
import {formatCount, formatWeight} from "./format.js";
import {RankedRows} from "./ranked.js";
import {TokenText} from "./text.js";

const EVERY = 90; // milliseconds between two rebuilds while the pointer moves

export class SidePart {
  constructor(app) {
    this.app = app;
    const {state} = app;
    this.title = build("h2", {class: "ks-cut"});
    this.note = build("span", {class: "ks-note"});
    this.release = build("button", {
      type: "button", class: "ks-round", "aria-label": "Let the held cell go", title: "Let go (Esc)",
      onclick: () => state.set({query: null, key: null}),
    }, "×");
    this.text = new TokenText(state);
    this.looks = new RankedRows(app);
    this.seenTitle = build("h2", {class: "ks-cut"});
    this.seenNote = build("span", {class: "ks-note"});
    this.seen = new RankedRows(app);
    this.seenPart = build("div", {class: "ks-seen"}, build("header", {}, this.seenTitle, this.seenNote), this.seen.root);
    this.root = build("section", {class: "ks-card ks-side", "aria-label": "Selected query"},
      build("header", {}, this.title, this.note, this.release), this.text.root, this.looks.root, this.seenPart);
    this.drawnAt = 0;
    new ResizeObserver(() => app.state.touch("size")).observe(this.root);
  }

  update(scene, changed) {
    const wait = this.drawnAt + EVERY - performance.now();
    clearTimeout(this.timer);
    const isHoverOnly = [...changed].every((name) => name === "hover");
    if (isHoverOnly && wait > 0) {
      this.timer = setTimeout(() => this.update(scene, new Set(["late"])), wait);
      return;
    }
    this.drawnAt = performance.now();
    this.root.classList.toggle("ks-blank", !scene.map);
    if (!scene.map) {
      if (!scene.isLoading) this.clear();
      return;
    }
    this.release.hidden = scene.state.values.query === null && scene.state.values.key === null;
    if (scene.isGate) this.showGate(scene);
    else this.showPairs(scene);
  }

  clear() {
    for (const node of [this.title, this.note, this.seenTitle, this.seenNote]) node.textContent = "";
    this.text.clear();
    this.looks.clear();
    this.seen.clear();
    this.release.hidden = true;
  }

  showPairs(scene) {
    const {map, head, query, key, labels, reference, state} = scene;
    const isList = map.rows === 1;
    const row = map.row(head, query);
    const count = map.count(head, query);
    this.title.textContent = isList ? "Weights" : `${labels.query.spoken(query)} looks at`;
    const isEmpty = count > 0 && row.every((weight) => weight === 0);
    this.note.textContent = isEmpty ? "all are 0 or no numbers" : map.isExact(query)
      ? `${formatCount(keysUsed(row))} of ${count} keys`
      : `the ${map.strongest} strongest of ${count}`;
    this.note.title = "exp(entropy) of the row: over how many keys its weight is spread";
    const used = this.text.update(scene, row, count);
    const room = this.root.clientHeight - 74 - (used ? this.text.root.offsetHeight : 0);
    const fits = Math.max(6, Math.floor((room * (isList ? 1 : 0.6)) / 20) - (isList ? 1 : 3));
    const before = reference?.map && state.values.view === "compare"
      ? reference.map.row(reference.head, Math.min(query, reference.map.rows - 1)) : null;
    this.looks.update(scene, {
      axis: "key", weights: row, multiple: (index) => row[index] * count, before, focus: key, others: true, fits,
      zeros: map.keys <= fits, count,
      onClick: (index) => state.set(isList ? {key: index} : {query, key: index}),
    });
    this.seenPart.hidden = isList;
    if (isList) return;
    const column = map.column(head, key);
    this.seenTitle.textContent = `${labels.key.spoken(key)} is seen by`;
    this.seenNote.textContent = `receives ${formatCount(map.received(head).total[key] ?? 0)}`;
    this.seenNote.title = "The weight that this key receives from all queries together";
    const left = Math.max(4, Math.floor((room * 0.4 - 30) / 20));
    this.seen.update(scene, {
      axis: "query", weights: column, multiple: (index) => column[index] * map.count(head, index),
      focus: query, fits: left, zeros: false,
      onClick: (index) => state.set({query: index, key}),
    });
  }

  showGate(scene) {
    const {map, key, labels, tickMap, reference, state} = scene;
    const values = map.values;
    this.text.clear();
    this.title.textContent = `${labels.key.spoken(key)}: ${formatWeight(values[key])}`;
    const fits = Math.max(6, Math.floor((this.root.clientHeight - 120) / 40));
    const other = reference?.map && state.values.view === "compare" ? reference.map : tickMap;
    const before = other?.values?.length === values.length ? other.values : null;
    this.note.textContent = before ? `orange: ${other === tickMap ? scene.tickName : reference.name}` : "";
    this.note.title = `From ${formatWeight(map.low)} to ${formatWeight(map.high)}`;
    const shared = {axis: "key", weights: values, multiple: null, before, focus: key, fits, zeros: true, onClick: (index) => state.set({key: index})};
    this.looks.update(scene, shared);
    this.seenPart.hidden = values.length <= fits;
    this.seenTitle.textContent = "The smallest";
    this.seenNote.textContent = `mean ${formatWeight(values.reduce((a, b) => a + b, 0) / values.length)}`;
    this.seen.update(scene, {...shared, isReversed: true, largest: map.high});
  }
}

/** exp(entropy) of a row. */
function keysUsed(row) {
  let [sum, entropy] = [0, 0];
  for (const weight of row) if (weight > 0) sum += weight;
  for (const weight of row) if (weight > 0) entropy -= (weight / sum) * Math.log(weight / sum);
  return sum ? Math.exp(entropy) : 0;
}
