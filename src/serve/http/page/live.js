// The connection to the server: the records of one stream, the list of streams, and the health of the server.

import { make, sessionEnded, setText, url } from "./base.js";

const RETRY_MS = 2000;
const POLL_MS = 3000;
const NOTICE_MS = 10000;

// Follows one stream at a time. `tell` has snapshot(stream), record(kind, record), missing(problem).
export class Live {
  #source = null;
  #timer = 0;
  #id = null;

  constructor(tell, server) {
    this.tell = tell;
    this.server = server;
  }

  follow(id) {
    this.#id = id;
    this.#open();
  }

  // Stops following: the stream was removed.
  leave() {
    clearTimeout(this.#timer);
    this.#source?.close();
    this.#source = null;
    this.#id = null;
  }

  // Opens the event stream again, after a failure or when the machine has slept.
  reopen() {
    if (this.#id !== null) this.#open();
  }

  get broken() {
    return this.#source === null || this.#source.readyState !== EventSource.OPEN;
  }

  #open() {
    clearTimeout(this.#timer);
    this.#source?.close();
    const source = new EventSource(url(`api/v1/streams/${encodeURIComponent(this.#id)}/live`));
    this.#source = source;
    const on = (kind, then) => source.addEventListener(kind, (e) => then(JSON.parse(e.data)));
    on("snapshot", (stream) => {
      this.server.answers();
      this.tell.snapshot(stream);
    });
    for (const kind of ["second", "gap", "event", "state", "incident", "pack", "expectation"]) on(kind, (record) => this.tell.record(kind, record));
    source.onerror = () => {
      this.server.silent();
      // The browser retries by itself unless the answer was an error.
      if (source.readyState === EventSource.CLOSED) this.#timer = setTimeout(() => this.#open(), RETRY_MS);
    };
  }
}

// Polls the list of streams, for the switcher and as a second health check.
export function pollStreams(then, server) {
  const ask = async () => {
    try {
      const answer = await fetch(url("api/v1/streams"), { cache: "no-store", signal: AbortSignal.timeout(POLL_MS) });
      if (answer.status === 401) sessionEnded();
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      then((await answer.json()).streams);
      server.polled();
    } catch {
      server.silent();
    }
    setTimeout(ask, POLL_MS);
  };
  ask();
}

// The facts of the server, which change only with its build or its pack. Retries until it answers.
export async function fetchInfo(server) {
  for (;;) {
    try {
      const answer = await fetch(url("api/v1/info"), { cache: "no-store" });
      if (answer.ok) return await answer.json();
      // The session has ended: reload to show the login.
      if (answer.status === 401) sessionEnded();
    } catch {
      server.silent();
    }
    await new Promise((resolve) => setTimeout(resolve, RETRY_MS));
  }
}

// Shows the notice of the server, if it has one, and follows its changes.
export function followNotice(info, footer) {
  if (info.notice === null) return;
  const line = make("p", "remark", info.notice);
  line.hidden = !info.notice;
  line.setAttribute("role", "note");
  footer.prepend(line);
  setInterval(async () => {
    if (document.hidden) return;
    try {
      const answer = await fetch(url("api/v1/info"), { cache: "no-store" });
      if (!answer.ok) return;
      const { notice } = await answer.json();
      setText(line, notice ?? "");
      line.hidden = !notice;
    } catch {
      // Other parts of the page report the lost connection.
    }
  }, NOTICE_MS);
}

// Shows `button` after a login.
export async function offerLogOut(button) {
  const answer = await fetch(url("api/v1/session"), { cache: "no-store" });
  button.hidden = !answer.ok || (await answer.json()).by !== "session";
  button.addEventListener("click", async () => {
    await fetch(url("api/v1/session"), { method: "DELETE" });
    location.reload();
  });
}

// The live picture. It is loaded only while the page is visible: a hidden tab would cost the server the encoding and the browser
// one of its few connections.
export class Picture {
  #id = null;
  #wanted = false;
  #timer = 0;

  constructor(image, stage) {
    this.image = image;
    this.stage = stage;
    image.addEventListener("error", () => {
      if (!image.hasAttribute("src")) return;
      clearTimeout(this.#timer);
      this.#timer = setTimeout(() => this.restart(), RETRY_MS);
    });
    document.addEventListener("visibilitychange", () => this.restart());
  }

  show(id, wanted) {
    if (id === this.#id && wanted === this.#wanted) return;
    if (id !== this.#id) this.stage.dataset.picture = "none";
    this.#id = id;
    this.#wanted = wanted;
    this.restart();
  }

  leave() {
    this.#id = null;
    this.#wanted = false;
    clearTimeout(this.#timer);
    this.image.removeAttribute("src");
    this.stage.dataset.picture = "none";
  }

  restart() {
    clearTimeout(this.#timer);
    // A picture that never ends would keep the page in the loading state.
    if (document.readyState !== "complete") {
      addEventListener("load", () => this.restart(), { once: true });
      return;
    }
    if (this.#id !== null && this.#wanted && !document.hidden) {
      this.image.src = url(`api/v1/streams/${encodeURIComponent(this.#id)}/preview?at=${Date.now()}`);
    } else if (document.hidden || !this.#wanted) {
      this.image.removeAttribute("src");
    }
  }

  // Multipart pictures have no reliable load event. Their size shows that one has arrived.
  look() {
    this.stage.dataset.picture = this.image.hasAttribute("src") && this.image.naturalWidth > 0 ? "there" : "none";
  }
}
