// Saving what is shown: a PNG with title and legend, a CSV of the whole map.
import {SANS} from "./dom.js";
import {THEMES} from "./colors.js";

const PNG_PADDING = 14;
const PNG_HEAD = 48;

export function savePng(main, scene) {
  if (!scene.map) return;
  const colors = THEMES[scene.theme];
  const canvases = [main.legend.canvas, main.legend.second].filter((canvas) => !canvas.hidden);
  const ratio = window.devicePixelRatio || 1;
  const {clientWidth: width, clientHeight: height} = main.stage;
  const out = document.createElement("canvas");
  out.width = (width + 2 * PNG_PADDING) * ratio;
  out.height = (height + PNG_HEAD + 60 + PNG_PADDING) * ratio;
  const context = out.getContext("2d");
  context.scale(ratio, ratio);
  context.fillStyle = colors.card;
  context.fillRect(0, 0, out.width, out.height);
  context.fillStyle = colors.text;
  context.font = `bold 14px ${SANS}`;
  context.textBaseline = "middle";
  context.fillText(`${main.title.textContent} · step ${scene.step} · ${scene.run.name}`, PNG_PADDING, 18);
  context.fillStyle = colors.soft;
  context.font = `12px ${SANS}`;
  context.fillText(main.subtitle.textContent, PNG_PADDING, 36);
  for (const canvas of [main.cells, main.above]) context.drawImage(canvas, PNG_PADDING, PNG_HEAD, width, height);
  main.display.writeInto?.(context, scene, PNG_PADDING, PNG_HEAD);
  let x = PNG_PADDING;
  for (const canvas of canvases) {
    const wide = canvas.width / ratio;
    context.drawImage(canvas, x, PNG_HEAD + height + 12, wide, canvas.height / ratio);
    x += wide + 12;
  }
  context.fillStyle = colors.soft;
  context.textAlign = "left";
  context.fillText(main.legend.words.textContent, x, PNG_HEAD + height + 22);
  out.toBlob((blob) => download(blob, `${fileName(scene)}.png`));
}

export function saveCsv(scene) {
  if (!scene.map) return;
  download(new Blob([tableOf(scene)], {type: "text/csv"}), `${fileName(scene)}.csv`);
}

/** The whole map; masked cells are empty. Sparse maps: a line for each kept weight. */
export function tableOf({map, head, labels}) {
  const name = (axis, index) => quote(`${index} ${labels[axis].raw(index) ?? labels[axis].name(index)}`.trim());
  if (map.values) {
    return ["position,gate", ...Array.from(map.values, (value, n) => `${name("key", n)},${value}`)].join("\n");
  }
  const lines = [];
  if (map.chosen) {
    lines.push("query,key,weight");
    for (let query = 0; query < map.rows; query++) {
      map.row(head, query).forEach((weight, key) => {
        if (weight > 0) lines.push([name("query", query), name("key", key), weight].join(","));
      });
    }
    return lines.join("\n");
  }
  lines.push(["query", ...Array.from({length: map.keys}, (_, key) => name("key", key))].join(","));
  for (let query = 0; query < map.rows; query++) {
    const cells = Array.from(map.row(head, query), (weight, key) =>
      map.isAllowed(head, query, key) ? Number(weight.toPrecision(5)) : "");
    lines.push([name("query", query), ...cells].join(","));
  }
  return lines.join("\n");
}

/** Cells begin with a number, so that a spreadsheet takes no token for a formula. */
function quote(text) {
  return `"${text.replaceAll('"', '""')}"`;
}

function fileName({run, layer, head, step}) {
  return [run.name, layer.path, `head${head}`, `step${step}`].join("_").replace(/[^\w.-]+/g, "_").slice(-120);
}

function download(blob, name) {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = name;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10000);
}
