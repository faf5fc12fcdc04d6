// What was read: runs, their statistics at once, maps when they are asked for.
import {Decoder} from "./decode.js";
import {plural} from "./format.js";
import {bytesOf, inflate, parseMeta, RecordError} from "./records.js";
import {readMap} from "./maps.js";

const IN_FLIGHT = 4;
const AHEAD = 2; // of these, what nobody waits for
const CACHED_BYTES = 300e6;

export class Store {
  constructor(source, onChange) {
    this.source = source;
    this.onChange = onChange;
    this.decoder = new Decoder(() => source.startWorker());
    this.names = [];
    this.steps = new Map();
    this.runs = new Map(); // name -> {name, meta, steps, stats} or {sentence}
    this.maps = new Map(); // key -> a map, or {sentence}
    this.wanted = []; // [key, arguments], the next one first
    this.flying = new Set();
  }

  /** Reads the list of runs; returns whether it changed. */
  async refresh() {
    const {runs} = await this.source.runs();
    const before = JSON.stringify([...this.steps]);
    this.names = runs.map((run) => run.name);
    this.steps = new Map(runs.map((run) => [run.name, run.steps]));
    return JSON.stringify([...this.steps]) !== before;
  }

  /** Loads description and statistics of a run, or the sentence that says why not. */
  async open(name, again = false) {
    if (this.runs.has(name) && !again) return this.runs.get(name);
    let run;
    try {
      if (!this.names.includes(name)) throw new RecordError(`There is no run “${name}” here.`);
      const [meta, blobs] = await Promise.all([this.source.meta(name), this.source.stats(name)]);
      run = {name, meta: parseMeta(await inflate(bytesOf(meta))), stats: new Map(), damaged: []};
      const results = await Promise.allSettled(blobs.map((blob) => this.decoder.decode(blob)));
      for (const result of results) {
        try {
          if (result.status === "rejected") throw result.reason;
          const stats = readStats(result.value, run.meta);
          run.stats.set(stats.step, stats);
        } catch (error) {
          run.damaged.push(sentenceOf(error));
        }
      }
      run.steps = [...run.stats.keys()].sort((a, b) => a - b);
      if (!run.steps.length) {
        throw new RecordError(run.damaged[0] ?? "Nothing was logged in this run so far.");
      }
    } catch (error) {
      run = {name, sentence: sentenceOf(error)};
    }
    this.runs.set(name, run);
    return run;
  }

  /** A map, `{sentence}`, or null while it is on its way. */
  map(run, layer, step, example, isUrgent = true) {
    const key = JSON.stringify([run, layer, step, example]);
    if (this.maps.has(key)) {
      const map = this.maps.get(key);
      this.maps.delete(key);
      this.maps.set(key, map); // the one used last comes last
      return map;
    }
    if (!this.flying.has(key)) {
      this.wanted = this.wanted.filter(([other]) => other !== key);
      const entry = [key, [run, layer, step, example], isUrgent];
      if (isUrgent) this.wanted.unshift(entry);
      else this.wanted.push(entry);
      this.pump();
    }
    return null;
  }

  has(run, layer, step, example) {
    return this.maps.has(JSON.stringify([run, layer, step, example]));
  }

  /** Forgets what was asked for and has not begun. */
  drop() {
    this.wanted = [];
  }

  pump() {
    while (this.wanted.length && this.flying.size < (this.wanted[0][2] ? IN_FLIGHT : AHEAD)) {
      const [key, [name, layer, step, example]] = this.wanted.shift();
      this.flying.add(key);
      this.load(name, layer, step, example)
        .catch((error) => ({sentence: sentenceOf(error), bytes: 0}))
        .then((map) => {
          this.flying.delete(key);
          this.maps.set(key, map);
          this.evict();
          this.pump();
          this.onChange({run: name, layer, step, example});
        });
    }
  }

  async load(name, layer, step, example) {
    const run = this.runs.get(name);
    const view = run.meta.views[layer][example];
    if (!view) {
      throw new RecordError(`This layer has ${plural(run.meta.views[layer].length, "example")}, fewer than others have.`);
    }
    const bytes = await this.source.map(name, layer, step, example);
    const record = await this.decoder.decode(bytes);
    return readMap(record, run.meta.layers[layer], view);
  }

  evict() {
    let bytes = 0;
    for (const map of this.maps.values()) bytes += map.bytes ?? 0;
    for (const [key, map] of this.maps) {
      if (bytes <= CACHED_BYTES || this.maps.size < 4) break;
      bytes -= map.bytes ?? 0;
      this.maps.delete(key);
    }
  }

  /** Forgets failures, so that a reload tries again. */
  forgetFailures() {
    for (const [key, map] of this.maps) if (map.sentence) this.maps.delete(key);
  }
}

function readStats({header, arrays}, meta) {
  const {data, shape} = arrays.statistics ?? {};
  const fits =
    data &&
    shape.length === 4 &&
    shape[0] === meta.layers.length &&
    shape[3] === meta.statistics.length &&
    Number.isInteger(header.step);
  if (!fits) throw new RecordError("The statistics of a step do not fit the run.");
  const [, examples, heads, names] = shape;
  return {
    step: header.step,
    scalars: header.scalars ?? {},
    arrays,
    value(layer, example, head, name) {
      const index = meta.statistics.indexOf(name);
      if (index < 0 || head >= heads || example >= examples) return NaN;
      return data[((layer * examples + example) * heads + head) * names + index];
    },
    /** `{data, rows, columns}` of one head's thumbnail, in codes. */
    thumbnail(layer, example, head) {
      const array = arrays[`thumbnail/${layer}`];
      if (!array || array.shape.length !== 4) return null;
      const [, count, rows, columns] = array.shape;
      const start = (example * count + head) * rows * columns;
      if (start + rows * columns > array.data.length) return null;
      return {data: array.data.subarray(start, start + rows * columns), rows, columns};
    },
    range(layer, example, head) {
      const array = arrays[`range/${layer}`];
      if (!array) return [0, 1];
      const start = 2 * (example * array.shape[1] + head);
      return [array.data[start], array.data[start + 1]];
    },
  };
}

export function sentenceOf(error) {
  if (error instanceof RecordError) return error.message;
  return error?.sentence ?? "The data could not be read from here.";
}
