// The colours and what they stand for.
import {build, sizeCanvas, SANS} from "./dom.js";
import {gateDifference} from "./gate.js";
import {hatchPattern} from "./paint.js";
import {rampColor, THEMES} from "./colors.js";
import {differenceScaleOf} from "./scene.js";

const WIDTH = 236;
const HEIGHT = 36;

export class Legend {
  constructor() {
    this.canvas = build("canvas", {role: "img"});
    this.second = build("canvas", {role: "img"});
    this.words = build("span", {class: "ks-legend-words"});
    this.hatch = build("canvas", {class: "ks-hatch", "aria-hidden": "true"});
    this.masked = build("span", {class: "ks-legend-masked"}, this.hatch, " masked");
    this.root = build("div", {class: "ks-legend"}, this.canvas, this.words, this.second, this.masked);
  }

  draw(scene, isComparing) {
    const {scale, theme, map} = scene;
    drawRamp(this.canvas, scale, theme, WIDTH);
    this.words.textContent = scale.title;
    const change = !isComparing || !scene.reference?.map ? null
      : map.values ? gateDifference(scene.reference.map, map).scale : map.rows > 1 ? differenceScaleOf(scene) : null;
    this.second.hidden = !change;
    if (change) {
      drawRamp(this.second, change, theme, 130);
      this.second.setAttribute("aria-label", `B − A from ${change.ticks[0][1]} to ${change.ticks.at(-1)[1]}`);
    }
    this.masked.hidden = scene.isGate || map.rows === 1 || !(scene.layer.causal || map.allowed || map.chosen);
    const context = sizeCanvas(this.hatch, 16, 11);
    context.fillStyle = hatchPattern(context, theme);
    context.fillRect(0, 0, 16, 11);
  }
}

function drawRamp(canvas, scale, theme, width) {
  const colors = THEMES[theme];
  const context = sizeCanvas(canvas, width, HEIGHT);
  const inner = width - 28;
  for (let x = 0; x < inner; x++) {
    context.fillStyle = rampColor(theme, x / (inner - 1), scale.diverging);
    context.fillRect(14 + x, 3, 1.2, 11);
  }
  context.strokeStyle = colors.soft;
  context.lineWidth = 0.75;
  context.strokeRect(13.5, 2.5, inner + 1, 12);
  context.font = `11px ${SANS}`;
  context.textBaseline = "alphabetic";
  context.textAlign = "center";
  for (const [at, text] of scale.ticks) {
    const x = 14 + at * inner;
    context.fillStyle = colors.soft;
    context.fillRect(Math.round(x) - 0.5, 14, 1, 5);
    context.fillText(text, Math.min(width - context.measureText(text).width / 2 - 1, Math.max(context.measureText(text).width / 2 + 1, x)), 31);
  }
  canvas.setAttribute("aria-label", `${scale.title}: from ${scale.ticks[0][1]} to ${scale.ticks.at(-1)[1]}`);
}
