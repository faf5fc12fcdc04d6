// Data from the page itself: every blob is the text of a script element of its own, in
// base64, so that only what is looked at is decoded, in the worker.
import {RecordError} from "./records.js";

export class PageSource {
  async runs() {
    const list = document.getElementById("ks:runs");
    this.list = list ? JSON.parse(list.textContent) : {runs: []};
    return this.list;
  }

  blob(run, key) {
    const index = this.list.runs.findIndex(({name}) => name === run);
    const node = document.getElementById(`ks:${index}:${key}`);
    if (!node) throw new RecordError("This page does not hold that record.");
    return node.textContent;
  }

  async meta(run) {
    return this.blob(run, "meta");
  }

  async stats(run) {
    const {steps} = this.list.runs.find(({name}) => name === run);
    return steps.map((step) => this.blob(run, `stats/${step}`));
  }

  async map(run, layer, step, example) {
    return this.blob(run, `map/${step}/${layer}/${example}`);
  }

  /** The page's own script, started as a worker: there it only decodes. */
  startWorker() {
    const script = document.getElementById("ks:script") ?? document.querySelector('script[type="module"]');
    if (!script?.textContent) return null;
    const url = URL.createObjectURL(new Blob([script.textContent], {type: "text/javascript"}));
    return new Worker(url, {type: "module"});
  }

  onReload() {}
}
