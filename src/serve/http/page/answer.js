// What people say about seconds: the requests, and the field for a class.

import { make, url } from "./base.js";
import { titleOf } from "./colours.js";
import { request, streamPath } from "./requests.js";

export const pictureOf = ({ stream, run, index }) => url(`${streamPath(stream)}/seconds/${run}/${index}/picture`);

// Answers about the seconds `from` to `to` of a run: `said` is {class}, or {answer: "confirm" or "unsure"}.
export const correct = (stream, { run, from, to }, said) => request("POST", `${streamPath(stream)}/corrections`, { body: { run, from, to, ...said } });
export const withdraw = (id) => request("DELETE", `api/v1/corrections/${encodeURIComponent(id)}`);
export const problemText = ({ error, advice }) => [error, advice].filter(Boolean).join(" ");

// The class that a text means: the first whose name or id begins with it, or else contains it. Null for none.
export function classOf(text, classes) {
  const wanted = text.trim().toLowerCase();
  if (!wanted) return null;
  const names = ({ id, title }) => [id.toLowerCase(), title.toLowerCase()];
  const by = (test) => classes.find((known) => names(known).some(test))?.id;
  return by((name) => name === wanted) ?? by((name) => name.startsWith(wanted)) ?? by((name) => name.includes(wanted)) ?? null;
}

// A field for a class with completion. `chosen` is called with the id after Enter.
export class ClassField {
  constructor(id, label, classes, chosen) {
    this.element = make("form", "class-field");
    const name = make("label", "", label);
    name.htmlFor = id;
    this.input = make("input");
    Object.assign(this.input, { id, autocomplete: "off", spellcheck: false, placeholder: "class" });
    const list = make("datalist");
    list.id = `${id}-classes`;
    list.append(...classes.map(({ title }) => new Option(title)));
    this.input.setAttribute("list", list.id);
    const save = make("button", "button", "Save");
    const meant = make("span", "meant quiet");
    meant.setAttribute("aria-live", "polite");
    this.element.append(name, this.input, save, meant, list);
    const show = () => {
      const found = classOf(this.input.value, classes);
      meant.textContent = found ? titleOf(found) : this.input.value.trim() ? "no such class" : "";
      save.disabled = found === null;
      return found;
    };
    this.input.addEventListener("input", show);
    this.element.addEventListener("submit", (event) => {
      event.preventDefault();
      const found = show();
      if (found === null) return;
      this.clear();
      chosen(found);
    });
    this.clear = () => {
      this.input.value = "";
      show();
    };
    this.clear();
  }
}
