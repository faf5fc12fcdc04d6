// Queries on the left, the keys they look at on the right, lines between.
import {build, cutText, MONO, SANS} from "./dom.js";
import {formatMultiple, formatWeight} from "./format.js";
import {rampColor, THEMES} from "./colors.js";

const LINE_ROW = 17;
const LINES_TOP = 30;
const A_QUERY = 3;
const FOCUSED = 12;

/** The `count` strongest keys of a row above `threshold` multiples of uniform. */
export function strongestKeys(row, count, threshold, allowed) {
  const keys = [];
  for (let key = 0; key < row.length; key++) {
    if (row[key] > 0 && row[key] * allowed >= threshold) keys.push(key);
  }
  return keys.sort((a, b) => row[b] - row[a]).slice(0, count);
}

export class LinesDisplay {
  constructor(state) {
    this.state = state;
    this.slider = build("input", {
      type: "range", min: "-10", max: "60", step: "1", class: "ks-threshold",
      "aria-label": "Least multiple of uniform that is drawn",
      oninput: () => state.set({threshold: +(2 ** (Number(this.slider.value) / 10)).toFixed(2)}),
    });
    this.caption = build("span");
    this.node = build("div", {class: "ks-lines-bar"}, this.caption, this.slider);
    this.first = null;
  }

  layout(context, scene, width, height) {
    const {map, heldQuery} = scene;
    this.width = width;
    this.height = height;
    this.visible = Math.max(1, Math.min(map.rows, Math.floor((height - LINES_TOP) / LINE_ROW)));
    const last = map.rows - this.visible;
    this.first ??= heldQuery - (this.visible >> 1);
    if (heldQuery !== this.shown || scene.map.rows !== this.rows) {
      const isOut = heldQuery < this.first || heldQuery >= this.first + this.visible;
      if (isOut) this.first = heldQuery - (this.visible >> 1);
      this.shown = heldQuery;
      this.rows = map.rows;
    }
    this.first = Math.max(0, Math.min(last, this.first));
    const spread = Math.max(180, Math.min(560, width - 340));
    this.leftEdge = Math.max(150, (width - spread) / 2 - 20);
    this.rightEdge = Math.min(width - 160, this.leftEdge + spread);
  }

  /** The keys of the right column: all where they fit, else those linked now. */
  keysShown(scene) {
    const {map, head, query} = scene;
    const threshold = scene.state.values.threshold;
    this.links = new Map();
    const linked = new Set();
    for (let n = this.first; n < this.first + this.visible; n++) {
      const row = map.row(head, n);
      const keys = strongestKeys(row, n === query ? FOCUSED : A_QUERY, threshold, map.count(head, n));
      this.links.set(n, keys);
    }
    if (!this.links.has(query)) {
      this.links.set(query, strongestKeys(map.row(head, query), FOCUSED, threshold, map.count(head, query)));
    }
    const room = Math.floor((this.height - LINES_TOP) / LINE_ROW);
    if (map.keys <= room) return Array.from({length: map.keys}, (_, key) => key);
    for (const key of this.links.get(query)) linked.add(key);
    const votes = new Map();
    for (const [n, keys] of this.links) {
      for (const key of keys) votes.set(key, (votes.get(key) ?? 0) + map.row(head, n)[key]);
    }
    const ranked = [...votes.keys()].sort((a, b) => votes.get(b) - votes.get(a));
    for (const key of ranked) if (linked.size < room) linked.add(key);
    return [...linked].sort((a, b) => a - b);
  }

