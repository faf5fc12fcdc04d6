// What Compare shows beside the selected head: another step, what was set, another run.
import {build, fillSelect} from "./dom.js";

export class ReferenceSelect {
  constructor(app) {
    this.app = app;
    this.root = build("select", {"aria-label": "Compare with", title: "Compare with", class: "ks-reference", onchange: () => this.choose()});
  }

  update(scene) {
    const {reference, view} = scene.state.values;
    this.root.hidden = !scene.meta || view !== "compare";
    if (this.root.hidden) return;
    const {run, steps, step} = scene;
    const other = step === steps[0] ? steps.at(-1) : steps[0];
    const options = [["", steps.length > 1 ? `with step ${other}` : "with another head"]];
    const isSet = reference && reference.layer !== null;
    if (isSet) options.push(["set", "with the reference"]);
    for (const name of this.app.store.names) {
      if (name !== run.name) options.push([`run ${name}`, `with run ${name}`]);
    }
    fillSelect(this.root, options, isSet ? "set" : reference ? `run ${reference.run}` : "");
  }

  choose() {
    const {value} = this.root;
    if (value === "set") return;
    const reference = value ? {run: value.slice(4), layer: null, head: null, step: null} : null;
    this.app.state.set({reference});
    this.app.openReference();
  }
}
