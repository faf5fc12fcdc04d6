// From weights to integer levels, and from levels to colours.
//
// The default scale is log2(weight * allowed keys), bent so that 1x uniform always sits
// at 16 % of the ramp. Levels are 1/64 octaves above 1/8x. -1 stands for masked cells.
import {formatPower, formatWeight} from "./format.js";
import {clip01, ramp} from "./colors.js";

export const PER_OCTAVE = 64;
export const LOWEST = -3;
export const MASKED = -1;
const TOP_OCTAVE = 8;
const UNIFORM_AT = 0.16;
const LINEAR_LEVELS = 1023;

/** `log` for pairs: from 1/8x to the power of two above the number of keys. */
export function logScale(keys) {
  const high = Math.min(TOP_OCTAVE, Math.max(1, Math.ceil(Math.log2(Math.max(2, keys)))));
  const position = (octave) =>
    octave <= 0
      ? (UNIFORM_AT * (octave - LOWEST)) / -LOWEST
      : UNIFORM_AT + ((1 - UNIFORM_AT) * octave) / high;
  const octaves = [LOWEST, 0];
  const stride = high > 5 ? 2 : 1;
  for (let octave = high > 2 ? 2 : 1; octave <= high; octave += stride) octaves.push(octave);
  if (octaves.at(-1) !== high) octaves[octaves.length - 1] = high;
  return {
    name: "log",
    high,
    levels: PER_OCTAVE * (high - LOWEST) + 1,
    position: (level) => clip01(position(level / PER_OCTAVE + LOWEST)),
    at: (weight, count) => clip01(position(Math.log2(weight * count))),
    ticks: octaves.map((octave) => [clip01(position(octave)), formatPower(octave)]),
    title: "multiples of uniform, log",
  };
}

/** `linear`: from `low` to `high`, both written at the legend. */
export function linearScale(low, high, title) {
  const span = high - low || 1;
  return {
    name: "linear",
    low,
    span,
    levels: LINEAR_LEVELS + 1,
    position: (level) => level / LINEAR_LEVELS,
    at: (weight) => clip01((weight - low) / span),
    level: (weight) => Math.round(LINEAR_LEVELS * clip01((weight - low) / span)),
    ticks: [0, 0.5, 1].map((t) => [t, formatWeight(low + t * span)]),
    title,
  };
}

/** `difference`: the sign of B - A, and its multiple of uniform on the log scale. */
export function differenceScale(keys) {
  const scale = logScale(keys);
  const half = scale.levels - 1;
  const end = formatPower(scale.high);
  return {
    name: "difference",
    half,
    levels: 2 * half + 1,
    position: (level) => 0.5 + 0.5 * Math.sign(level - half) * scale.position(Math.abs(level - half)),
    level(change) {
      if (change < 0.125 && change > -0.125) return half; // below the scale's lowest octave
      const octave = Math.log2(Math.abs(change)) - LOWEST;
      const size = Math.min(half, Math.round(octave * PER_OCTAVE));
      return half + Math.sign(change) * size;
    },
    ticks: [[0, `−${end}`], [0.5, "0"], [1, `+${end}`]],
    title: "B − A",
    diverging: true,
  };
}

/** Colours by level as 32-bit ABGR pixels; the last entry, for masked cells, is clear. */
export function palette(scale, theme) {
  const colors = ramp(theme, scale.diverging);
  const pixels = new Uint32Array(scale.levels + 1);
  for (let level = 0; level < scale.levels; level++) {
    const [r, g, b] = colors[Math.round(scale.position(level) * (colors.length - 1))];
    pixels[level] = (255 << 24) | (b << 16) | (g << 8) | r;
  }
  return pixels;
}
