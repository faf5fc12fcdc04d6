// Time: the step slider, charts of statistics and loss, and the held token over time.
import {build} from "./dom.js";
import {Charts} from "./charts.js";
import {OverTime} from "./over_time.js";

const FRAME = 700; // milliseconds a step while it plays

export class FootPart {
  constructor(app) {
    this.app = app;
    const {state} = app;
    this.play = build("button", {type: "button", class: "ks-play", "aria-label": "Play the steps", title: "Play (space)", onclick: () => this.toggle()}, "▶");
    this.slider = build("input", {
      type: "range", min: "0", step: "1", class: "ks-steps", "aria-label": "Step",
      oninput: () => this.app.chooseStep(Number(this.slider.value)),
    });
    this.label = build("output", {class: "ks-step"});
    this.charts = new Charts(app);
    this.overTime = new OverTime(app);
    this.root = build("section", {class: "ks-card ks-foot", "aria-label": "Steps"},
      build("div", {class: "ks-foot-left"}, build("div", {class: "ks-player"}, this.play, this.slider, this.label), this.charts.root),
      this.overTime.root);
    new ResizeObserver(() => state.touch("size")).observe(this.root);
  }

  update(scene, changed) {
    if (!scene.steps || scene.steps.length < 2) {
      this.stop();
      return;
    }
    const index = scene.steps.indexOf(scene.step);
    this.slider.max = String(scene.steps.length - 1);
    this.slider.value = String(index);
    this.slider.setAttribute("aria-valuetext", `step ${scene.step}`);
    const loss = scene.stats?.scalars?.loss;
    this.label.textContent = `step ${scene.step}` + (Number.isFinite(loss) ? ` · loss ${loss.toPrecision(3)}` : "");
    if ([...changed].every((name) => name === "hover")) return;
    this.charts.update(scene);
    this.overTime.root.classList.toggle("ks-blank", Boolean(scene.sentence));
    this.overTime.update(scene);
  }

  toggle() {
    if (this.timer) {
      this.stop();
      return;
    }
    this.play.textContent = "❚❚";
    this.play.setAttribute("aria-label", "Pause");
    this.timer = setInterval(() => this.app.moveStep(1, true), FRAME);
  }

  stop() {
    clearInterval(this.timer);
    this.timer = null;
    this.play.textContent = "▶";
    this.play.setAttribute("aria-label", "Play the steps");
  }
}
