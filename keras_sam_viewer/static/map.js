// The map of one head: cells, gutters, cursor and magnifier.
import {drawKeyAxis, drawQueryAxis, guttersFor} from "./axes.js";
import {drawCursor} from "./cursor.js";
import {cellAt, fitPanel, LABELED, visiblePart} from "./geometry.js";
import {drawMagnifier, magnifierSize} from "./magnifier.js";
import {paintCells} from "./paint.js";
import {palette} from "./scales.js";
import {THEMES} from "./colors.js";

const paletteCache = new Map();

/** The colours of a scale, made once. */
export function paletteOf(scale, theme) {
  const key = `${theme} ${scale.name} ${scale.high ?? ""} ${scale.levels}`;
  if (!paletteCache.has(key)) paletteCache.set(key, palette(scale, theme));
  return paletteCache.get(key);
}

/** A panel for the scene's map in a box. */
export function panelFor(context, scene, box, {isSmall = false} = {}) {
  const {map, labels} = scene;
  const guess = Math.min((box.width - 106) / map.keys, 104);
  const square = Math.max(map.rows, map.keys) < 2 * Math.min(map.rows, map.keys);
  const cell = square ? Math.min(guess, (box.height - 60) / map.rows, 46) : guess;
  const gutters = guttersFor(context, labels, map.rows, map.keys, cell);
  if (isSmall && cell < LABELED) gutters.top = 44;
  return fitPanel(box, map.rows, map.keys, gutters);
}

/** Marks at the edge: these rows are kept whole. */
function markExactRows(context, part, map, theme) {
  context.fillStyle = THEMES[theme].plus;
  for (const query of map.chosen.keys()) {
    const y = part.y + (query + 0.5 - part.query) * part.cellHeight;
    if (y >= part.y && y <= part.y + part.height) context.fillRect(part.x + part.width + 2, y - 1, 5, 2);
  }
}

export class MapDisplay {
  constructor() {
    this.canZoom = true;
  }

  layout(context, scene, width, height) {
    this.size = {width, height};
    this.panel = panelFor(context, scene, {x: 0, y: 0, width: width - 10, height: height - 4});
  }

  part(scene) {
    return {...visiblePart(this.panel, scene.state.values.zoom), left: this.panel.left, top: this.panel.top};
  }

  paint(context, scene) {
    const part = this.part(scene);
    const {map, head, scale, theme, labels} = scene;
    paintCells(context, map.levels(head, scale), paletteOf(scale, theme), part, theme);
    drawQueryAxis(context, labels.query, part, theme);
    const needsReceived = part.cellWidth < LABELED;
    drawKeyAxis(context, labels.key, part, theme, needsReceived ? map.received(head) : null);
    if (map.chosen) markExactRows(context, part, map, theme);
  }

  overlay(context, scene) {
    const part = this.part(scene);
    drawCursor(context, part, scene);
    if (Math.min(part.cellWidth, part.cellHeight) >= LABELED - 0.01) return;
    const size = magnifierSize(this.size.height);
    const x = this.size.width - size.width - 2;
    const {query, key, layer} = scene;
    const isPointing = scene.state.hover.query !== null || scene.state.values.key !== null;
    const isFree = layer.causal || part.x + part.width < x;
    if (!isFree && !isPointing) return;
    // Out of the way of the pointer, which may be under the usual corner.
    const pointerX = part.x + (key - part.key) * part.cellWidth;
    const pointerY = part.y + (query - part.query) * part.cellHeight;
    const isUnder = scene.state.hover.query !== null && pointerX > x - 20 && pointerY < part.y + size.height + 20;
    const y = isUnder ? this.size.height - size.height - 2 : Math.min(part.y, this.size.height - size.height - 2);
    drawMagnifier(context, x, Math.max(0, y), size, scene);
  }

  hit(scene, x, y) {
    return cellAt(this.part(scene), x, y);
  }

  panelAt() {
    return this.panel;
  }
}
