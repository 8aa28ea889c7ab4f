// The panels: each updates its part of the document from plain data.

import { answerOf, unexpectedText } from "./answers.js";
import { $, GAPS, SIGNALS, capital, duration, gapText, icon, make, percent, setText } from "./base.js";
import { colourOf, paint, titleOf } from "./colours.js";
import { clock, moment, zoneName } from "./times.js";

const TIERS = {
  sparse: "Pictures and sound decide; motion is not computed.",
  key: "Only key pictures are decoded. Seconds without one have no decision.",
};
export const isNoProgramme = (record) => record?.type === "gap" && record.reason === "no-programme";
export const VIEWS = { rgb: "Pictures", flow: "Motion", audio: "Sound" };
const MISSING = {
  "no-track": "No such track",
  "no-data": "No data",
  "no-pairs": "Too few frames",
  "no-model": "Not in this pack",
  silent: "Silent",
};
// The texts of a view without scores. A tier is not a fault of the stream, so the text names it.
function missingTexts(name, said, record) {
  const tier = record?.tier ?? (record?.reason === "not-decoded" ? "key" : null);
  if (name === "flow" && tier) return ["Not computed", `tier ${tier} leaves it out`];
  return [said ? MISSING[said.absent] : "–", "\u00a0"];
}
const VOTERS = { rgb: ["frame", "frames"], flow: ["pair", "pairs"] };

export function showState(stream, server) {
  const pill = $("pill");
  const names = { connecting: "Connecting", playing: stream?.pace === "file" ? "Playing" : "Live", waiting: "Waiting", paused: "Paused", ended: "Ended", failed: "Failed", removed: "Removed" };
  const state = server === "lost" ? "offline" : (stream?.state ?? "opening");
  pill.dataset.state = state;
  setText(pill.lastElementChild, state === "offline" ? "Offline" : (names[state] ?? "Opening"));
}

const TRACKS = { video: "pictures", audio: "sound" };

// The stalled tracks of a playing stream, and since when.
export function silentTracks(incidents, stream) {
  if (stream?.state !== "playing") return [];
  const silent = new Map();
  for (const { incident, track, since, cause, at } of incidents) {
    if (Date.parse(at) < Date.parse(stream.since) || (incident === "run-started" && cause === "reconnect")) silent.clear();
    else if (incident === "track-stalled") silent.set(track, { track, since: Date.parse(since) });
    else if (track) silent.delete(track);
  }
  return [...silent.values()];
}

