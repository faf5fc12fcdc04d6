// Rows of position, token, bar, weight and multiple of uniform, the strongest first.
import {build, sizeCanvas} from "./dom.js";
import {formatMultiple, formatWeight} from "./format.js";
import {pictureOf} from "./images.js";

export class RankedRows {
  constructor(app) {
    this.app = app;
    this.root = build("div", {class: "ks-ranked"});
    this.rows = [];
  }

  clear() {
    this.root.replaceChildren();
    this.rows = [];
  }

  update(scene, options) {
    const {weights, fits, zeros, focus, isReversed, before, multiple} = options;
    const order = [];
    for (let index = 0; index < weights.length; index++) {
      if (weights[index] > 0 || (zeros && !Number.isNaN(weights[index]))) order.push(index);
    }
    order.sort((a, b) => (isReversed ? weights[a] - weights[b] : weights[b] - weights[a]) || a - b);
    const shown = order.slice(0, fits);
    let largest = options.largest ?? (shown.length ? weights[shown[0]] : 1);
    if (before) for (const index of shown) largest = Math.max(largest, before[index] || 0);
    const hasCrops = Boolean(scene.picture && scene.labels[options.axis].grid?.length === 2);
    this.root.classList.toggle("ks-with-crops", hasCrops);
    this.root.classList.toggle("ks-no-multiples", !multiple);
    this.fill(shown.length);
    shown.forEach((index, n) => {
      const row = this.rows[n];
      row.click = () => options.onClick(index);
      const labels = scene.labels[options.axis];
      row.number.textContent = String(index);
      row.token.textContent = labels.isChannels ? "" : labels.name(index);
      row.crop.hidden = !hasCrops;
      if (hasCrops) drawCrop(row.crop, scene.picture, labels.grid, index, () => this.app.state.touch("picture"));
      row.fill.style.width = `${(100 * Math.max(0, weights[index])) / (largest || 1)}%`;
      row.tick.hidden = !before;
      if (before) row.tick.style.left = `${(100 * (before[index] || 0)) / (largest || 1)}%`;
      row.weight.textContent = formatWeight(weights[index]);
      row.multiple.textContent = multiple ? formatMultiple(multiple(index)) : "";
      row.node.classList.toggle("ks-focused", index === focus);
    });
    const rest = order.slice(fits).reduce((sum, index) => sum + weights[index], 0);
    const missing = order.length - shown.length;
    this.rest.hidden = !options.others || missing < 1;
    if (options.others && missing > 0) {
      this.restText.textContent = `${missing} ${missing === 1 ? "other" : "others"}`;
      this.restWeight.textContent = formatWeight(rest);
    }
    this.root.append(this.rest);
  }

  fill(count) {
    if (!this.rest) {
      this.restText = build("span", {class: "ks-rest-text"});
      this.restWeight = build("span", {class: "ks-number"});
      this.rest = build("div", {class: "ks-rest"}, this.restText, this.restWeight);
    }
    while (this.rows.length < count) this.rows.push(this.makeRow());
    const nodes = this.rows.slice(0, count).map((row) => row.node);
    const isSame = this.root.children.length >= nodes.length && nodes.every((node, n) => this.root.children[n] === node);
    if (!isSame || this.root.children.length > nodes.length + 1) this.root.replaceChildren(...nodes);
  }

  makeRow() {
    const row = {
      number: build("span", {class: "ks-number ks-soft"}),
      crop: build("canvas", {class: "ks-crop", "aria-hidden": "true"}),
      token: build("span", {class: "ks-token"}),
      fill: build("span", {class: "ks-fill"}),
      tick: build("span", {class: "ks-tick"}),
      weight: build("span", {class: "ks-number"}),
      multiple: build("span", {class: "ks-number ks-soft"}),
    };
    row.node = build("button", {type: "button", class: "ks-row", onclick: () => row.click?.()},
      row.number, row.crop, row.token, build("span", {class: "ks-track"}, row.fill, row.tick), row.weight, row.multiple);
    return row;
  }
}

/** The patch itself, 16 pixels wide. */
function drawCrop(canvas, picture, [rows, columns], index, redraw) {
  const image = pictureOf(picture, redraw);
  const context = sizeCanvas(canvas, 16, 16);
  if (!image) return;
  const [w, h] = [image.naturalWidth / columns, image.naturalHeight / rows];
  context.imageSmoothingEnabled = w > 16;
  context.drawImage(image, (index % columns) * w, Math.floor(index / columns) * h, w, h, 0, 0, 16, 16);
}
