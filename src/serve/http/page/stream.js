// The page of one stream: holds the state and updates the panels.

import { expectationOf } from "./answers.js";
import { $, isTaken, percent, setText, toggleFullScreen } from "./base.js";
import { learnClasses, onThemeChange } from "./colours.js";
import { Live, Picture, fetchInfo, followNotice, offerLogOut, pollStreams } from "./live.js";
import { Corrector, spanOf } from "./correct.js";
import { Manage } from "./manage.js";
import { mayChange } from "./requests.js";
import { Bars, Modalities, answerOfRecord, isNoProgramme, showEvents, showNotice, showOutput, showState, showStreams, showThird, showVitals, silentTracks } from "./panels.js";
import { Timeline } from "./timeline.js";
import { offerZones, setHouseZone } from "./times.js";

// Failures in a row before the page shows an outage.
const SILENT_MAX = 2;

const known = { server: "opening", stream: null, problem: null, events: [], incidents: [], onAir: [], last: null, streams: [], clockAhead: 0 };
const serverNow = () => Date.now() + known.clockAhead;

const server = {
  silences: 0,
  answers() {
    this.silences = 0;
    if (known.server === "lost") comeBack();
    setServer("open");
  },
  polled() {
    this.silences = 0;
    // The list arrives but the event stream is dead: the machine slept, or a proxy closed it.
    if (live.broken && known.server === "lost") live.reopen();
    else if (known.server === "opening" && known.stream === null && known.streams.length === 0) setServer("open");
  },
  silent() {
    if (++this.silences >= SILENT_MAX) setServer("lost");
  },
};

const picture = new Picture($("picture"), $("stage"));
const live = new Live({ snapshot, record }, server);
const modalities = new Modalities();
const timeline = new Timeline($("timeline"), $("tip"), $("legend"), serverNow);
const manage = new Manage({
  changed,
  removed: () => location.assign($("wall").href),
  groups: () => [...new Set(known.streams.map(({ settings }) => settings?.group).filter(Boolean))].sort(),
});
const info = await fetchInfo(server);
learnClasses(info.classes);
setHouseZone(info.time_zone ?? null);
$("teach-link").hidden = !info.teaches;
followNotice(info, document.querySelector("footer"));
const bars = new Bars(info.classes, info);
showBuild();

function showBuild() {
  const { name, weights_sha256, manifest_sha256 } = info.pack;
  $("build").textContent = `Touchline ${info.version} · pack ${name} · ${info.classes.length} classes · weights ${weights_sha256.slice(0, 12)} · table ${manifest_sha256.slice(0, 12)}`;
}

// The pack changed. Its classes are the same; its other facts may differ.
async function packChanged(pack) {
  const before = JSON.stringify(info.pack);
  if (!pack || JSON.stringify(pack) === before) return;
  Object.assign(info, await fetchInfo(server));
  // A waiting stream still shows the pack of its last second.
  if (JSON.stringify(info.pack) === before) return;
  showBuild();
  $("spoken").textContent = `Pack ${info.pack.name} is in use`;
}

// Selected seconds of the timeline can be corrected.
const LAST_SECONDS = 5;
async function offerCorrections() {
  if (!info.teaches || !(await mayChange())) return;
  const corrector = new Corrector("stream", info.classes);
  $("correct").append(corrector.element);
  $("correct-help").hidden = false;
  timeline.selected = (entries) => corrector.show(spanOf(known.stream.id, entries));
  $("correct-now").addEventListener("click", () => timeline.selectLast(LAST_SECONDS));
}
offerCorrections();

// After an outage the server may run another build or another pack. Then the page must reload.
async function comeBack() {
  picture.restart();
  if (JSON.stringify(await fetchInfo(server)) === JSON.stringify(info)) return;
  const dialog = document.querySelector("dialog[open]");
  if (dialog === null) location.reload();
  else dialog.addEventListener("close", () => location.reload(), { once: true });
}

function setServer(state) {
  if (known.server === state) return;
  known.server = state;
  document.body.dataset.server = state;
  refresh();
}