// Shows a problem of the server or the stream, with advice.
export function showNotice(stream, server, problem, now, silent, last, onAir) {
  let level = null;
  let title = "";
  let text = "";
  if (server === "lost") {
    [level, title, text] = ["warn", "No connection to Touchline", "The page shows the last known state and retries."];
  } else if (problem) {
    [level, title, text] = ["bad", capital(problem.error), `${capital(problem.advice)}.`];
  } else if (stream?.state === "failed") {
    [level, title, text] = ["bad", `The stream failed: ${stream.cause}`, capital(stream.advice ?? "")];
  } else if (stream?.state === "waiting" && stream.kind === "no-caller") {
    [level, title, text] = ["calm", "Waiting for a caller", `No sender has connected since ${moment(Date.parse(stream.since))}.`];
  } else if (stream?.state === "waiting") {
    const left = Math.ceil((Date.parse(stream.since) + stream.retry_in_ms - now) / 1000);
    [level, title, text] = ["warn", `The stream is down: ${stream.cause}`, `${left > 0 ? `Next attempt in ${left} s` : "Retrying now"} (attempt ${stream.attempt}); down since ${moment(Date.parse(stream.down_since ?? stream.since))}.`];
  } else if (stream?.state === "ended") {
    [level, title, text] = ["calm", "The stream has ended", `The page shows its last decisions. It ended ${moment(Date.parse(stream.since))}.`];
  } else if (stream?.state === "paused" && stream.cause) {
    [level, title, text] = ["bad", `The stream is paused: ${stream.cause}`, capital(stream.advice ?? "")];
  } else if (stream?.state === "paused") {
    [level, title, text] = ["calm", "The stream is paused", "An operator paused it and can enable it again."];
  } else if (stream?.state === "removed") {
    [level, title, text] = ["calm", "The stream was removed", "Its last decisions stay on the page until you select another stream."];
  }
  if (level === null && silent.length) {
    const [{ track, since }] = silent;
    [level, title, text] = ["warn", `No ${TRACKS[track]} since ${moment(since)}`, `Decisions continue from ${track === "video" ? "its sound" : "its pictures"}.`];
  }
  if (level === null && stream?.state === "playing" && stream.expectation?.unexpected) {
    const answer = answerOfRecord(last, onAir, false);
    const seen = isNoProgramme(last) ? "no-programme" : answer?.kind === "on-air" ? answer.label : null;
    const since = moment(Date.parse(stream.expectation.unexpected.since));
    [level, title, text] = ["warn", unexpectedText(stream.expectation, seen, now), `Since ${since}. The settings of the stream say what is expected.`];
  }
  const silence = stream?.state === "playing" && stream.pace === "live" && stream.signal.find(({ signal }) => signal === "silence");
  if (level === null && silence) {
    [level, title, text] = ["warn", `Silence since ${moment(Date.parse(silence.since))}`, "The sound is not used for decisions until it returns."];
  }
  if (level === null && last?.frame_share && stream?.state === "playing") {
    [level, title, text] = ["warn", "The machine is overloaded", `Each second is decided from ${percent(last.frame_share)} of its pictures, and from its sound.`];
  }
  if (level === null && last?.tier && stream?.state === "playing") {
    [level, title, text] = ["calm", `Decode tier ${last.tier}`, TIERS[last.tier]];
  }
  const notice = $("notice");
  notice.hidden = level === null;
  if (level) {
    notice.dataset.level = level;
    setText($("notice-title"), title);
    setText($("notice-text"), text);
  }
}

export function showVitals(latencyMs, backlog, playing, timecode) {
  $("timecode").parentElement.hidden = !timecode;
  setText($("timecode"), timecode ? timecode.label : "");
  const latency = $("latency");
  // Old numbers of a stream that does not play would look current.
  if (!playing) latencyMs = backlog = null;
  setText(latency, latencyMs === null ? "–" : `${(latencyMs / 1000).toFixed(latencyMs < 9950 ? 1 : 0)} s`);
  latency.dataset.level = latencyMs > 3000 ? "bad" : latencyMs > 1500 ? "warn" : "good";
  setText($("backlog"), backlog === null ? "–" : `${backlog} s`);
  $("backlog").dataset.level = backlog > 5 ? "bad" : backlog > 1 ? "warn" : "good";
}

// The output with the label on the picture; `output` is null without one.
export function showOutput(output, playing) {
  const vital = $("output-vital");
  vital.hidden = output === null;
  if (output === null) return;
  const { up, address, last_error: error, dropped } = output;
  const failed = !up && error !== null;
  setText($("output"), up ? "sending" : failed ? error.kind : "waiting");
  $("output").dataset.level = up ? "good" : failed && playing ? "bad" : "warn";
  vital.title = `Pictures with the label to ${address}` + (failed ? `: ${error.cause}` : "") + (dropped ? `; ${dropped} coded pictures and pieces of sound were not sent` : "");
}

// The answer of a record: the class on air, or that it is not sure. `onAir`: the ids of the classes on air. A stream that is over has
// none, and keeps its last answer. Null without a decision.
export function answerOfRecord(record, onAir, isOver) {
  const { label, mean, unknown } = record?.window ?? {};
  if (!label) return null;
  const last = isOver && !onAir.length && !unknown ? [label] : onAir;
  const classes = last.map((id) => ({ label: id, probability: mean[id] })).sort((a, b) => b.probability - a.probability);
  return answerOf({ label, probability: mean[label], unknown: unknown === true, on_air: classes });
}

