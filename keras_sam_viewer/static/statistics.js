// Names, meanings and badges of the statistics.
import {formatCount, formatPercent} from "./format.js";

const three = (value) => value.toFixed(2);

// name -> [label, meaning, format, whether 0..1]
export const STATISTICS = {
  entropy: ["Entropy", "1: even over all allowed keys; 0: all weight on one key", three, true],
  keys_used: ["Keys used", "how many keys share the weight of all queries together", formatCount, false],
  largest: ["Largest", "mean over queries of the largest weight", three, true],
  first: ["First key", "share of the weight on the first key", three, true],
  previous: ["Previous", "share of the weight on the key before the query", three, true],
  self: ["Itself", "share of the weight on the query's own position", three, true],
  distance: ["Distance", "mean distance between query and key", formatCount, false],
  top_key_share: ["Top key", "what the strongest key receives of the queries that may see it", three, true],
  twin_difference: ["To its twin", "share of weight by which the most similar head differs", three, true],
  mean: ["Gate mean", "mean of the gate", three, true],
  above_half: ["Above ½", "share of gate values above one half", three, true],
  low: ["Gate low", "smallest value of the gate", three, true],
  high: ["Gate high", "largest value of the gate", three, true],
  gate_entropy: ["Gate entropy", "entropy of the gate's values over positions", three, true],
};

const FOR_GATES = ["mean", "above_half", "low", "high", "gate_entropy"];
export const FOR_PAIRS = Object.keys(STATISTICS).filter((name) => !FOR_GATES.includes(name));

export function isGateKind(kind) {
  return ["spatial", "pointwise_spatial", "channel"].includes(kind);
}

export function statisticLabel(name) {
  return STATISTICS[name]?.[0] ?? name;
}

export function statisticMeaning(name) {
  return STATISTICS[name]?.[1] ?? "";
}

export function formatStatistic(name, value) {
  if (Number.isNaN(value)) return "";
  return (STATISTICS[name]?.[2] ?? three)(value);
}

/** What a cell shows under the chosen statistic: gates have statistics of their own. */
export function statisticFor(layer, chosen) {
  if (isGateKind(layer.kind)) return FOR_GATES.includes(chosen) ? chosen : "mean";
  return FOR_GATES.includes(chosen) ? "entropy" : chosen;
}

/** Badges of a head: `[text, is a warning, what it says]`. */
export function badgesOf(stats, layerIndex, layer, example, head) {
  const value = (name) => stats.value(layerIndex, example, head, name);
  const badges = [];
  if (isGateKind(layer.kind)) return badges;
  if (layer.kind !== "selective" && value("top_key_share") >= 0.5) {
    const text = `key ${value("top_key")} receives ${formatPercent(value("top_key_share"))} of the weight of the queries that may see it (half or more)`;
    badges.push(["1 key", true, text]);
  }
  if (value("twin_difference") < 0.1) {
    const twin = `h${value("twin")}`;
    const text = `only ${formatPercent(value("twin_difference"))} of the weight differs from ${twin} (less than 10 %)`;
    badges.push([`= ${twin}`, true, text]);
  }
  if (value("entropy") >= 0.98) badges.push(["flat", false, "entropy of 0.98 or more: nearly even over all keys"]);
  if (value("previous") >= 0.5) badges.push(["prev", false, `${formatPercent(value("previous"))} of the weight is on the previous key (half or more)`]);
  if (value("self") >= 0.5) badges.push(["self", false, `${formatPercent(value("self"))} of the weight is on the query itself (half or more)`]);
  return badges;
}

/** How much of a head changed between two steps, from thumbnails: 0 nothing, 1 all. */
export function changeOf(first, last, layerIndex, layer, example, head) {
  const a = first.thumbnail(layerIndex, example, head);
  const b = last.thumbnail(layerIndex, example, head);
  if (!a || !b || a.data.length !== b.data.length) return NaN;
  if (isGateKind(layer.kind)) {
    const [lowA, highA] = first.range(layerIndex, example, head);
    const [lowB, highB] = last.range(layerIndex, example, head);
    const gate = (code, low, high) => low + ((high - low) * (code - 1)) / 254;
    let sum = 0;
    a.data.forEach((code, n) => (sum += Math.abs(gate(code, lowA, highA) - gate(b.data[n], lowB, highB))));
    return sum / a.data.length;
  }
  const weigh = (code) => (code > 1 ? 2 ** ((code - 1) / 16 - 4) : 0);
  const width = layer.kind === "selective" ? a.data.length : a.columns;
  let moved = 0;
  let rows = 0;
  for (let start = 0; start < a.data.length; start += width) {
    let [sumA, sumB, seen] = [0, 0, 0];
    for (let n = start; n < start + width; n++) {
      sumA += weigh(a.data[n]);
      sumB += weigh(b.data[n]);
      seen += b.data[n] > 0;
    }
    if (seen < 2 || !sumA || !sumB) continue;
    let change = 0;
    for (let n = start; n < start + width; n++) {
      change += Math.abs(weigh(a.data[n]) / sumA - weigh(b.data[n]) / sumB);
    }
    moved += change / 2;
    rows++;
  }
  return rows ? moved / rows : NaN;
}
