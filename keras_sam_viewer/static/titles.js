// The sentence under the title: sizes, mask, padding, and what a sparse record holds.
import {isGateKind} from "./statistics.js";
import {plural} from "./format.js";

const KINDS = {
  spatial: "spatial gate", pointwise_spatial: "pointwise spatial gate (mean over channels)", channel: "channel gate",
};

export function subtitleOf({layer, view}) {
  if (isGateKind(layer.kind)) {
    const size = layer.kind === "channel" ? plural(layer.shape[0], "channel") : `${layer.shape.join(" × ")} positions`;
    return `${KINDS[layer.kind]}, ${size}`;
  }
  if (layer.kind === "selective") return `selective: one weight for each of ${plural(view.key_length, "position")}`;
  const [rows, columns] = layer.shape;
  const [queries, keys] = [Math.min(rows, view.query_length), Math.min(columns, view.key_length)];
  const isCropped = queries < rows || keys < columns;
  let text = isCropped
    ? `${queries} × ${keys} of ${rows} × ${columns}, padding cropped`
    : `${queries} queries × ${keys} keys`;
  if (layer.causal) text += ", causal";
  return text;
}

/** What was kept of a long sequence. */
export function keptOf({map}) {
  if (!map?.chosen) return "";
  return `Long sequence: kept are exact rows for ${map.chosen.size} chosen queries (marked at the right edge), the ` +
    `${map.strongest} strongest keys of every query, and an overview, the largest weight of ${map.stride} × ${map.stride}.`;
}
