// The connection of the wall: one event stream for all streams, and a request now and then that shows whether the server lives.

import { sessionEnded, url } from "./base.js";

const KINDS = ["stream", "elsewhere", "estimate", "state", "incident", "expectation"];
const RETRY_MS = 2000;
const PING_MS = 5000;
// Failures in a row before the wall shows an outage.
const SILENT_MAX = 2;

// `tell` has snapshot(overview), item(kind, data), and server(isLost).
export class Feed {
  #source = null;
  #timer = 0;
  #silences = 0;
  #lost = false;

  constructor(tell) {
    this.tell = tell;
    this.#open();
    setInterval(() => this.#ping(), PING_MS);
    document.addEventListener("visibilitychange", () => {
      // The machine slept, or the browser froze the page.
      if (!document.hidden && this.#source.readyState === EventSource.CLOSED) this.#open();
    });
  }

  // The browser connects again by itself, and resumes after the last event, unless the answer was an error.
  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(url(`api/v1/live?fleet=true&type=${KINDS.join(",")}`));
    this.#source = source;
    source.addEventListener("snapshot", (e) => {
      this.#answers();
      this.tell.snapshot(JSON.parse(e.data));
    });
    for (const kind of KINDS) source.addEventListener(kind, (e) => this.tell.item(kind, JSON.parse(e.data)));
    source.onopen = () => this.#answers();
    source.onerror = () => {
      this.#silent();
      if (source.readyState === EventSource.CLOSED) this.#timer = setTimeout(() => this.#open(), RETRY_MS);
    };
  }

  #answers() {
    this.#silences = 0;
    if (this.#lost) this.tell.server((this.#lost = false));
  }

  #silent() {
    if (++this.#silences >= SILENT_MAX && !this.#lost) this.tell.server((this.#lost = true));
  }

  // An event stream may be dead without an error. A session may have ended: then the login is due.
  async #ping() {
    try {
      const answer = await fetch(url("api/v1/session"), { cache: "no-store", signal: AbortSignal.timeout(PING_MS - 1000) });
      if (answer.status === 401) sessionEnded();
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      if (this.#lost) this.#open();
    } catch {
      this.#silent();
    }
  }
}
