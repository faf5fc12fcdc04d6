// Three small charts over steps: two statistics of the layer's heads, and the loss.
import {build, cutText, MONO, sizeCanvas, SANS} from "./dom.js";
import {formatStatistic, statisticFor, statisticLabel} from "./statistics.js";
import {THEMES} from "./colors.js";

const CHART_LEFT = 84;
const CHART_RIGHT = 12;
const CHART_BOTTOM = 18;

export class Charts {
  constructor(app) {
    this.app = app;
    this.canvas = build("canvas", {role: "img"});
    this.root = build("div", {class: "ks-charts"}, this.canvas);
    this.canvas.addEventListener("pointerdown", (event) => this.choose(event));
    this.canvas.addEventListener("pointermove", (event) => event.buttons && this.choose(event));
  }

  choose(event) {
    const box = this.canvas.getBoundingClientRect();
    const share = (event.clientX - box.left - CHART_LEFT) / (box.width - CHART_LEFT - CHART_RIGHT);
    const index = Math.round(share * (this.steps.length - 1));
    if (share > -0.05) this.app.chooseStep(Math.max(0, Math.min(this.steps.length - 1, index)));
  }

  update(scene) {
    const {layer, state, theme, steps, run, layerIndex, example, head} = scene;
    this.steps = steps;
    const chosen = statisticFor(layer, state.values.statistic);
    const second = ["keys_used", "entropy", "above_half", "mean"].find((name) => {
      const value = scene.stats?.value(layerIndex, example, head, name);
      return name !== chosen && !Number.isNaN(value ?? NaN);
    });
    const charts = [chosen, second].filter(Boolean).map((name) => this.statistic(scene, name));
    const losses = steps.map((step) => run.stats.get(step).scalars.loss ?? NaN);
    if (losses.some(Number.isFinite)) charts.push({label: "Loss", lines: [losses], main: losses, format: (value) => value.toPrecision(3), isLoss: true});
    const {clientWidth: width, clientHeight: height} = this.root;
    if (width < 50 || height < 40) return;
    const context = sizeCanvas(this.canvas, width, height);
    const each = (height - CHART_BOTTOM) / charts.length;
    const index = steps.indexOf(scene.step);
    const x = (n) => CHART_LEFT + ((width - CHART_LEFT - CHART_RIGHT) * n) / Math.max(1, steps.length - 1);
    charts.forEach((chart, n) => this.draw(context, chart, n * each, each, x, index, width, theme));
    this.writeSteps(context, scene, x, height, width, index);
    this.canvas.setAttribute("aria-label", charts.map((chart) => `${chart.label} at step ${scene.step}: ${say(chart, index)}`).join(", "));
  }

  statistic({run, steps, layer, layerIndex, example, head, reference}, name) {
    const series = (source, at, which, of) => of.map((step) => source.stats.get(step)?.value(at, example, which, name) ?? NaN);
    const lines = Array.from({length: layer.heads}, (_, which) => series(run, layerIndex, which, steps));
    const chart = {label: statisticLabel(name), lines, main: lines[head], format: (value) => formatStatistic(name, value)};
    const other = reference?.run;
    if (other?.stats && other !== run) {
      // The other run by the same share of its steps.
      const matching = steps.map((_, n) => other.steps[Math.round((n * (other.steps.length - 1)) / Math.max(1, steps.length - 1))]);
      chart.other = series(other, reference.chosen.layer, reference.chosen.head, matching);
    }
    return chart;
  }

  draw(context, chart, top, height, x, index, width, theme) {
    const colors = THEMES[theme];
    const all = [...chart.lines.flat(), ...(chart.other ?? [])].filter(Number.isFinite);
    let [low, high] = all.length ? [Math.min(...all), Math.max(...all)] : [0, 1];
    if (high - low < 1e-6) [low, high] = [low - 0.5, high + 0.5];
    const y = (value) => top + height - 5 - ((height - 11) * (value - low)) / (high - low);
    context.fillStyle = colors.grid;
    context.fillRect(CHART_LEFT, Math.round(top + height - 1), width - CHART_LEFT - CHART_RIGHT, 1);
    const stroke = (line, color, thickness, dash = []) => {
      context.strokeStyle = color;
      context.lineWidth = thickness;
      context.setLineDash(dash);
      context.lineJoin = "round";
      context.beginPath();
      let isDown = false;
      line.forEach((value, n) => {
        if (!Number.isFinite(value)) isDown = false;
        else if (isDown) context.lineTo(x(n), y(value));
        else context.moveTo(x(n), y(value));
        isDown = Number.isFinite(value);
      });
      context.stroke();
      context.setLineDash([]);
    };
    for (const line of chart.lines) if (line !== chart.main) stroke(line, colors.other, 1);
    if (chart.other) stroke(chart.other, colors.text, 1.25, [4, 3]);
    const color = chart.isLoss ? colors.soft : colors.accent;
    stroke(chart.main, color, 2);
    const value = chart.main[index];
    if (Number.isFinite(value)) {
      context.fillStyle = color;
      context.beginPath();
      context.arc(x(index), y(value), 3.5, 0, 7);
      context.fill();
    }
    context.textAlign = "left";
    context.textBaseline = "alphabetic";
    context.font = `11px ${SANS}`;
    context.fillStyle = colors.soft;
    const middle = top + height / 2;
    context.fillText(cutText(context, chart.label, CHART_LEFT - 16), 2, middle - 2);
    context.font = `bold 11px ${SANS}`;
    context.fillStyle = color;
    context.fillText(Number.isFinite(value) ? chart.format(value) : "–", 2, middle + 11);
  }

  writeSteps(context, {steps, theme}, x, height, width, index) {
    const colors = THEMES[theme];
    context.fillStyle = colors.accent;
    context.globalAlpha = 0.5;
    if (index >= 0) context.fillRect(Math.round(x(index)), 0, 1, height - CHART_BOTTOM);
    context.globalAlpha = 1;
    writeTicks(context, steps, x, height - 5, colors, width, index);
  }
}

function say(chart, index) {
  return Number.isFinite(chart.main[index]) ? chart.format(chart.main[index]) : "not known";
}

/** As many step numbers as fit, always with the shown one. */
export function writeTicks(context, steps, x, y, colors, width, index) {
  context.font = `11px ${MONO}`;
  context.textAlign = "center";
  context.textBaseline = "alphabetic";
  const taken = [];
  const order = [index, steps.length - 1, 0, ...steps.keys()];
  for (const n of order) {
    const text = String(steps[n]);
    const half = context.measureText(text).width / 2 + 4;
    const middle = Math.min(Math.max(x(n), half), width - half + 3);
    if (n < 0 || taken.some(([at, size]) => Math.abs(at - middle) < size + half)) continue;
    taken.push([middle, half]);
    context.fillStyle = n === index ? colors.accent : colors.soft;
    context.fillText(text, middle, y);
  }
}
