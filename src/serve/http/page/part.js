// Which seconds of a segment a correction is about: all of them, some, or one.

import { duration, make, setText } from "./base.js";
import { clock } from "./times.js";

export class PartField {
  #segment = null;
  #from = this.#field("First");
  #to = this.#field("Last");
  #times = make("span", "quiet");
  #all = make("button", "button", "All");

  // `changed({from, to})` gets the numbers of the first and the last second in the run.
  constructor(changed) {
    this.changed = changed;
    this.element = make("div", "part");
    this.element.setAttribute("role", "group");
    this.element.setAttribute("aria-label", "Seconds of the segment");
    this.#times.setAttribute("role", "status");
    this.#all.type = "button";
    this.#all.addEventListener("click", () => this.#set(1, this.#segment.seconds));
    this.element.append(make("span", "", "Seconds"), this.#from, make("span", "", "to"), this.#to, this.#all, this.#times);
  }

  // The label is only for those who do not see the words around the field.
  #field(name) {
    const input = make("input");
    Object.assign(input, { type: "number", min: 1, step: 1, required: true });
    input.setAttribute("aria-label", `${name} second of the segment`);
    input.addEventListener("change", () => this.#set(Number(this.#from.value), Number(this.#to.value), input === this.#from));
    return input;
  }

  // The segment, of which the part {from, to} in ms is chosen; without one all of it.
  show(segment, part = null) {
    this.#segment = segment;
    const of = (at) => Math.floor((at - segment.from) / 1000) + 1;
    if (part) this.#set(of(part.from), of(part.to));
    else this.#set(1, segment.seconds);
  }

  #set(first, last, leads = true) {
    const { seconds, from, first: index } = this.#segment;
    const within = (number) => Math.min(seconds, Math.max(1, Math.round(number) || 1));
    let [a, b] = [within(first), within(last)];
    // The field that was changed moves the other one.
    if (a > b) [a, b] = leads ? [a, a] : [b, b];
    for (const input of [this.#from, this.#to]) input.max = seconds;
    [this.#from.value, this.#to.value] = [a, b];
    this.#all.disabled = a === 1 && b === seconds;
    const at = (second) => from + (second - 1) * 1000;
    const length = b - a + 1;
    setText(this.#times, length === 1 ? clock(at(a)) : `${clock(at(a))} – ${clock(at(b + 1))}, ${duration(length)}`);
    this.changed({ from: index + a - 1, to: index + b - 1, seconds: length, times: { from: at(a), to: at(b + 1) } });
  }
}
