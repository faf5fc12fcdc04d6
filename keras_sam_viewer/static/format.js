// Numbers and tokens as people read them.

export function formatWeight(weight) {
  if (Number.isNaN(weight)) return "–";
  if (weight === 0) return "0";
  if (Math.abs(weight) >= 0.0005) return weight.toFixed(3);
  return weight.toExponential(1);
}

/** A multiple of the uniform weight: 34×, 2.3×, 0.91×. */
export function formatMultiple(multiple) {
  if (Number.isNaN(multiple)) return "–";
  if (multiple === 0) return "0×";
  if (multiple < 0.005) return "<0.01×";
  if (multiple < 0.995) return `${multiple.toFixed(2)}×`;
  if (multiple < 9.95) return `${multiple.toFixed(1)}×`;
  return `${Math.round(multiple)}×`;
}

export function formatPower(octave) {
  if (octave < 0) return octave === -1 ? "½×" : octave === -2 ? "¼×" : octave === -3 ? "⅛×" : `1/${2 ** -octave}×`;
  return `${2 ** octave}×`;
}

export function formatCount(number) {
  if (number >= 99.5) return String(Math.round(number));
  return number.toFixed(number >= 9.95 ? 1 : 2).replace(/\.?0+$/, "") || "0";
}

export function formatPercent(share) {
  const percent = 100 * share;
  return `${percent < 9.95 && percent > 0 ? percent.toFixed(1) : Math.round(percent)} %`;
}

export function plural(count, one, many = `${one}s`) {
  return `${count} ${count === 1 ? one : many}`;
}

const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff]/g;

/** A token in a label: line breaks, tabs and runs of spaces become visible. */
export function visibleToken(token) {
  if (token === "") return "∅";
  return token
    .replace(/\r\n?|\n/g, "⏎")
    .replace(/\t/g, "⇥")
    .replace(/^ +$|(?<=⏎) +| +$/g, (spaces) => (spaces.length > 1 ? `␣${spaces.length}` : "␣"))
    .replace(INVISIBLE, "\ufffd");
}

/** A token in running text: `[text, whether a space goes before it]`. */
export function runningToken(token, previous) {
  const clean = token.replace(INVISIBLE, "\ufffd");
  if (/^[Ġ▁]/.test(clean)) return [clean.slice(1) || " ", true];
  if (clean.startsWith("##")) return [clean.slice(2), false];
  const words = /^[\p{L}\p{N}_<[]/u.test(clean) && /[\p{L}\p{N}_,;:!?>\]=+]$/u.test(previous ?? "");
  const signs = /^[=+<>-]$/.test(clean) || /^[=+<>-]$/.test(previous ?? "");
  return [clean, previous !== undefined && (words || signs)];
}
