// The history: a timeline of every stream that zooms from a week to a second, its segments, and hours. The address contains the view.

import { $, duration, setText, url } from "./base.js";
import { learnClasses, onThemeChange, titleOf } from "./colours.js";
import { Lanes, SPAN_MAX, SPAN_MIN } from "./lanes.js";
import { Corrector } from "./correct.js";
import { PartField } from "./part.js";
import { fetchInfo, offerLogOut } from "./live.js";
import { ProblemError, fetchSeconds, fetchSegments, fetchStreams, fetchSums, fetchUnexpected, timeOf } from "./past.js";
import { mayChange } from "./requests.js";
import { showDetail, showLegend, showList } from "./segment.js";
import { showSums } from "./sums.js";
import { clock, day, offerZones, setHouseZone, zoneId, zoneName } from "./times.js";

const REFRESH_MS = 10_000;
// Waits until a movement is over.
const SETTLE_MS = 250;
// Below this length the class of each second is loaded, for as many streams.
const SECONDS_SPAN = 1_800_000;
const SECONDS_STREAMS = 8;
const LIST = 50;

const query = new URLSearchParams(location.search);
const state = { streams: [], pages: new Map(), segments: [], unexpected: [], sums: null, selected: null, more: false, count: LIST, by: "stream", loaded: null, follows: true, seconds: new Map() };
let view = first();
let timer = 0;
let asked = null;

function first() {
  const [from, to] = ["from", "to"].map((name) => Date.parse(query.get(name) ?? ""));
  if (from < to) {
    state.follows = false;
    return { from, to: Math.min(to, from + SPAN_MAX) };
  }
  const span = Math.min(SPAN_MAX, Math.max(SPAN_MIN, (Number(query.get("span")) || 86_400) * 1000));
  return { from: Date.now() - span, to: Date.now() };
}

const lanes = new Lanes({
  view: (from, to) => setView(from, to, false),
  now: () => follow(),
  select: (segment, part) => select(segment, false, part),
});

function setView(from, to, follows) {
  const span = Math.min(SPAN_MAX, Math.max(SPAN_MIN, to - from));
  const now = Date.now();
  // No more than a tenth of the future.
  const end = Math.min(to, now + span / 10);
  view = { from: end - span, to: end };
  state.follows = follows;
  showView();
  reload(SETTLE_MS);
}

function follow(span = view.to - view.from) {
  setView(Date.now() - span, Date.now(), true);
}

function showView() {
  lanes.view = view;
  $("now").setAttribute("aria-pressed", state.follows);
  const span = Math.round((view.to - view.from) / 1000);
  for (const button of $("spans").children) button.setAttribute("aria-pressed", Number(button.dataset.span) === span);
  const end = day(view.from) === day(view.to) ? "" : `${day(view.to)}, `;
  setText($("range"), `${day(view.from)}, ${clock(view.from)} – ${end}${clock(view.to)} ${zoneName(view.to)}`);
  const days = +(span / 86_400).toFixed(1);
  setText($("lanes-sub"), days >= 1 ? `${days} ${days === 1 ? "day" : "days"}` : duration(span));
  showLegend(matching(), view);
}

function filter() {
  const [group, stream, label] = ["group", "stream", "class"].map((name) => $(`filter-${name}`).value);
  return { group, stream, label };
}

function address() {
  const { group, stream, label } = filter();
  const shown = state.follows ? { span: Math.round((view.to - view.from) / 1000) } : timeOf(view);
  const entries = Object.entries({ ...shown, group, stream, class: label, by: state.by === "stream" ? "" : state.by });
  const text = new URLSearchParams(entries.filter(([, value]) => value !== "")).toString();
  const zone = query.get("zone");
  history.replaceState(null, "", `?${text}${zone ? `&zone=${encodeURIComponent(zone)}` : ""}`);
}

// Of the streams of other machines those that the store has.
const shownStreams = () => {
  const { group, stream } = filter();
  const stored = new Set(state.sums?.streams.map((s) => s.stream));
  const isShown = (s) => !s.elsewhere || stored.has(s.id);
  return state.streams.filter((s) => (!stream || s.id === stream) && (!group || s.settings?.group === group) && isShown(s));
};
// The segments of the time that is shown, of the class that is looked for.
const matching = () => {
  const { label } = filter();
  return state.segments.filter((s) => s.to > view.from && s.from < view.to && (!label || s.class === label));
};

