// Colours and names of classes. A class has the same colour on every page of every stream, in both themes.
//
// 13 hues in two lightness tiers, evenly spread in OKLCH (B. Ottosson, "A perceptual color space for image processing",
// 2020), give 26 slots. The study's classes have fixed ones: the sports most often on air in the first tier, all of
// different hues, and easily confused sports far apart. Classes of other packs take the free slots, then share slots, in the
// order of the pack. `other` is gray.

const FIRST = [
  "formula1", "basketball", "athletics", "bowling", "soccer", "golf", "tennis", "icehockey", "americanfootball",
  "volleyball", "badminton", "baseball", "boxing",
];
const SECOND = [
  "wrestling", "handball", "cycling", null, "rugby", "cricket", "fieldhockey", "swimming", "skiing", "football",
  "lacrosse", "gymnastics", "tabletennis",
];
const HUES = FIRST.length;
const FIRST_HUE = 28;
// Lightness and chroma per tier: at least 3:1 against the card and 4.5:1 against the text on it, in either theme.
const TIERS = { light: [[0.645, 0.155], [0.5, 0.145]], dark: [[0.79, 0.135], [0.635, 0.15]] };
const GRAY = { light: [0.62, 0.012], dark: [0.66, 0.012] };

// Luminance at which near-black and white are equally readable.
const DARK_INK_ABOVE = 0.189;

const titles = new Map();
const slots = new Map([...FIRST, ...SECOND].map((id, i) => [id, i]));
const cache = new Map();
const darkQuery = matchMedia("(prefers-color-scheme: dark)");

// Registers the classes of the pack: [{id, title}].
export function learnClasses(classes) {
  for (const { id, title } of classes) titles.set(id, title);
  let free = HUES + SECOND.indexOf(null);
  for (const { id } of classes) {
    if (id !== "other" && !slots.has(id)) slots.set(id, free++ % (2 * HUES));
  }
}

export const titleOf = (id) => titles.get(id) ?? id;
export const isDark = () => darkQuery.matches;
export const onThemeChange = (then) => darkQuery.addEventListener("change", then);

// {fill, ink}: the class's colour and a readable text colour on it. `theme` defaults to that of the page.
export function colourOf(id, theme = isDark() ? "dark" : "light") {
  const key = `${theme} ${id}`;
  if (!cache.has(key)) {
    const slot = slots.get(id);
    const [lightness, chroma] = slot === undefined ? GRAY[theme] : TIERS[theme][slot < HUES ? 0 : 1];
    const hue = slot === undefined ? 250 : FIRST_HUE + ((slot % HUES) * 360) / HUES;
    const rgb = fromOklch(lightness, chroma, hue);
    const hex = "#" + rgb.map((v) => Math.round(v * 255).toString(16).padStart(2, "0")).join("");
    cache.set(key, { fill: hex, ink: luminance(rgb) > DARK_INK_ABOVE ? "#0b0e12" : "#ffffff" });
  }
  return cache.get(key);
}

// Sets a class's colours on an element.
export function paint(element, id, theme) {
  const { fill, ink } = colourOf(id, theme);
  element.style.setProperty("--class", fill);
  element.style.setProperty("--on-class", ink);
}

function luminance(rgb) {
  const [r, g, b] = rgb.map((v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
  return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}

// OKLCH to sRGB 0..1, with chroma reduced until the colour is in gamut.
function fromOklch(lightness, chroma, hue) {
  for (let c = chroma; ; c -= 0.005) {
    const a = c * Math.cos((hue * Math.PI) / 180);
    const b = c * Math.sin((hue * Math.PI) / 180);
    const l = (lightness + 0.3963377774 * a + 0.2158037573 * b) ** 3;
    const m = (lightness - 0.1055613458 * a - 0.0638541728 * b) ** 3;
    const s = (lightness - 0.0894841775 * a - 1.291485548 * b) ** 3;
    const linear = [
      4.0767416621 * l - 3.3077115913 * m + 0.2309699292 * s,
      -1.2684380046 * l + 2.6097574011 * m - 0.3413193965 * s,
      -0.0041960863 * l - 0.7034186147 * m + 1.707614701 * s,
    ];
    if (c <= 0 || linear.every((v) => v >= 0 && v <= 1)) {
      return linear.map((v) => {
        const x = Math.min(1, Math.max(0, v));
        return x <= 0.0031308 ? 12.92 * x : 1.055 * x ** (1 / 2.4) - 0.055;
      });
    }
  }
}
