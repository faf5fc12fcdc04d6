// Reads blobs with the page's own modules and prints what they hold, for test_viewer_codec.
// node viewer_codec.mjs STATIC REQUESTS.json: a list of {file, layer, view} or {file}.
import {readFileSync} from "node:fs";
import {pathToFileURL} from "node:url";

const [folder, requests] = process.argv.slice(2);
const load = (name) => import(pathToFileURL(`${folder}/${name}`));
const {inflate, parseMeta, parseRecord} = await load("records.js");
const {readMap} = await load("maps.js");

const answers = [];
for (const {file, layer, view, isMeta} of JSON.parse(readFileSync(requests, "utf8"))) {
  try {
    const bytes = await inflate(new Uint8Array(readFileSync(file)));
    if (isMeta) {
      answers.push({meta: parseMeta(bytes)});
      continue;
    }
    const record = parseRecord(bytes);
    if (!layer) {
      const arrays = Object.entries(record.arrays).map(([name, {data, shape}]) => [name, shape, Array.from(data, (x) => (Number.isNaN(x) ? null : x))]);
      answers.push({header: record.header, arrays});
      continue;
    }
    const map = readMap(record, layer, view);
    if (map.values) {
      answers.push({values: Array.from(map.values)});
      continue;
    }
    const heads = [];
    for (let head = 0; head < map.heads; head++) {
      heads.push(Array.from({length: map.rows}, (_, query) => Array.from(map.row(head, query), (x) => (Number.isNaN(x) ? null : x))));
    }
    const allowed = Array.from({length: map.rows}, (_, query) => Array.from({length: map.keys}, (_, key) => map.isAllowed(0, query, key)));
    const counts = Array.from({length: map.rows}, (_, query) => map.count(0, query));
    answers.push({heads, allowed, counts, exact: map.chosen ? [...map.chosen.keys()] : null, received: Array.from(map.received(0).total)});
  } catch (error) {
    answers.push({error: error.message});
  }
}
console.log(JSON.stringify(answers));
