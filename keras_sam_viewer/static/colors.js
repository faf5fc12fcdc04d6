// Themes and colour ramps. Ramps are interpolated in OKLab, with monotone lightness.

export const THEMES = {
  light: {
    page: "#f5f7fa", card: "#ffffff", line: "#dfe4ea", text: "#14181f", soft: "#5d6673",
    faint: "#98a1ad", accent: "#d2560a", onAccent: "#ffffff", wash: "#fdeee2", pill: "#14181f",
    onPill: "#ffffff", hatch: "#d9dee5", bar: "#3a6fc4", other: "#b9c1cb", button: "#ffffff",
    grid: "#eef1f4", minus: "#b8490a", plus: "#2b5cae", shadow: "rgba(20, 30, 50, .16)",
  },
  dark: {
    page: "#0a0d12", card: "#11161d", line: "#29303b", text: "#eef2f7", soft: "#9aa5b4",
    faint: "#66707f", accent: "#ff9d42", onAccent: "#14181f", wash: "#33220f", pill: "#454e5c",
    onPill: "#ffffff", hatch: "#262d37", bar: "#3e8fd6", other: "#4b5563", button: "#1a212b",
    grid: "#1c232d", minus: "#ff9d42", plus: "#76b4f5", shadow: "rgba(0, 0, 0, .6)",
  },
};

const STOPS = [0, 0.16, 0.34, 0.52, 0.7, 0.86, 1];
const HUES = {
  light: ["#ffffff", "#e9eef6", "#b5d0ee", "#6ea5e0", "#3a6fc4", "#37338f", "#190b3d"],
  dark: ["#0e131c", "#1b2536", "#1d4673", "#1f7ab3", "#41b6c4", "#b4e2a8", "#fff7c9"],
};
const DIVERGING_STOPS = [0, 0.25, 0.5, 0.75, 1];
const DIVERGING = {
  light: ["#8a3200", "#e98b45", "#fbfaf8", "#6ea5e0", "#1f3f8f"],
  dark: ["#ffd0a0", "#c9651a", "#151a22", "#2f7fc4", "#bfe0ff"],
};

function hexToLab(hex) {
  const [r, g, b] = [1, 3, 5].map((at) => {
    const c = parseInt(hex.slice(at, at + 2), 16) / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  const l = Math.cbrt(0.4122214708 * r + 0.5363325363 * g + 0.0514459929 * b);
  const m = Math.cbrt(0.2119034982 * r + 0.6806995451 * g + 0.1073969566 * b);
  const s = Math.cbrt(0.0883024619 * r + 0.2817188376 * g + 0.6299787005 * b);
  return [
    0.2104542553 * l + 0.793617785 * m - 0.0040720468 * s,
    1.9779984951 * l - 2.428592205 * m + 0.4505937099 * s,
    0.0259040371 * l + 0.7827717662 * m - 0.808675766 * s,
  ];
}

function labToRgb([L, a, b]) {
  const l = (L + 0.3963377774 * a + 0.2158037573 * b) ** 3;
  const m = (L - 0.1055613458 * a - 0.0638541728 * b) ** 3;
  const s = (L - 0.0894841775 * a - 1.291485548 * b) ** 3;
  const linear = [
    4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
    -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
    -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
  ];
  return linear.map((c) => {
    const v = c <= 0.0031308 ? 12.92 * c : 1.055 * Math.max(c, 0) ** (1 / 2.4) - 0.055;
    return Math.round(255 * Math.min(1, Math.max(0, v)));
  });
}

const RAMP_SIZE = 1024;
const rampCache = new Map();

function makeRamp(stops, hues) {
  const labs = hues.map(hexToLab);
  const rgb = [];
  for (let i = 0; i < RAMP_SIZE; i++) {
    const t = i / (RAMP_SIZE - 1);
    let n = 0;
    while (n < stops.length - 2 && t > stops[n + 1]) n++;
    const u = (t - stops[n]) / (stops[n + 1] - stops[n]);
    rgb.push(labToRgb(labs[n].map((value, c) => value + u * (labs[n + 1][c] - value))));
  }
  return rgb;
}

/** The ramp of a theme as a list of `[r, g, b]`. */
export function ramp(theme, diverging = false) {
  const key = `${theme}${diverging}`;
  if (!rampCache.has(key)) {
    rampCache.set(
      key,
      diverging ? makeRamp(DIVERGING_STOPS, DIVERGING[theme]) : makeRamp(STOPS, HUES[theme]),
    );
  }
  return rampCache.get(key);
}

export function rampColor(theme, t, diverging = false) {
  const [r, g, b] = ramp(theme, diverging)[Math.round(clip01(t) * (RAMP_SIZE - 1))];
  return `rgb(${r},${g},${b})`;
}

/** Black or white, whichever is read better on the ramp's colour. */
export function textOnRamp(theme, t) {
  const [r, g, b] = ramp(theme)[Math.round(clip01(t) * (RAMP_SIZE - 1))];
  return 0.2126 * (r / 255) ** 2.2 + 0.7152 * (g / 255) ** 2.2 + 0.0722 * (b / 255) ** 2.2 > 0.22
    ? "#14181f" : "#ffffff";
}

export function clip01(t) {
  return t > 0 ? (t < 1 ? t : 1) : 0;
}
