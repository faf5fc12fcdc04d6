// The sentence under the title: sizes, mask, padding, and what a sparse record holds.
import {isGateKind} from "./statistics.js";
import {plural} from "./format.js";

const KINDS = {
  spatial: "spatial gate", pointwise_spatial: "pointwise spatial gate (mean over channels)", channel: "channel gate",
};

export function subtitleOf({layer, view, map}) {
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
  if (map?.chosen) {
    text += ` · kept: exact rows for ${map.chosen.size} chosen queries, the ${map.strongest} strongest keys of every query, an overview by blocks of ${map.stride} × ${map.stride}`;
  }
  return text;
}
