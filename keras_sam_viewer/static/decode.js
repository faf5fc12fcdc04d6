// Decoding in a worker, so that the page stays smooth; without one, in the page itself.
import {bytesOf, inflate, parseRecord, RecordError} from "./records.js";

/** Decodes a blob, which is bytes or base64 text. */
async function decodeRecord(data) {
  return parseRecord(await inflate(bytesOf(data)));
}

/** What runs inside the worker. */
export function serveDecoding(scope) {
  scope.onmessage = async ({data: {id, bytes}}) => {
    try {
      const record = await decodeRecord(bytes);
      const buffers = Object.values(record.arrays).map((array) => array.data.buffer);
      scope.postMessage({id, record}, [...new Set(buffers)]);
    } catch (error) {
      const sentence = error instanceof RecordError ? error.message : null;
      scope.postMessage({id, sentence: sentence ?? "This record is damaged."});
    }
  };
}

export class Decoder {
  constructor(startWorker) {
    this.waiting = new Map();
    this.next = 0;
    try {
      this.worker = startWorker();
    } catch {
      this.worker = null;
    }
    if (!this.worker) return;
    this.worker.onmessage = ({data: {id, record, sentence}}) => {
      const {resolve, reject} = this.waiting.get(id);
      this.waiting.delete(id);
      if (record) resolve(record);
      else reject(new RecordError(sentence));
    };
    this.worker.onerror = (event) => {
      event.preventDefault?.();
      this.worker = null;
      for (const {bytes, resolve} of this.waiting.values()) resolve(decodeRecord(bytes));
      this.waiting.clear();
    };
  }

  decode(bytes) {
    if (!this.worker) return decodeRecord(bytes);
    return new Promise((resolve, reject) => {
      const id = this.next++;
      this.waiting.set(id, {bytes, resolve, reject});
      this.worker.postMessage({id, bytes});
    });
  }
}
