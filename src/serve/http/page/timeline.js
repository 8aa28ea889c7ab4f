// The timeline of the last ten minutes: the estimate as a broad band, each second's own class as a thin band below it, gaps
// hatched, onsets and offsets as marks above.

import { GAPS, duration, hatch, percent } from "./base.js";
import { colourOf, titleOf } from "./colours.js";
import { VIEWS } from "./panels.js";
import { moment } from "./times.js";

const SPAN = 600;
const MARKS = 13;
const BAND = 34;
const THIN = 7;
const BREAK = 2;

export class Timeline {
  #entries = [];
  #events = [];
  #live = true;
  #moving = true;
  #cursor = null;
  // The first and the last second of the selection, and what is called with it.
  #range = null;
  #selected = null;
  #now = () => Date.now();

  // `canvas`, `tip` and `legend` are elements; `now` is the server's clock in ms.
  constructor(canvas, tip, legend, now) {
    this.canvas = canvas;
    this.tip = tip;
    this.legend = legend;
    this.#now = now;
    new ResizeObserver(() => this.draw()).observe(canvas);
    canvas.addEventListener("pointermove", (e) => {
      this.#point(e.offsetX);
      if (e.buttons & 1) this.#extend(false);
    });
    canvas.addEventListener("pointerdown", (e) => {
      this.#point(e.offsetX);
      if (e.button === 0) this.#begin();
    });
    canvas.addEventListener("pointerup", () => this.#tell());
    canvas.addEventListener("pointerleave", () => this.#leave());
    canvas.addEventListener("blur", () => this.#leave());
    canvas.addEventListener("keydown", (e) => this.#key(e));
  }

  // Lets the viewer select seconds, with the pointer or with Shift, the arrows and Enter. `selected` gets them in order.
  set selected(selected) {
    this.#selected = selected;
  }

  // Selects the last `count` seconds of the last run.
  selectLast(count) {
    const last = this.#entries.at(-1);
    if (!last) return;
    const from = this.#entries.slice(-count).find((e) => e.run === last.run && e.index > last.index - count);
    this.#range = [from, last];
    this.#tell();
  }

  #begin() {
    if (!this.#selected || !this.#cursor) return;
    this.#range = [this.#cursor, this.#cursor];
    this.draw();
  }

  // Extends the selection to the cursor, within a run.
  #extend(tells) {
    if (!this.#range || this.#cursor?.run !== this.#range[0].run) return;
    this.#range = [this.#range[0], this.#cursor];
    this.draw();
    if (tells) this.#tell();
  }

  #tell() {
    if (!this.#range) return;
    const [from, to] = this.#range.map(({ index }) => index).sort((a, b) => a - b);
    this.draw();
    this.#selected(this.#entries.filter(({ run, index }) => run === this.#range[0].run && index >= from && index <= to));
  }

  reset(history, events, pace) {
    this.#entries = [];
    this.#range = null;
    this.#live = pace === "live";
    this.#events = [...events];
    this.#leave();
    for (const entry of history) this.#append(entry);
    this.#describe();
    this.draw();
  }

  add(entry) {
    this.#append(entry);
    const from = this.#edge() - SPAN;
    while (this.#entries.length && this.#entries[0].at < from - 1) this.#entries.shift();
    this.#describe();
    this.draw();
  }

  addEvent(event) {
    this.#events.push(event);
    if (this.#events.length > 200) this.#events.shift();
  }

  recolour() {
    this.#describe();
    this.draw();
  }

  // Whether the timeline moves without new seconds: not if the stream has ended or has no wall time.
  set moving(moving) {
    this.#moving = moving;
  }

  // Seconds of a run are placed by their index. A new run begins after the elapsed time.
  #append(entry) {
    const last = this.#entries.at(-1);
    let at = 0;
    if (last) {
      const step = last.run === entry.run ? entry.index - last.index : this.#live ? Math.round((entry.at_ms - last.at_ms) / 1000) : 1;
      at = last.at + Math.max(1, step);
    }
    this.#entries.push({ ...entry, at });
  }

  #edge() {
    const last = this.#entries.at(-1);
    if (!last) return 0;
    const silent = (this.#now() - last.at_ms) / 1000 - 3;
    return last.at + 1 + (this.#live && this.#moving ? Math.max(0, Math.floor(silent)) : 0);
  }

  draw() {
    const { canvas } = this;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    if (!width) return;
    const scale = devicePixelRatio || 1;
    if (canvas.width !== Math.round(width * scale) || canvas.height !== Math.round(height * scale)) {
      canvas.width = Math.round(width * scale);
      canvas.height = Math.round(height * scale);
    }
    const g = canvas.getContext("2d");
    g.setTransform(scale, 0, 0, scale, 0, 0);
    g.clearRect(0, 0, width, height);
    const style = getComputedStyle(document.documentElement);
    const colour = (name) => style.getPropertyValue(name).trim();
    const [sunk, quiet, ink] = [colour("--sunk"), colour("--quiet"), colour("--ink")];
    const from = this.#edge() - SPAN;
    const x = (at) => ((at - from) / SPAN) * width;

    g.save();
    g.beginPath();
    g.roundRect(0, MARKS, width, BAND, 5);
    g.roundRect(0, MARKS + BAND + BREAK, width, THIN, 2);
    g.clip();
    g.fillStyle = sunk;
    g.fillRect(0, MARKS, width, BAND + BREAK + THIN);
    this.#band(g, x, MARKS, BAND, (e) => (e.reason || e.window_unknown ? null : e.window_label));
    this.#band(g, x, MARKS + BAND + BREAK, THIN, (e) => e.label);
    this.#gaps(g, x, quiet, scale);
    g.restore();

    this.#axis(g, width, height, quiet);
    this.#marks(g, x);
    if (this.#range !== null) {
      const [left, right] = this.#range.map(({ at }) => at).sort((a, b) => a - b);
      g.strokeStyle = ink;
      g.lineWidth = 2;
      g.strokeRect(x(left) - 1, MARKS - 2, Math.max(3, x(right + 1) - x(left) + 2), BAND + BREAK + THIN + 4);
    }
    if (this.#cursor !== null) {
      const at = x(this.#cursor.at + 0.5);
      g.fillStyle = ink;
      g.fillRect(Math.round(at) - 1, MARKS - 3, 2, BAND + BREAK + THIN + 6);
    }
  }

  // Adjacent seconds of a class are one rectangle, without seams at fractional pixels.
  #band(g, x, top, height, labelOf) {
    let start = null;
    const flush = (end) => {
      if (start) {
        g.fillStyle = colourOf(start.label).fill;
        const [left, right] = [Math.round(x(start.at) * 2) / 2, Math.round(x(end) * 2) / 2];
        g.fillRect(left, top, Math.max(0.5, right - left), height);
      }
    };
    let end = 0;
    for (const entry of this.#entries) {
      const label = labelOf(entry);
      if (start && (label !== start.label || entry.at !== end)) {
        flush(end);
        start = null;
      }
      if (label && !start) start = { label, at: entry.at };
      end = entry.at + 1;
    }
    flush(end);
  }

  #gaps(g, x, quiet, scale) {
    const gaps = this.#entries.filter((e) => e.reason);
    if (!gaps.length) return;
    g.fillStyle = hatch(g, quiet, scale);
    // A single second is a pixel or two wide. It is widened to show the hatching.
    for (const e of gaps) g.fillRect(x(e.at), MARKS, Math.max(2, x(e.at + 1) - x(e.at)), BAND + BREAK + THIN);
  }

  #axis(g, width, height, quiet) {
    g.fillStyle = quiet;
    g.font = `11px ${getComputedStyle(document.body).fontFamily}`;
    g.textBaseline = "alphabetic";
    const step = width < 560 ? 2 : 1;
    for (let minute = 0; minute <= 10; minute += step) {
      const at = width * (1 - minute / 10);
      g.textAlign = minute === 0 ? "right" : minute === 10 ? "left" : "center";
      const text = minute === 0 ? (this.#live && this.#moving ? "now" : "end") : `−${minute} min`;
      g.fillText(text, at, height - 3);
      if (minute > 0 && minute < 10) g.fillRect(Math.round(at), MARKS + BAND + BREAK + THIN + 1, 1, 4);
    }
  }

  #marks(g, x) {
    const places = new Map(this.#entries.map((e) => [`${e.run}:${e.index}`, e.at]));
    for (const event of this.#events) {
      const place = places.get(`${event.run}:${event.index}`);
      if (place === undefined) continue;
      const at = x(place);
      g.beginPath();
      g.moveTo(at - 4.5, 2);
      g.lineTo(at + 4.5, 2);
      g.lineTo(at, 10);
      g.closePath();
      g.fillStyle = g.strokeStyle = colourOf(event.class).fill;
      g.lineWidth = 1.4;
      if (event.kind === "onset") g.fill();
      g.stroke();
    }
  }

  // The accessible description and the legend.
  #describe() {
    const seconds = new Map();
    let gaps = 0;
    for (const e of this.#entries) {
      if (e.reason) gaps++;
      else if (e.window_label) seconds.set(e.window_label, (seconds.get(e.window_label) ?? 0) + 1);
    }
    const seen = [...seconds].sort((a, b) => b[1] - a[1]);
    const rows = seen.map(([id, count]) => legendRow(titleOf(id), count, (dot) => dot.style.setProperty("--class", colourOf(id).fill)));
    if (gaps) rows.push(legendRow("no decision", gaps, (dot) => dot.classList.add("gap")));
    this.legend.replaceChildren(...rows);
    const words = seen.map(([id, count]) => `${titleOf(id)} ${duration(count)}`);
    if (gaps) words.push(`no decision ${duration(gaps)}`);
    this.canvas.setAttribute("aria-label", `Classes of the last ten minutes: ${words.join(", ") || "none yet"}`);
  }

  #point(px) {
    const at = Math.floor(this.#edge() - SPAN + (px / this.canvas.clientWidth) * SPAN);
    this.#select(this.#entries.find((e) => e.at === at) ?? null);
  }

  #key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1, PageUp: -30, PageDown: 30 }[event.key];
    if (event.key === "Escape") return this.#leave();
    if (event.key === "Enter") {
      this.#begin();
      return this.#tell();
    }
    if (step === undefined || !this.#entries.length) return;
    event.preventDefault();
    const index = this.#cursor ? this.#entries.indexOf(this.#cursor) : this.#entries.length - 1;
    const next = Math.min(this.#entries.length - 1, Math.max(0, index + (this.#cursor ? step : 0)));
    if (event.shiftKey && this.#range === null) this.#begin();
    this.#select(this.#entries[next]);
    if (event.shiftKey) this.#extend(true);
  }

  #leave() {
    this.#select(null);
  }

  #select(entry) {
    this.#cursor = entry;
    this.tip.hidden = entry === null;
    if (entry) {
      this.tip.replaceChildren(...tipRows(entry, this.#live));
      const x = ((entry.at + 0.5 - this.#edge() + SPAN) / SPAN) * this.canvas.clientWidth;
      const room = this.canvas.clientWidth - this.tip.offsetWidth;
      this.tip.style.left = `${Math.max(0, Math.min(room, x - this.tip.offsetWidth / 2))}px`;
    }
    this.draw();
  }
}

function legendRow(name, seconds, mark) {
  const row = document.createElement("li");
  const dot = document.createElement("i");
  mark(dot);
  const time = document.createElement("span");
  time.textContent = duration(seconds);
  row.append(dot, name, time);
  return row;
}

function tipRows(entry, live) {
  const title = document.createElement("b");
  const time = live ? moment(entry.at_ms) : duration(entry.index);
  const known = entry.window_label && !entry.reason;
  title.textContent = known ? `${time}  ${entry.window_unknown ? "Not sure" : titleOf(entry.window_label)} ${percent(entry.window_probability)}` : `${time}  No decision`;
  const rest = document.createElement("span");
  rest.textContent = entry.reason
    ? GAPS[entry.reason]
    : `this second: ${titleOf(entry.label)} ${percent(entry.probability)}, by ${VIEWS[entry.decided_by].toLowerCase()}`;
  return [title, rest];
}