function snapshot(stream) {
  const same = known.stream?.id === stream.id;
  known.stream = stream;
  known.problem = null;
  known.last = stream.last;
  known.events = stream.events;
  known.incidents = stream.incidents;
  known.onAir = stream.on_air;
  known.clockAhead = stream.now_ms - Date.now();
  $("stream-id").textContent = stream.settings?.label ?? stream.id;
  bars.over(stream.settings?.vote.window ?? info.vote_window_s);
  $("stream-uri").textContent = stream.uri;
  if (!same) bars.reset();
  timeline.reset(stream.history, stream.events, stream.pace);
  showEvents(known.events, known.incidents, stream.pace);
  refresh();
  showLast();
  packChanged(stream.pack);
}

// The viewer changed the stream. Its next snapshot has the rest.
function changed(stream) {
  known.streams = known.streams.map((row) => (row.id === stream.id ? stream : row));
  if (known.stream?.id !== stream.id) return;
  known.stream.settings = stream.settings;
  setText($("stream-id"), stream.settings?.label ?? stream.id);
  live.reopen();
  showStreams(known.streams, known.chosen);
  refresh();
}

function record(kind, data) {
  const { stream } = known;
  if (!stream) return;
  if (kind === "state") {
    const { state, kind, cause, advice, attempt, retry_in_ms, tracks } = data;
    const since = data.at ?? new Date(serverNow()).toISOString();
    const down = state === "playing" ? null : (stream.down_since ?? (kind || stream.state === "playing" ? since : null));
    Object.assign(stream, { state, kind, cause, advice, attempt, retry_in_ms, tracks, since, down_since: down });
    refresh();
    showLast();
    // The last record of the stream. The next list selects another stream.
    if (state === "removed") {
      live.leave();
      known.chosen = null;
    }
  } else if (kind === "pack") {
    stream.pack = data.pack;
    packChanged(data.pack);
  } else if (kind === "event") {
    known.events = [...known.events.slice(-199), data];
    known.onAir = known.onAir.filter((id) => id !== data.class);
    if (data.kind === "onset") known.onAir.push(data.class);
    timeline.addEvent(data);
    timeline.draw();
    showEvents(known.events, known.incidents, stream.pace);
    showLast();
  } else if (kind === "expectation") {
    stream.expectation = expectationOf(data, serverNow());
    refresh();
  } else if (kind === "incident") {
    known.incidents = [...known.incidents.slice(-99), data];
    if (data.signal) {
      stream.signal = stream.signal.filter(({ signal }) => signal !== data.signal);
      if (data.incident === "signal-began") stream.signal.push({ signal: data.signal, since: data.since });
    }
    showEvents(known.events, known.incidents, stream.pace);
    refresh();
  } else {
    known.last = data;
    stream.backlog = data.backlog;
    if (kind === "second") stream.latency_ms = data.latency_ms;
    const label = data.window.label;
    timeline.add({
      run: data.run,
      index: data.index,
      at_ms: serverNow(),
      label: data.label ?? null,
      probability: data.probability ?? null,
      decided_by: data.decided_by ?? null,
      reason: data.reason ?? null,
      window_label: label,
      window_probability: label === null ? null : data.window.mean[label],
      window_unknown: data.window.unknown === true,
    });
    showLast();
  }
}

// Shows a second.
let spokenTitle = null;
function showLast() {
  const { last, stream } = known;
  // The signal times of a file say nothing: it plays as fast as the machine allows.
  const isOver = ["ended", "failed", "removed", "paused"].includes(stream.state);
  const answer = answerOfRecord(last, known.onAir, isOver);
  showThird(last, stream.state, stream.pace === "live" ? stream.signal : [], answer);
  modalities.show(last);
  bars.show(last, answer?.label);
  showVitals(stream.latency_ms, stream.backlog, stream.state === "playing", last?.timecode);
  const over = { connecting: "Connecting", waiting: stream.kind === "no-caller" ? "Waiting" : "Down", paused: "Paused", ended: "Ended", failed: "Failed", removed: "Removed" }[stream.state];
  const now = over ?? (isNoProgramme(last) ? "No programme" : answer && `${answer.title} ${percent(answer.probability)}`);
  document.title = `${now ? `${now} · ` : ""}${stream.id} – Touchline`;
  if (answer && answer.title !== spokenTitle) {
    spokenTitle = answer.title;
    $("spoken").textContent = `${answer.title} on ${stream.id}`;
  }
}

