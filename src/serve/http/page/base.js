// What the wall and the page of a stream share: elements, addresses, texts.

export const $ = (id) => document.getElementById(id);
export const setText = (element, text) => {
  if (element.textContent !== text) element.textContent = text;
};
export const percent = (p) => `${Math.round(p * 100)} %`;
export const capital = (text) => text.charAt(0).toUpperCase() + text.slice(1);

// An address of the server. Relative to this file: a proxy may serve everything below a prefix.
export const url = (path) => new URL(`../${path}`, import.meta.url).href;

export function make(tag, className, text) {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
}

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#icon-${name}`);
  svg.setAttribute("aria-hidden", "true");
  svg.append(use);
  return svg;
}

// Seconds as m:ss or h:mm:ss.
export function duration(seconds) {
  const s = Math.max(0, Math.round(seconds));
  const two = (n) => String(n).padStart(2, "0");
  const h = Math.floor(s / 3600);
  const rest = `${h ? two(Math.floor(s / 60) % 60) : Math.floor(s / 60) % 60}:${two(s % 60)}`;
  return h ? `${h}:${rest}` : rest;
}

export const GAPS = {
  overload: "machine overloaded",
  "no-media": "no video and no audio arrived",
  compute: "models failed",
  "no-programme": "no programme",
  "not-decoded": "no key picture",
  "node-lost": "node lost",
};
export const SIGNALS = { bars: "colour bars", black: "black picture", freeze: "frozen picture", silence: "silence" };
export const signalText = (names) => names.map((name) => SIGNALS[name]).join(", ");
export const gapText = ({ reason, signal }) => (signal ? `${GAPS[reason]}: ${signalText(signal)}` : GAPS[reason]);

// Whether a key belongs to a form, a dialog or the browser, and not to the page.
export const isTaken = (event) => event.ctrlKey || event.metaKey || event.altKey || event.target.closest("select, input, canvas, dialog") !== null || document.querySelector("dialog[open]") !== null;

// The session has ended: loads the page again, which is the login. An open dialog keeps what was typed, and asks for the login itself.
export function sessionEnded() {
  if (document.querySelector("dialog[open]") === null) location.reload();
}

// Enters or leaves the full screen. Browsers refuse it without a key or a click.
export function toggleFullScreen() {
  if (document.fullscreenElement) document.exitFullscreen().catch(() => {});
  else document.documentElement.requestFullscreen?.().catch(() => {});
}

// The fill of time without a decision: diagonal lines in tiles of `size` pixels of the page, at every scale of `g`.
export function hatch(g, colour, scale, size = 6) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = Math.round(size * scale);
  const t = tile.getContext("2d");
  t.strokeStyle = colour;
  t.lineWidth = 1.2 * scale;
  for (const shift of [-tile.width, 0, tile.width]) {
    t.beginPath();
    t.moveTo(shift, tile.width);
    t.lineTo(shift + tile.width, 0);
    t.stroke();
  }
  const pattern = g.createPattern(tile, "repeat");
  pattern.setTransform(g.getTransform().inverse());
  return pattern;
}
