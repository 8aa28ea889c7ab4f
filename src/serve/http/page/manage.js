// What can be done with the stream of the page: edit, pause, resume, remove. Only for viewers who may change streams.

import { $, make, setText } from "./base.js";
import { Editor } from "./editor.js";
import { mayChange, request, streamPath } from "./requests.js";

const OWNERS = {
  config: "Set in the configuration file. Edit the file and send SIGHUP to change this stream.",
  "command-line": "Set on the command line. Restart the program to change this stream.",
  fleet: "A stream of the fleet. Change it with `touchline stream`.",
};

const CONFIRM = `
  <form method="dialog">
    <h2 id="remove-title"></h2>
    <p>Touchline stops watching the stream and deletes its settings. Records and clips that exist stay.</p>
    <div class="buttons">
      <button class="button" value="">Keep</button>
      <button class="button danger" value="remove" id="remove-confirm">Remove</button>
    </div>
  </form>`;

const isPaused = (stream) => stream.settings.enabled === false;

export class Manage {
  #may = false;
  #stream = null;
  #editor;
  #confirm = make("dialog", "editor confirm");
  #tell;

  // `tell` has changed(stream), removed(), and groups().
  constructor(tell) {
    this.#tell = tell;
    this.#editor = new Editor({ saved: (stream) => tell.changed(stream), groups: tell.groups });
    this.#confirm.innerHTML = CONFIRM;
    this.#confirm.setAttribute("aria-labelledby", "remove-title");
    document.body.append(this.#confirm);
    $("edit").addEventListener("click", () => this.#do(() => this.#editor.edit(this.#stream.id)));
    $("pause").addEventListener("click", () => this.#pause());
    $("remove").addEventListener("click", () => this.#askToRemove());
    mayChange().then((may) => {
      this.#may = may;
      this.show(this.#stream);
    });
  }

  // Shows what the viewer may do with `stream`; null: there is none.
  show(stream) {
    if (stream?.id !== this.#stream?.id) this.#showProblem(null);
    this.#stream = stream;
    const settings = stream?.state === "removed" ? null : stream?.settings;
    const owner = settings ? OWNERS[settings.origin] : undefined;
    $("manage").hidden = !this.#may || !settings;
    $("owner").hidden = !owner;
    setText($("owner"), owner ?? "");
    for (const id of ["edit", "pause", "remove"]) $(id).hidden = !settings || owner !== undefined;
    if (settings) setText($("pause"), isPaused(stream) ? "Resume" : "Pause");
  }

  #showProblem(text) {
    $("manage-problem").hidden = text === null;
    setText($("manage-problem"), text ?? "");
  }

  // Runs a request. Shows why it was refused.
  async #do(run) {
    this.#showProblem(null);
    const answer = await run();
    // The session has ended: the login page, and then this one again.
    if (answer.status === 401) location.reload();
    else if (!answer.ok) this.#showProblem([answer.error, answer.advice].join(" "));
    return answer;
  }

  async #pause() {
    const stream = this.#stream;
    $("pause").disabled = true;
    const answer = await this.#do(() => request("PATCH", streamPath(stream.id), { body: { enabled: isPaused(stream) } }));
    $("pause").disabled = false;
    if (answer.ok) this.#tell.changed(answer.body);
  }

  // The stream is removed in the version that the question was about.
  async #askToRemove() {
    const { id } = this.#stream;
    const { ok, body, etag } = await this.#do(() => request("GET", streamPath(id)));
    if (!ok) return;
    setText($("remove-title"), `Remove ${body.settings.label ?? id}?`);
    this.#confirm.returnValue = "";
    this.#confirm.showModal();
    this.#confirm.addEventListener(
      "close",
      async () => {
        if (this.#confirm.returnValue !== "remove") return;
        const answer = await this.#do(() => request("DELETE", streamPath(id), { etag }));
        if (answer.ok) this.#tell.removed();
      },
      { once: true },
    );
  }
}
