// The heads that changed most since the first step, or the surest heads of one step.
import {build} from "./dom.js";
import {changeOf, isGateKind} from "./statistics.js";

const CHANGED_ROW = 21;

/** All heads by how much they changed between the first and the last step; pairs first. */
export function rankHeads(run, example) {
  const first = run.stats.get(run.steps[0]);
  const last = run.stats.get(run.steps.at(-1));
  const heads = [];
  run.meta.layers.forEach((layer, layerIndex) => {
    for (let head = 0; head < layer.heads; head++) {
      const entropy = last.value(layerIndex, example, head, "entropy");
      const value = run.steps.length > 1
        ? changeOf(first, last, layerIndex, layer, example, head)
        : Number.isNaN(entropy) ? NaN : 1 - entropy;
      if (!Number.isNaN(value)) {
        const isGate = isGateKind(layer.kind);
        heads.push({layer, layerIndex, head, value, isGate, rank: isGate ? 2 : layer.kind === "selective" ? 1 : 0});
      }
    }
  });
  return heads.sort((a, b) => a.rank - b.rank || b.value - a.value);
}

export class ChangedList {
  constructor(app) {
    this.app = app;
    this.title = build("h3", {});
    this.list = build("div", {class: "ks-changed-list"});
    this.root = build("div", {class: "ks-changed"}, this.title, this.list);
    new ResizeObserver(() => app.state.touch("size")).observe(this.root);
  }

  update(scene) {
    const {run, example, shortNames} = scene;
    const memo = `${run.steps.length} ${example}`;
    if (this.run !== run || this.memo !== memo) {
      this.ranked = rankHeads(run, example);
      this.run = run;
      this.memo = memo;
    }
    const hasSteps = run.steps.length > 1;
    this.title.textContent = hasSteps ? `Most changed since step ${run.steps[0]}` : "Lowest entropy";
    this.title.title = hasSteps
      ? "Share of the weight that moved between the first and the last step, estimated from 32 × 32 overviews."
      : "One minus entropy: long bars are heads that look at few keys.";
    const fits = Math.max(2, Math.floor((this.root.clientHeight - 34) / CHANGED_ROW));
    const shown = this.ranked.slice(0, Math.min(fits, 12));
    const most = Math.max(0.05, ...shown.map((each) => each.value));
    this.list.replaceChildren(...shown.map(({layer, layerIndex, head, value, isGate}) => {
      const isChosen = layerIndex === scene.layerIndex && head === scene.head;
      const name = isGate ? shortNames[layerIndex] : `${shortNames[layerIndex]} · h${head}`;
      const bar = build("span", {class: "ks-track"}, build("span", {class: "ks-fill", style: {width: `${(100 * value) / Math.max(1, most)}%`}}));
      return build("button", {
        type: "button", class: "ks-changed-row", "aria-current": isChosen ? "true" : null,
        title: `${layer.path}${isGate ? "" : ` head ${head}`}`,
        onclick: () => this.app.select(layerIndex, head),
      }, build("span", {class: "ks-cut"}, name), bar, build("span", {class: "ks-number"}, (hasSteps ? value : 1 - value).toFixed(2)));
    }));
  }
}
