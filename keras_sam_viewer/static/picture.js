// Attention over a picture: a veil that is clear where the weight is.
import {drawCursor, drawPill} from "./cursor.js";
import {cellAt, visiblePart} from "./geometry.js";
import {MONO, SANS} from "./dom.js";
import {paletteOf, panelFor} from "./map.js";
import {paintCells} from "./paint.js";
import {pictureOf} from "./images.js";
import {THEMES} from "./colors.js";
import {strongestKeys} from "./lines.js";

const PICTURE_TITLE = 24;
const NUMBERED = 5;

/** The largest size of a picture in a box, in whole multiples where it is small. */
export function fitPicture(picture, width, height) {
  const scale = Math.min(width / picture.width, height / picture.height);
  return {width: picture.width * scale, height: picture.height * scale};
}

export function drawPicture(context, picture, box, theme, redraw) {
  const image = pictureOf(picture, redraw);
  context.fillStyle = THEMES[theme].grid;
  context.fillRect(box.x, box.y, box.width, box.height);
  if (!image) return;
  context.imageSmoothingEnabled = picture.width > box.width;
  context.drawImage(image, box.x, box.y, box.width, box.height);
}

export class PictureDisplay {
  constructor(state, redraw) {
    this.state = state;
    this.redraw = redraw;
  }

  layout(context, scene, width, height) {
    const {map, picture} = scene;
    this.hasMap = map.rows > 1;
    const share = this.hasMap ? Math.max(200, Math.min(310, width * 0.36)) : 0;
    const size = fitPicture(picture, width - share - 24, height - PICTURE_TITLE - 8);
    this.box = {x: 4, y: PICTURE_TITLE, ...size};
    if (!this.hasMap) return;
    const box = {x: 4 + size.width + 10, y: PICTURE_TITLE - 4, width: width - size.width - 24, height: Math.min(height - PICTURE_TITLE, 420)};
    this.panel = panelFor(context, scene, box, {isSmall: true});
  }

  part(scene) {
    return {...visiblePart(this.panel, {factor: 1, query: 0, key: 0}), left: this.panel.left, top: this.panel.top};
  }

  paint(context, scene) {
    const {map, head, scale, theme, picture} = scene;
    drawPicture(context, picture, this.box, theme, this.redraw);
    if (!this.hasMap) return;
    const part = this.part(scene);
    paintCells(context, map.levels(head, scale), paletteOf(scale, theme), part, theme);
  }

  cellBox([rows, columns], index) {
    const {x, y, width, height} = this.box;
    const [row, column] = [Math.floor(index / columns), index % columns];
    return [x + (column * width) / columns, y + (row * height) / rows, width / columns, height / rows];
  }

  overlay(context, scene) {
    const {map, head, query, key, labels, theme, scale} = scene;
    const colors = THEMES[theme];
    const grid = labels.key.grid;
    const row = map.row(head, this.hasMap ? query : 0);
    const count = map.count(head, this.hasMap ? query : 0);
    // The veil: its opacity falls as the multiple of uniform grows.
    for (let n = 0; n < row.length; n++) {
      const clear = scale.at(row[n] || 0, count);
      context.fillStyle = theme === "dark" ? `rgba(43, 51, 63, ${0.74 * (1 - clear)})` : `rgba(150, 160, 174, ${0.7 * (1 - clear)})`;
      const [x, y, width, height] = this.cellBox(grid, n);
      const [left, top] = [Math.round(x), Math.round(y)];
      context.fillRect(left, top, Math.round(x + width) - left, Math.round(y + height) - top);
    }
    strongestKeys(row, NUMBERED, 1, count).forEach((n, rank) => {
      const [x, y, width, height] = this.cellBox(grid, n);
      context.strokeStyle = theme === "dark" ? "#76b4f5" : "#37338f";
      context.lineWidth = rank === 0 ? 2.5 : 1.25;
      context.strokeRect(x + 1, y + 1, width - 2, height - 2);
      if (width < 18) return;
      context.fillStyle = context.strokeStyle;
      context.fillRect(x + 1, y + 1, 15, 15);
      context.font = `bold 11px ${MONO}`;
      context.fillStyle = theme === "dark" ? "#0e131c" : "#ffffff";
      context.textAlign = "center";
      context.textBaseline = "middle";
      context.fillText(String(rank + 1), x + 8.5, y + 9);
    });
    if (this.hasMap && labels.query.grid) {
      const [x, y, width, height] = this.cellBox(labels.query.grid, query);
      context.strokeStyle = colors.accent;
      context.lineWidth = 3;
      context.strokeRect(x + 1.5, y + 1.5, width - 3, height - 3);
    }
    context.font = `12px ${SANS}`;
    context.fillStyle = colors.text;
    context.textAlign = "left";
    context.textBaseline = "middle";
    const title = !this.hasMap
      ? "where the weight is; the five strongest numbered"
      : `where ${labels.query.name(query) || `query ${query}`} looks` + (labels.query.grid ? " (orange)" : "");
    context.fillText(title, 4, 10);
    if (this.hasMap) {
      const part = this.part(scene);
      drawCursor(context, part, scene);
    } else if (this.state.hover.key !== null) {
      const [x, y, width] = this.cellBox(grid, key);
      drawPill(context, labels.key.name(key), x + width / 2, Math.max(10, y - 10), {align: "center", fill: colors.pill, color: colors.onPill});
    }
  }

  /** Over the picture the pointer is the query; over the map it is a cell. */
  hit(scene, x, y) {
    const {labels} = scene;
    const {x: left, y: top, width, height} = this.box;
    if (x >= left && y >= top && x < left + width && y < top + height) {
      const isQuery = this.hasMap && labels.query.grid;
      const [rows, columns] = isQuery ? labels.query.grid : labels.key.grid;
      const cell = Math.floor(((y - top) / height) * rows) * columns + Math.floor(((x - left) / width) * columns);
      return isQuery ? {query: cell, key: null} : {query: this.hasMap ? scene.heldQuery : 0, key: cell};
    }
    return this.hasMap ? cellAt(this.part(scene), x, y) : null;
  }
}
