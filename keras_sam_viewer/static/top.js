// The bar at the top: run, example, pins and what concerns the whole screen.
import {build, fillSelect} from "./dom.js";

export class TopPart {
  constructor(app) {
    this.app = app;
    const {state} = app;
    this.name = build("h1", {}, "attention");
    this.run = build("select", {"aria-label": "Run", onchange: () => app.openRun(this.run.value)});
    this.example = build("select", {"aria-label": "Example", onchange: () => state.set({example: Number(this.example.value), query: null, key: null})});
    this.pins = build("div", {class: "ks-pins"});
    const button = (text, title, onclick, label) => build("button", {type: "button", title, onclick, "aria-label": label}, text);
    this.buttons = build("div", {class: "ks-actions"},
      button("Pin", "Keep this head at hand (p)", () => app.pin()),
      this.reference = button("Set reference", "Compare everything with this head at this step (r)", () => app.setReference()),
      button("PNG", "Save the picture", () => app.savePicture()),
      button("CSV", "Save the weights", () => app.saveTable()),
      button("◐", "Light or dark (t)", () => app.toggleTheme(), "Light or dark"),
      button("?", "Keys and meanings (?)", () => app.help.toggle(), "Help"));
    this.root = build("header", {class: "ks-card ks-top"}, this.name, this.run, this.example, this.pins, this.buttons);
  }

  update(scene) {
    const {store, state} = this.app;
    const {values} = state;
    const names = store.names.map((name) => [name, name]);
    if (values.run !== null && !store.names.includes(values.run)) names.unshift([values.run, `${values.run} (not here)`]);
    fillSelect(this.run, names, values.run ?? "");
    this.run.title = values.run ?? "";
    this.run.hidden = names.length === 0;
    const examples = scene.meta?.examples ?? [];
    fillSelect(this.example, examples.map(({name}, n) => [String(n), String(name ?? `example ${n}`)]), values.example);
    this.example.hidden = examples.length === 0;
    const isSet = Boolean(values.reference);
    this.reference.textContent = isSet ? "Clear reference" : "Set reference";
    this.reference.setAttribute("aria-pressed", String(isSet));
    for (const button of this.buttons.children) button.disabled = !scene.meta && !["◐", "?"].includes(button.textContent);
    this.updatePins(values.pins);
  }

  updatePins(pins) {
    const key = JSON.stringify(pins);
    if (key === this.pinKey) return;
    this.pinKey = key;
    this.pins.replaceChildren(...pins.map((pin, n) => {
      const text = `${pin.path} h${pin.head}`;
      return build("span", {class: "ks-pin"},
        build("button", {type: "button", title: `${pin.run}: ${text}`, onclick: () => this.app.goTo(pin)}, text),
        build("button", {type: "button", class: "ks-unpin", "aria-label": `Unpin ${text}`, onclick: () => this.app.unpin(n)}, "×"));
    }));
  }
}
