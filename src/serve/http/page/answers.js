// What a stream shows on the wall: the class on air, that it is not sure, or what is wrong. Plain data, no elements.

import { GAPS, capital, duration, signalText } from "./base.js";
import { titleOf } from "./colours.js";
import { clock, moment } from "./times.js";

// Levels, the worst last.
export const [CALM, WARN, BAD] = [0, 1, 2];

// A playing stream without an answer for this long has a problem.
const SILENT_MS = 10000;
// Seconds in a row without a decision that are more than a hiccup.
const GAP_MS = 3000;

// The answer of an estimate: the class on air, or that it is not sure.
export function answerOf({ label, probability, unknown, on_air: onAir }) {
  if (onAir.length && !unknown) {
    const [first, ...others] = onAir;
    const also = others.length ? `also ${others.map((other) => titleOf(other.label)).join(", ")}` : "";
    return { kind: "on-air", label: first.label, title: titleOf(first.label), probability: first.probability, detail: also };
  }
  return { kind: "not-sure", label, title: "Not sure", probability, detail: `Best guess: ${titleOf(label)}` };
}

// What a stream shows that is no sport of its pack.
const WORDS = { other: "no known sport", unknown: "an unknown programme", "no-programme": "no programme" };
const wordOf = (id) => WORDS[id] ?? titleOf(id);

// "Expected Tennis or Golf, is Soccer for 1:05". `onAir`: the id of what is on air now; null while that is not known.
export function unexpectedText({ expected, unexpected }, onAir, now) {
  const names = expected.map(wordOf);
  const wanted = names.length > 1 ? `${names.slice(0, -1).join(", ")} or ${names.at(-1)}` : names[0];
  const is = onAir ?? unexpected.on_air;
  return `Expected ${wanted}${is ? `, is ${wordOf(is)}` : ""} for ${duration((now - Date.parse(unexpected.since)) / 1000)}`;
}

// What a record says about the expectations of its stream at `now`, ms.
export function expectationOf({ kind, expected, on_air, seconds, wall }, now) {
  const end = wall ? Date.parse(wall.time) + 1000 : now;
  const since = new Date(end - seconds * 1000).toISOString();
  return { expected, unexpected: kind === "unexpected-began" ? { since, on_air } : null };
}

// `answer` of a playing stream, as a problem if something unexpected is on air.
function withExpectation(answer, { expectation }, now) {
  if (!expectation?.unexpected) return answer;
  const onAir = answer.kind === "on-air" ? answer.label : answer.kind === "no-programme" ? answer.kind : null;
  const text = unexpectedText(expectation, onAir, now);
  const detail = [text, answer.detail].filter(Boolean).map(capital).join(". ");
  return { ...answer, level: Math.max(answer.level, WARN), flag: "Unexpected", icon: answer.icon ?? "alert", detail, unexpected: true };
}

function playing(stream, now) {
  const { estimate, spans } = stream;
  if (!estimate) {
    const late = now - Date.parse(stream.since) > 3 * SILENT_MS;
    return { kind: "start", level: late ? WARN : CALM, icon: "wait", title: late ? "No decision" : "Starting", detail: late ? `Since ${moment(Date.parse(stream.since), now)}` : "Waiting for the first second" };
  }
  if (estimate.reason === "no-programme") {
    const began = stream.signal.filter(({ signal }) => estimate.signal.includes(signal)).map(({ since }) => Date.parse(since));
    const since = began.length ? ` since ${moment(Math.min(...began), now)}` : "";
    return { kind: "no-programme", level: WARN, icon: "bars", title: "No programme", detail: `${capital(signalText(estimate.signal))}${since}` };
  }
  if (now - estimate.at_ms > SILENT_MS) {
    return { kind: "silent", level: WARN, icon: "load", title: "No decision", detail: `Since ${moment(estimate.at_ms, now)}` };
  }
  const last = spans.at(-1);
  if (estimate.reason && last?.reason === estimate.reason && last.to_ms - last.from_ms >= GAP_MS) {
    return { kind: "gap", level: WARN, icon: "load", title: estimate.reason === "overload" ? "Overloaded" : "No decision", detail: `${capital(GAPS[estimate.reason])} since ${clock(last.from_ms)}` };
  }
  if (estimate.label === null) return { kind: "start", level: CALM, icon: "wait", title: "Starting", detail: "Waiting for a decision" };
  const silence = stream.pace === "live" && stream.signal.find(({ signal }) => signal === "silence");
  const answer = { level: CALM, icon: null, ...answerOf(estimate) };
  if (silence) Object.assign(answer, { level: WARN, flag: "Silence", icon: "sound", detail: `Silence since ${moment(Date.parse(silence.since), now)}` });
  return answer;
}

// {kind, level, icon, title, detail, label, probability, flag, unexpected}: what stream shows at the server's time `now`, in ms.
export function answer(stream, now) {
  const since = moment(Date.parse(stream.down_since ?? stream.since), now);
  const words = stream.cause ? `. ${capital(stream.cause)}` : "";
  switch (stream.state) {
    case "playing":
      return withExpectation(playing(stream, now), stream, now);
    case "waiting":
      if (stream.kind === "no-caller") return { kind: "wait", level: CALM, icon: "wait", title: "Waiting for a caller", detail: `Since ${since}` };
      return { kind: "down", level: BAD, icon: "down", title: "Down", detail: `Since ${since}${words}` };
    case "failed":
      return { kind: "down", level: BAD, icon: "down", title: "Failed", detail: `Since ${since}${words}` };
    case "paused":
      return { kind: "off", level: stream.cause ? BAD : CALM, icon: "pause", title: "Paused", detail: `Since ${moment(Date.parse(stream.since), now)}${words}` };
    case "ended":
      return { kind: "off", level: CALM, icon: "end", title: "Ended", detail: moment(Date.parse(stream.since), now) };
    default:
      return { kind: "start", level: CALM, icon: "wait", title: "Connecting", detail: `Since ${since}` };
  }
}

// One line on all answers: how many streams, and how many of them need attention.
export function counts(answers) {
  const many = (n, one, several) => `${n} ${n === 1 ? one : several}`;
  const of = (...kinds) => answers.filter(({ kind }) => kinds.includes(kind)).length;
  const unexpected = answers.filter((answer) => answer.unexpected).length;
  return [
    { text: many(answers.length, "stream", "streams"), level: null },
    { text: `${of("on-air")} on air`, level: null, hidden: of("on-air") === 0 },
    { text: `${of("down")} down`, level: BAD, hidden: of("down") === 0, icon: "down" },
    { text: `${of("no-programme")} no programme`, level: WARN, hidden: of("no-programme") === 0, icon: "bars" },
    { text: `${unexpected} unexpected`, level: WARN, hidden: unexpected === 0, icon: "alert" },
    { text: `${of("gap", "silent")} without decisions`, level: WARN, hidden: of("gap", "silent") === 0, icon: "load" },
    { text: `${of("not-sure")} not sure`, level: null, hidden: of("not-sure") === 0, icon: "doubt" },
  ].filter(({ hidden }) => !hidden);
}
