// Cells: painted once off screen, one pixel each, and then copied without smoothing.
// Where a cell is smaller than a pixel, the largest of its pixel is shown, never the mean.
import {LABELED} from "./geometry.js";
import {MASKED} from "./scales.js";
import {THEMES} from "./colors.js";

const paintedCells = new WeakMap(); // levels -> {colors, size, canvas}

export function paintCells(context, levels, colors, part, theme) {
  context.save();
  context.beginPath();
  context.rect(part.x, part.y, part.width, part.height);
  context.clip();
  context.fillStyle = hatchPattern(context, theme);
  context.fillRect(part.x, part.y, part.width, part.height);
  const cellWidth = part.cellWidth * levels.stride;
  const cellHeight = part.cellHeight * levels.stride;
  const left = part.x - part.key * part.cellWidth;
  const top = part.y - part.query * part.cellHeight;
  if (Math.min(cellWidth, cellHeight) >= LABELED - 0.01) {
    paintSeparately(context, levels, colors, {left, top, cellWidth, cellHeight}, part, theme);
  } else {
    const ratio = context.getTransform().a;
    const width = pixelsFor(levels.columns, cellWidth * ratio);
    const height = pixelsFor(levels.rows, cellHeight * ratio);
    const canvas = cellCanvas(levels, colors, width, height);
    context.imageSmoothingEnabled = false;
    context.drawImage(canvas, left, top, levels.columns * cellWidth, levels.rows * cellHeight);
  }
  context.restore();
}

function pixelsFor(count, size) {
  return size >= 1 ? count : Math.max(1, Math.round(count * size));
}

/** Large cells have a gap, in which the paper is seen. */
function paintSeparately(context, levels, colors, grid, part, theme) {
  const {left, top, cellWidth, cellHeight} = grid;
  const firstColumn = Math.max(0, Math.floor((part.x - left) / cellWidth));
  const lastColumn = Math.min(levels.columns - 1, Math.floor((part.x + part.width - left) / cellWidth));
  const firstRow = Math.max(0, Math.floor((part.y - top) / cellHeight));
  const lastRow = Math.min(levels.rows - 1, Math.floor((part.y + part.height - top) / cellHeight));
  for (let row = firstRow; row <= lastRow; row++) {
    for (let column = firstColumn; column <= lastColumn; column++) {
      const level = levels.data[row * levels.columns + column];
      if (level === MASKED) continue;
      const [x, y] = [left + column * cellWidth, top + row * cellHeight];
      context.fillStyle = THEMES[theme].grid;
      context.fillRect(x, y, cellWidth, cellHeight);
      context.fillStyle = cssColor(colors[level]);
      context.fillRect(x, y, cellWidth - 1, cellHeight - 1);
    }
  }
}

function cssColor(pixel) {
  return `rgb(${pixel & 255},${(pixel >> 8) & 255},${(pixel >> 16) & 255})`;
}

/** A canvas with `width` x `height` pixels of the cells, made once. */
function cellCanvas(levels, colors, width, height) {
  const known = paintedCells.get(levels);
  if (known && known.colors === colors && known.canvas.width === width && known.canvas.height === height) {
    return known.canvas;
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const image = context.createImageData(width, height);
  const pixels = new Uint32Array(image.data.buffer);
  const isWhole = width === levels.columns && height === levels.rows;
  const source = isWhole ? levels.data : largestPerPixel(levels, width, height);
  for (let n = 0; n < pixels.length; n++) if (source[n] >= 0) pixels[n] = colors[source[n]];
  context.putImageData(image, 0, 0);
  paintedCells.set(levels, {colors, canvas});
  return canvas;
}

function largestPerPixel({data, rows, columns}, width, height) {
  const first = (n, count, size) => Math.floor((n * count) / size);
  const narrow = new Int16Array(rows * width).fill(MASKED);
  for (let x = 0; x < width; x++) {
    const start = first(x, columns, width);
    const end = Math.max(start + 1, Math.ceil(((x + 1) * columns) / width));
    for (let row = 0; row < rows; row++) {
      let largest = MASKED;
      for (let column = start; column < end; column++) {
        const level = data[row * columns + column];
        if (level > largest) largest = level;
      }
      narrow[row * width + x] = largest;
    }
  }
  const out = new Int16Array(width * height).fill(MASKED);
  for (let y = 0; y < height; y++) {
    const start = first(y, rows, height);
    const end = Math.max(start + 1, Math.ceil(((y + 1) * rows) / height));
    for (let row = start; row < end; row++) {
      for (let x = 0; x < width; x++) {
        const level = narrow[row * width + x];
        if (level > out[y * width + x]) out[y * width + x] = level;
      }
    }
  }
  return out;
}

const hatches = {};

/** Diagonal lines: masked, or not kept. */
export function hatchPattern(context, theme) {
  if (!hatches[theme]) {
    const tile = document.createElement("canvas");
    tile.width = tile.height = 6;
    const pen = tile.getContext("2d");
    pen.strokeStyle = THEMES[theme].hatch;
    pen.lineWidth = 1;
    for (const shift of [-6, 0, 6]) {
      pen.moveTo(shift - 1, 7);
      pen.lineTo(shift + 7, -1);
    }
    pen.stroke();
    hatches[theme] = context.createPattern(tile, "repeat");
  }
  return hatches[theme];
}
