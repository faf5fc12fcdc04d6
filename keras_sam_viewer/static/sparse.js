// Long sequences: exact rows of chosen queries, the strongest keys of every query, and an
// overview whose cells are the maximum over `stride` x `stride` weights.
import {RecordError} from "./records.js";
import {LOWEST, MASKED, PER_OCTAVE} from "./scales.js";

export class SparseMap {
  constructor({header, arrays}, layer, view) {
    [this.paddedRows, this.paddedKeys] = layer.shape;
    this.heads = layer.heads;
    this.rows = Math.min(view.query_length, this.paddedRows);
    this.keys = Math.min(view.key_length, this.paddedKeys);
    this.causal = layer.causal;
    this.steps = header.levels ?? 255;
    this.stride = header.stride;
    this.arrays = arrays;
    this.chosen = new Map(Array.from(arrays.rows.data, (query, index) => [query, index]));
    this.strongest = arrays.top_keys.shape[2];
    this.memo = new Map();
    this.levelMemo = new Map();
    const [, h, w] = arrays.overview.shape;
    this.overviewSize = [h, w];
    const whole =
      this.stride >= 1 &&
      h * this.stride >= this.rows &&
      w * this.stride >= this.keys &&
      arrays.row_codes.data.length === this.heads * this.chosen.size * this.paddedKeys &&
      arrays.top_keys.data.length === this.heads * this.paddedRows * this.strongest;
    if (!whole) throw new RecordError("This record does not fit its layer.");
    this.countsPerHead = arrays.keys.data.length > this.paddedRows;
    this.bytes = Object.values(arrays).reduce((sum, array) => sum + array.data.byteLength, 0);
  }

  count(head, query) {
    return this.arrays.keys.data[(this.countsPerHead ? head * this.paddedRows : 0) + query];
  }

  isAllowed(head, query, key) {
    return this.count(head, query) > 0 && !(this.causal && key > query);
  }

  isExact(query) {
    return this.chosen.has(query);
  }

  /** The row's weights; NaN where they were not kept. */
  row(head, query) {
    const name = `${head} ${query}`;
    if (!this.memo.has(name)) {
      if (this.memo.size > 64) this.memo.clear();
      this.memo.set(name, this.readRow(head, query));
    }
    return this.memo.get(name);
  }

  readRow(head, query) {
    const row = new Float32Array(this.keys);
    const index = this.chosen.get(query);
    if (index !== undefined) {
      const at = head * this.chosen.size + index;
      const codes = this.arrays.row_codes.data.subarray(at * this.paddedKeys);
      const largest = this.arrays.row_largest.data[at];
      for (let key = 0; key < this.keys; key++) row[key] = largest * (codes[key] / this.steps) ** 2;
      return row;
    }
    for (let key = 0; key < this.keys; key++) row[key] = this.isAllowed(head, query, key) ? NaN : 0;
    const start = (head * this.paddedRows + query) * this.strongest;
    for (let n = start; n < start + this.strongest; n++) {
      const key = this.arrays.top_keys.data[n];
      if (key < this.keys) row[key] = this.arrays.top_weights.data[n];
    }
    return row;
  }

  weight(head, query, key) {
    return this.row(head, query)[key];
  }

  /** The queries among whose strongest keys this one is. */
  column(head, key) {
    const column = new Float32Array(this.rows);
    const {top_keys: keys, top_weights: weights} = this.arrays;
    const start = head * this.paddedRows * this.strongest;
    for (let n = 0; n < this.rows * this.strongest; n++) {
      if (keys.data[start + n] === key) {
        column[Math.floor(n / this.strongest)] = weights.data[start + n];
      }
    }
    return column;
  }

  received(head) {
    const start = head * this.paddedKeys;
    const total = this.arrays.received.data.subarray(start, start + this.keys);
    const seers = (key) => (this.causal ? this.rows - key : this.rows);
    return {total, mean: total.map((sum, key) => sum / Math.max(1, seers(key)))};
  }

  largestWeight(head) {
    const start = head * this.paddedRows * this.strongest;
    let largest = 0;
    for (let query = 0; query < this.rows; query++) {
      if (this.count(head, query) < 2) continue;
      const at = start + query * this.strongest;
      for (let n = at; n < at + this.strongest; n++) {
        largest = Math.max(largest, this.arrays.top_weights.data[n]);
      }
    }
    return largest || 1;
  }

  levels(head, scale) {
    const name = `${head} ${scale.name} ${scale.high ?? scale.span}`;
    if (!this.levelMemo.has(name)) this.levelMemo.set(name, this.readLevels(head, scale));
    return this.levelMemo.get(name);
  }

  readLevels(head, scale) {
    const [h, w] = this.overviewSize;
    const codes = this.arrays.overview.data.subarray(head * h * w, (head + 1) * h * w);
    const rows = Math.ceil(this.rows / this.stride);
    const columns = Math.ceil(this.keys / this.stride);
    const data = new Int16Array(rows * columns);
    for (let i = 0; i < rows; i++) {
      for (let j = 0; j < columns; j++) {
        data[i * columns + j] = octaveLevel(codes[i * w + j], scale, this.count(head, Math.min(this.rows - 1, i * this.stride)));
      }
    }
    return {data, rows, columns, stride: this.stride};
  }
}

/** Levels of B - A of two overviews: how the largest weights of blocks differ. */
export function differenceOfOverviews(a, headA, b, headB, scale) {
  const [h, w] = b.overviewSize;
  const multiple = (code) => (code > 1 ? 2 ** ((code - 1) / 16 - 4) : 0);
  const before = a.arrays.overview.data.subarray(headA * h * w, (headA + 1) * h * w);
  const after = b.arrays.overview.data.subarray(headB * h * w, (headB + 1) * h * w);
  const data = Int16Array.from(after, (code, n) =>
    code && before[n] ? scale.level(multiple(code) - multiple(before[n])) : MASKED);
  return {data, rows: h, columns: w, stride: b.stride};
}

/** A level from an octave code: 0 is masked, else 1 + 16 (log2(multiple) + 4). */
function octaveLevel(code, scale, count = 1) {
  if (!code) return MASKED;
  const octave = (code - 1) / 16 - 4;
  if (scale.level) return scale.level(code === 1 ? 0 : 2 ** octave / Math.max(1, count));
  return Math.min(scale.levels - 1, Math.max(0, Math.round(PER_OCTAVE * (octave - LOWEST))));
}
