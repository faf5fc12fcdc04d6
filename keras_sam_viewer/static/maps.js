// Decoded weights of one layer, step and example, and what is read from them.
//
// A PairMap has a row of weights for each head and query. Selective attention is a
// PairMap of one query. Only the part that is not padding is read.
import {RecordError} from "./records.js";
import {LOWEST, MASKED, PER_OCTAVE} from "./scales.js";
import {differenceOfOverviews, SparseMap} from "./sparse.js";

export function readMap(record, layer, view) {
  const isGate = ["spatial", "pointwise_spatial", "channel"].includes(layer.kind);
  try {
    if (isGate) return new GateMap(record, layer);
    if (record.header.code === "sparse") return new SparseMap(record, layer, view);
    return new PairMap(record, layer, view);
  } catch (error) {
    if (error instanceof RecordError) throw error;
    throw new RecordError("This record does not fit its layer.");
  }
}

function requireSize(array, size) {
  if (!array || array.data.length !== size) {
    throw new RecordError("This record does not fit its layer.");
  }
  return array.data;
}

export class PairMap {
  constructor(record, layer, view) {
    const [paddedRows, paddedKeys] = layer.shape.length === 2 ? layer.shape : [1, layer.shape[0]];
    const {header, arrays} = record;
    const heads = (this.heads = layer.heads);
    this.paddedRows = paddedRows;
    this.paddedKeys = paddedKeys;
    this.rows = layer.shape.length === 2 ? Math.min(view.query_length, paddedRows) : 1;
    this.keys = Math.min(view.key_length, paddedKeys);
    this.codes = requireSize(arrays.codes, heads * paddedRows * paddedKeys);
    this.isSquareRoot = header.code === "sqrt8";
    if (this.isSquareRoot) {
      this.steps = header.levels ?? 255;
      this.largest = requireSize(arrays.largest, heads * paddedRows);
    } else {
      this.range = requireSize(arrays.range, heads * 2);
    }
    const counts = arrays.keys?.data;
    this.counts = counts?.length >= paddedRows ? counts : null;
    this.countsPerHead = this.counts?.length === heads * paddedRows && heads > 1;
    this.allowed = arrays.allowed?.data ?? null;
    this.allowedPerHead = (arrays.allowed?.shape[0] ?? 1) > 1;
    this.rowBytes = Math.ceil(paddedKeys / 8);
    this.bytes = this.codes.byteLength + (this.allowed?.byteLength ?? 0);
    this.rowCache = new Map();
    this.headCache = new Map();
    this.levelCache = new Map();
  }

  /** How many keys a query may see. */
  count(head, query) {
    if (!this.counts) return this.keys;
    return this.counts[(this.countsPerHead ? head * this.paddedRows : 0) + query];
  }

  isAllowed(head, query, key) {
    if (!this.allowed) return this.count(head, query) > 0;
    return ((this.allowed[this.bitsOf(head, query) + (key >> 3)] >> (7 - (key & 7))) & 1) === 1;
  }

  isExact() {
    return true;
  }

  weight(head, query, key) {
    const row = head * this.paddedRows + query;
    const code = this.codes[row * this.paddedKeys + key];
    if (this.isSquareRoot) return this.largest[row] * (code / this.steps) ** 2;
    const low = this.range[2 * head];
    return low + ((this.range[2 * head + 1] - low) * code) / 65535;
  }

  row(head, query) {
    return this.remember(this.rowCache, `${head} ${query}`, 64, () => this.readRow(head, query));
  }

  /** A row that is not remembered, for those who go through all of them. */
  readRow(head, query) {
    const row = new Float32Array(this.keys);
    const at = head * this.paddedRows + query;
    const codes = this.codes.subarray(at * this.paddedKeys);
    if (this.isSquareRoot) {
      const unit = this.largest[at] / this.steps ** 2;
      for (let key = 0; key < this.keys; key++) row[key] = unit * codes[key] * codes[key];
    } else {
      const low = this.range[2 * head];
      const unit = (this.range[2 * head + 1] - low) / 65535;
      for (let key = 0; key < this.keys; key++) row[key] = low + unit * codes[key];
    }
    if (!this.count(head, query)) return row.fill(0);
    if (!this.allowed) return row;
    const bits = this.bitsOf(head, query);
    for (let key = 0; key < this.keys; key++) {
      if (!((this.allowed[bits + (key >> 3)] >> (7 - (key & 7))) & 1)) row[key] = 0;
    }
    return row;
  }

  /** Where the mask's bits of a row begin. */
  bitsOf(head, query) {
    return ((this.allowedPerHead ? head * this.paddedRows : 0) + query) * this.rowBytes;
  }

  column(head, key) {
    return Float32Array.from({length: this.rows}, (_, query) =>
      this.isAllowed(head, query, key) ? this.weight(head, query, key) : 0,
    );
  }

  /** What each key receives: in all, and divided by the queries that may see it. */
  received(head) {
    return this.remember(this.headCache, `received ${head}`, 24, () => {
      const total = new Float32Array(this.keys);
      const seers = new Uint32Array(this.keys);
      for (let query = 0; query < this.rows; query++) {
        const count = this.count(head, query);
        if (count < 2 && this.rows > 1) continue;
        const row = this.readRow(head, query);
        const bits = this.allowed ? this.bitsOf(head, query) : 0;
        for (let key = 0; key < this.keys; key++) {
          total[key] += row[key];
          seers[key] += this.allowed ? (this.allowed[bits + (key >> 3)] >> (7 - (key & 7))) & 1 : 1;
        }
      }
      return {total, mean: total.map((sum, key) => sum / Math.max(1, seers[key]))};
    });
  }

