// A and B, their difference, and the queries that moved most.
import {drawKeyAxis, drawQueryAxis} from "./axes.js";
import {build, cutText, MONO, SANS} from "./dom.js";
import {drawCursor} from "./cursor.js";
import {formatPercent} from "./format.js";
import {cellAt, LABELED, visiblePart} from "./geometry.js";
import {paletteOf, panelFor} from "./map.js";
import {differenceLevels} from "./maps.js";
import {paintCells} from "./paint.js";
import {differenceScaleOf} from "./scene.js";
import {THEMES} from "./colors.js";

const COMPARE_TITLE = 24;

export class CompareDisplay {
  constructor(state) {
    this.state = state;
    this.canZoom = true;
    this.list = build("div", {class: "ks-moved"});
    this.node = this.list;
    this.memo = new WeakMap();
  }

  layout(context, scene, width, height) {
    const half = {width: width / 2 - 10, height: height / 2 - COMPARE_TITLE - 4};
    const panel = panelFor(context, scene, {x: 0, y: COMPARE_TITLE, ...half}, {isSmall: true});
    const across = width / 2;
    const down = height / 2;
    this.panels = [
      panel,
      {...panel, x: panel.x + across},
      {...panel, y: panel.y + down},
    ];
    this.spots = [[4, 0], [across + 4, 0], [4, down], [across + 4, down]];
    Object.assign(this.list.style, {
      left: `${across + 4}px`, top: `${down}px`, width: `${across - 8}px`, height: `${down}px`,
    });
  }

  part(scene, panel) {
    return {...visiblePart(panel, scene.state.values.zoom), left: panel.left, top: panel.top};
  }

  paint(context, scene) {
    const {map, head, scale, theme, labels, reference} = scene;
    const colors = THEMES[theme];
    const a = reference?.map;
    const {run, layer, step} = scene;
    const isTwoRuns = reference && reference.chosen.run !== run.name;
    const own = [isTwoRuns ? run.name : null, `${layer.path} head ${head}`, `step ${step}`];
    const titles = [
      `A  ${reference?.name ?? ""}`,
      `B  ${own.filter(Boolean).join(" · ")}`,
    ];
    const moved = a ? this.movedBetween(a, reference.head, map, head) : null;
    titles.push(moved ? `B − A: ${formatPercent(moved.share)} of the weight moved` : "B − A");
    context.textAlign = "left";
    context.textBaseline = "middle";
    titles.forEach((title, n) => {
      context.font = `bold 12px ${SANS}`;
      context.fillStyle = colors.text;
      const [x, y] = this.spots[n];
      context.fillText(cutText(context, title, this.panels[1].x - this.panels[0].x - 16), x, y + 11);
    });
    const axes = (panel, owner, ownerHead) => {
      const part = this.part(scene, panel);
      drawQueryAxis(context, labels.query, part, theme);
      const received = part.cellWidth < LABELED && owner ? owner.received(ownerHead) : null;
      drawKeyAxis(context, labels.key, part, theme, received);
      return part;
    };
    const [first, second, third] = this.panels;
    const colorsOf = paletteOf(scale, theme);
    paintCells(context, map.levels(head, scale), colorsOf, axes(second, map, head), theme);
    if (a) {
      paintCells(context, a.levels(reference.head, scale), colorsOf, axes(first, a, reference.head), theme);
      const change = differenceScaleOf(scene);
      paintCells(context, moved.levels(change), paletteOf(change, theme), axes(third, null), theme);
    } else {
      const part = this.part(scene, first);
      context.font = `12px ${SANS}`;
      context.fillStyle = colors.soft;
      const sentence = reference?.sentence ?? "Loading …";
      context.fillText(cutText(context, sentence, part.width + part.left), 8, part.y + 12);
    }
    this.writeMoved(scene, moved);
  }

  overlay(context, scene) {
    for (const panel of this.panels) drawCursor(context, this.part(scene, panel), scene);
  }

  movedBetween(a, headA, b, headB) {
    const key = `${headA} ${headB}`;
    if (this.memo.get(b)?.a !== a || this.memo.get(b)?.key !== key) {
      this.memo.set(b, {a, key, ...compareMaps(a, headA, b, headB)});
    }
    const memo = this.memo.get(b);
    memo.levels = (scale) => (memo.painted ??= differenceLevels(a, headA, b, headB, scale));
    return memo;
  }

  writeMoved(scene, moved) {
    const title = build("h3", {}, "Moved most: what they left (−) and found (+)");
    if (!moved) {
      this.list.replaceChildren();
      return;
    }
    const {labels} = scene;
    const key = (index) => `${labels.key.name(index)} ${index}`.trim();
    const fits = Math.max(3, Math.floor((parseFloat(this.list.style.height) - 30) / 22));
    const rows = moved.queries.filter((each) => each.share >= 0.005).slice(0, fits).map(({query, share, left, found}) =>
      build(
        "button",
        {class: "ks-moved-row", type: "button", onclick: () => this.state.set({query, key: found})},
        build("span", {class: "ks-number"}, String(query)),
        build("span", {class: "ks-token"}, labels.query.name(query)),
        build("span", {class: "ks-number ks-strong"}, formatPercent(share)),
        build("span", {class: "ks-token ks-minus"}, `− ${key(left)}`),
        build("span", {class: "ks-token ks-plus"}, `+ ${key(found)}`),
      ),
    );
    this.list.replaceChildren(title, ...rows);
  }

  /** The list, written into a saved picture. */
  writeInto(context, scene, x, y) {
    const colors = THEMES[scene.theme];
    const [left, top] = this.spots[3];
    context.textAlign = "left";
    context.textBaseline = "middle";
    context.font = `11px ${MONO}`;
    [...this.list.children].forEach((row, n) => {
      context.fillStyle = n ? colors.soft : colors.text;
      const line = n ? [...row.children].map((cell) => cell.textContent).join("  ") : row.textContent;
      context.fillText(line, x + left, y + top + 11 + 22 * n);
    });
  }

  hit(scene, x, y) {
    for (const panel of this.panels) {
      const cell = cellAt(this.part(scene, panel), x, y);
      if (cell) return cell;
    }
    return null;
  }

  panelAt(x, y) {
    return this.panels.find((panel) => x >= panel.x && y >= panel.y && x < panel.x + panel.width && y < panel.y + panel.height) ?? this.panels[0];
  }
}

/** The share of weight that moved, and the queries by it. */
function compareMaps(a, headA, b, headB) {
  const queries = [];
  let sum = 0;
  // Of long sequences, the rows that are kept whole.
  const rows = b.chosen ? [...b.chosen.keys()].filter((query) => a.isExact(query)) : Array.from({length: b.rows}, (_, n) => n);
  for (const query of rows) {
    if (query >= b.rows) continue;
    if (b.count(headB, query) < 2) continue;
    const [before, after] = [a.readRow(headA, query), b.readRow(headB, query)];
    let change = 0;
    let [left, found] = [0, 0];
    for (let key = 0; key < b.keys; key++) {
      const difference = (after[key] || 0) - (before[key] || 0);
      change += Math.abs(difference) / 2;
      if (difference < (after[left] || 0) - (before[left] || 0)) left = key;
      if (difference > (after[found] || 0) - (before[found] || 0)) found = key;
    }
    sum += change;
    queries.push({query, share: change, left, found});
  }
  const share = queries.length ? sum / queries.length : 0;
  queries.sort((x, y) => y.share - x.share);
  return {share, queries: queries.slice(0, 40)};
}
