// The held query over time: the keys that were ever strongest, a column for each step.
import {build, cutText, MONO, sizeCanvas, SANS} from "./dom.js";
import {hatchPattern} from "./paint.js";
import {rampColor, THEMES} from "./colors.js";
import {writeTicks} from "./charts.js";

const TIME_COLUMNS = 20;
const TIME_LEFT = 118;
const TIME_BOTTOM = 18;

export class OverTime {
  constructor(app) {
    this.app = app;
    this.title = build("h3", {});
    this.canvas = build("canvas", {role: "img"});
    this.box = build("div", {class: "ks-over-box"}, this.canvas);
    this.root = build("div", {class: "ks-over"}, this.title, this.box);
    this.canvas.addEventListener("click", (event) => this.choose(event));
    this.canvas.addEventListener("pointermove", (event) => this.explain(event));
  }

  update(scene) {
    const {map, labels, heldQuery, head, theme, isGate} = scene;
    if (!map) return;
    this.scene = scene;
    const isList = isGate || map.rows === 1;
    this.title.textContent = isGate ? "The values that moved most, at each step"
      : isList ? "Strongest positions at each step"
      : `${labels.query.spoken(heldQuery)} over time: its strongest keys at each step`;
    this.title.title = this.title.textContent;
    this.steps = columnsOf(scene.steps, scene.step);
    const maps = this.steps.map((step) => this.mapAt(scene, step));
    const rows = maps.map((each) => (each ? each.values ?? each.row(head, isList ? 0 : heldQuery) : null));
    const {clientWidth: width, clientHeight: height} = this.box;
    if (width < 80 || height < 40) return;
    const most = Math.max(3, Math.min(10, Math.floor((height - TIME_BOTTOM) / 15)));
    this.keys = isGate ? movedMost(rows, most) : strongestEver(rows, most);
    const context = sizeCanvas(this.canvas, width, height);
    this.row = Math.min(20, (height - TIME_BOTTOM) / this.keys.length);
    this.column = Math.min(48, (width - TIME_LEFT - 8) / this.steps.length);
    const colors = THEMES[theme];
    this.keys.forEach((key, n) => {
      const y = n * this.row;
      context.font = `11px ${MONO}`;
      context.textBaseline = "middle";
      context.textAlign = "right";
      context.fillStyle = colors.soft;
      context.fillText(String(key), TIME_LEFT - 8, y + this.row / 2);
      context.fillStyle = colors.text;
      const name = labels.key.isChannels ? "channel" : labels.key.name(key);
      context.fillText(cutText(context, name, 66), TIME_LEFT - 44, y + this.row / 2);
      rows.forEach((row, m) => {
        if (!row) return;
        const x = TIME_LEFT + m * this.column;
        const isKnown = !Number.isNaN(row[key]);
        const count = isGate ? 1 : maps[m].count(head, isList ? 0 : heldQuery);
        context.fillStyle = isKnown ? rampColor(theme, scene.scale.at(row[key], count)) : hatchPattern(context, theme);
        context.fillRect(x, y, this.column - 1, this.row - 1);
      });
    });
    const index = this.steps.indexOf(scene.step);
    context.strokeStyle = colors.accent;
    context.lineWidth = 1.5;
    context.strokeRect(TIME_LEFT + index * this.column - 0.5, 0.75, this.column, this.keys.length * this.row - 0.5);
    const x = (n) => TIME_LEFT + (n + 0.5) * this.column;
    writeTicks(context, this.steps, x, Math.min(height - 5, this.keys.length * this.row + 13), colors, width, index);
    if (!maps.some(Boolean)) {
      context.font = `12px ${SANS}`;
      context.fillText("Loading …", TIME_LEFT, 20);
    }
    this.rows = rows;
    this.canvas.setAttribute("aria-label", `${this.title.textContent}: ${this.keys.map((key) => labels.key.spoken(key)).join(", ")}`);
  }

  mapAt({run, layerIndex, example, step: shown, map}, step) {
    if (step === shown) return map;
    const found = this.app.store.map(run.name, layerIndex, step, example, false);
    return found && !found.sentence ? found : null;
  }

  at(event) {
    if (!this.keys) return [null, null];
    const box = this.canvas.getBoundingClientRect();
    const step = this.steps[Math.floor((event.clientX - box.left - TIME_LEFT) / this.column)];
    const key = this.keys[Math.floor((event.clientY - box.top) / this.row)];
    return [step, key];
  }

  choose(event) {
    const [step, key] = this.at(event);
    if (step !== undefined) this.app.chooseStep(this.scene.steps.indexOf(step));
    if (key !== undefined) this.app.state.set({key, query: this.scene.isGate ? null : this.scene.heldQuery});
  }

  explain(event) {
    const [step, key] = this.at(event);
    const row = this.rows?.[this.steps?.indexOf(step)];
    this.canvas.title = row && key !== undefined ? `${this.scene.labels.key.spoken(key)} at step ${step}: ${row[key].toPrecision(2)}` : "";
    this.canvas.style.cursor = row ? "pointer" : "default";
  }
}

/** First, last, the shown one, and evenly spaced steps between. */
function columnsOf(steps, shown) {
  if (steps.length <= TIME_COLUMNS) return steps;
  const chosen = new Set([steps[0], steps.at(-1), shown]);
  for (let n = 0; n < TIME_COLUMNS - 1; n++) chosen.add(steps[Math.round((n * (steps.length - 1)) / (TIME_COLUMNS - 2))]);
  return [...chosen].filter((step) => steps.includes(step)).sort((a, b) => a - b);
}

/** Values whose range over the steps is widest. */
function movedMost(rows, most) {
  const known = rows.filter(Boolean);
  const range = (key) => Math.max(...known.map((row) => row[key])) - Math.min(...known.map((row) => row[key]));
  const ranges = Array.from(known[0] ?? [], (_, key) => range(key));
  const order = [...ranges.keys()].sort((a, b) => ranges[b] - ranges[a]);
  return order.slice(0, most).sort((a, b) => a - b);
}

/** Keys that were the strongest at some step, by position; filled up with the next ones. */
function strongestEver(rows, most) {
  const best = new Map();
  for (const row of rows) {
    if (!row) continue;
    const order = Array.from(row.keys()).filter((key) => row[key] > 0).sort((a, b) => row[b] - row[a]).slice(0, 4);
    order.forEach((key, rank) => {
      const score = row[key] / (1 + rank * rank);
      if (!(best.get(key) >= score)) best.set(key, score);
    });
  }
  const order = [...best.keys()].sort((a, b) => best.get(b) - best.get(a));
  return order.slice(0, most).sort((a, b) => a - b);
}