  paint(context, scene) {
    const {map, head, query, theme, scale} = scene;
    const colors = THEMES[theme];
    const threshold = scene.state.values.threshold;
    this.caption.textContent = `above ${formatMultiple(threshold)} uniform`;
    this.slider.value = String(Math.round(10 * Math.log2(threshold)));
    this.keys = this.keysShown(scene);
    const spotOf = new Map(this.keys.map((key, spot) => [key, spot]));
    const offset = Math.max(0, Math.min(this.visible, this.height) - this.keys.length);
    this.keyTop = LINES_TOP + Math.min(Math.max(0, (this.visible - this.keys.length) / 2), offset / 2) * LINE_ROW;
    this.keyRow = LINE_ROW;
    const y = (n) => LINES_TOP + (n - this.first + 0.5) * LINE_ROW;
    const keyY = (key) => this.keyTop + (spotOf.get(key) + 0.5) * LINE_ROW;
    context.font = `bold 12px ${SANS}`;
    context.fillStyle = colors.text;
    context.textBaseline = "middle";
    context.textAlign = "right";
    context.fillText("Query", this.leftEdge - 8, 14);
    context.textAlign = "left";
    const all = this.keys.length === map.keys ? "" : ` (${this.keys.length} of ${map.keys})`;
    context.fillText(`Key${all}`, this.rightEdge + 8, 14);
    context.save();
    context.beginPath();
    context.rect(0, LINES_TOP - 2, this.width, this.height - LINES_TOP);
    context.clip();
    for (const isFocus of [false, true]) {
      for (const [n, keys] of this.links) {
        if ((n === query) !== isFocus) continue;
        const row = map.row(head, n);
        for (const key of keys) {
          if (!spotOf.has(key)) continue;
          const strength = scale.at(row[key], map.count(head, n));
          context.strokeStyle = isFocus ? colors.accent : colors.bar;
          context.globalAlpha = isFocus ? 0.3 + 0.6 * strength : 0.08 + 0.22 * strength;
          context.lineWidth = isFocus ? 1 + 2.2 * strength : 0.6 + 1.2 * strength;
          const middle = (this.leftEdge + this.rightEdge) / 2;
          context.beginPath();
          context.moveTo(this.leftEdge, y(n));
          context.bezierCurveTo(middle, y(n), middle, keyY(key), this.rightEdge, keyY(key));
          context.stroke();
        }
      }
    }
    context.restore();
    context.globalAlpha = 1;
    this.writeQueries(context, scene, y, colors);
    this.writeKeys(context, scene, keyY, colors);
  }

  writeQueries(context, {query, heldQuery, labels}, y, colors) {
    context.font = `11px ${MONO}`;
    context.textAlign = "right";
    context.textBaseline = "middle";
    for (let n = this.first; n < this.first + this.visible; n++) {
      const isHeld = n === heldQuery;
      if (isHeld || n === query) {
        context.fillStyle = isHeld ? colors.accent : colors.wash;
        context.beginPath();
        context.roundRect(this.leftEdge - 138, y(n) - 8, 134, 16, 4);
        context.fill();
      }
      context.fillStyle = isHeld ? colors.onAccent : n === query ? colors.text : colors.soft;
      context.fillText(String(n), this.leftEdge - 10, y(n));
      context.fillText(cutText(context, labels.query.name(n), 90), this.leftEdge - 42, y(n));
    }
  }

  writeKeys(context, scene, keyY, colors) {
    const {map, head, query, key: focused, labels, theme, scale} = scene;
    const row = map.row(head, query);
    const linked = new Set(this.links.get(query));
    context.textBaseline = "middle";
    for (const key of this.keys) {
      const y = keyY(key);
      const isLinked = linked.has(key);
      if (isLinked) {
        context.globalAlpha = 0.35;
        context.fillStyle = rampColor(theme, Math.max(0.3, scale.at(row[key], map.count(head, query))));
        context.beginPath();
        context.roundRect(this.rightEdge + 4, y - 8, 150, 16, 4);
        context.fill();
        context.globalAlpha = 1;
      }
      if (key === focused && scene.state.hover.key !== null) {
        context.strokeStyle = colors.accent;
        context.beginPath();
        context.roundRect(this.rightEdge + 4, y - 8, 150, 16, 4);
        context.stroke();
      }
      context.font = `11px ${MONO}`;
      context.textAlign = "right";
      context.fillStyle = isLinked ? colors.soft : colors.faint;
      context.fillText(String(key), this.rightEdge + 34, y);
      context.textAlign = "left";
      context.fillStyle = isLinked ? colors.text : colors.soft;
      context.fillText(cutText(context, labels.key.name(key), 68), this.rightEdge + 41, y);
      if (!isLinked) continue;
      context.textAlign = "right";
      context.fillText(formatWeight(row[key]), this.rightEdge + 150, y);
    }
  }

  overlay() {}

  hit(scene, x, y) {
    if (y < LINES_TOP) return null;
    if (x < this.leftEdge + 30) {
      const query = this.first + Math.floor((y - LINES_TOP) / LINE_ROW);
      return query < this.first + this.visible && query < scene.map.rows ? {query, key: null} : null;
    }
    if (x < this.rightEdge - 10 || !this.keys) return null;
    const key = this.keys[Math.floor((y - this.keyTop) / LINE_ROW)];
    return key === undefined ? null : {query: scene.heldQuery, key};
  }

  /** The wheel scrolls the queries. */
  scroll(scene, delta) {
    this.first = Math.max(0, Math.min(scene.map.rows - this.visible, this.first + Math.round(delta / LINE_ROW) || this.first + Math.sign(delta)));
    return true;
  }
}