// The lower third: the answer over the picture, on a dark scrim in both themes. While the stream does not play, it shows the last
// answer as outdated.
export function showThird(record, state, signals, answer) {
  const third = $("third");
  const none = isNoProgramme(record) && state === "playing";
  third.dataset.programme = none ? "none" : "on";
  if (none) return showNoProgramme(third, record.signal, signals);
  third.hidden = answer === null;
  if (answer === null) return;
  third.dataset.unknown = answer.kind === "not-sure";
  paint(third, answer.label, "dark");
  setText($("third-title"), answer.title);
  setText($("third-probability"), percent(answer.probability));
  const gap = record.type === "gap";
  third.dataset.gap = gap;
  const stale = { waiting: "before the stream went down", paused: "before the stream was paused", ended: "when the stream ended", failed: "before the stream failed", removed: "before the stream was removed" }[state];
  third.dataset.stale = stale !== undefined;
  const seen = record.window.seconds + record.window.gaps;
  const over = `${answer.detail ? `${answer.detail}, ` : ""}over the last ${seen === 1 ? "second" : `${seen} s`}`;
  setText($("third-sub"), stale ?? (gap ? `No decision this second: ${gapText(record)}` : over));
}

function showNoProgramme(third, names, signals) {
  third.hidden = false;
  third.dataset.gap = third.dataset.stale = third.dataset.unknown = false;
  const began = signals.filter(({ signal }) => names.includes(signal)).map(({ since }) => Date.parse(since));
  const since = began.length ? ` since ${moment(Math.min(...began))}` : "";
  setText($("third-probability"), "");
  setText($("third-title"), "No programme");
  setText($("third-sub"), capital(names.map((name) => SIGNALS[name]).join(", ")) + since);
}

export class Modalities {
  #cards = new Map();

  constructor() {
    for (const name of Object.keys(VIEWS)) {
      const card = make("li");
      card.id = `modality-${name}`;
      const parts = { label: make("strong"), score: make("span", "score"), votes: make("span", "votes") };
      const meter = make("div", "meter");
      meter.append(make("i"));
      card.append(icon(name), make("span", "view", VIEWS[name]), make("span", "badge", "Decided"), parts.label, parts.score, meter, parts.votes);
      $("modalities").append(card);
      this.#cards.set(name, { card, ...parts });
    }
  }

  show(record) {
    const second = record?.type === "second" ? record : null;
    setText($("why"), second ? whyText(second) : record ? `no decision: ${gapText(record)}` : "no decision yet");
    for (const [name, { card, label, score, votes }] of this.#cards) {
      const said = second?.modalities[name];
      const missing = !said || said.absent !== undefined;
      const decided = second?.decided_by === name;
      card.dataset.decided = decided;
      card.dataset.missing = missing;
      card.style.setProperty("--value", missing ? 0 : said.score);
      const [text, reason] = missing ? missingTexts(name, said, record) : [titleOf(said.label), null];
      setText(label, text);
      setText(score, missing ? "" : percent(said.score));
      const [one, many] = VOTERS[name] ?? [];
      setText(votes, missing ? reason : one ? `${said.votes} of ${said.voters} ${said.voters === 1 ? one : many}` : "whole second");
      if (!missing) paint(card, said.label);
    }
  }
}

function whyText({ why, decided_by, label }) {
  const view = VIEWS[decided_by].toLowerCase();
  const verb = decided_by === "rgb" ? "decide" : "decides";
  if (why === "table") return `${view} ${verb}: the table assigns ${titleOf(label)} to ${decided_by === "rgb" ? "them" : "it"}`;
  if (why === "fallback") return `${view} ${verb}: another view is missing`;
  return `${view} ${verb} (default)`;
}

const SHOWN = 8;
// Margin by which a class must exceed the one above it to move up: bars that swap every second are unreadable.
const OVERTAKE = 0.01;

export class Bars {
  #rows = new Map();
  #order = [];
  #sorted = false;
  #all = false;

