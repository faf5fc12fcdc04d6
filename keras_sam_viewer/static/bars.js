// Channels and pooled positions: a bar for each, with the first step as a tick.
import {cutText, MONO, SANS} from "./dom.js";
import {drawPill} from "./cursor.js";
import {formatWeight} from "./format.js";
import {rampColor, THEMES} from "./colors.js";

const MARGIN = {left: 56, right: 16, top: 34, bottom: 66};

export class BarsDisplay {
  constructor(state) {
    this.state = state;
  }

  layout(context, scene, width, height) {
    this.box = {
      x: MARGIN.left, y: MARGIN.top,
      width: width - MARGIN.left - MARGIN.right, height: height - MARGIN.top - MARGIN.bottom,
    };
    const count = valuesOf(scene.map, scene.head).length;
    this.slot = Math.min(34, this.box.width / count);
  }

  range(scene) {
    const {scale} = scene;
    if (scene.isGate) return [scale.low, scale.low + scale.span];
    const values = valuesOf(scene.map, scene.head);
    return [0, Math.max(...values, 1 / values.length) * 1.05];
  }

  paint(context, scene) {
    const {map, head, theme, labels, scale, tickMap, tickName, isGate} = scene;
    const colors = THEMES[theme];
    const values = valuesOf(map, head);
    const [low, high] = this.range(scene);
    const {x, y, width, height} = this.box;
    const at = (value) => y + height * (1 - (value - low) / (high - low || 1));
    context.font = `11px ${MONO}`;
    context.textBaseline = "middle";
    context.textAlign = "right";
    for (let n = 0; n <= 4; n++) {
      const value = low + (n / 4) * (high - low);
      context.fillStyle = colors.line;
      context.fillRect(x, Math.round(at(value)), width, 1);
      context.fillStyle = colors.soft;
      context.fillText(formatWeight(value), x - 8, at(value));
    }
    if (!isGate) this.drawUniform(context, at(1 / values.length), colors);
    const before = tickMap ? valuesOf(tickMap, Math.min(head, tickMap.heads - 1)) : null;
    const gap = this.slot > 6 ? 2 : this.slot > 3 ? 1 : 0;
    values.forEach((value, n) => {
      const left = x + n * this.slot;
      const top = at(value);
      context.fillStyle = isGate ? rampColor(theme, 0.25 + 0.6 * scale.at(value)) : colors.bar;
      context.fillRect(left, top, this.slot - gap, y + height - top);
      if (!before || before.length !== values.length) return;
      context.fillStyle = colors.accent;
      context.fillRect(left, Math.round(at(before[n])) - 1, this.slot - gap, 2);
    });
    context.font = `12px ${SANS}`;
    context.textAlign = "left";
    context.fillStyle = colors.soft;
    const what = isGate ? "gate of each channel" : "weight of each position";
    context.fillText(before ? `${what}; orange tick: ${tickName}` : what, x, 14);
    this.writeLabels(context, labels.key, values.length, colors);
  }

  drawUniform(context, y, colors) {
    context.strokeStyle = colors.soft;
    context.setLineDash([4, 4]);
    context.beginPath();
    context.moveTo(this.box.x, y);
    context.lineTo(this.box.x + this.box.width, y);
    context.stroke();
    context.setLineDash([]);
    context.font = `11px ${SANS}`;
    context.textAlign = "right";
    context.fillStyle = colors.soft;
    context.fillText("uniform", this.box.x + this.box.width, y - 8);
  }

  writeLabels(context, labels, count, colors) {
    const {x, y, height} = this.box;
    let stride = 1;
    while (stride * this.slot < 13) stride *= 2;
    context.font = `11px ${MONO}`;
    for (let n = 0; n < count; n += stride) {
      context.save();
      context.translate(x + (n + 0.5) * this.slot, y + height + 6);
      context.rotate(-Math.PI / 2);
      context.textAlign = "right";
      context.textBaseline = "middle";
      context.fillStyle = colors.soft;
      const name = labels.tokens || labels.grid ? `${labels.name(n)} ${n}` : String(n);
      context.fillText(cutText(context, name, MARGIN.bottom - 8), 0, 0);
      context.restore();
    }
  }

  overlay(context, scene) {
    const {map, head, key, labels, theme, state} = scene;
    if (state.hover.key === null && state.values.key === null) return;
    const colors = THEMES[theme];
    const left = this.box.x + key * this.slot;
    context.strokeStyle = colors.accent;
    context.lineWidth = 1.5;
    context.strokeRect(left - 1, this.box.y, this.slot, this.box.height);
    const name = labels.key.isChannels ? `channel ${key}` : `${labels.key.name(key)} ${key}`.trim();
    const text = `${name}: ${formatWeight(valuesOf(map, head)[key])}`;
    const x = Math.min(this.box.x + this.box.width - 70, Math.max(this.box.x + 70, left));
    drawPill(context, text, x, this.box.y + 8, {align: "center", fill: colors.pill, color: colors.onPill});
  }

  hit(scene, x, y) {
    const key = Math.floor((x - this.box.x) / this.slot);
    const isInside = key >= 0 && key < valuesOf(scene.map, scene.head).length;
    return isInside && y >= this.box.y && y <= this.box.y + this.box.height + MARGIN.bottom ? {query: null, key} : null;
  }
}

function valuesOf(map, head) {
  return map.values ?? map.row(head, 0);
}
