// The record format: gzip, then "KSAM", a JSON header and aligned arrays.
// The other side of it is keras_sam_viewer/records.py.

export const INFLATED_LIMIT = 256 * 1024 * 1024;

const ARRAY_TYPES = {f4: Float32Array, u4: Uint32Array, u2: Uint16Array, u1: Uint8Array};

export class RecordError extends Error {}

/** Returns the bytes behind base64 text; bytes come back as they are. */
export function bytesOf(data) {
  if (typeof data !== "string") return data;
  let letters;
  try {
    letters = atob(data.trim());
  } catch {
    throw new RecordError("This record is damaged.");
  }
  const bytes = new Uint8Array(letters.length);
  for (let n = 0; n < letters.length; n++) bytes[n] = letters.charCodeAt(n);
  return bytes;
}

/** Returns the inflated bytes; bytes that are not compressed come back as they are. */
export async function inflate(bytes, limit = INFLATED_LIMIT) {
  if (bytes.length < 2) throw new RecordError("This record is empty.");
  if (bytes[0] !== 0x1f || bytes[1] !== 0x8b) return bytes;
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const reader = stream.getReader();
  const chunks = [];
  let size = 0;
  try {
    for (;;) {
      const {done, value} = await reader.read();
      if (done) break;
      size += value.length;
      if (size > limit) {
        reader.cancel().catch(() => {});
        throw new RecordError("This record is larger than 256 MiB and was not read.");
      }
      chunks.push(value);
    }
  } catch (error) {
    if (error instanceof RecordError) throw error;
    const short = /truncat|unexpected end/i.test(`${error.message} ${error.cause?.message}`);
    throw new RecordError(short ? "This record is cut short." : "This record is damaged.");
  }
  const whole = new Uint8Array(size);
  let offset = 0;
  for (const chunk of chunks) {
    whole.set(chunk, offset);
    offset += chunk.length;
  }
  return whole;
}

/** Returns `{header, arrays}`; each array is `{data, shape}`. */
export function parseRecord(bytes) {
  if (bytes.length < 8) throw new RecordError("This record is cut short.");
  if (String.fromCharCode(...bytes.subarray(0, 4)) !== "KSAM") {
    throw new RecordError("This is not a record of keras_sam.");
  }
  // Typed arrays need offsets that are multiples of four in their buffer.
  if (bytes.byteOffset % 4) bytes = bytes.slice();
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const length = view.getUint32(4, true);
  if (length % 4 || 8 + length > bytes.length) {
    throw new RecordError("This record is cut short.");
  }
  const header = parseJson(bytes.subarray(8, 8 + length));
  if (header.v !== 1) throw new RecordError(VERSION_SENTENCE);
  if (!Array.isArray(header.arrays)) throw new RecordError("This record is damaged.");
  const arrays = {};
  let offset = 8 + length;
  for (const {name, dtype, shape} of header.arrays) {
    const type = Object.hasOwn(ARRAY_TYPES, dtype) ? ARRAY_TYPES[dtype] : null;
    if (!type || !Array.isArray(shape) || !shape.every(isSize)) {
      throw new RecordError("This record is damaged.");
    }
    const count = shape.reduce((a, b) => a * b, 1);
    const end = offset + count * type.BYTES_PER_ELEMENT;
    if (end > bytes.length) throw new RecordError("This record is cut short.");
    arrays[String(name)] = {
      data: new type(bytes.buffer, bytes.byteOffset + offset, count),
      shape,
    };
    offset = Math.ceil(end / 4) * 4;
  }
  if (offset !== bytes.length) throw new RecordError("This record has a wrong length.");
  return {header, arrays};
}

/** Returns the parsed `meta`, checked as far as the page relies on it. */
export function parseMeta(bytes) {
  const meta = parseJson(bytes);
  if (meta.v !== 1) throw new RecordError(VERSION_SENTENCE);
  const lists = ["layers", "examples", "label_lists", "views", "pictures", "statistics"];
  const whole =
    lists.every((name) => Array.isArray(meta[name])) &&
    meta.views.length === meta.layers.length &&
    meta.examples.length > 0 &&
    meta.views.every((views) => Array.isArray(views) && views.length > 0) &&
    meta.layers.every((layer) => Array.isArray(layer.shape) && layer.shape.every(isSize));
  if (!whole) throw new RecordError("The description of this run is damaged.");
  return meta;
}

/** Splits `[u32 length | blob]...`; a last blob that is cut short is left out. */
export function splitBlobs(bytes) {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  const blobs = [];
  let offset = 0;
  while (offset + 4 <= bytes.length) {
    const end = offset + 4 + view.getUint32(offset, true);
    if (end > bytes.length) break;
    blobs.push(bytes.subarray(offset + 4, end));
    offset = end;
  }
  return blobs;
}

const VERSION_SENTENCE = "This record was written by a newer version of keras_sam.";

function parseJson(bytes) {
  try {
    const value = JSON.parse(new TextDecoder("utf-8", {fatal: true}).decode(bytes));
    if (value && typeof value === "object") return value;
  } catch {
    // A sentence follows.
  }
  throw new RecordError("This record is damaged.");
}

function isSize(number) {
  return Number.isInteger(number) && number >= 0 && number <= 2 ** 31;
}
