// The dialog that adds a stream or changes its settings. What was typed stays when the session ends or a change is refused.

import { $, make, setText } from "./base.js";
import { FIELDS, HIDDEN, NEW, bodyOf, changed, explain, fieldElement, fill, idOf, keyOfError, probeBody, valuesOf, valuesOfStream } from "./fields.js";
import { showProbe } from "./probe.js";
import { mayChange, request, streamPath } from "./requests.js";

const FRAME = `
  <form novalidate>
    <h2 id="editor-title"></h2>
    <div class="fields" id="editor-address"></div>
    <section class="probe" id="editor-probe" aria-label="Result of the test" hidden></section>
    <div class="fields" id="editor-fields"></div>
    <details id="editor-details"><summary>More options</summary><div class="fields" id="editor-more"></div></details>
    <datalist id="editor-groups"></datalist>
    <p class="unseen" id="editor-spoken" aria-live="polite"></p>
    <div class="again" id="editor-login" hidden>
      <p><strong>Your session has ended.</strong> Log in again, then save. Nothing that you typed is lost.</p>
      <label for="editor-token">Token</label>
      <input id="editor-token" type="password" autocomplete="current-password" spellcheck="false">
      <button type="button" class="button" id="editor-log-in">Log in</button>
    </div>
    <div class="problem" id="editor-problem" role="alert" hidden></div>
    <div class="buttons">
      <button type="button" class="button" id="editor-test">Test address</button>
      <button type="button" class="button" id="editor-cancel">Cancel</button>
      <button type="submit" class="button primary" id="editor-save">Save</button>
    </div>
  </form>`;

export class Editor {
  #dialog = make("dialog", "editor");
  #form = null;
  // The stream that is changed, {id, etag}; null for a new one.
  #stream = null;
  // The values that the fields had when they were filled.
  #before = null;
  #test = null;
  #saved;
  #groups;

