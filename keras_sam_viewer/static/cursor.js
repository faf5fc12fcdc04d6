// What lies above the cells and follows the pointer: the cross and its two pills.
import {cutText, MONO} from "./dom.js";
import {THEMES} from "./colors.js";

function outlineRow(context, part, query, color, alpha) {
  const y = part.y + (query - part.query) * part.cellHeight;
  if (y + part.cellHeight < part.y || y > part.y + part.height) return;
  const height = Math.max(part.cellHeight, 3);
  context.globalAlpha = alpha;
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  context.strokeRect(part.x, y + (part.cellHeight - height) / 2, part.width, height);
  context.globalAlpha = 1;
}

function outlineColumn(context, part, key, color, alpha) {
  const x = part.x + (key - part.key) * part.cellWidth;
  if (x + part.cellWidth < part.x || x > part.x + part.width) return;
  const width = Math.max(part.cellWidth, 3);
  context.globalAlpha = alpha;
  context.strokeStyle = color;
  context.lineWidth = 1.5;
  context.strokeRect(x + (part.cellWidth - width) / 2, part.y, width, part.height);
  context.globalAlpha = 1;
}

export function drawPill(context, text, x, y, {align = "right", fill, color, widest = 200}) {
  context.font = `bold 11px ${MONO}`;
  const shown = cutText(context, text, widest - 12);
  const width = context.measureText(shown).width + 12;
  const left = align === "right" ? x - width : align === "center" ? x - width / 2 : x;
  context.fillStyle = fill;
  context.beginPath();
  context.roundRect(left, y - 9, width, 18, 4);
  context.fill();
  context.fillStyle = color;
  context.textAlign = "left";
  context.textBaseline = "middle";
  context.fillText(shown, left + 6, y + 0.5);
}

/** The held query in the accent colour, and the cell in focus. */
export function drawCursor(context, part, scene) {
  const {state, labels, query, key, heldQuery} = scene;
  const colors = THEMES[scene.theme];
  const isPointing = state.hover.query !== null || state.values.key !== null;
  const pill = (axis, index) => labels[axis].grid ? labels[axis].name(index) : `${labels[axis].name(index)} ${index}`.trim();
  context.save();
  context.beginPath();
  context.rect(part.x - 2, part.y - 2, part.width + 4, part.height + 4);
  context.clip();
  outlineRow(context, part, heldQuery, colors.accent, 1);
  if (isPointing) {
    if (query !== heldQuery) outlineRow(context, part, query, colors.accent, 0.45);
    outlineColumn(context, part, key, colors.accent, 0.45);
  }
  context.restore();
  const rowAt = (index) => part.y + (index + 0.5 - part.query) * part.cellHeight;
  const isInside = (y) => y >= part.y - 1 && y <= part.y + part.height + 1;
  const held = rowAt(heldQuery);
  if (isInside(held)) {
    const style = {fill: colors.accent, color: colors.onAccent, widest: part.left - 4};
    drawPill(context, pill("query", heldQuery), part.x - 3, held, style);
  }
  if (!isPointing) return;
  const style = {fill: colors.pill, color: colors.onPill, widest: part.left - 4};
  if (query !== heldQuery && isInside(rowAt(query))) {
    drawPill(context, pill("query", query), part.x - 3, rowAt(query), style);
  }
  const x = part.x + (key + 0.5 - part.key) * part.cellWidth;
  if (x >= part.x && x <= part.x + part.width) {
    drawPill(context, pill("key", key), x, part.y - 14, {...style, align: "center", widest: 180});
  }
}
