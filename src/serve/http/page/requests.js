// Requests of the page that change something. An answer has the status, the body, and for an error what is wrong and what to do.

import { capital, url } from "./base.js";

const sentence = (text) => (text ? capital(text).replace(/\.?$/, ".") : "");

// {ok, status, body, etag, error, advice}. Never fails: without a connection the status is 0.
export async function request(method, path, { body, etag, signal } = {}) {
  const headers = {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  if (etag) headers["If-Match"] = etag;
  try {
    const answer = await fetch(url(path), { method, headers, signal, cache: "no-store", body: body === undefined ? undefined : JSON.stringify(body) });
    const text = await answer.text();
    let data = null;
    try {
      data = text ? JSON.parse(text) : null;
    } catch {
      // A proxy answers with its own page.
    }
    const [error, advice] = answer.ok ? ["", ""] : [sentence(data?.error ?? `The server answered ${answer.status}`), sentence(data?.advice)];
    return { ok: answer.ok, status: answer.status, body: data, etag: answer.headers.get("etag"), error, advice };
  } catch (e) {
    if (e.name === "AbortError") return { ok: false, status: -1, body: null, etag: null, error: "", advice: "" };
    return { ok: false, status: 0, body: null, etag: null, error: "No connection to Touchline.", advice: "Nothing was changed. Try again when it answers." };
  }
}

// Whether the viewer may change streams. The answer to a change decides; this only hides what would be refused.
export async function mayChange() {
  const { ok, body } = await request("GET", "api/v1/session");
  return ok && body.role === "admin";
}

export const streamPath = (id) => `api/v1/streams/${encodeURIComponent(id)}`;