// Shows the states and the values that change with time.
function refresh() {
  const { stream } = known;
  showState(stream, known.server);
  const none = known.streams.length === 0 && stream === null && known.server === "open";
  const problem = known.problem ?? (none ? { error: "no streams are running", advice: "add one with POST /api/v1/streams, or start touchline run URI" } : null);
  showNotice(stream, known.server, problem, serverNow(), silentTracks(known.incidents, stream), known.last, known.onAir);
  // The list is fetched again and again; the snapshot is not.
  const listed = known.streams.find(({ id }) => id === stream?.id);
  showOutput((listed ?? stream)?.output ?? null, stream?.state === "playing");
  manage.show(stream && listed ? { ...listed, state: stream.state } : stream);
  const over = ["paused", "ended", "failed", "removed"].includes(stream?.state);
  timeline.moving = !over;
  if (stream) picture.show(stream.id, stream.tracks?.video !== false);
  $("stage").dataset.stale = known.server === "lost" || (stream !== null && stream.state !== "playing");
  const texts = { connecting: "Connecting to the stream", waiting: "Waiting to reconnect", paused: "The stream is paused", ended: "The stream has ended", failed: "The stream failed", removed: "The stream was removed" };
  $("empty-text").textContent = stream?.tracks?.video === false ? "This stream has audio only" : (texts[stream?.state] ?? "Waiting for the first picture");
}

// Selects the stream of the address, or the first.
const wanted = new URLSearchParams(location.search).get("stream");
function choose() {
  const found = known.streams.find((s) => s.id === wanted) ?? known.streams[0];
  if (found && found.id !== known.chosen) {
    known.chosen = found.id;
    $("past").href = `history?stream=${encodeURIComponent(found.id)}`;
    live.follow(found.id);
  } else if (!found && known.stream !== null) {
    showNobody();
  }
  showStreams(known.streams, known.chosen);
}

// The last stream was removed: clears the page.
function showNobody() {
  live.leave();
  Object.assign(known, { chosen: null, stream: null, last: null, events: [], incidents: [], onAir: [] });
  $("stream-id").textContent = "\u00a0";
  $("stream-uri").textContent = "";
  document.title = "Touchline";
  picture.leave();
  showThird(null, null, [], null);
  modalities.show(null);
  bars.reset();
  bars.over(info.vote_window_s);
  showVitals(null, null, false);
  showEvents([], [], "live");
  timeline.reset([], [], "live");
  refresh();
}

// The wall as it was left.
function wallAddress() {
  try {
    return `./${sessionStorage.getItem("touchline-wall") ?? ""}`;
  } catch {
    return "./";
  }
}
$("wall").href = wallAddress();
addEventListener("keydown", (event) => {
  if (isTaken(event)) return;
  if (event.key === "Escape") location.assign($("wall").href);
  if (event.key === "f") toggleFullScreen();
});
document.addEventListener("visibilitychange", () => {
  if (!document.hidden && live.broken) live.reopen();
});
onThemeChange(() => {
  bars.recolour();
  showStreams(known.streams, known.chosen);
  if (!known.stream) return;
  showEvents(known.events, known.incidents, known.stream.pace);
  timeline.recolour();
  showLast();
});
setInterval(() => {
  picture.look();
  timeline.draw();
  refresh();
}, 1000);

offerZones($("zone"), () => {
  refresh();
  if (!known.stream) return;
  showEvents(known.events, known.incidents, known.stream.pace);
  showLast();
});
offerLogOut($("log-out")).catch(() => {});
modalities.show(null);
showEvents([], [], "live");
timeline.reset([], [], "live");
pollStreams((streams) => {
  known.streams = streams;
  choose();
}, server);
