// Cells too small for labels, enlarged around the focus with every label.
import {cutText, MONO, SANS} from "./dom.js";
import {formatMultiple, formatWeight} from "./format.js";
import {hatchPattern} from "./paint.js";
import {rampColor, THEMES} from "./colors.js";

const SIDE = 15;
const GUTTER_LEFT = 98;
const GUTTER_TOP = 64;

export function magnifierSize(height) {
  const count = height < 430 ? 9 : 13;
  return {count, width: GUTTER_LEFT + count * SIDE + 14, height: GUTTER_TOP + count * SIDE + 34};
}

/** Draws at (x, y); `colorOf(query, key)` is a colour, or null for a hatched cell. */
export function drawMagnifier(context, x, y, size, scene) {
  const {map, head, query, key, labels, theme, scale} = scene;
  const colors = THEMES[theme];
  context.save();
  context.shadowColor = colors.shadow;
  context.shadowBlur = 12;
  context.shadowOffsetY = 3;
  context.fillStyle = colors.card;
  context.strokeStyle = colors.line;
  context.beginPath();
  context.roundRect(x + 0.5, y + 0.5, size.width - 1, size.height - 1, 8);
  context.fill();
  context.shadowColor = "transparent";
  context.stroke();
  const half = (size.count - 1) / 2;
  const [left, top] = [x + GUTTER_LEFT, y + GUTTER_TOP];
  context.font = `11px ${MONO}`;
  context.textBaseline = "middle";
  for (let i = 0; i < size.count; i++) {
    const row = query - half + i;
    if (row < 0 || row >= map.rows) continue;
    const middle = top + (i + 0.5) * SIDE;
    context.textAlign = "right";
    context.fillStyle = row === query ? colors.accent : colors.faint;
    context.fillText(String(row), left - 5, middle);
    context.fillStyle = row === query ? colors.accent : colors.text;
    const digits = 7 * String(map.rows - 1).length + 10;
    context.fillText(cutText(context, labels.query.name(row), GUTTER_LEFT - digits - 8), left - digits, middle);
    const weights = map.row(head, row);
    const count = map.count(head, row);
    for (let j = 0; j < size.count; j++) {
      const column = key - half + j;
      if (column < 0 || column >= map.keys) continue;
      const isKnown = map.isAllowed(head, row, column) && !Number.isNaN(weights[column]);
      context.fillStyle = isKnown
        ? rampColor(theme, scale.at(weights[column], count))
        : hatchPattern(context, theme);
      context.fillRect(left + j * SIDE, top + i * SIDE, SIDE - 1, SIDE - 1);
    }
  }
  context.textAlign = "left";
  for (let j = 0; j < size.count; j++) {
    const column = key - half + j;
    if (column < 0 || column >= map.keys) continue;
    context.save();
    context.translate(left + (j + 0.5) * SIDE, top - 5);
    context.rotate(-Math.PI / 2);
    context.fillStyle = column === key ? colors.accent : colors.text;
    const name = labels.key.hasNames ? labels.key.name(column) : String(column);
    context.fillText(cutText(context, name, GUTTER_TOP - 12), 0, 0);
    context.restore();
  }
  context.strokeStyle = colors.accent;
  context.lineWidth = 2;
  context.strokeRect(left + half * SIDE - 1, top + half * SIDE - 1, SIDE + 1, SIDE + 1);
  context.font = `12px ${SANS}`;
  context.textBaseline = "alphabetic";
  context.fillStyle = colors.text;
  context.fillText(sayCell(scene, query, key), x + 12, y + size.height - 11);
  context.restore();
}

/** "weight 0.055, 23x uniform", or why there is none. */
function sayCell({map, head}, query, key) {
  if (!map.isAllowed(head, query, key)) return "masked";
  const weight = map.row(head, query)[key];
  if (Number.isNaN(weight)) return "not among the strongest keys that were kept";
  return `weight ${formatWeight(weight)}, ${formatMultiple(weight * map.count(head, query))} uniform`;
}
