// Data from the routes of the TensorBoard plugin. Relative addresses honour a path prefix.
import {RecordError, splitBlobs} from "./records.js";

const POLL = 15000; // milliseconds between two looks for new steps

export class RouteSource {
  constructor() {
    this.isLive = true;
  }

  async fetchBytes(route, parameters = {}) {
    const query = new URLSearchParams(parameters).toString();
    const reply = await fetch(query ? `./${route}?${query}` : `./${route}`);
    if (!reply.ok) throw new RecordError(await errorSentence(reply));
    return new Uint8Array(await reply.arrayBuffer());
  }

  async runs() {
    return JSON.parse(new TextDecoder().decode(await this.fetchBytes("runs")));
  }

  meta(run) {
    return this.fetchBytes("meta", {run});
  }

  async stats(run) {
    return splitBlobs(await this.fetchBytes("stats", {run}));
  }

  map(run, layer, step, example) {
    return this.fetchBytes("map", {run, layer, step, example});
  }

  startWorker() {
    return new Worker("./worker.js", {type: "module"});
  }

  /** Calls back when TensorBoard reloads its data, and now and then by itself. */
  onReload(callback) {
    setInterval(() => document.hidden || callback(), POLL);
    if (window.parent === window) return;
    const channel = new MessageChannel();
    channel.port1.onmessage = (event) => {
      const message = JSON.parse(event.data);
      if (message.isReply) return;
      const reply = {type: message.type, id: message.id, payload: null, error: null, isReply: true};
      channel.port1.postMessage(JSON.stringify(reply));
      if (message.type === "experimental.DataReloaded") callback();
    };
    window.parent.postMessage("experimental.bootstrap", "*", [channel.port2]);
  }
}

async function errorSentence(reply) {
  try {
    const {error} = await reply.json();
    if (typeof error === "string") return error;
  } catch {
    // The reply has no sentence; a general one follows.
  }
  return `TensorBoard answered with status ${reply.status}.`;
}
