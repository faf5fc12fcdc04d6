// What is selected: the one state that every part of the screen shows.
//
// `query` and `key` are held; `hover` is previewed and let go with the pointer.

export const VIEWS = ["map", "lines", "compare"];
export const SCALES = ["log", "linear"];

function initialState() {
  return {
    run: null,
    example: 0,
    layer: 0,
    head: 0,
    query: null,
    key: null,
    step: null, // null follows the latest step
    view: "map",
    scale: "log",
    statistic: "entropy",
    zoom: {factor: 1, query: 0, key: 0},
    reference: null, // {run, layer, head, step}
    pins: [], // [{run, layer, head}]
    threshold: 2, // of lines, in multiples of uniform
  };
}

/** A state with listeners: changes are gathered and told once a frame. */
export class State {
  constructor() {
    this.values = initialState();
    this.hover = {query: null, key: null};
    this.theme = "light";
    this.listeners = [];
    this.changed = new Set();
    this.isScheduled = false;
  }

  listen(listener) {
    this.listeners.push(listener);
  }

  set(patch) {
    for (const [name, value] of Object.entries(patch)) {
      if (JSON.stringify(this.values[name]) === JSON.stringify(value)) continue;
      this.values[name] = value;
      this.touch(name);
    }
  }

  point(query, key) {
    if (this.hover.query === query && this.hover.key === key) return;
    this.hover = {query, key};
    this.touch("hover");
  }

  touch(name) {
    this.changed.add(name);
    if (this.isScheduled) return;
    this.isScheduled = true;
    const run = () => this.flush();
    if (document.hidden) setTimeout(run, 16);
    else requestAnimationFrame(run);
  }

  flush() {
    this.isScheduled = false;
    const changed = this.changed;
    this.changed = new Set();
    for (const listener of this.listeners) listener(changed);
  }
}
