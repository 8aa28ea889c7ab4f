// The panel in which a pack learns from the corrections: before and after, the shadow, the swap and the way back.

import { $, capital, make, percent, setText } from "./base.js";
import { problemText } from "./answer.js";
import { titleOf } from "./colours.js";
import { request } from "./requests.js";

const POLL_MS = 2000;
const TITLES = {
  idle: "Nothing has been learned since the start.",
  learning: "Learning beside the streams, which have priority.",
  cancelled: "Cancelled. Nothing has changed.",
  failed: "Nothing has changed.",
  compared: "The new pack runs as shadow: it scores the same seconds, and its decisions are only compared.",
  "in-use": "The new pack is in use.",
  "rolled-back": "The former pack is in use again.",
};
const HELD_OUT = { source: "stream and day", recording: "correction", part: "part of the correction" };

export class LearnPanel {
  #may = false;
  #timer = 0;
  #stage = null;

  // `changed` is called when another pack is in use.
  constructor(changed) {
    const act = (id, method, path) => $(id).addEventListener("click", () => this.#act(id, method, path, changed));
    act("learn-start", "POST", "api/v1/learn");
    act("learn-cancel", "DELETE", "api/v1/learn");
    act("learn-swap", "POST", "api/v1/learn/swap");
    act("learn-back", "POST", "api/v1/learn/rollback");
  }

  // Whether the viewer may change anything.
  set may(may) {
    this.#may = may;
    this.load();
  }

  async load() {
    clearTimeout(this.#timer);
    const [learning, pack] = await Promise.all([request("GET", "api/v1/learn"), request("GET", "api/v1/pack")]);
    if (learning.ok && pack.ok) this.#show(learning.body, pack.body);
    this.#timer = setTimeout(() => this.load(), POLL_MS);
  }

  async #act(id, method, path, changed) {
    $(id).disabled = true;
    this.#problem("");
    const answer = await request(method, path);
    $(id).disabled = false;
    if (!answer.ok) this.#problem(problemText(answer));
    await this.load();
    if (answer.ok) changed();
  }

  #problem(text) {
    $("learn-problem").hidden = text === "";
    setText($("learn-problem"), text);
  }

  #show(learning, pack) {
    const { stage, unable, corrections, report, lines, error } = learning;
    $("learn").dataset.stage = stage;
    setText($("learn-stage"), unable ? `${capital(unable)}.` : TITLES[stage]);
    setText($("learn-pack"), stage === "idle" ? `running: ${pack.pack.name}` : `running: ${pack.pack.name} · new: ${learning.pack}`);
    setText($("learn-error"), error ? `${capital(error)}.` : "");
    $("learn-error").hidden = !error;
    $("learn-lines").hidden = lines.length === 0 || stage !== "learning";
    setText($("learn-lines"), lines.slice(-4).join("\n"));
    const shown = { "learn-start": stage !== "learning" && !unable, "learn-cancel": stage === "learning", "learn-swap": ["compared", "rolled-back"].includes(stage), "learn-back": stage === "in-use" };
    for (const [id, show] of Object.entries(shown)) $(id).hidden = !show || !this.#may;
    $("learn-start").disabled = corrections === 0;
    $("learn-start").classList.toggle("primary", !shown["learn-swap"]);
    setText($("learn-swap"), `Use ${learning.pack}`);
    setText($("learn-back"), `Back to ${learning.former}`);
    this.#showShadow(pack.shadow);
    this.#showReport(report);
    if (this.#stage !== null && stage !== this.#stage) setText($("spoken"), TITLES[stage]);
    this.#stage = stage;
  }

  #showShadow(shadow) {
    $("learn-shadow").hidden = shadow === null;
    if (shadow === null) return;
    const { seconds, agreement, disagreements } = shadow;
    const [most] = disagreements;
    const where = most ? `; most often ${titleOf(most.main)} became ${titleOf(most.shadow)}` : "";
    setText($("learn-shadow"), seconds === 0 ? "The shadow has not compared a second yet." : `Same decision in ${percent(agreement)} of ${seconds} s${where}.`);
  }

  #showReport(report) {
    $("learn-report").hidden = report === null;
    if (report === null) return;
    const row = (name, { before, after }, seconds, by) => {
      const line = make("tr");
      const head = make("th", "", name);
      head.scope = "row";
      const change = make("td", after > before ? "better" : after < before ? "worse" : "", percent(after));
      line.append(head, make("td", "", percent(before)), change, make("td", "", seconds), make("td", "", by));
      return line;
    };
    const rows = report.classes.map(({ class: label, right, seconds, held_out_by: by }) => row(titleOf(label), right, String(seconds), HELD_OUT[by] ?? by));
    rows.push(row("All classes", report.channel, "", ""));
    if (report.replay) rows.push(row("What it knew before", report.replay, "", ""));
    $("learn-rows").replaceChildren(...rows);
  }
}
