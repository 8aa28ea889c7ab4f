// The timeline: a lane for each stream, with its segments as a broad band and, where a second has room, the class of each second below.

import { $, duration, hatch, make, percent, setText } from "./base.js";
import { colourOf, titleOf } from "./colours.js";
import { pageOf } from "./past.js";
import { clock, day, moment } from "./times.js";

export const SPAN_MIN = 10_000;
export const SPAN_MAX = 8 * 86_400_000;
const BAND = 22;
const THIN = 6;
// The line over what is unexpected.
const MARK = 4;
const HEIGHT = BAND + THIN + 3;
// Distances of the marks of the axis, ms.
const TICKS = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400].map((s) => s * 1000);

export const CONTENTS = { unknown: "Not sure", "no-programme": "No programme", undecided: "No decision" };
export const nameOf = (segment) => (segment.class ? titleOf(segment.class) : CONTENTS[segment.content]);

export class Lanes {
  #streams = [];
  #segments = new Map();
  #seconds = new Map();
  #unexpected = [];
  #view = { from: 0, to: 1 };
  #class = "";
  #selected = null;
  #part = null;
  // The part that is being marked: {segment, from, to}.
  #marked = null;
  #rows = new Map();
  #pointers = new Map();
  #moved = false;

  // `tell` has view(from, to), select(segment, part).
  constructor(tell) {
    this.tell = tell;
    this.box = $("lanes-box");
    const { box } = this;
    box.addEventListener("wheel", (e) => this.#wheel(e), { passive: false });
    box.addEventListener("keydown", (e) => this.#key(e));
    box.addEventListener("pointerdown", (e) => this.#down(e));
    box.addEventListener("pointermove", (e) => this.#move(e));
    for (const end of ["pointerup", "pointercancel"]) box.addEventListener(end, (e) => this.#up(e));
    box.addEventListener("pointerleave", () => ($("tip").hidden = true));
    box.addEventListener("click", (e) => this.#click(e));
    new ResizeObserver(() => this.draw()).observe(box);
  }

  set view(view) {
    this.#view = view;
    this.draw();
  }

  set selected(segment) {
    this.#selected = segment;
    this.draw();
  }

  // The part {stream, from, to} of the selected segment.
  set part(part) {
    this.#part = part;
    this.draw();
  }

  // The streams with their segments, and when something unexpected was on air; `only` is the class that is looked for.
  show(streams, segments, only, unexpected) {
    this.#streams = streams;
    this.#unexpected = unexpected;
    this.#class = only;
    this.#segments = new Map(streams.map(({ id }) => [id, segments.filter(({ stream }) => stream === id)]));
    for (const stream of streams) if (!this.#rows.has(stream.id)) this.#rows.set(stream.id, this.#row(stream.id));
    const rows = streams.map((stream) => {
      const row = this.#rows.get(stream.id);
      setText(row.name, stream.settings?.label ?? stream.id);
      const page = pageOf(stream);
      if (page) row.name.href = page;
      else row.name.removeAttribute("href");
      return row.element;
    });
    $("lanes").replaceChildren(...rows);
    this.draw();
  }

  showSeconds(seconds) {
    this.#seconds = seconds;
    this.draw();
  }

  #row(id) {
    const element = make("li");
    const name = make("a", "name");
    const canvas = make("canvas");
    canvas.setAttribute("role", "img");
    canvas.dataset.stream = id;
    element.append(name, canvas);
    return { element, name, canvas };
  }

  // The canvas of the first lane is as wide as all.
  get #width() {
    return $("axis").clientWidth;
  }

  #at(x) {
    const { from, to } = this.#view;
    return from + ((x - $("axis").getBoundingClientRect().left) / this.#width) * (to - from);
  }

  // The view of `span` ms in which the time `at` stays where it is.
  #zoom(factor, at) {
    const { from, to } = this.#view;
    const span = Math.min(SPAN_MAX, Math.max(SPAN_MIN, (to - from) * factor));
    const share = (at - from) / (to - from);
    this.tell.view(at - share * span, at + (1 - share) * span);
  }

  zoom(factor) {
    this.#zoom(factor, (this.#view.from + this.#view.to) / 2);
  }

  pan(share) {
    const { from, to } = this.#view;
    this.tell.view(from + share * (to - from), to + share * (to - from));
  }

  #wheel(e) {
    const sideways = e.shiftKey ? e.deltaY : e.deltaX;
    // Lanes that do not fit are scrolled, except where the wheel zooms: over the axis, or with a key.
    const scrolls = this.box.scrollHeight > this.box.clientHeight + 1 && !e.ctrlKey && e.target !== $("axis");
    if (Math.abs(sideways) > Math.abs(e.shiftKey ? 0 : e.deltaY)) this.pan((sideways / this.#width) * 0.8);
    else if (scrolls) return;
    else this.#zoom(Math.exp(e.deltaY * 0.002), this.#at(e.clientX));
    e.preventDefault();
  }

  #key(e) {
    if (e.ctrlKey || e.metaKey || e.altKey) return;
    const then = {
      ArrowLeft: () => this.pan(-0.2),
      ArrowRight: () => this.pan(0.2),
      PageUp: () => this.pan(-0.9),
      PageDown: () => this.pan(0.9),
      "+": () => this.zoom(0.5),
      "=": () => this.zoom(0.5),
      "-": () => this.zoom(2),
      End: () => this.tell.now(),
    }[e.key];
    if (!then || e.target.tagName === "A") return;
    e.preventDefault();
    then();
  }

  #down(e) {
    if (e.target.tagName !== "CANVAS" || e.button !== 0) return;
    this.#pointers.set(e.pointerId, e.clientX);
    this.#moved = false;
    const segment = e.shiftKey ? this.#under(e) : null;
    if (segment) this.#mark(segment, this.#at(e.clientX), e);
  }

  // Marks a part of a segment, up to where the pointer is.
  #mark(segment, begin, e) {
    const at = this.#at(e.clientX);
    const within = (time) => Math.min(segment.to - 1, Math.max(segment.from, time));
    this.#marked = { segment, begin, from: within(Math.min(begin, at)), to: within(Math.max(begin, at)) };
    this.part = { stream: segment.stream, from: this.#marked.from, to: this.#marked.to };
  }

  #move(e) {
    if (!this.#pointers.has(e.pointerId)) {
      this.#point(e);
      return;
    }
    if (this.#marked) {
      this.box.setPointerCapture(e.pointerId);
      this.#mark(this.#marked.segment, this.#marked.begin, e);
      return;
    }
    const before = [...this.#pointers.values()];
    const last = this.#pointers.get(e.pointerId);
    if (!this.#moved && Math.abs(e.clientX - last) < 4 && before.length < 2) return;
    if (!this.#moved) this.box.setPointerCapture(e.pointerId);
    this.#moved = true;
    this.#pointers.set(e.pointerId, e.clientX);
    const now = [...this.#pointers.values()];
    if (now.length === 2) {
      const distance = ([a, b]) => Math.max(20, Math.abs(a - b));
      this.#zoom(distance(before) / distance(now), this.#at((now[0] + now[1]) / 2));
    } else {
      this.pan((last - e.clientX) / this.#width);
    }
  }

  #up(e) {
    this.#pointers.delete(e.pointerId);
    if (!this.#marked) return;
    const { segment, from, to } = this.#marked;
    this.#marked = null;
    // The click that follows is no choice of the whole segment.
    this.#moved = true;
    if (e.type === "pointerup") this.tell.select(segment, { from, to });
  }

  #click(e) {
    if (this.#moved) return;
    const segment = this.#under(e);
    if (segment) this.tell.select(segment);
  }

  #under(e) {
    const id = e.target.dataset?.stream;
    if (!id) return null;
    const at = this.#at(e.clientX);
    const pixel = (this.#view.to - this.#view.from) / this.#width;
    const near = (this.#segments.get(id) ?? []).filter(({ from, to }) => from - pixel <= at && at < to + pixel);
    return near.find(({ from, to }) => from <= at && at < to) ?? near[0] ?? null;
  }

  #point(e) {
    const tip = $("tip");
    const segment = this.#under(e);
    tip.hidden = segment === null;
    if (!segment) return;
    const title = make("b", "", `${nameOf(segment)}${segment.mean === null ? "" : ` ${percent(segment.mean)}`}`);
    const rest = make("span", "", `${moment(segment.from)} · ${duration((segment.to - segment.from) / 1000)}${segment.open ? " so far" : ""}`);
    const at = this.#at(e.clientX);
    const isUnexpected = this.#unexpectedIn(segment.stream, at, at + 1).length > 0;
    tip.replaceChildren(title, rest, ...this.#secondText(e), ...(isUnexpected ? [make("span", "", "Unexpected")] : []));
    const box = this.box.getBoundingClientRect();
    const row = e.target.getBoundingClientRect();
    const room = box.width - tip.offsetWidth;
    tip.style.left = `${Math.max(0, Math.min(room, e.clientX - box.left - tip.offsetWidth / 2))}px`;
    const above = row.top - box.top + this.box.scrollTop - tip.offsetHeight - 4;
    tip.style.top = `${above >= this.box.scrollTop ? above : row.bottom - box.top + this.box.scrollTop + 4}px`;
  }

  #secondText(e) {
    const seconds = this.#seconds.get(e.target.dataset.stream);
    if (!seconds) return [];
    const at = this.#at(e.clientX);
    const i = Math.floor((at - seconds.from_ms) / (seconds.step_s * 1000));
    const label = seconds.classes[seconds.class[i]];
    const text = label ? `${titleOf(label)} ${percent(seconds.probability[i])}${seconds.unknown[i] ? ", not sure" : ""}` : seconds.gaps[i] ? CONTENTS.undecided : null;
    return text ? [make("span", "", `${clock(at)}: ${text}`)] : [];
  }

  draw() {
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const colours = { sunk: colour("--sunk"), quiet: colour("--quiet"), ink: colour("--ink"), card: colour("--card"), line: colour("--line"), warn: colour("--warn") };
    const ticks = this.#axis(colours);
    for (const { id } of this.#streams) this.#lane(id, colours, ticks);
  }

  #axis(colours) {
    const canvas = $("axis");
    const { g, width, height } = prepare(canvas);
    const { from, to } = this.#view;
    const x = (at) => ((at - from) / (to - from)) * width;
    const room = to - from < 600_000 ? 74 : 58;
    const step = TICKS.find((step) => (step / (to - from)) * width >= room) ?? TICKS.at(-1);
    // Marks are at whole steps of the zone's day: its offset is not a whole number of steps.
    const offset = midnight(from) % step;
    const ticks = [];
    g.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    g.textBaseline = "alphabetic";
    g.fillStyle = colours.quiet;
    let end = -Infinity;
    for (let at = Math.ceil((from - offset) / step) * step + offset; at < to; at += step) {
      const text = step >= 86_400_000 ? day(at).replace(/ \d+$/, "") : step < 60_000 ? clock(at) : clock(at).slice(0, 5);
      const isDay = clock(at) === "00:00:00";
      const label = isDay && step < 86_400_000 ? day(at).replace(/ \d+$/, "") : text;
      const wide = g.measureText(label).width;
      const left = Math.max(0, Math.min(width - wide, x(at) - wide / 2));
      ticks.push({ at, isDay });
      if (left < end + 8) continue;
      g.fillStyle = isDay ? colours.ink : colours.quiet;
      g.fillText(label, left, height - 6);
      end = left + wide;
    }
    return ticks;
  }

  #lane(id, colours, ticks) {
    const { canvas } = this.#rows.get(id);
    const { g, width, scale } = prepare(canvas);
    if (!width) return;
    const { from, to } = this.#view;
    const x = (at) => ((at - from) / (to - from)) * width;
    const box = (left, right, top, height) => g.fillRect(Math.round(left * 2) / 2, top, Math.max(1, Math.round((right - left) * 2) / 2), height);
    g.fillStyle = colours.sunk;
    g.fillRect(0, 0, width, HEIGHT);
    const hatching = hatch(g, colours.quiet, scale);
    const sums = new Map();
    for (const segment of this.#segments.get(id) ?? []) {
      if (segment.to < from || segment.from > to) continue;
      const [left, right] = [x(segment.from), x(segment.to)];
      const isDim = this.#class !== "" && segment.class !== this.#class;
      g.globalAlpha = isDim ? 0.16 : segment.content === "class" ? 1 : 0.55;
      g.fillStyle = segment.class ? colourOf(segment.class).fill : segment.content === "unknown" ? colours.quiet : hatching;
      if (segment.content === "unknown") box(left, right, BAND / 2 - 2, 4);
      else box(left, right, 0, BAND);
      g.globalAlpha = 1;
      // Neighbours of one class stay apart.
      if (segment.class && right - left > 4) {
        g.fillStyle = colours.card;
        g.fillRect(Math.round(right) - 1, 0, 1, BAND);
      }
      if (segment.class && right - left > 46 && !isDim) label(g, titleOf(segment.class), colourOf(segment.class).ink, Math.max(0, left), Math.min(width, right));
      const name = nameOf(segment);
      sums.set(name, (sums.get(name) ?? 0) + (Math.min(to, segment.to) - Math.max(from, segment.from)) / 1000);
    }
    this.#thin(g, id, x, colours, hatching);
    for (const span of this.#unexpectedIn(id, from, to)) {
      // Two colours, because a class may have either.
      g.fillStyle = colours.card;
      box(x(span.from), x(span.to), 0, MARK + 1);
      g.fillStyle = colours.warn;
      box(x(span.from), x(span.to), 0, MARK);
      sums.set("Unexpected", (sums.get("Unexpected") ?? 0) + (Math.min(to, span.to) - Math.max(from, span.from)) / 1000);
    }
    g.fillStyle = colours.ink;
    for (const { at, isDay } of ticks) {
      g.globalAlpha = isDay ? 0.45 : 0.12;
      g.fillRect(Math.round(x(at)), 0, 1, HEIGHT);
    }
    g.globalAlpha = 1;
    const s = this.#selected;
    if (s && s.stream === id && s.to > from && s.from < to) {
      g.strokeStyle = colours.ink;
      g.lineWidth = 2;
      g.strokeRect(x(s.from) - 1, 1, Math.max(4, x(s.to) - x(s.from) + 2), BAND - 2);
    }
    const part = this.#part;
    if (part && part.stream === id) {
      g.fillStyle = colours.ink;
      g.globalAlpha = 0.35;
      box(x(part.from), x(part.to), 0, HEIGHT);
      g.globalAlpha = 1;
    }
    const words = [...sums].sort((a, b) => b[1] - a[1]).map(([name, seconds]) => `${name} ${duration(seconds)}`);
    canvas.setAttribute("aria-label", words.join(", ") || "No records of this time");
  }

  // The times at which something unexpected was on air.
  #unexpectedIn(id, from, to) {
    return this.#unexpected.filter((span) => span.stream === id && span.to > from && span.from < to);
  }

  // The class of each second.
  #thin(g, id, x, colours, hatching) {
    const seconds = this.#seconds.get(id);
    if (!seconds) return;
    const at = (i) => seconds.from_ms + i * seconds.step_s * 1000;
    const kind = (i) => (seconds.class[i] === null ? (seconds.gaps[i] ? "gap" : "") : `${seconds.class[i]} ${seconds.unknown[i] > 0}`);
    const count = seconds.class.length;
    // Seconds in a row with the same class are one rectangle, without seams at fractional pixels.
    for (let i = 0, end; i < count; i = end) {
      for (end = i + 1; end < count && kind(end) === kind(i); ) end++;
      if (kind(i) === "" || at(end) < this.#view.from || at(i) > this.#view.to) continue;
      const index = seconds.class[i];
      g.fillStyle = index === null ? hatching : colourOf(seconds.classes[index]).fill;
      g.globalAlpha = index !== null && seconds.unknown[i] ? 0.4 : 1;
      const left = Math.round(x(at(i)) * 2) / 2;
      g.fillRect(left, BAND + 3, Math.max(1, Math.round(x(at(end)) * 2) / 2 - left), THIN);
    }
    g.globalAlpha = 1;
  }
}

// The begin of the day of a time in the zone that is shown, as ms.
function midnight(at) {
  const [h, m, s] = clock(at).split(":").map(Number);
  return Math.floor(at / 1000) * 1000 - ((h * 60 + m) * 60 + s) * 1000;
}

function prepare(canvas) {
  const [width, height] = [canvas.clientWidth, canvas.clientHeight];
  const scale = devicePixelRatio || 1;
  const [w, h] = [Math.round(width * scale), Math.round(height * scale)];
  if (canvas.width !== w || canvas.height !== h) [canvas.width, canvas.height] = [w, h];
  const g = canvas.getContext("2d");
  g.setTransform(scale, 0, 0, scale, 0, 0);
  g.clearRect(0, 0, width, height);
  return { g, width, height, scale };
}

function label(g, text, ink, left, right) {
  g.save();
  g.beginPath();
  g.rect(left, 0, right - left - 3, BAND);
  g.clip();
  g.font = `600 11px ${getComputedStyle(document.body).fontFamily}`;
  g.textBaseline = "middle";
  g.fillStyle = ink;
  if (g.measureText(text).width < right - left - 10) g.fillText(text, left + 5, BAND / 2 + 0.5);
  g.restore();
}
