// The state in the address, so that a view can be sent to somebody.
//
// Alone: `#run=...&layer=...`. In TensorBoard: `#keras_sam&p.keras_sam.run=...` on the
// parent, whose part before the first `&` belongs to TensorBoard.
import {SCALES, VIEWS} from "./state.js";

const PREFIX = "p.keras_sam.";

const isIndex = (text) => /^\d{1,9}$/.test(text);

export function encodeState(state, layers) {
  const pairs = [["run", state.run]];
  const path = layers?.[state.layer]?.path;
  if (path !== undefined) pairs.push(["layer", path]);
  pairs.push(["head", state.head], ["example", state.example]);
  if (state.query !== null) pairs.push(["q", state.query]);
  if (state.key !== null) pairs.push(["k", state.key]);
  if (state.step !== null) pairs.push(["step", state.step]);
  pairs.push(["view", state.view], ["scale", state.scale], ["statistic", state.statistic]);
  if (state.zoom.factor > 1) {
    const {factor, query, key} = state.zoom;
    pairs.push(["zoom", [factor, query, key].map((n) => +n.toFixed(2)).join(",")]);
  }
  if (state.reference) {
    const {run, layer, head, step} = state.reference;
    pairs.push(["reference", JSON.stringify([run, layer, head, step])]);
  }
  return pairs;
}

/** Reads what is valid; the layer's path is resolved once its run is known. */
export function decodeState(pairs) {
  const text = Object.fromEntries(pairs);
  const state = {};
  if (text.run !== undefined) state.run = text.run;
  if (text.layer !== undefined) state.layerPath = text.layer;
  for (const [key, name] of Object.entries({head: "head", example: "example", q: "query", k: "key", step: "step"})) {
    if (text[key] !== undefined && isIndex(text[key])) state[name] = Number(text[key]);
  }
  if (VIEWS.includes(text.view)) state.view = text.view;
  if (SCALES.includes(text.scale)) state.scale = text.scale;
  if (/^[a-z_]+$/.test(text.statistic ?? "")) state.statistic = text.statistic;
  const zoom = (text.zoom ?? "").split(",").map(Number);
  if (zoom.length === 3 && zoom.every(Number.isFinite) && zoom[0] >= 1) {
    state.zoom = {factor: zoom[0], query: zoom[1], key: zoom[2]};
  }
  try {
    const [run, layer, head, step] = JSON.parse(text.reference);
    const numbers = [layer, head, step].every((n) => n === null || (Number.isInteger(n) && n >= 0));
    if (typeof run === "string" && numbers) state.reference = {run, layer, head, step};
  } catch {
    // There is no reference, or none that can be read.
  }
  return state;
}

export function readHash(hash, isInTensorBoard) {
  const pairs = [];
  for (const part of hash.replace(/^#/, "").split("&")) {
    const at = part.indexOf("=");
    if (at < 0) continue;
    let name = part.slice(0, at);
    if (isInTensorBoard) {
      if (!name.startsWith(PREFIX)) continue;
      name = name.slice(PREFIX.length);
    }
    try {
      pairs.push([name, decodeURIComponent(part.slice(at + 1))]);
    } catch {
      continue;
    }
  }
  return pairs;
}

export function writeHash(hash, pairs, isInTensorBoard) {
  const parts = pairs.map(([name, value]) => `${name}=${encodeURIComponent(value)}`);
  if (!isInTensorBoard) return `#${parts.join("&")}`;
  const others = hash.replace(/^#/, "").split("&").filter((part) => !part.startsWith(PREFIX));
  if (!others[0]) others[0] = "keras_sam";
  return `#${[...others, ...parts.map((part) => PREFIX + part)].join("&")}`;
}
