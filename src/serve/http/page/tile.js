// A tile of the wall: picture, answer, state, and the last ten minutes as a strip.

import { BAD, WARN } from "./answers.js";
import { icon, make, percent, setText } from "./base.js";
import { colourOf, paint } from "./colours.js";

export const SPAN_MS = 600000;
// A picture older than this is greyed: it may not be what is on air.
const OLD_MS = 10000;
// Widths of the title in letters, and its sizes in percent of the tile's width: on one line if it stays large, else on two.
const LETTER = 0.7;
const LARGEST = 12;
const LEAST = 8.5;

function titleSize(title, isAlone) {
  const room = isAlone ? 76 : 73;
  const fit = (letters) => Math.min(LARGEST, room / (LETTER * letters));
  const one = fit(title.length);
  return one >= LEAST ? one : fit(Math.max(...title.split(" ").map((word) => word.length)));
}

export class Tile {
  #picture = make("canvas", "picture");
  #strip = make("canvas", "spans");
  #name = make("span", "name");
  #flag = make("span", "flag");
  #node = make("span", "node");
  #title = make("strong");
  #share = make("em");
  #detail = make("span", "detail");
  #shown = {};
  #pictureAt = 0;
  #drawn = "";

  constructor(id) {
    this.id = id;
    this.visible = false;
    this.element = make("li", "tile");
    this.element.dataset.id = id;
    this.link = make("a");
    this.link.href = `?stream=${encodeURIComponent(id)}`;
    this.link.tabIndex = -1;
    const view = make("div", "view");
    this.#picture.width = this.#picture.height = 0;
    this.#picture.setAttribute("aria-hidden", "true");
    this.#strip.setAttribute("aria-hidden", "true");
    const head = make("div", "head");
    head.append(this.#name, this.#node, this.#flag);
    const answer = make("div", "answer");
    const line = make("div", "line");
    line.append(this.#title, this.#share);
    answer.append(line, this.#detail);
    view.append(this.#picture, head, answer);
    this.link.append(view, this.#strip);
    this.element.append(this.link);
  }

  get hasPicture() {
    return this.#pictureAt > 0;
  }

  // Least width of its picture, in pixels of the screen.
  get pixels() {
    return Math.round(this.element.clientWidth * (devicePixelRatio || 1));
  }

  // Shows `answer` (of answers.js) to `stream` at `now`, ms. Touches only what has changed.
  show(stream, answer, now) {
    const { element } = this;
    const name = stream.settings?.label ?? stream.id;
    setText(this.#name, name);
    this.#where(stream);
    setText(this.#title, answer.title);
    const share = answer.probability ?? null;
    const sign = share === null ? answer.icon : "";
    if (this.#shown.title !== answer.title) element.style.setProperty("--size", `${titleSize(answer.title, share === null)}cqw`);
    if (share !== null) setText(this.#share, percent(share));
    else if (this.#shown.sign !== sign) this.#share.replaceChildren(icon(sign));
    setText(this.#detail, answer.detail);
    const flag = answer.flag ?? "";
    if (this.#shown.flag !== flag) this.#flag.replaceChildren(...(flag ? [icon(answer.icon), flag] : []));
    this.#flag.hidden = flag === "";
    if (answer.kind === "on-air") paint(element, answer.label, "dark");
    element.dataset.kind = answer.kind;
    element.dataset.level = answer.level === BAD ? "bad" : answer.level === WARN ? "warn" : "calm";
    const there = this.hasPicture && stream.tracks?.video !== false;
    element.dataset.picture = there ? (stream.state !== "playing" || now - this.#pictureAt > OLD_MS ? "old" : "there") : "none";
    Object.assign(this.#shown, { title: answer.title, sign, flag });
    const words = `${name}${this.#node.textContent ? `, ${this.#node.textContent}` : ""}: ${answer.title}${this.#share.textContent ? ` ${this.#share.textContent}` : ""}. ${answer.detail}`;
    if (this.link.getAttribute("aria-label") !== words) this.link.setAttribute("aria-label", words);
  }

  // In a fleet: the machine that watches the stream. A stream of another machine has its picture and its page there.
  #where({ id, node, elsewhere, page }) {
    const text = node ? (elsewhere ? `on ${node}, no picture here` : `on ${node}`) : "";
    setText(this.#node, text);
    this.#node.hidden = text === "";
    const query = `?stream=${encodeURIComponent(id)}`;
    const href = !elsewhere ? query : page ? new URL(query, page).href : null;
    if (this.#shown.href === href) return;
    this.#shown.href = href;
    if (href === null) this.link.removeAttribute("href");
    else this.link.href = href;
    this.element.dataset.elsewhere = Boolean(elsewhere);
    if (elsewhere) this.#pictureAt = 0;
  }

  // Takes a decoded picture that arrived at `now`, ms.
  draw(bitmap, now) {
    this.#picture.width = bitmap.width;
    this.#picture.height = bitmap.height;
    this.#picture.getContext("bitmaprenderer").transferFromImageBitmap(bitmap);
    this.#pictureAt = now;
  }

  // Draws the spans of the last ten minutes: a known class over the full height, doubt low and grey, no decision as hatching.
  // Nothing where nothing was published.
  drawStrip(spans, now, palette) {
    const canvas = this.#strip;
    const scale = devicePixelRatio || 1;
    const [width, height] = [Math.round(canvas.clientWidth * scale), Math.round(canvas.clientHeight * scale)];
    if (!width || !height) return;
    // A new column of pixels every few seconds is all there is to see.
    const column = Math.floor((now / SPAN_MS) * width);
    const state = `${width} ${height} ${column} ${spans.length} ${spans.at(-1)?.label} ${palette.theme}`;
    if (state === this.#drawn) return;
    this.#drawn = state;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    const g = canvas.getContext("2d");
    g.clearRect(0, 0, width, height);
    const x = (at) => Math.round(((at - now) / SPAN_MS + 1) * width);
    for (const { from_ms: from, to_ms: to, label, unknown, reason } of spans) {
      const left = Math.max(0, x(from - 1000));
      const wide = Math.max(1, x(to) - left);
      if (x(to) < 0) continue;
      if (reason) {
        g.fillStyle = palette.hatching(g, scale);
        g.fillRect(left, 0, Math.max(2, wide), height);
      } else if (unknown || label === null) {
        g.fillStyle = palette.quiet;
        g.fillRect(left, Math.round(height * 0.6), wide, Math.ceil(height * 0.4));
      } else {
        g.fillStyle = colourOf(label).fill;
        g.fillRect(left, 0, wide, height);
      }
    }
  }
}