  // `saved(stream, isNew)` gets the stream that was added or changed; `groups()` are the groups that exist.
  constructor({ saved, groups }) {
    this.#saved = saved;
    this.#groups = groups;
    this.#dialog.innerHTML = FRAME;
    this.#dialog.setAttribute("aria-labelledby", "editor-title");
    document.body.append(this.#dialog);
    this.#form = this.#dialog.querySelector("form");
    for (const field of FIELDS) $(`editor-${field.place ?? "fields"}`).append(fieldElement(field));
    this.#form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.#save();
    });
    this.#form.addEventListener("input", ({ target }) => {
      this.#showWrong(target.name, null);
      // A result is about the address that was tested.
      if (target.name === "uri") $("editor-probe").hidden = true;
    });
    $("editor-test").addEventListener("click", () => (this.#test ? this.#test.abort() : this.#probe()));
    $("editor-cancel").addEventListener("click", () => {
      this.#before = null;
      this.#dialog.close();
    });
    $("editor-log-in").addEventListener("click", () => this.#logIn());
    $("editor-token").addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      // The form would save without a session.
      event.preventDefault();
      this.#logIn();
    });
    // The test ends with the dialog.
    this.#dialog.addEventListener("close", () => this.#test?.abort());
  }

  // Opens the dialog for a new stream, with what was typed before if the dialog was only closed.
  add() {
    if (this.#stream !== null || this.#before === null) this.#start(null, NEW);
    this.#open("Add stream");
  }

  // Opens the dialog for the stream `id`. Returns the answer of the server.
  async edit(id) {
    const answer = await request("GET", streamPath(id));
    if (answer.ok) {
      this.#start({ id, etag: answer.etag }, valuesOfStream(answer.body));
      this.#open(`Edit ${answer.body.settings.label ?? id}`);
    }
    return answer;
  }

  #start(stream, values) {
    this.#stream = stream;
    fill(this.#form, values);
    this.#before = valuesOf(this.#form);
    explain(stream && values.uri);
    for (const { key } of FIELDS) this.#showWrong(key, null);
    $("editor-probe").hidden = true;
    $("editor-login").hidden = true;
    this.#showProblem(null);
    $("editor-details").open = false;
    this.#form.querySelector("[data-key=id]").hidden = stream !== null;
    // A default is chosen once, when a stream is added.
    this.#form.elements.namedItem("latency_ms").required = stream !== null;
  }

  #open(title) {
    setText($("editor-title"), title);
    $("editor-groups").replaceChildren(...this.#groups().map((group) => new Option(group, group)));
    this.#dialog.showModal();
    $(idOf("uri")).focus();
  }

  #values() {
    return valuesOf(this.#form);
  }

  // Shows what is wrong at fields that can be checked here. Returns whether all are right.
  #check(isTest) {
    const values = this.#values();
    const wrong = new Map();
    const uri = values.uri;
    if (uri === "") wrong.set("uri", "Enter an address, as in rtsp://camera.example/live.");
    else if (uri.includes(HIDDEN) && (isTest || uri !== this.#before.uri)) wrong.set("uri", "Enter the whole address. Its login and its secret parts are not shown.");
    for (const { key, type } of FIELDS) {
      const input = this.#form.elements.namedItem(key);
      if (type === "number" && (input.validity.badInput || (input.required && values[key] === ""))) wrong.set(key, "Enter a number.");
    }
    for (const { key } of FIELDS) this.#showWrong(key, wrong.get(key) ?? null);
    this.#focus([...wrong.keys()][0]);
    return wrong.size === 0;
  }

  #focus(key) {
    if (!key) return;
    const input = $(idOf(key));
    if (input.closest("details")) $("editor-details").open = true;
    input.focus();
  }

  #showWrong(key, text) {
    const error = key && $(`${idOf(key)}-wrong`);
    if (!error) return;
    error.hidden = text === null;
    setText(error, text ?? "");
    if (text === null) $(idOf(key)).removeAttribute("aria-invalid");
    else $(idOf(key)).setAttribute("aria-invalid", "true");
  }

  #showProblem(text) {
    $("editor-problem").hidden = text === null;
    setText($("editor-problem"), text ?? "");
  }

  async #probe() {
    this.#showProblem(null);
    $("editor-probe").hidden = true;
    if (!this.#check(true)) return;
    this.#test = new AbortController();
    setText($("editor-test"), "Stop test");
    setText($("editor-spoken"), "Testing the address, at most 10 seconds");
    this.#dialog.dataset.testing = "true";
    const answer = await request("POST", "api/v1/probe", { body: probeBody(this.#values()), signal: this.#test.signal });
    this.#test = null;
    setText($("editor-test"), "Test address");
    delete this.#dialog.dataset.testing;
    if (answer.ok) {
      showProbe($("editor-probe"), answer.body);
      $("editor-probe").scrollIntoView({ block: "nearest" });
      setText($("editor-spoken"), $("editor-probe").querySelector(".verdict").textContent);
    } else {
      setText($("editor-spoken"), answer.status === -1 ? "The test was stopped" : "");
      await this.#refused(answer);
    }
  }

  async #save() {
    this.#showProblem(null);
    if (!this.#check(false)) return;
    const [values, stream] = [this.#values(), this.#stream];
    const keys = changed(this.#before, values);
    if (stream && keys.length === 0) return this.#dialog.close();
    $("editor-save").disabled = true;
    const isNew = stream === null;
    // What a new stream leaves empty is not sent: it gets the default of the API.
    const body = bodyOf(values, isNew ? ["uri", ...keys.filter((key) => values[key] !== "")] : keys);
    const answer = isNew ? await request("POST", "api/v1/streams", { body }) : await request("PATCH", streamPath(stream.id), { body, etag: stream.etag });
    $("editor-save").disabled = false;
    if (!answer.ok) return this.#refused(answer);
    this.#before = null;
    this.#dialog.close();
    this.#saved(answer.body, isNew);
  }

  async #refused({ status, error, advice }) {
    const text = [error, advice].filter(Boolean).join(" ");
    if (status === -1) return;
    if (status === 401) return this.#askForLogin();
    if (status === 412 && this.#stream) return this.#reload();
    const isAtField = status === 422 || (status === 403 && (await mayChange()));
    if (!isAtField) return this.#showProblem(text);
    const key = status === 403 ? "uri" : keyOfError(error);
    this.#showWrong(key, text);
    this.#focus(key);
  }

  // Another person has changed the stream. Loads its settings, and keeps what was changed here.
  async #reload() {
    const mine = changed(this.#before, this.#values());
    const { ok, body, etag, error, advice } = await request("GET", streamPath(this.#stream.id));
    if (!ok) return this.#showProblem([error, advice].join(" "));
    const kept = this.#values();
    fill(this.#form, valuesOfStream(body));
    this.#before = valuesOf(this.#form);
    fill(this.#form, kept, FIELDS.map(({ key }) => key).filter((key) => !mine.includes(key)));
    this.#stream.etag = etag;
    this.#showProblem("Someone else changed this stream after you opened it. Their settings are loaded, and your changes are kept. Check them and save again.");
  }

  #askForLogin() {
    $("editor-login").hidden = false;
    $("editor-token").focus();
  }

  async #logIn() {
    const answer = await request("POST", "api/v1/session", { body: { token: $("editor-token").value.trim() } });
    if (!answer.ok) return this.#showProblem([answer.error, answer.advice].join(" "));
    $("editor-token").value = "";
    $("editor-login").hidden = true;
    this.#showProblem(null);
    setText($("editor-spoken"), "You are logged in");
    $("editor-save").focus();
  }
}
