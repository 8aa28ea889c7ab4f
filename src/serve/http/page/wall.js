// The wall: a tile per stream, problems first. It keeps what the feed sends, and shows what the address asks for.

import { BAD, CALM, WARN, answer, counts, expectationOf } from "./answers.js";
import { $, capital, hatch, icon, isTaken, make, setText, toggleFullScreen } from "./base.js";
import { isDark, learnClasses, onThemeChange, titleOf } from "./colours.js";
import { Editor } from "./editor.js";
import { Feed } from "./feed.js";
import { fetchInfo, followNotice, offerLogOut } from "./live.js";
import { Pictures } from "./pictures.js";
import { mayChange } from "./requests.js";
import { SPAN_MS, Tile } from "./tile.js";
import { clock, day, offerZones, setHouseZone, zoneName } from "./times.js";
import { layOut, neighbour } from "./grid.js";

// The address of a stream was /#/ID.
const old = location.hash.match(/^#\/(.+)$/);
if (old) location.replace(`?stream=${old[1]}`);

const query = new URLSearchParams(location.search);
const rotate = Math.max(0, Number(query.get("rotate")) || 0);
const perPage = Math.min(64, Math.max(1, Math.round(Number(query.get("tiles")) || 16)));
document.body.dataset.kiosk = rotate > 0 || query.has("kiosk");

const STATES = {
  "": "All states",
  problem: "Problems",
  unexpected: "Unexpected",
  "on-air": "On air",
  "not-sure": "Not sure",
  "no-programme": "No programme",
  down: "Down",
  off: "Paused or ended",
};
const SORTS = { "": "Problems first", given: "As configured", name: "Name", label: "Sport" };
// Answers that join in a span: a second apart, and some jitter.
const PAUSE_MS = 2500;

// What is shown: own streams, and in a fleet those that other machines watch, which have `elsewhere`.
const streams = new Map();
// Own streams that another machine watches: this one prepares to take them over.
const hidden = new Map();
const tiles = new Map();
const known = { lost: false, ready: false, mayChange: false, ahead: 0, shown: [], current: null };
const serverNow = () => Date.now() + known.ahead;
const nameOf = (stream) => stream.settings?.label ?? stream.id;
const groupOf = (stream) => stream.settings?.group ?? null;

const info = await fetchInfo({ silent: () => showNotice(true) });
learnClasses(info.classes);
setHouseZone(info.time_zone ?? null);
$("teach-link").hidden = !info.teaches;
followNotice(info, document.querySelector("footer"));
setText($("build"), `Touchline ${info.version} · pack ${info.pack.name}`);

const inView = new IntersectionObserver((entries) => {
  for (const { target, isIntersecting } of entries) {
    const tile = tiles.get(target.dataset.id);
    if (tile) tile.visible = isIntersecting;
  }
}, { rootMargin: "80px" });

// The order of a wall must not change with each second: answers are sorted by level only.
function order(a, b) {
  const sort = query.get("sort") ?? "";
  const by = (x, y) => x.localeCompare(y, "en", { numeric: true });
  if (sort === "name") return by(nameOf(a.stream), nameOf(b.stream));
  if (sort === "label") return by(a.shows.title, b.shows.title) || by(nameOf(a.stream), nameOf(b.stream));
  return sort === "given" ? 0 : b.shows.level - a.shows.level;
}

function selected({ stream, shows }) {
  const [group, label, state] = ["group", "label", "state"].map((name) => query.get(name));
  return (
    (!group || group.split(",").includes(groupOf(stream))) &&
    (!label || shows.label === label) &&
    (!state || (state === "problem" ? shows.level !== CALM : state === "unexpected" ? shows.unexpected : shows.kind === state))
  );
}

// With rotation: pages of one group each, if there are several and none was chosen, and of at most `tiles` tiles.
function pages(rows) {
  if (!rotate) return [{ rows }];
  const groups = [...new Set(rows.map(({ stream }) => groupOf(stream)))];
  const byGroup = groups.length > 1 && !query.get("group");
  const parts = byGroup ? groups.map((group) => ({ group, rows: rows.filter(({ stream }) => groupOf(stream) === group) })) : [{ rows }];
  const found = parts.flatMap(({ group, rows }) => {
    const count = Math.ceil(rows.length / perPage);
    return Array.from({ length: count }, (_, i) => ({ group, rows: rows.slice(i * perPage, (i + 1) * perPage) }));
  });
  return found.length ? found : [{ rows }];
}

function update() {
  const now = serverNow();
  const all = [...streams.values()].map((stream) => ({ stream, shows: answer(stream, now) }));
  const found = pages(all.filter(selected).sort(order));
  const turn = rotate ? Math.floor(Date.now() / 1000 / rotate) % found.length : 0;
  const { rows, group } = found[turn];
  $("page-of").hidden = found.length < 2;
  if (found.length > 1) setText($("page-of"), `${group ? `${group} · ` : ""}${turn + 1} of ${found.length}`);
  for (const { stream, shows } of rows) {
    if (!tiles.has(stream.id)) tiles.set(stream.id, new Tile(stream.id));
    tiles.get(stream.id).show(stream, shows, now);
  }
  place(rows.map(({ stream }) => tiles.get(stream.id)));
  if (!document.hidden) for (const { stream } of rows) tiles.get(stream.id).drawStrip(stream.spans, now, palette());
  showCounts(all.map(({ shows }) => shows));
  announce(all);
  showNobody(all.length, rows.length);
  fillFilters(all);
  const trouble = all.filter(({ shows }) => shows.level === BAD || shows.level === WARN).length;
  const one = all.length === 1 ? `${all[0].shows.title} · ${nameOf(all[0].stream)} – ` : "";
  document.title = known.lost ? "Offline – Touchline" : trouble && all.length > 1 ? `${trouble} ${trouble === 1 ? "problem" : "problems"} – Touchline` : `${one}Touchline`;
}

// Puts the tiles into the document, and moves only those that are not in their place.
function place(shown) {
  const list = $("tiles");
  const focused = document.activeElement?.closest?.(".tile");
  shown.forEach((tile, i) => {
    if (list.children[i] !== tile.element) list.insertBefore(tile.element, list.children[i] ?? null);
  });
  while (list.children.length > shown.length) list.lastElementChild.remove();
  for (const tile of known.shown) if (!shown.includes(tile)) inView.unobserve(tile.element), (tile.visible = false);
  for (const tile of shown) if (!known.shown.includes(tile)) inView.observe(tile.element);
  known.shown = shown;
  if (!shown.some(({ id }) => id === known.current)) known.current = shown[0]?.id ?? null;
  for (const tile of shown) tile.link.tabIndex = tile.id === known.current ? 0 : -1;
  // A browser forgets the focus of an element that moves.
  if (focused?.isConnected && document.activeElement === document.body) tiles.get(focused.dataset.id)?.link.focus({ preventScroll: true });
  layOut(list, shown.length);
}

let strip = null;
function palette() {
  const theme = isDark() ? "dark" : "light";
  if (strip?.theme !== theme) {
    const quiet = getComputedStyle(document.documentElement).getPropertyValue("--quiet").trim();
    let pattern = null;
    const hatching = (g, scale) => (pattern ??= hatch(g, quiet, scale, 5));
    strip = { theme, quiet, hatching };
  }
  return strip;
}

function showCounts(answers) {
  const rows = streams.size ? counts(answers) : [];
  const text = JSON.stringify(rows);
  if ($("counts").dataset.text === text) return;
  $("counts").dataset.text = text;
  $("counts").replaceChildren(
    ...rows.map(({ text, level, icon: name }) => {
      const row = make("span", "", "");
      if (level !== null) row.dataset.level = level === BAD ? "bad" : "warn";
      if (name) row.append(icon(name));
      row.append(text);
      return row;
    }),
  );
}

// Problems that begin and end are spoken. The sports of many streams change too often for that.
const levels = new Map();
function announce(all) {
  const news = [];
  for (const { stream, shows } of all) {
    const before = levels.get(stream.id);
    if (before !== undefined && before !== shows.level) news.push(`${nameOf(stream)}: ${shows.title}`);
    levels.set(stream.id, shows.level);
  }
  if (news.length) setText($("spoken"), news.slice(0, 5).join(". "));
}

function showNobody(all, shown) {
  const nobody = $("nobody");
  nobody.hidden = !known.ready || shown > 0;
  if (nobody.hidden) return;
  const calm = all > 0 && query.get("state") === "problem";
  setText($("nobody-title"), all === 0 ? "No streams are running" : calm ? "No problems" : "No matching streams");
  const { fleet } = info;
  const empty = fleet ? `This machine belongs to the fleet ${fleet}, whose machines share their streams. Add one to the fleet on any machine:` : known.mayChange ? "Add one here, name streams on the command line or in the configuration file, or use the API:" : "Name streams on the command line or in the configuration file, or add one to the running program:";
  setText($("nobody-text"), all === 0 ? empty : calm ? `All ${all} streams are running normally.` : "No stream matches the selected group, sport and state.");
  $("nobody-add").hidden = all > 0 || !known.mayChange || Boolean(fleet);
  $("nobody-lines").hidden = all > 0;
  $("nobody-all").hidden = all === 0;
  if (all === 0) {
    const address = new URL("api/v1/streams", document.baseURI);
    const named = fleet === "main" ? "" : ` --fleet-name ${fleet}`;
    if (fleet) setText($("nobody-lines"), `touchline stream add court1=rtsp://camera.example/live --fleet nats://nats.example:4222${named}`);
    else setText($("nobody-lines"), `touchline run rtsp://camera.example/live\n\ncurl ${address} \\\n  -H 'Content-Type: application/json' -d '{"uri": "rtsp://camera.example/live"}'`);
  }
}

function showNotice(lost) {
  $("notice").hidden = !lost;
  $("notice").dataset.level = "warn";
  setText($("notice-title"), "No connection to Touchline");
  setText($("notice-text"), "The wall shows the last known state and retries.");
  document.body.dataset.server = lost ? "lost" : "open";
}

// Options that exist, and the chosen one even if no stream has it now.
function fillFilters(all) {
  $("filters").hidden = streams.size < 2;
  const sorted = (values) => [...new Set(values.filter(Boolean))].sort((a, b) => a.localeCompare(b, "en", { numeric: true }));
  const groups = sorted([...all.map(({ stream }) => groupOf(stream)), query.get("group")]);
  const labels = sorted([...all.map(({ shows }) => (shows.kind === "on-air" ? shows.label : null)), query.get("label")]);
  fill("group", { "": "All groups", ...Object.fromEntries(groups.map((group) => [group, group])) });
  fill("label", { "": "All sports", ...Object.fromEntries(labels.map((label) => [label, titleOf(label)])) });
  fill("state", STATES);
  fill("sort", SORTS);
  $("filter-group").hidden = groups.length === 0;
}

function fill(name, options) {
  const select = $(`filter-${name}`);
  const text = JSON.stringify(options);
  if (select.dataset.text === text) return;
  select.dataset.text = text;
  select.replaceChildren(...Object.entries(options).map(([value, title]) => new Option(title, value)));
  select.value = query.get(name) ?? "";
}

// The address holds what is chosen: it can be kept and shared.
function choose(name, value) {
  if (value) query.set(name, value);
  else query.delete(name);
  const text = query.toString();
  history.replaceState(null, "", text ? `?${text}` : location.pathname);
  remember();
  update();
}

// The way back from the page of a stream.
function remember() {
  try {
    sessionStorage.setItem("touchline-wall", location.search);
  } catch {
    // Then it leads to all streams.
  }
}

function extend(stream, estimate) {
  const { at_ms: at, reason } = estimate;
  const label = reason ? null : estimate.label;
  const unknown = label !== null && estimate.unknown;
  const last = stream.spans.at(-1);
  if (last && last.label === label && last.unknown === unknown && last.reason === reason && at - last.to_ms <= PAUSE_MS) last.to_ms = at;
  else stream.spans.push({ from_ms: at, to_ms: at, label, unknown, reason });
  while (stream.spans.length && stream.spans[0].to_ms < at - SPAN_MS) stream.spans.shift();
}

function forget(id) {
  streams.delete(id);
  levels.delete(id);
  const tile = tiles.get(id);
  if (tile) inView.unobserve(tile.element);
  tiles.delete(id);
}

// Another machine watches a stream, or does not any more.
function move(data) {
  const shown = streams.get(data.id);
  if (data.node !== null) {
    if (shown && !shown.elsewhere) hidden.set(data.id, shown);
    streams.set(data.id, { ...data, elsewhere: true });
  } else if (shown?.elsewhere) {
    const own = hidden.get(data.id);
    hidden.delete(data.id);
    if (own) streams.set(data.id, own);
    else forget(data.id);
  }
  soon();
}

const tell = {
  snapshot({ now_ms: now, streams: own, elsewhere = [] }) {
    known.ahead = now - Date.now();
    known.ready = true;
    const others = new Set(elsewhere.map(({ id }) => id));
    hidden.clear();
    for (const row of own) if (others.has(row.id)) hidden.set(row.id, row);
    const rows = [...own.filter(({ id }) => !others.has(id)), ...elsewhere.map((row) => ({ ...row, elsewhere: true }))];
    const ids = new Set(rows.map(({ id }) => id));
    for (const id of [...streams.keys()]) if (!ids.has(id)) forget(id);
    // In the order of the server.
    for (const { id } of rows) streams.delete(id);
    for (const row of rows) streams.set(row.id, row);
    update();
  },
  item(kind, data) {
    if (kind === "elsewhere") return move(data);
    if (kind === "stream") {
      (streams.get(data.id)?.elsewhere ? hidden : streams).set(data.id, data);
      return soon();
    }
    let stream = streams.get(data.stream);
    // Records name their machine: that of a stream that this machine prepares is not shown.
    if (stream?.elsewhere && data.node && data.node !== stream.node) stream = hidden.get(data.stream);
    if (!stream) return;
    if (kind === "estimate") {
      stream.estimate = data;
      extend(stream, data);
      return soon();
    }
    if (kind === "incident" && data.signal) {
      stream.signal = stream.signal.filter(({ signal }) => signal !== data.signal);
      if (data.incident === "signal-began") stream.signal.push({ signal: data.signal, since: data.since });
    }
    if (kind === "expectation") stream.expectation = expectationOf(data, serverNow());
    if (kind === "state") {
      const since = data.at ?? new Date(serverNow()).toISOString();
      const { state, kind, cause, advice, attempt, retry_in_ms, tracks } = data;
      const down = state === "playing" ? null : (stream.down_since ?? (kind || stream.state === "playing" ? since : null));
      Object.assign(stream, { state, kind, cause, advice, attempt, retry_in_ms, tracks, since, down_since: down });
      if (state === "removed" && !stream.elsewhere) {
        if (!hidden.delete(data.stream)) forget(data.stream);
      }
    }
    soon();
  },
  server(lost) {
    known.lost = lost;
    showNotice(lost);
    update();
  },
};

// The seconds of many streams arrive together. They are shown together.
let pending = 0;
function soon() {
  if (pending || document.hidden) return;
  pending = setTimeout(() => {
    pending = 0;
    update();
  }, 250);
}

function tick() {
  const now = serverNow();
  setText($("clock"), clock(now));
  setText($("date"), `${day(now)} · ${zoneName(now)}`);
  if (!document.hidden && known.ready) update();
}

addEventListener("keydown", (event) => {
  if (isTaken(event)) return;
  if (event.key === "f") return toggleFullScreen();
  if (event.key === "Escape") return ["group", "label", "state"].forEach((name) => query.get(name) && choose(name, ""));
  const next = neighbour(event.key, known.shown.map(({ element }) => element), known.shown.findIndex(({ id }) => id === known.current));
  if (next === null) return;
  event.preventDefault();
  // The first key only shows where the focus is.
  const hasFocus = document.activeElement?.closest(".tile");
  if (hasFocus) known.current = known.shown[next].id;
  place(known.shown);
  tiles.get(known.current).link.focus();
});
for (const name of ["group", "label", "state", "sort"]) $(`filter-${name}`).addEventListener("change", (event) => choose(name, event.target.value));
$("nobody-all").addEventListener("click", () => ["group", "label", "state"].forEach((name) => choose(name, "")));
$("full").addEventListener("click", toggleFullScreen);
$("tiles").addEventListener("focusin", (event) => (known.current = event.target.closest(".tile").dataset.id));
addEventListener("resize", () => layOut($("tiles"), known.shown.length));
document.addEventListener("visibilitychange", tick);
onThemeChange(update);
offerZones($("zone"), tick);
offerLogOut($("log-out")).catch(() => {});
const editor = new Editor({
  saved: ({ id, settings }) => setText($("spoken"), `${settings?.label ?? id} was added`),
  groups: () => [...new Set([...streams.values()].map(groupOf).filter(Boolean))].sort(),
});
for (const id of ["add", "nobody-add"]) $(id).addEventListener("click", () => editor.add());
mayChange().then((may) => {
  known.mayChange = may;
  $("add").hidden = !may || Boolean(info.fleet);
  tick();
});
remember();
tick();
setInterval(tick, 1000);
new Feed(tell);
new Pictures(() =>
  known.shown.filter((tile) => {
    const stream = streams.get(tile.id);
    return tile.visible && stream && !stream.elsewhere && stream.tracks?.video !== false && (stream.state === "playing" || !tile.hasPicture);
  }),
);