  /** The largest weight of rows with at least two keys. */
  largestWeight(head) {
    return this.remember(this.headCache, `largest ${head}`, 24, () => {
      let largest = 0;
      for (let query = 0; query < this.rows; query++) {
        if (this.count(head, query) < 2) continue;
        for (const weight of this.readRow(head, query)) if (weight > largest) largest = weight;
      }
      return largest || 1;
    });
  }

  /** Levels of all cells on a scale: `{data: Int16Array, rows, columns, stride}`. */
  levels(head, scale) {
    const key = `${head} ${scale.name} ${scale.high ?? scale.span}`;
    return this.remember(this.levelCache, key, 6, () => {
      const data = new Int16Array(this.rows * this.keys);
      const fill = scale.name === "log" && this.isSquareRoot ? this.fillLog : this.fillAny;
      fill.call(this, data, head, scale);
      return {data, rows: this.rows, columns: this.keys, stride: 1};
    });
  }

  /** One addition and one look-up a cell: log(weight) is log(row) + log(code). */
  fillLog(data, head, scale) {
    const top = scale.levels - 1;
    const ofCode = Float32Array.from({length: 256}, (_, code) =>
      code ? 2 * PER_OCTAVE * Math.log2(code / this.steps) : -1e9,
    );
    for (let query = 0; query < this.rows; query++) {
      const row = head * this.paddedRows + query;
      const count = this.count(head, query);
      const base = PER_OCTAVE * (Math.log2(this.largest[row] * count) - LOWEST) + 0.5;
      const codes = this.codes.subarray(row * this.paddedKeys);
      const start = query * this.keys;
      for (let key = 0; key < this.keys; key++) {
        const level = (base + ofCode[codes[key]]) | 0;
        data[start + key] = level > top ? top : level > 0 ? level : 0;
      }
      this.maskRow(data, head, query, start);
    }
  }

  fillAny(data, head, scale) {
    for (let query = 0; query < this.rows; query++) {
      const start = query * this.keys;
      const count = this.count(head, query);
      for (let key = 0; key < this.keys; key++) {
        const weight = this.weight(head, query, key);
        data[start + key] = scale.level ? scale.level(weight) : logLevel(weight * count, scale);
      }
      this.maskRow(data, head, query, start);
    }
  }

  maskRow(data, head, query, start) {
    if (!this.count(head, query)) data.fill(MASKED, start, start + this.keys);
    if (!this.allowed) return;
    const bits = this.bitsOf(head, query);
    for (let key = 0; key < this.keys; key++) {
      if (!((this.allowed[bits + (key >> 3)] >> (7 - (key & 7))) & 1)) data[start + key] = MASKED;
    }
  }

  remember(cache, key, most, make) {
    if (!cache.has(key)) {
      if (cache.size >= most) cache.delete(cache.keys().next().value);
      cache.set(key, make());
    }
    return cache.get(key);
  }
}

function logLevel(multiple, scale) {
  const level = Math.round(PER_OCTAVE * (Math.log2(multiple) - LOWEST));
  return level > 0 ? Math.min(level, scale.levels - 1) : 0;
}

/** Levels of B - A on a difference scale; both maps have one shape. */
export function differenceLevels(a, headA, b, headB, scale) {
  if (b.chosen) return differenceOfOverviews(a, headA, b, headB, scale);
  const data = new Int16Array(b.rows * b.keys);
  for (let query = 0; query < b.rows; query++) {
    const count = b.count(headB, query);
    const [before, after] = [a.readRow(headA, query), b.readRow(headB, query)];
    for (let key = 0; key < b.keys; key++) {
      const change = (after[key] - before[key]) * count;
      const isKnown = b.isAllowed(headB, query, key) && !Number.isNaN(change);
      data[query * b.keys + key] = isKnown ? scale.level(change) : MASKED;
    }
  }
  return {data, rows: b.rows, columns: b.keys, stride: 1};
}

/** Gate values, one for each position or channel. */
export class GateMap {
  constructor(record, layer) {
    const size = layer.shape.reduce((a, b) => a * b, 1);
    const codes = requireSize(record.arrays.codes, size);
    const [low, high] = requireSize(record.arrays.range, 2);
    this.values = Float32Array.from(codes, (code) => low + ((high - low) * code) / 65535);
    this.low = low;
    this.high = high;
    // Slices of volumes lie beside each other, with a hatched column between.
    const {shape} = layer;
    this.depth = shape.length > 2 ? shape.slice(0, -2).reduce((a, b) => a * b, 1) : 1;
    this.width = shape.at(-1);
    this.rows = shape.length > 1 ? shape.at(-2) : 1;
    this.columns = this.depth * this.width + this.depth - 1;
    this.heads = 1;
    this.bytes = 4 * size;
  }

  levels(scale) {
    return this.layOut(this.values, (value) => scale.level(value));
  }

  /** Levels on a plane, of values in their order. */
  layOut(values, levelOf) {
    const data = new Int16Array(this.rows * this.columns).fill(MASKED);
    values.forEach((value, index) => {
      const [row, column] = this.cellOf(index);
      data[row * this.columns + column] = levelOf(value);
    });
    return {data, rows: this.rows, columns: this.columns, stride: 1};
  }

  cellOf(index) {
    const slice = Math.floor(index / (this.rows * this.width));
    const inside = index % (this.rows * this.width);
    return [Math.floor(inside / this.width), slice * (this.width + 1) + (inside % this.width)];
  }

  /** The index of a cell; null between two slices. */
  indexAt(row, column) {
    const slice = Math.floor(column / (this.width + 1));
    const inside = column % (this.width + 1);
    return inside === this.width ? null : (slice * this.rows + row) * this.width + inside;
  }
}
