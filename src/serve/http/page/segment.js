// The details of a segment, with its clip, and the list of segments.

import { $, GAPS, duration, make, percent, setText, url } from "./base.js";
import { colourOf, titleOf } from "./colours.js";
import { CONTENTS, nameOf } from "./lanes.js";
import { VIEWS } from "./panels.js";
import { fetchClip, pageOf, timeOf } from "./past.js";
import { clock, day, moment } from "./times.js";

const FORMATS = { otio: "OpenTimelineIO", edl: "EDL", webvtt: "WebVTT", csv: "CSV", html: "HTML" };

let asked = null;

// Shows the details of a segment. `view` is the time of the exports; `stream` its stream, if it still exists; `page` that of the machine that
// decided it, if that is another one; `teaching` has the field for a part of it and takes what the viewer says, and `chosen` is the part in ms.
// Only the machine that decided it has its clips, and takes corrections.
export async function showDetail(segment, view, stream, page = null, teaching = null, chosen = null) {
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  const panel = $("detail");
  panel.hidden = segment === null;
  if (!segment) return;
  const title = $("detail-title");
  const dot = make("i");
  mark(dot, segment);
  title.replaceChildren(dot, nameOf(segment));
  const poster = make("div", "poster");
  poster.hidden = !segment.poster;
  if (segment.poster) poster.append(pictureOf(segment));
  const facts = make("dl", "facts");
  const add = (name, ...text) => {
    const pair = make("div");
    const value = make("dd");
    value.append(...text);
    pair.append(make("dt", "", name), value);
    facts.append(pair);
  };
  const link = make("a", "", stream?.settings?.label ?? segment.stream);
  const href = stream && pageOf(stream);
  if (href) link.href = href;
  add("Stream", stream ? link : segment.stream);
  if (segment.elsewhere) {
    const there = make(page ? "a" : "span", "", segment.elsewhere);
    const query = new URLSearchParams({ ...timeOf(view), stream: segment.stream });
    if (page) there.href = new URL(`history?${query}`, page).href;
    add("Machine", there);
  }
  add("Start", moment(segment.from));
  add(segment.open ? "Known until" : "End", moment(segment.to));
  add("Length", `${duration(segment.seconds)}${segment.open ? " so far" : ""}`);
  if (segment.mean !== null) {
    add("Mean probability", percent(segment.mean));
    const peak = segment.from + (segment.peak_index - segment.first) * 1000;
    add("Highest probability", `${percent(segment.peak)} at ${clock(peak)}`);
  }
  const by = Object.entries(segment.decided_by).filter(([, count]) => count > 0).sort((a, b) => b[1] - a[1]);
  if (by.length) add("Decided by", by.map(([name, count]) => `${VIEWS[name].toLowerCase()} ${duration(count)}`).join(", "));
  if (segment.unknown) add("Not sure", duration(segment.unknown));
  const gaps = Object.entries(segment.gaps).map(([reason, count]) => `${GAPS[reason]} ${duration(count)}`);
  if (gaps.length) add("No decision", gaps.join(", "));
  add("Run and PTS", `${segment.run}, ${duration(segment.first)} to ${duration(segment.last + 1)}`);
  const links = make("p", "links");
  if (stream) links.append("Export of the time shown: ", ...exports(segment.stream, view));
  const clip = make("p", "links");
  const here = segment.elsewhere ? null : teaching;
  $("detail-body").replaceChildren(poster, facts, clip, ...(here ? [here.part.element, here.corrector.element] : []), links);
  here?.part.show(segment, chosen);
  try {
    const found = segment.class && !segment.elsewhere ? await fetchClip(segment, signal) : null;
    if (!signal.aborted && found) showClip(found, poster, clip);
  } catch (e) {
    if (e.name !== "AbortError") setText(clip, "The clips could not be loaded.");
  }
}