function show() {
  const { label } = filter();
  const shown = shownStreams();
  const ids = new Set(shown.map(({ id }) => id));
  const segments = state.segments.filter(({ stream }) => ids.has(stream));
  lanes.show(shown, segments, label, state.unexpected);
  showView();
  const names = new Map(state.streams.map((s) => [s.id, s.settings?.label ?? s.id]));
  const found = matching().filter(({ stream }) => ids.has(stream));
  showList(found, state.count, names, (segment, focus) => select(segment, focus));
  setText($("list-sub"), `${found.length}${state.more ? " latest" : ""}${label ? ` of ${titleOf(label)}` : ""}`);
  if (state.sums) {
    showSums(state.sums, state.by);
    setText($("sums-sub"), `days of ${state.sums.time_zone}`);
  }
  links();
}

function links() {
  const { group, stream, label } = filter();
  const of = (path, parameters) => {
    const entries = Object.entries({ ...timeOf(view), format: "csv", group, stream, ...parameters }).filter(([, value]) => value);
    return url(`${path}?${new URLSearchParams(entries)}`);
  };
  $("sums-csv").href = of("api/v1/summary", { zone: zoneId() });
  $("list-csv").href = of("api/v1/segments", { class: label, limit: 1000 });
}

function select(segment, focus = false, part = null) {
  state.selected = segment;
  lanes.selected = segment;
  lanes.part = null;
  const stream = segment && state.streams.find(({ id }) => id === segment.stream);
  showDetail(segment, view, stream, state.pages.get(segment?.elsewhere), teaching, part);
  if (segment && focus) $("detail").focus({ preventScroll: false });
}

function reload(after) {
  clearTimeout(timer);
  timer = setTimeout(load, after);
}

async function load() {
  asked?.abort();
  asked = new AbortController();
  const { signal } = asked;
  if (state.follows) {
    const span = view.to - view.from;
    view = { from: Date.now() - span, to: Date.now() };
  }
  address();
  try {
    const span = view.to - view.from;
    // Half a length more on each side, so that a movement has something to show.
    const wide = { from: view.from - span / 2, to: view.to + span / 2 };
    const { group, stream } = filter();
    const wanted = { group, stream };
    const [{ streams, pages }, { segments, more }, sums, unexpected] = await Promise.all([
      fetchStreams(info.fleet, signal),
      fetchSegments(wide, wanted, signal),
      fetchSums(view, wanted, zoneId(), signal),
      fetchUnexpected(wide, wanted, signal),
    ]);
    Object.assign(state, { streams, pages, segments, more, sums, unexpected });
    if (state.selected) state.selected = segments.find((s) => s.stream === state.selected.stream && s.epoch === state.selected.epoch && s.run === state.selected.run && s.first === state.selected.first) ?? state.selected;
    fillFilters();
    problem(null);
    show();
    await loadSeconds(wide, signal);
  } catch (e) {
    if (signal.aborted) return;
    problem(e);
  }
  if (!signal.aborted && state.follows && !document.hidden) reload(REFRESH_MS);
}

async function loadSeconds(wide, signal) {
  if (view.to - view.from > SECONDS_SPAN) {
    state.seconds = new Map();
  } else {
    const shown = shownStreams().slice(0, SECONDS_STREAMS);
    // One after the other: the server reads one at a time.
    const found = new Map();
    for (const { id } of shown) {
      try {
        found.set(id, await fetchSeconds(id, wide, signal));
      } catch (e) {
        if (!(e instanceof ProblemError)) throw e;
      }
    }
    state.seconds = found;
  }
  lanes.showSeconds(state.seconds);
}

function problem(e) {
  const notice = $("notice");
  document.body.dataset.server = e ? (e instanceof ProblemError ? "answers" : "lost") : "answers";
  notice.hidden = e === null;
  if (!e) {
    if (state.streams.length === 0) say("calm", "There are no streams yet", "The history begins with the first stream.");
    else if (state.more) say("calm", "Only the latest segments are shown", "Zoom in, or choose a stream or a group.");
    return;
  }
  if (!(e instanceof ProblemError)) {
    say("warn", "No connection to Touchline", "The page shows the loaded data and retries.");
    reload(2000);
  } else if (e.status === 404) {
    say("calm", "There is no history", "Start the program with --state FILE to keep one.");
    $("main").hidden = true;
  } else if (e.status === 503) {
    say("calm", "Touchline is starting", e.message);
    reload(2000);
  } else {
    say("bad", e.message, e.advice ?? "");
  }
}

