// The tokens as running text, coloured where the query looks.
import {build} from "./dom.js";
import {PER_OCTAVE, LOWEST} from "./scales.js";
import {rampColor, textOnRamp} from "./colors.js";
import {runningToken} from "./format.js";

const AROUND = 400; // tokens on each side of the query that are written
const ABOVE = PER_OCTAVE * -LOWEST; // the level of 1x uniform

export class TokenText {
  constructor(state) {
    this.state = state;
    this.queries = build("p", {class: "ks-text ks-text-queries"});
    this.keys = build("p", {class: "ks-text"});
    this.root = build("div", {class: "ks-texts", hidden: true}, this.queries, this.keys);
    for (const [node, axis] of [[this.queries, "query"], [this.keys, "key"]]) {
      const indexOf = (event) => event.target.closest?.("[data-index]")?.dataset.index;
      node.addEventListener("click", (event) => {
        const index = indexOf(event);
        if (index === undefined) return;
        const isQuery = axis === "query" || this.isSelf;
        state.set(isQuery ? {query: Number(index), key: null} : {key: Number(index)});
      });
      node.addEventListener("pointermove", (event) => {
        const index = indexOf(event);
        if (index !== undefined && (axis === "query" || this.isSelf)) state.point(Number(index), null);
        else if (index !== undefined) state.point(null, Number(index));
      });
      node.addEventListener("pointerleave", () => state.point(null, null));
    }
  }

  clear() {
    this.root.hidden = true;
    this.key = null;
  }

  /** Returns whether there is a text to show. */
  update(scene, row, count) {
    const {labels, layer, query, map, theme, scale} = scene;
    if (!labels.key.tokens) {
      this.clear();
      return false;
    }
    this.root.hidden = false;
    this.isSelf = layer.kind === "self";
    const isList = map.rows === 1;
    const center = isList ? 0 : Math.round(query / AROUND) * AROUND;
    const start = this.isSelf ? Math.max(0, center - AROUND) : 0;
    const end = Math.min(map.keys, start + 4 * AROUND);
    const key = JSON.stringify([scene.run.name, scene.layerIndex, scene.example, start, end]);
    if (key !== this.key) {
      this.key = key;
      this.spans = this.write(this.keys, labels.key, start, end);
      this.queries.hidden = this.isSelf || isList || !labels.query.tokens;
      if (!this.queries.hidden) this.querySpans = this.write(this.queries, labels.query, 0, map.rows);
      this.styles = [];
    }
    for (let index = start; index < end; index++) {
      const n = index - start;
      const multiple = row[index] * count;
      const isShown = scale.name === "log" ? multiple > 1 : row[index] > 0;
      const t = isShown ? scale.at(row[index], count) : 0;
      const isLater = this.isSelf && !map.isAllowed(scene.head, query, index);
      const isQuery = this.isSelf && index === query;
      const style = `${theme}${Math.round(60 * t)}${isLater}${isQuery}`;
      if (this.styles[n] === style) continue;
      this.styles[n] = style;
      const span = this.spans[n];
      span.style.background = t > 0 ? rampColor(theme, t) : "";
      span.style.color = t > 0 ? textOnRamp(theme, t) : "";
      span.className = `ks-tok${isLater ? " ks-later" : ""}${isQuery ? " ks-query" : ""}`;
    }
    if (!this.queries.hidden) {
      this.querySpans.forEach((span, n) => (span.className = `ks-tok${n === query ? " ks-query" : ""}`));
    }
    if (this.isSelf && this.center !== `${key} ${query}`) {
      this.center = `${key} ${query}`;
      const span = this.spans[query - start];
      if (span) this.root.scrollTop = span.offsetTop - this.root.clientHeight / 2 + 10;
    }
    return true;
  }

  write(parent, labels, start, end) {
    const nodes = [];
    const spans = [];
    let previous;
    for (let index = start; index < end; index++) {
      const raw = labels.raw(index);
      const lines = raw.match(/^\r?\n([ \t]*)$/);
      if (lines) {
        const span = build("span", {class: "ks-tok", "data-index": index}, "⏎");
        spans.push(span);
        nodes.push(span, document.createTextNode(`\n${lines[1].replaceAll("\t", "    ").slice(0, 24)}`));
        previous = undefined;
        continue;
      }
      const [text, hasSpace] = runningToken(raw, previous);
      if (hasSpace) nodes.push(document.createTextNode(" "));
      const span = build("span", {class: "ks-tok", "data-index": index}, text || "∅");
      spans.push(span);
      nodes.push(span, build("wbr"));
      previous = raw;
    }
    parent.replaceChildren(...nodes);
    return spans;
  }
}
