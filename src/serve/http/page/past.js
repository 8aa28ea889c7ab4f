// Requests the history from the server. A new request replaces the previous one of its kind.

import { url } from "./base.js";

// Pages of segments that are asked for one time.
const PAGES = 8;

export class ProblemError extends Error {
  constructor(status, { error, advice }) {
    super(error);
    this.status = status;
    this.advice = advice;
  }
}

async function ask(path, parameters, signal) {
  const query = new URLSearchParams(Object.entries(parameters).filter(([, value]) => value !== null && value !== undefined && value !== ""));
  const answer = await fetch(url(`${path}?${query}`), { cache: "no-store", headers: { Accept: "application/json" }, signal });
  // The session has ended: reload to show the login.
  if (answer.status === 401) location.reload();
  if (!answer.ok) throw new ProblemError(answer.status, await answer.json().catch(() => ({ error: `the server answered ${answer.status}`, advice: "see its log" })));
  return answer.json();
}

const iso = (ms) => new Date(ms).toISOString();
export const timeOf = ({ from, to }) => ({ from: iso(from), to: iso(to) });

// All segments of a time, oldest first, and whether there are more than are asked for.
export async function fetchSegments(view, filter, signal) {
  const segments = [];
  let after = null;
  for (let page = 0; page < PAGES; page++) {
    const { segments: found, next } = await ask("api/v1/segments", { ...timeOf(view), ...filter, limit: 1000, order: "newest", after }, signal);
    for (const { open, poster, elsewhere, segment } of found) segments.push({ ...segment, open, poster, elsewhere, from: Date.parse(segment.began), to: Date.parse(segment.ended) });
    after = next;
    if (!after) break;
  }
  return { segments: segments.reverse(), more: after !== null };
}

// When something unexpected was on air: {stream, from, to} in the order of time. What has not ended lasts until the end of the view.
export async function fetchUnexpected(view, filter, signal) {
  const { events } = await ask("api/v1/events", { ...timeOf(view), ...filter, type: "expectation", limit: 1000, order: "oldest" }, signal);
  const spans = [];
  const open = new Map();
  for (const { stream, kind, wall, seconds } of events) {
    const at = wall ? Date.parse(wall.time) : null;
    if (at === null) continue;
    if (kind === "unexpected-began") {
      open.set(stream, { stream, from: at - seconds * 1000, to: view.to });
      spans.push(open.get(stream));
    } else if (open.has(stream)) {
      open.get(stream).to = at;
      open.delete(stream);
    } else {
      spans.push({ stream, from: view.from, to: at });
    }
  }
  return spans;
}

export const fetchSeconds = (stream, view, signal) => ask("api/v1/history", { stream, ...timeOf(view), step: 1 }, signal);
export const fetchSums = (view, filter, zone, signal) => ask("api/v1/summary", { ...timeOf(view), ...filter, zone }, signal);
const NO_FLEET = { nodes: [], streams: [] };

async function askFleet(signal) {
  try {
    return await ask("api/v1/fleet", {}, signal);
  } catch (e) {
    // The machine has not joined yet.
    if (e instanceof ProblemError && e.status === 404) return NO_FLEET;
    throw e;
  }
}

// The streams of this machine, and in a fleet those of the others, which have `elsewhere`, `node` and the `page` of that machine.
export async function fetchStreams(fleet, signal) {
  const [{ streams: own }, { nodes, streams }] = await Promise.all([
    ask("api/v1/streams", {}, signal),
    fleet ? askFleet(signal) : NO_FLEET,
  ]);
  const pages = new Map(nodes.map(({ name, page }) => [name, page]));
  const here = new Set(own.map(({ id }) => id));
  const others = streams.filter(({ id }) => !here.has(id));
  const elsewhere = others.map(({ id, label, group, node }) => ({ id, node, page: pages.get(node) ?? null, settings: { label, group }, elsewhere: true }));
  return { streams: [...own, ...elsewhere], pages };
}

// The page of a stream, on the machine that watches it; null if that has no address.
export function pageOf({ id, elsewhere, page }) {
  const query = `?stream=${encodeURIComponent(id)}`;
  return elsewhere ? page && new URL(query, page).href : url(query);
}

// The clip that has most of a segment; null if there is none. Ids of clips begin with the stream and the wall time.
export async function fetchClip(segment, signal) {
  try {
    const after = `${segment.stream}-${segment.from - 3_600_000}`;
    const { clips } = await ask("api/v1/clips", { stream: segment.stream, after, limit: 200 }, signal);
    const shared = (clip) => Math.min(clip.to_pts_ns, segment.end_pts_ns) - Math.max(clip.from_pts_ns, segment.pts_ns);
    const own = clips.filter((clip) => clip.run === segment.run && clip.class === segment.class && shared(clip) > 0);
    return own.sort((a, b) => shared(b) - shared(a))[0] ?? null;
  } catch (e) {
    if (e instanceof ProblemError) return null;
    throw e;
  }
}