function say(level, title, text) {
  $("notice").hidden = false;
  $("notice").dataset.level = level;
  setText($("notice-title"), title);
  setText($("notice-text"), text);
}

function options(select, entries) {
  const { value } = select;
  const wanted = select.options.length ? value : (query.get(select.id.replace("filter-", "")) ?? "");
  if (wanted && !entries.some(([id]) => id === wanted)) entries.push([wanted, wanted]);
  const text = JSON.stringify(entries);
  if (select.dataset.entries === text) return;
  select.dataset.entries = text;
  select.replaceChildren(...entries.map(([id, name]) => new Option(name, id)));
  select.value = wanted;
}

function fillFilters() {
  const groups = [...new Set(state.streams.map((s) => s.settings?.group).filter(Boolean))].sort();
  options($("filter-group"), [["", "All groups"], ...groups.map((group) => [group, group])]);
  $("filter-group").hidden = groups.length === 0;
  options($("filter-stream"), [["", "All streams"], ...state.streams.map((s) => [s.id, s.settings?.label ?? s.id])]);
  options($("filter-class"), [["", "All sports"], ...info.classes.map(({ id, title }) => [id, title])]);
}

function wire() {
  for (const button of $("spans").children) {
    button.addEventListener("click", () => {
      const span = Number(button.dataset.span) * 1000;
      if (state.follows) follow(span);
      else setView((view.from + view.to - span) / 2, (view.from + view.to + span) / 2, false);
    });
  }
  $("earlier").addEventListener("click", () => lanes.pan(-0.5));
  $("later").addEventListener("click", () => lanes.pan(0.5));
  $("out").addEventListener("click", () => lanes.zoom(2));
  $("in").addEventListener("click", () => lanes.zoom(0.5));
  $("now").addEventListener("click", () => follow());
  for (const name of ["group", "stream", "class"]) {
    $(`filter-${name}`).addEventListener("change", () => {
      state.count = LIST;
      show();
      reload(0);
    });
  }
  for (const button of $("by").children) {
    button.addEventListener("click", () => {
      state.by = button.dataset.by;
      showBy();
      if (state.sums) showSums(state.sums, state.by);
      address();
    });
  }
  $("list-more").addEventListener("click", () => {
    state.count += LIST * 4;
    show();
  });
  $("detail-close").addEventListener("click", () => close());
  document.addEventListener("keydown", (e) => {
    if (e.key === "Escape" && state.selected) close();
  });
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden && state.follows) reload(0);
  });
  $("tools").addEventListener("submit", (e) => e.preventDefault());
  onThemeChange(() => show());
  offerZones($("zone"), () => {
    show();
    reload(0);
  });
}

// What corrects the segment that is shown, or a part of it.
function teach() {
  const corrector = new Corrector("segment", info.classes);
  const part = new PartField(({ from, to, seconds, times }) => {
    const { stream, run, class: label } = state.selected;
    const isPart = seconds < state.selected.seconds;
    lanes.part = isPart ? { stream, ...times } : null;
    corrector.show({ stream, run, from, to, label, what: seconds === 1 ? "This second" : `These ${duration(seconds)}` });
  });
  return { corrector, part };
}

function close() {
  select(null);
  $("lanes-box").focus({ preventScroll: true });
}

function showBy() {
  for (const button of $("by").children) button.setAttribute("aria-pressed", button.dataset.by === state.by);
}

const info = await fetchInfo({ silent: () => problem(new Error("no answer")) });
learnClasses(info.classes);
const teaching = info.teaches && (await mayChange()) ? teach() : null;
setHouseZone(info.time_zone ?? null);
$("teach-link").hidden = !info.teaches;
setText($("build"), `Touchline ${info.version} · pack ${info.pack.name}`);
if (["class", "day"].includes(query.get("by"))) state.by = query.get("by");
fillFilters();
showBy();
wire();
showView();
offerLogOut($("log-out"));
load();