  constructor(classes, info) {
    for (const { id, title } of classes) {
      const row = make("li");
      row.dataset.class = id;
      const track = make("div", "track");
      const fill = make("div", "fill");
      fill.append(make("i"));
      track.append(fill, make("div", "tick"));
      const value = make("span", "value", "–");
      row.append(make("span", "name", title), track, value);
      $("bars").append(row);
      this.#rows.set(id, { row, value });
      this.#order.push(id);
    }
    this.over(info.vote_window_s);
    const more = $("bars-more");
    more.hidden = classes.length <= SHOWN;
    more.addEventListener("click", () => {
      this.#all = !this.#all;
      this.#place();
    });
    this.recolour();
    this.#place();
  }

  recolour() {
    for (const [id, { row }] of this.#rows) paint(row, id);
  }

  // The vote window of the bars. A stream may have its own.
  over(seconds) {
    setText($("bars-sub"), `mean of the last ${seconds} s · mark: this second`);
  }

  reset() {
    this.#order = [...this.#rows.keys()];
    this.#sorted = false;
    this.show(null);
  }

  // Shows a record; `label` is the class of the answer.
  show(record, label = null) {
    const mean = record?.window.mean;
    const top = record?.window.label ?? null;
    if (mean && top !== null) this.#sort(mean);
    for (const [id, { row, value }] of this.#rows) {
      const p = mean?.[id] ?? 0;
      const now = record?.type === "second" ? record.probabilities[id] : null;
      row.style.setProperty("--value", p);
      if (now !== null) row.style.setProperty("--now", now);
      // A mark near zero is hidden.
      row.dataset.tick = now !== null && Math.max(now, p) >= 0.01;
      row.dataset.top = id === label;
      setText(value, top === null ? "–" : percent(p));
    }
    this.#place();
  }

  // Insertion sort from the last order, with a margin unless it is the first.
  #sort(mean) {
    const order = this.#order;
    const margin = this.#sorted ? OVERTAKE : 0;
    this.#sorted = true;
    const before = (a, b) => mean[a] > mean[b] + margin;
    for (let i = 1; i < order.length; i++) {
      for (let j = i; j > 0 && before(order[j], order[j - 1]); j--) [order[j - 1], order[j]] = [order[j], order[j - 1]];
    }
  }

  #place() {
    const shown = this.#all ? this.#order.length : Math.min(SHOWN, this.#order.length);
    $("bars").style.setProperty("--shown", shown);
    this.#order.forEach((id, rank) => {
      const { row } = this.#rows.get(id);
      row.style.setProperty("--rank", rank);
      row.dataset.shown = rank < shown;
    });
    const more = $("bars-more");
    more.setAttribute("aria-expanded", this.#all);
    setText(more, this.#all ? "Show fewer" : `Show all ${this.#order.length} classes`);
  }
}

const RUNS = {
  reconnect: "Opened again",
  "jump-forward": "Time stamps jumped forward",
  "jump-back": "Time stamps jumped back",
  tracks: "Tracks changed",
  playlist: "Break in the playlist",
};
const INCIDENTS = {
  "track-stalled": (i) => `No ${TRACKS[i.track]}`,
  "track-recovered": (i) => `${capital(TRACKS[i.track])} recovered`,
  "track-lost": (i) => `${capital(TRACKS[i.track])} ended`,
  "track-added": (i) => `${capital(TRACKS[i.track])} added`,
  "decoder-fallback": () => "Decodes in software: the device failed or does not exist",
  "tcp-fallback": () => "Switched to TCP: nothing arrived over UDP",
  "clock-wrapped": () => "The clock of the stream wrapped",
  "segment-lost": (i) => `Segment lost: ${i.cause}`,
  "ad-break-began": () => "Advertisement break began",
  "ad-break-ended": () => "Advertisement break ended",
  "clock-implausible": () => "Clock of the source is implausible: using arrival times",
  "clock-plausible": () => "Clock of the source is plausible again",
  "format-changed": (i) => `${capital(TRACKS[i.track])} changed format`,
  "run-started": (i) => RUNS[i.cause],
  "signal-began": (i) => `${capital(SIGNALS[i.signal])} began`,
  "signal-ended": (i) => `${capital(SIGNALS[i.signal])} ended`,
};

