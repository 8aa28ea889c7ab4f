// "This was …" for seconds of a stream: on the page of a stream and in the history.

import { duration, make, setText } from "./base.js";
import { ClassField, correct, pictureOf, problemText, withdraw } from "./answer.js";
import { titleOf } from "./colours.js";
import { moment } from "./times.js";

// What a corrector asks about seconds of the timeline, which are of one run.
export function spanOf(stream, entries) {
  if (entries.length === 0) return null;
  const [first, last] = [entries[0], entries.at(-1)];
  const counts = new Map();
  for (const { label } of entries) if (label) counts.set(label, (counts.get(label) ?? 0) + 1);
  const [label] = [...counts].sort((a, b) => b[1] - a[1])[0] ?? [null];
  const seconds = last.index - first.index + 1;
  const times = seconds === 1 ? moment(first.at_ms) : `${duration(seconds)} from ${moment(first.at_ms)}`;
  const what = `${times}${label ? `: Touchline says ${titleOf(label)}` : ""}`;
  return { stream, run: first.run, from: first.index, to: last.index, label, what };
}

export class Corrector {
  #span = null;
  #made = null;

  // `id` makes the ids of its elements unique.
  constructor(id, classes) {
    this.element = make("div", "correct");
    this.#picture.alt = "The middle of these seconds, as the models saw it";
    this.#picture.addEventListener("load", () => (this.#picture.hidden = false));
    this.#picture.addEventListener("error", () => (this.#picture.hidden = true));
    const field = new ClassField(`${id}-class`, "This was", classes, (label) => this.#answer({ class: label }));
    this.#confirm.type = this.#unsure.type = this.#undo.type = "button";
    this.#confirm.addEventListener("click", () => this.#answer({ answer: "confirm" }));
    this.#unsure.addEventListener("click", () => this.#answer({ answer: "unsure" }));
    this.#undo.addEventListener("click", () => this.#withdraw());
    const buttons = make("div", "correct-buttons");
    buttons.append(field.element, this.#confirm, this.#unsure);
    this.#told.setAttribute("role", "status");
    const words = make("div", "correct-words");
    const told = make("div", "correct-told");
    told.append(this.#told, this.#undo);
    words.append(this.#what, buttons, told);
    this.element.append(this.#picture, words);
    this.show(null);
  }

  #picture = make("img", "seen");
  #what = make("p", "what");
  #confirm = make("button", "button", "Confirm");
  #unsure = make("button", "button", "Not sure");
  #told = make("p");
  #undo = make("button", "button", "Undo");

  // Asks about {stream, run, from, to, what, label}: `what` names the seconds, `label` is what was decided. Null: about none.
  show(span) {
    this.#span = span;
    this.#made = null;
    this.element.hidden = span === null;
    this.#tell("", false);
    if (span === null) return;
    setText(this.#what, span.what);
    setText(this.#confirm, span.label ? `Confirm ${titleOf(span.label)}` : "Confirm");
    this.#confirm.hidden = !span.label;
    this.#picture.hidden = true;
    this.#picture.src = pictureOf({ ...span, index: Math.floor((span.from + span.to) / 2) });
  }

  #tell(text, isWrong) {
    setText(this.#told, text);
    this.#told.className = isWrong ? "wrong" : "quiet";
    this.#undo.hidden = this.#made === null;
  }

  async #answer(said) {
    const span = this.#span;
    // Seconds that left the memory are decoded from the recording, which takes a while.
    const working = setTimeout(() => this.#tell("Looking for these seconds…", false), 600);
    const answer = await correct(span.stream, span, said);
    clearTimeout(working);
    if (span !== this.#span) return;
    if (!answer.ok) return this.#tell(problemText(answer), true);
    this.#made = answer.body.id;
    const { class: label, seconds } = answer.body;
    const all = span.to - span.from + 1;
    const rest = label && seconds < all ? ` of ${all}; the others are neither in memory nor recorded, or were decided otherwise` : "";
    this.#tell(label ? `Kept as ${titleOf(label)}: ${seconds} s${rest}.` : "Noted: nobody can tell.", false);
  }

  async #withdraw() {
    const made = this.#made;
    const answer = await withdraw(made);
    if (made !== this.#made) return;
    if (!answer.ok) return this.#tell(problemText(answer), true);
    this.#made = null;
    this.#tell("Taken back.", false);
  }
}
