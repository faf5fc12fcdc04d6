// The gutters of a map: token labels where they fit, else positions and a histogram.
import {cutText, MONO, SANS} from "./dom.js";
import {LABELED} from "./geometry.js";
import {THEMES} from "./colors.js";

const LABEL_FONT = `11px ${MONO}`;
const HORIZONTAL = 46;

/** The gutters that a map's labels need. */
export function guttersFor(context, labels, rows, columns, cellWidth) {
  context.font = LABEL_FONT;
  const widest = (axis, count, limit) => {
    let width = 0;
    for (let index = 0; index < count; index += Math.max(1, count >> 9)) {
      width = Math.max(width, context.measureText(axis.name(index)).width);
    }
    return Math.min(width, limit);
  };
  const digits = 8 + 7 * String(Math.max(0, rows - 1)).length;
  const left = Math.max(62, widest(labels.query, rows, 92) + digits + 18);
  const isHorizontal = cellWidth >= HORIZONTAL;
  const top = isHorizontal ? 40 : cellWidth >= LABELED ? Math.max(44, widest(labels.key, columns, 70) + 30) : 84;
  return {left, top};
}

function niceStride(cell, pixels) {
  let stride = 1;
  while (stride * cell < pixels) stride *= 2;
  return stride;
}

export function drawQueryAxis(context, labels, part, theme) {
  const colors = THEMES[theme];
  const stride = part.cellHeight >= LABELED - 0.01 ? 1 : niceStride(part.cellHeight, 24);
  const first = Math.ceil(part.query / stride) * stride;
  const last = Math.min(part.rows - 1, Math.floor(part.query + part.height / part.cellHeight));
  const digits = 7 * String(part.rows - 1).length;
  context.textBaseline = "middle";
  context.textAlign = "right";
  for (let query = first; query <= last; query += stride) {
    const y = part.y + (query + 0.5 - part.query) * part.cellHeight;
    if (y < part.y || y > part.y + part.height) continue;
    context.font = LABEL_FONT;
    context.fillStyle = colors.faint;
    context.fillText(String(query), part.x - 6, y);
    context.fillStyle = stride === 1 ? colors.text : colors.soft;
    const room = part.left - 14 - digits - 6;
    context.fillText(cutText(context, labels.name(query), room), part.x - 6 - digits - 6, y);
    if (stride > 1) {
      context.fillStyle = colors.line;
      context.fillRect(part.x - 4, Math.round(y), 4, 1);
    }
  }
}

export function drawKeyAxis(context, labels, part, theme, received) {
  if (part.cellWidth >= HORIZONTAL) drawHorizontal(context, labels, part, theme);
  else if (part.cellWidth >= LABELED - 0.01) drawTurned(context, labels, part, theme);
  else drawHistogram(context, part, theme, received);
}

function* visibleKeys(part) {
  const last = Math.min(part.columns - 1, Math.floor(part.key + part.width / part.cellWidth));
  for (let key = Math.floor(part.key); key <= last; key++) {
    const x = part.x + (key + 0.5 - part.key) * part.cellWidth;
    if (x >= part.x && x <= part.x + part.width) yield [key, x];
  }
}

function drawHorizontal(context, labels, part, theme) {
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  context.font = LABEL_FONT;
  for (const [key, x] of visibleKeys(part)) {
    context.fillStyle = THEMES[theme].text;
    context.fillText(cutText(context, labels.name(key), part.cellWidth - 6), x, part.y - 20);
    context.fillStyle = THEMES[theme].faint;
    context.fillText(String(key), x, part.y - 6);
  }
}

function drawTurned(context, labels, part, theme) {
  context.font = LABEL_FONT;
  context.textAlign = "left";
  context.textBaseline = "middle";
  for (const [key, x] of visibleKeys(part)) {
    context.save();
    context.translate(x, part.y - 5);
    context.rotate(-Math.PI / 2);
    const number = String(key);
    context.fillStyle = THEMES[theme].faint;
    context.fillText(number, 0, 0);
    context.fillStyle = THEMES[theme].text;
    const from = 7 * String(part.columns - 1).length + 6;
    context.fillText(cutText(context, labels.name(key), part.top - from - 8), from, 0);
    context.restore();
  }
}

/** What every key receives, as bars that share the map's columns. */
function drawHistogram(context, part, theme, received) {
  const colors = THEMES[theme];
  const base = part.y - 4;
  const height = Math.min(46, part.top - 34);
  let largest = 0;
  if (received) for (const share of received.mean) largest = Math.max(largest, share);
  if (largest > 0) {
    context.fillStyle = colors.bar;
    for (let key = Math.floor(part.key); key < part.columns; key++) {
      const x = part.x + (key - part.key) * part.cellWidth;
      if (x >= part.x + part.width) break;
      const from = Math.max(x, part.x);
      const bar = (received.mean[key] / largest) * height;
      context.fillRect(from, base - bar, Math.max(0.75, x + part.cellWidth - from - 0.25), bar);
    }
    context.fillStyle = colors.soft;
    context.font = `11px ${SANS}`;
    context.textAlign = "right";
    context.textBaseline = "alphabetic";
    context.fillText("received", part.x - 6, base - 10);
  }
  context.fillStyle = colors.line;
  context.fillRect(part.x, base, part.width, 1);
  const stride = niceStride(part.cellWidth, 44);
  context.font = LABEL_FONT;
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  for (let key = Math.ceil(part.key / stride) * stride; key < part.columns; key += stride) {
    const x = part.x + (key + 0.5 - part.key) * part.cellWidth;
    if (x > part.x + part.width) break;
    context.fillStyle = colors.soft;
    context.fillText(String(key), x, base - height - 12);
    context.fillStyle = colors.line;
    context.fillRect(Math.round(x), base - height - 8, 1, 5);
  }
}