// Recent events and incidents of a live source, newest first.
export function showEvents(events, incidents, pace) {
  const list = $("events");
  const live = pace === "live";
  let last = -Infinity;
  const timed = events.map((event) => {
    if (event.wall) last = Date.parse(event.wall.time);
    return { at: last, row: () => eventRow(event, live) };
  });
  if (live) timed.push(...incidents.map((incident) => ({ at: Date.parse(incident.at), row: () => incidentRow(incident) })));
  if (live) timed.sort((a, b) => a.at - b.at);
  const rows = timed.reverse().map(({ row }) => row());
  list.replaceChildren(...(rows.length ? rows : [make("li", "nothing", "No events yet.")]));
  setText($("events-sub"), rows.length ? `${rows.length}${rows.length >= 200 ? " latest" : ""}${live ? ` · ${zoneName(Date.now())}` : ""}` : "");
}

const REASONS = { "no-programme": "no programme", ended: "stream ended" };

function eventRow(event, live) {
  const row = make("li");
  row.dataset.kind = event.kind;
  paint(row, event.class);
  const when = event.wall && live ? clock(Date.parse(event.wall.time)) : duration(event.index);
  const what = `${titleOf(event.class)} ${event.kind === "onset" ? "on" : "off"}`;
  const how = event.reason ? (REASONS[event.reason] ?? event.reason) : percent(event.probability);
  row.append(make("time", "", when), make("i"), make("span", "what", what), make("span", "how", how));
  return row;
}

function incidentRow(incident) {
  const row = make("li");
  row.dataset.kind = "incident";
  const what = (INCIDENTS[incident.incident] ?? (() => incident.incident))(incident);
  const over = incident.incident !== "signal-began" && incident.since;
  const silent = over ? duration((Date.parse(incident.at) - Date.parse(incident.since)) / 1000) : "";
  row.append(make("time", "", clock(Date.parse(incident.at))), make("i"), make("span", "what", what), make("span", "how", silent));
  return row;
}

function topText({ top, signal, on_air: onAir }) {
  if (top?.unknown || (top && !onAir.length)) return "Not sure";
  if (top) return onAir.includes(top.label) ? `${titleOf(top.label)} ${percent(top.probability)}` : titleOf(onAir[0]);
  return signal.some(({ signal }) => signal !== "silence") ? GAPS["no-programme"] : "no decision yet";
}

// The stream switcher, if there are several streams.
export function showStreams(streams, current) {
  const nav = $("streams");
  nav.hidden = streams.length < 2;
  if (nav.hidden) return;
  const words = { connecting: "connecting", playing: "", waiting: "waiting", paused: "paused", ended: "ended", failed: "failed", removed: "removed" };
  streams.forEach((stream, i) => {
    let link = nav.children[i];
    if (!link) {
      link = make("a");
      link.append(make("i"), make("b"), make("em"), make("span"));
      nav.append(link);
    }
    const [dot, name, state, top] = link.children;
    link.href = `?stream=${encodeURIComponent(stream.id)}`;
    link.dataset.state = stream.state;
    const isCurrent = stream.id === current;
    if (isCurrent && link.getAttribute("aria-current") !== "true") link.scrollIntoView({ block: "nearest", inline: "center" });
    link.setAttribute("aria-current", isCurrent);
    setText(name, stream.settings?.label ?? stream.id);
    setText(state, words[stream.state] ?? stream.state);
    setText(top, topText(stream));
    if (stream.top && !stream.top.unknown) dot.style.setProperty("--class", colourOf(stream.top.label).fill);
    else dot.style.removeProperty("--class");
  });
  while (nav.children.length > streams.length) nav.lastElementChild.remove();
}
