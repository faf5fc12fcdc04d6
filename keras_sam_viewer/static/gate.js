// A spatial gate: the picture and the gate side by side, and the gate over the picture.
import {cellAt, fitPanel, visiblePart} from "./geometry.js";
import {cutText, SANS} from "./dom.js";
import {drawPicture, fitPicture} from "./picture.js";
import {drawPill} from "./cursor.js";
import {formatWeight} from "./format.js";
import {paintCells} from "./paint.js";
import {paletteOf} from "./map.js";
import {THEMES} from "./colors.js";

const GATE_TITLE = 24;

export class GateDisplay {
  constructor(state, redraw) {
    this.state = state;
    this.redraw = redraw;
  }

  /** Boxes in one row: what is shown is the picture, the gate, and for Compare A and B. */
  layout(context, scene, width, height) {
    const isComparing = scene.state.values.view === "compare";
    this.titles = isComparing
      ? [`A  ${scene.reference?.name ?? ""}`, `B  step ${scene.step}`, "B − A"]
      : scene.picture ? ["picture", "gate"] : ["gate"];
    const count = this.titles.length;
    const size = scene.picture ?? {width: scene.map.columns, height: scene.map.rows};
    const each = fitPicture(size, (width - 8 - 12 * (count - 1)) / count, height - GATE_TITLE - 8);
    this.boxes = this.titles.map((_, n) => ({x: 4 + n * (each.width + 12), y: GATE_TITLE, ...each}));
    this.isComparing = isComparing;
  }

  part(scene, box) {
    const {rows, columns} = scene.map;
    const panel = fitPanel(box, rows, columns, {left: 0, top: 0, widest: 1e9, tallest: 1e9});
    panel.cellWidth = box.width / columns;
    panel.cellHeight = box.height / rows;
    return visiblePart(panel, {factor: 1, query: 0, key: 0});
  }

  paint(context, scene) {
    const {map, scale, theme, picture, reference} = scene;
    const colors = paletteOf(scale, theme);
    context.font = `bold 12px ${SANS}`;
    context.fillStyle = THEMES[theme].text;
    context.textAlign = "left";
    context.textBaseline = "middle";
    this.titles.forEach((title, n) => {
      context.fillText(cutText(context, title, this.boxes[n].width), this.boxes[n].x, 11);
    });
    const gate = (levels, palette, box) => paintCells(context, levels, palette, this.part(scene, box), theme);
    if (!this.isComparing) {
      if (picture) drawPicture(context, picture, this.boxes[0], theme, this.redraw);
      gate(map.levels(scale), colors, this.boxes.at(-1));
      return;
    }
    gate(map.levels(scale), colors, this.boxes[1]);
    if (!reference?.map) return;
    gate(reference.map.levels(scale), colors, this.boxes[0]);
    const change = gateDifference(reference.map, map);
    gate(change.levels, paletteOf(change.scale, theme), this.boxes[2]);
  }

  overlay(context, scene) {
    const {map, key, labels, theme, state} = scene;
    if (state.hover.key === null && state.values.key === null) return;
    const colors = THEMES[theme];
    const [row, column] = map.cellOf(key);
    for (const box of this.boxes) {
      const [w, h] = [box.width / map.columns, box.height / map.rows];
      context.strokeStyle = colors.accent;
      context.lineWidth = 2;
      context.strokeRect(box.x + column * w, box.y + row * h, w, h);
    }
    const box = this.boxes.at(-1);
    const x = box.x + ((column + 0.5) * box.width) / map.columns;
    const y = box.y + (row * box.height) / map.rows;
    const text = `${labels.key.name(key)}: ${formatWeight(map.values[key])}`;
    const style = {align: "center", fill: colors.pill, color: colors.onPill};
    drawPill(context, text, Math.min(box.x + box.width - 56, Math.max(box.x + 56, x)), Math.max(34, y - 12), style);
  }

  hit(scene, x, y) {
    for (const box of this.boxes) {
      const cell = cellAt(this.part(scene, box), x, y);
      const key = cell ? scene.map.indexAt(cell.query, cell.key) : null;
      if (key !== null) return {query: null, key};
    }
    return null;
  }
}

const differences = new WeakMap();

/** B - A between minus and plus the largest difference. */
export function gateDifference(a, b) {
  if (differences.get(b)?.a !== a) {
    const change = b.values.map((value, n) => value - a.values[n]);
    const most = change.reduce((largest, each) => Math.max(largest, Math.abs(each)), 1e-6);
    const half = 511;
    const scale = {
      name: `gate difference`, diverging: true, levels: 2 * half + 1, most,
      position: (level) => level / (2 * half),
      ticks: [[0, `−${formatWeight(most)}`], [0.5, "0"], [1, `+${formatWeight(most)}`]],
      title: "B − A",
    };
    const levels = b.layOut(change, (value) => half + Math.round((value / most) * half));
    differences.set(b, {a, scale, levels});
  }
  return differences.get(b);
}
