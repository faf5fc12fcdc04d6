// A thumbnail of one head, from the codes in `stats`; over pictures, where the patch in
// focus looks.
import {hatchPattern} from "./paint.js";
import {clip01, ramp, rampColor, THEMES} from "./colors.js";
import {isGateKind} from "./statistics.js";
import {logScale} from "./scales.js";

const LARGEST_THUMBNAIL = 32; // cells on a side

export function drawThumbnail(context, scene, cell, store) {
  const {stats, example, theme} = scene;
  const {layer, layerIndex, head, side} = cell;
  context.fillStyle = hatchPattern(context, theme);
  context.fillRect(0, 0, side, side);
  const view = scene.meta.views[layerIndex][example];
  if (!view) return; // a layer of fewer examples, after one over windows
  const hasGrid = scene.picture && layer.kind === "self" && layer.key_grid?.length === 2;
  if (hasGrid && drawLook(context, scene, cell, store)) return;
  const thumbnail = stats?.thumbnail(layerIndex, example, head);
  if (!thumbnail) return;
  if (isGateKind(layer.kind)) {
    const [low, high] = stats.range(layerIndex, example, head);
    drawGate(context, thumbnail, low, high, scene, side);
    return;
  }
  const scale = logScale(view.key_length);
  let {rows, columns} = thumbnail;
  const isList = layer.kind === "selective";
  if (!isList) {
    const views = scene.meta.views[layerIndex];
    rows = cropped(rows, view.query_length, views.map((each) => each.query_length));
    columns = cropped(columns, view.key_length, views.map((each) => each.key_length));
  }
  const colors = colorsOfCodes(`log ${scale.high}`, theme, (code) => scale.at(2 ** ((code - 1) / 16 - 4), 1));
  paintCodes(context, thumbnail, rows, columns, side, colors);
}

/** Thumbnails are of the longest example; how many cells of one belong to this one. */
function cropped(cells, length, lengths) {
  const stride = Math.ceil(Math.max(...lengths) / LARGEST_THUMBNAIL) || 1;
  return Math.max(1, Math.min(cells, Math.ceil(length / stride)));
}

/** Pixels of a thumbnail, made small and enlarged without smoothing. */
function paintCodes(context, {data, columns: stride}, rows, columns, side, colorOf) {
  const pixels = new ImageData(columns, rows);
  const out = new Uint32Array(pixels.data.buffer);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      const code = data[row * stride + column];
      if (code) out[row * columns + column] = colorOf[code];
    }
  }
  small ??= document.createElement("canvas");
  small.width = columns;
  small.height = rows;
  small.getContext("2d").putImageData(pixels, 0, 0);
  context.imageSmoothingEnabled = false;
  context.drawImage(small, 0, 0, side, side);
}

let small = null;
const codeColors = new Map();

/** The colour of every code: what `positionOf(code)` gives on the ramp. */
function colorsOfCodes(name, theme, positionOf) {
  const key = `${theme} ${name}`;
  if (!codeColors.has(key)) {
    if (codeColors.size > 200) codeColors.clear();
    const colors = ramp(theme);
    codeColors.set(key, Uint32Array.from({length: 256}, (_, code) => {
      const [r, g, b] = colors[Math.round(clip01(positionOf(code)) * (colors.length - 1))];
      return (255 << 24) | (b << 16) | (g << 8) | r;
    }));
  }
  return codeColors.get(key);
}

function drawGate(context, thumbnail, low, high, scene, side) {
  const isUnit = scene.state.values.scale === "log";
  const [from, span] = isUnit ? [low, high - low] : [0, 1];
  const name = `gate ${from.toFixed(3)} ${span.toFixed(3)}`;
  const colors = colorsOfCodes(name, scene.theme, (code) => from + (span * (code - 1)) / 254);
  paintCodes(context, thumbnail, thumbnail.rows, thumbnail.columns, side, colors);
}

/** Where the patch in focus looks, if the head's map is loaded. */
function drawLook(context, scene, {layer, layerIndex, head, side}, store) {
  const {run, step, example, theme, state} = scene;
  if (!store.has(run.name, layerIndex, step, example)) return false;
  const map = store.map(run.name, layerIndex, step, example);
  if (!map || map.sentence || map.rows <= 1) return false;
  const query = Math.min(map.rows - 1, state.hover.query ?? scene.heldQuery ?? state.values.query ?? 0);
  const row = map.row(head, query);
  const count = map.count(head, query);
  const scale = logScale(map.keys);
  const [rows, columns] = layer.key_grid;
  const [w, h] = [side / columns, side / rows];
  for (let key = 0; key < row.length; key++) {
    context.fillStyle = rampColor(theme, scale.at(row[key] || 0, count));
    context.fillRect((key % columns) * w, Math.floor(key / columns) * h, w + 0.5, h + 0.5);
  }
  if (layer.query_grid?.length === 2) {
    const [queryRows, queryColumns] = layer.query_grid;
    context.strokeStyle = THEMES[theme].accent;
    context.lineWidth = 1.5;
    const [qw, qh] = [side / queryColumns, side / queryRows];
    context.strokeRect((query % queryColumns) * qw + 0.75, Math.floor(query / queryColumns) * qh + 0.75, qw - 1.5, qh - 1.5);
  }
  return true;
}
