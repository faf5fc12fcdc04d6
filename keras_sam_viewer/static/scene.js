// One look at the state and the store together: what every part of the screen draws.
import {AxisLabels, shortLayerNames} from "./labels.js";
import {isGateKind} from "./statistics.js";
import {differenceScale, linearScale, logScale} from "./scales.js";

export function makeScene(state, store) {
  const values = state.values;
  const run = store.runs.get(values.run);
  if (!run) return {state, sentence: null};
  if (run.sentence) return {state, run, sentence: run.sentence};
  const {meta} = run;
  const layer = meta.layers[values.layer];
  const views = meta.views[values.layer];
  const view = views[values.example] ?? views.at(-1);
  const step = values.step ?? run.steps.at(-1);
  const stats = run.stats.get(step);
  const scene = {
    state, run, meta, layer, view, step, stats,
    steps: run.steps,
    layerIndex: values.layer,
    head: values.head,
    example: values.example,
    theme: state.theme,
    isGate: isGateKind(layer.kind),
    shortNames: shortLayerNames(meta.layers.map((each) => each.path)),
    labels: {
      query: new AxisLabels(meta, layer, view, "query"),
      key: new AxisLabels(meta, layer, view, "key"),
    },
    picture: Number.isInteger(view.picture) ? (meta.pictures[view.picture] ?? null) : null,
  };
  scene.display = displayOf(scene);
  const found = stats
    ? store.map(run.name, values.layer, step, values.example)
    : {sentence: `There is no step ${step} in this run; it has ${stepsInWords(run.steps)}.`};
  scene.map = found && !found.sentence ? found : null;
  scene.sentence = found?.sentence ?? null;
  scene.isLoading = !found;
  if (scene.map) {
    scene.scale = scaleOf(scene);
    Object.assign(scene, focusOf(scene));
  }
  return scene;
}

function stepsInWords(steps) {
  return steps.length === 1 ? `step ${steps[0]} only` : `steps ${steps[0]} to ${steps.at(-1)}`;
}

/** Which way of drawing fits the layer. */
function displayOf({layer, picture, labels}) {
  if (layer.kind === "channel") return "bars";
  if (isGateKind(layer.kind)) return "gate";
  const isOverPicture = picture && labels.key.grid?.length === 2;
  if (layer.kind === "selective") return isOverPicture ? "picture" : "bars";
  return isOverPicture ? "picture" : "map";
}

function scaleOf({state, map, isGate, head}) {
  const isLog = state.values.scale === "log";
  if (isGate) {
    return isLog
      ? linearScale(0, 1, "gate, 0 to 1")
      : linearScale(map.low, map.high, "gate, its minimum to its maximum");
  }
  if (isLog) return logScale(map.keys);
  return linearScale(0, map.largestWeight(head), "weight, 0 to the largest");
}

/** The query and key in focus: under the pointer, else held, else a good first one. */
function focusOf({state, map, isGate, labels, head}) {
  const {hover, values} = state;
  if (isGate) {
    const last = map.values.length - 1;
    const strongest = () => indexOfLargest(map.values);
    return {query: 0, heldQuery: 0, key: Math.min(last, hover.key ?? values.key ?? strongest())};
  }
  const clamp = (index, count) => (index === null ? null : Math.min(index, count - 1));
  const heldQuery = clamp(values.query, map.rows) ?? firstQuery(map, labels.query);
  const query = clamp(hover.query, map.rows) ?? heldQuery;
  const key =
    clamp(hover.key, map.keys) ??
    (hover.query === null || values.key !== null ? clamp(values.key, map.keys) : null) ??
    indexOfLargest(map.row(head, query));
  return {query, heldQuery, key};
}

function firstQuery(map, labels) {
  let query = Math.floor(map.rows * 0.6);
  if (map.chosen) {
    const distance = (index) => Math.abs(index - query);
    return [...map.chosen.keys()].filter((index) => index < map.rows).sort((a, b) => distance(a) - distance(b))[0] ?? query;
  }
  const isWord = (index) => !labels.tokens || /[\p{L}\p{N}]/u.test(labels.raw(index));
  while (query < map.rows - 1 && !isWord(query)) query++;
  return query;
}

function indexOfLargest(numbers) {
  let best = 0;
  for (let n = 1; n < numbers.length; n++) {
    if (numbers[n] > numbers[best] || Number.isNaN(numbers[best])) best = n;
  }
  return best;
}

/**
 * The map that Compare puts beside the shown one, and its name. A reference whose layer,
 * head or step is null follows the shown one.
 */
export function referenceOf(scene, store) {
  const {values} = scene.state;
  const chosen = resolveReference(scene, store, values.reference ?? defaultReference(scene));
  const run = store.runs.get(chosen.run);
  const layer = run?.meta?.layers[chosen.layer];
  if (!layer) return {chosen, run, name: chosen.run, sentence: run?.sentence ?? null};
  const isElsewhere = chosen.run !== scene.run.name;
  const parts = [`${layer.path} head ${chosen.head}`, `step ${chosen.step}`];
  const name = (isElsewhere ? [chosen.run, ...parts] : parts).join(" · ");
  const found = {chosen, run, name};
  if (!run.stats.has(chosen.step)) return {...found, sentence: `The reference has no step ${chosen.step}.`};
  const example = Math.min(scene.example, run.meta.examples.length - 1);
  const map = store.map(chosen.run, chosen.layer, chosen.step, example);
  if (map?.sentence) return {...found, sentence: map.sentence};
  if (map && scene.map && !sameShape(map, scene.map)) {
    return {...found, sentence: "The reference has another shape and cannot be compared."};
  }
  return {...found, map, head: Math.min(chosen.head, layer.heads - 1)};
}

function resolveReference(scene, store, {run: name, layer, head, step}) {
  const run = store.runs.get(name);
  const layers = run?.meta?.layers ?? [];
  if (layer === null) {
    const same = layers.findIndex((each) => each.path === scene.layer.path);
    layer = same >= 0 ? same : Math.min(scene.layerIndex, layers.length - 1);
  }
  head ??= Math.min(scene.head, (layers[layer]?.heads ?? 1) - 1);
  return {run: name, layer, head, step: step ?? run?.steps?.at(-1)};
}

function defaultReference({run, layerIndex, head, layer, steps, step, stats, example}) {
  if (steps.length > 1) {
    return {run: run.name, layer: null, head: null, step: step === steps[0] ? steps.at(-1) : steps[0]};
  }
  const twin = stats?.value(layerIndex, example, head, "twin") ?? NaN;
  return {run: run.name, layer: layerIndex, head: Number.isNaN(twin) ? (head + 1) % layer.heads : twin, step};
}

function sameShape(a, b) {
  if (a.values || b.values) return a.values?.length === b.values?.length;
  return a.rows === b.rows && a.keys === b.keys && Boolean(a.chosen) === Boolean(b.chosen);
}

export function differenceScaleOf(scene) {
  return differenceScale(scene.map.keys);
}
