// Where the cells of a map are: fitting, zooming, panning and hitting.

const LARGEST_CELL = 40;
export const LABELED = 11; // pixels of a cell from which every label is written

/**
 * Fits a map of `rows` x `columns` into a box. Maps whose sides differ much need not
 * have square cells. Returns a panel: `x, y, width, height` bound the cells.
 */
export function fitPanel(box, rows, columns, {left, top, widest = 104, tallest = 46}) {
  const width = Math.max(20, box.width - left);
  const height = Math.max(20, box.height - top);
  let cellWidth = Math.min(width / columns, widest);
  let cellHeight = Math.min(height / rows, tallest);
  if (Math.max(rows, columns) < 2 * Math.min(rows, columns)) {
    cellWidth = cellHeight = Math.min(cellWidth, cellHeight);
  }
  return {x: box.x + left, y: box.y + top, width, height, rows, columns, cellWidth, cellHeight, left, top};
}

/** The visible part of a panel at a zoom: cell sizes, first cell, and size in pixels. */
export function visiblePart(panel, zoom) {
  const cellWidth = panel.cellWidth * zoom.factor;
  const cellHeight = panel.cellHeight * zoom.factor;
  const width = Math.min(panel.width, cellWidth * panel.columns);
  const height = Math.min(panel.height, cellHeight * panel.rows);
  const first = (offset, count, size, cell) => Math.max(0, Math.min(offset, count - size / cell));
  return {
    x: panel.x, y: panel.y, width, height, cellWidth, cellHeight,
    rows: panel.rows, columns: panel.columns,
    query: first(zoom.query, panel.rows, height, cellHeight),
    key: first(zoom.key, panel.columns, width, cellWidth),
  };
}

export function cellAt(part, x, y) {
  if (x < part.x || y < part.y || x >= part.x + part.width || y >= part.y + part.height) return null;
  return {
    query: Math.min(part.rows - 1, Math.floor(part.query + (y - part.y) / part.cellHeight)),
    key: Math.min(part.columns - 1, Math.floor(part.key + (x - part.x) / part.cellWidth)),
  };
}

function largestZoom(panel) {
  return Math.max(1, LARGEST_CELL / Math.min(panel.cellWidth, panel.cellHeight));
}

/** Zooms by `by` and keeps what is at (x, y) where it is. */
export function zoomPanelAt(panel, zoom, by, x, y) {
  const factor = Math.min(largestZoom(panel), Math.max(1, zoom.factor * by));
  const before = visiblePart(panel, zoom);
  const query = before.query + (y - panel.y) / before.cellHeight;
  const key = before.key + (x - panel.x) / before.cellWidth;
  const next = {
    factor,
    query: query - (y - panel.y) / (panel.cellHeight * factor),
    key: key - (x - panel.x) / (panel.cellWidth * factor),
  };
  return clampZoom(panel, next);
}

export function panBy(panel, zoom, dx, dy) {
  const part = visiblePart(panel, zoom);
  return clampZoom(panel, {
    factor: zoom.factor,
    query: part.query - dy / part.cellHeight,
    key: part.key - dx / part.cellWidth,
  });
}

/** Moves the visible part as little as needed to show a cell. */
export function reveal(panel, zoom, query, key) {
  const part = visiblePart(panel, zoom);
  const move = (first, count, index) => Math.min(Math.max(first, index + 1 - count), index);
  return clampZoom(panel, {
    factor: zoom.factor,
    query: move(part.query, part.height / part.cellHeight, query),
    key: move(part.key, part.width / part.cellWidth, key),
  });
}

function clampZoom(panel, zoom) {
  if (zoom.factor <= 1.0001) return {factor: 1, query: 0, key: 0};
  const part = visiblePart(panel, zoom);
  return {factor: zoom.factor, query: part.query, key: part.key};
}