function showClip({ id, media, poster: picture }, poster, clip) {
  const file = (name) => url(`api/v1/clips/${encodeURIComponent(id)}/${encodeURIComponent(name)}`);
  if (picture) {
    const image = make("img");
    image.src = file(picture.file);
    image.alt = "A picture of the clip";
    poster.replaceChildren(image);
    poster.hidden = false;
  }
  const links = media.map(({ file: name }, i) => {
    const link = make("a", "", media.length > 1 ? `Clip, part ${i + 1}` : "Clip");
    link.href = file(name);
    return link;
  });
  clip.replaceChildren(...links.flatMap((link) => [link, " "]));
}

function exports(stream, view) {
  return Object.entries(FORMATS).flatMap(([format, name]) => {
    const link = make("a", "", name);
    link.href = url(`api/v1/streams/${encodeURIComponent(stream)}/export?${new URLSearchParams({ format, ...timeOf(view) })}`);
    link.setAttribute("download", "");
    return [link, " "];
  });
}

function mark(dot, { class: label, content }) {
  if (label) dot.style.setProperty("--class", colourOf(label).fill);
  dot.dataset.content = content;
}

const altOf = (segment) => `A picture of ${nameOf(segment)}, ${clock(segment.from)}`;

// The poster of a segment. One that cannot be loaded, or was removed, leaves its place empty.
function pictureOf(segment) {
  const image = make("img");
  image.loading = "lazy";
  image.decoding = "async";
  image.alt = altOf(segment);
  image.addEventListener("error", () => (image.hidden = true));
  image.src = url(segment.poster.slice(1));
  return image;
}

// The pictures of the rows that are shown, so that the list can be shown again without loading them again.
let pictures = new Map();

// The list, newest first. `names` are the names of the streams by id.
export function showList(segments, count, names, select) {
  const list = $("list");
  const before = pictures;
  pictures = new Map();
  const rows = segments.slice(-count).reverse().map((segment) => {
    const row = make("li");
    const button = make("button");
    button.type = "button";
    const picture = make("span", "picture");
    if (segment.poster) {
      const image = before.get(segment.poster) ?? pictureOf(segment);
      image.alt = altOf(segment);
      pictures.set(segment.poster, image);
      picture.append(image);
    }
    const dot = make("i");
    mark(dot, segment);
    const when = make("time", "", `${day(segment.from).replace(/ \d+$/, "")}, ${clock(segment.from)}`);
    when.dateTime = segment.began;
    const how = `${duration(segment.seconds)}${segment.open ? " so far" : ""}`;
    button.append(picture, dot, make("b", "", nameOf(segment)), make("span", "where", names.get(segment.stream) ?? segment.stream), when, make("span", "how", how), make("span", "mean", segment.mean === null ? "" : percent(segment.mean)));
    button.addEventListener("click", () => select(segment, true));
    row.append(button);
    return row;
  });
  list.replaceChildren(...(rows.length ? rows : [make("li", "nothing", "No segments in this time.")]));
  $("list-more").hidden = segments.length <= count;
}

// Legend of the colours.
export function showLegend(segments, { from, to }) {
  const sums = new Map();
  for (const segment of segments) {
    const seconds = (Math.min(to, segment.to) - Math.max(from, segment.from)) / 1000;
    if (seconds <= 0) continue;
    const key = segment.class ?? segment.content;
    const sum = sums.get(key) ?? { segment, seconds: 0 };
    sum.seconds += seconds;
    sums.set(key, sum);
  }
  const sorted = [...sums.values()].sort((a, b) => b.seconds - a.seconds);
  const rows = sorted.slice(0, 12).map(({ segment, seconds }) => {
    const row = make("li");
    const dot = make("i");
    mark(dot, segment);
    row.append(dot, segment.class ? titleOf(segment.class) : CONTENTS[segment.content], make("span", "", duration(seconds)));
    return row;
  });
  $("legend").replaceChildren(...rows);
}
