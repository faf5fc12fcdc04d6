// Names of layers, positions and tokens.
import {visibleToken} from "./format.js";

/** Short names: parts that all paths share are dropped, names that differ by a number
 * become L0, L1. */
export function shortLayerNames(paths) {
  const parts = paths.map((path) => path.split("/"));
  let names = parts.map((words) => words.at(-1));
  if (new Set(names).size < names.length) {
    const differing = parts[0].findIndex((word, n) => parts.some((words) => words[n] !== word));
    names = parts.map((words) => words[Math.max(0, differing)] ?? words.at(-1));
    if (new Set(names).size < names.length) names = paths;
  }
  const shapes = names.map((name) => name.replace(/\d+(?!.*\d)/, "#"));
  const isNumbered = names.length > 1 && new Set(shapes).size === 1 && names[0] !== shapes[0];
  if (isNumbered) return names.map((name) => `L${name.match(/\d+(?!.*\d)/)[0]}`);
  return names.map((name) => name.replaceAll("_", " "));
}

/** Labels along one axis (`query` or `key`) of a layer for one example. */
export class AxisLabels {
  constructor(meta, layer, view, axis) {
    const list = view?.[axis];
    this.tokens = Number.isInteger(list) ? (meta.label_lists[list] ?? null) : null;
    this.grid = axis === "query" ? layer.query_grid : layer.key_grid;
    this.isChannels = layer.features || layer.kind === "channel";
    if (["spatial", "pointwise_spatial"].includes(layer.kind)) this.grid = layer.shape;
    if (this.isChannels) this.grid = null;
  }

  get hasNames() {
    return Boolean(this.tokens || this.grid?.length > 1);
  }

  raw(index) {
    return this.tokens ? String(this.tokens[index] ?? "") : null;
  }

  /** The token, "r1 c2" on a grid, or "channel 3"; empty where only the number is known. */
  name(index) {
    if (this.tokens) return visibleToken(this.raw(index));
    if (this.grid?.length === 2) {
      return `r${Math.floor(index / this.grid[1])} c${index % this.grid[1]}`;
    }
    if (this.grid?.length === 3) {
      const [, rows, columns] = this.grid;
      return `z${Math.floor(index / (rows * columns))} r${Math.floor(index / columns) % rows} c${index % columns}`;
    }
    if (this.isChannels) return "channel";
    return "";
  }

  /** For sentences: “while” 183. */
  spoken(index) {
    if (this.tokens) return `“${this.name(index)}” ${index}`;
    if (this.grid?.length > 1) return this.name(index);
    return this.isChannels ? `channel ${index}` : `position ${index}`;
  }
}
