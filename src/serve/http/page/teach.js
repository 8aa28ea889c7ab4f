// Teaching: a queue of doubtful seconds that one answers with keys, the corrections, and the panel in which a pack learns.

import { $, duration, isTaken, make, percent, setText } from "./base.js";
import { ClassField, correct, pictureOf, problemText, withdraw } from "./answer.js";
import { colourOf, learnClasses, onThemeChange, titleOf } from "./colours.js";
import { LearnPanel } from "./learn.js";
import { fetchInfo, offerLogOut } from "./live.js";
import { VIEWS } from "./panels.js";
import { mayChange, request } from "./requests.js";
import { moment, offerZones, setHouseZone } from "./times.js";

// Suggestions that are asked for at once, and the number below which more are.
const FETCHED = 30;
const FEW = 6;
const SHOWN = 8;
const WAIT_MS = 3000;
const KEPT = 100;

const state = { queue: [], done: [], may: false, skipped: new Set(), work: Promise.resolve() };
// Of a block another second may be suggested later, and it shows the same.
const keyOf = ({ stream, run, block }) => `${stream} ${run} ${block}`;
const info = await fetchInfo({ silent: () => say("warn", "No connection to Touchline", "The page retries.") });
learnClasses(info.classes);
setHouseZone(info.time_zone ?? null);

const field = new ClassField("other-class", "Another", info.classes, (label) => {
  field.input.blur();
  answer({ class: label });
});
$("other").append(field.element);
const learning = new LearnPanel(() => loadKept());

function say(level, title, text) {
  const notice = $("notice");
  notice.hidden = level === null;
  if (level === null) return;
  notice.dataset.level = level;
  setText($("notice-title"), title);
  setText($("notice-text"), text);
}

// Loads suggestions that are not in the queue yet.
async function load() {
  const { ok, status, body, error, advice } = await request("GET", `api/v1/suggestions?limit=${FETCHED}`);
  document.body.dataset.server = ok ? "answers" : "lost";
  if (status === 401) return location.reload();
  if (!ok) {
    say("warn", error, advice);
  } else {
    if (state.may) say(null);
    const known = new Set([...state.queue, ...state.done.map(({ item }) => item)].map(keyOf));
    const isNew = (item) => !known.has(keyOf(item)) && !state.skipped.has(keyOf(item));
    const had = state.queue.length;
    state.queue.push(...body.suggestions.filter(isNew));
    if (had === 0) show();
    else showNext();
  }
}

function show() {
  const [item] = state.queue;
  $("asked").hidden = $("answers").hidden = item === undefined;
  $("answers").hidden ||= !state.may;
  $("question-none").hidden = item !== undefined;
  setText($("question-where"), item ? `${item.stream}, ${moment(Date.parse(item.began))}` : "");
  showNext();
  if (!item) return;
  const picture = $("question-picture");
  picture.src = pictureOf(item);
  picture.alt = `${item.stream} at ${moment(Date.parse(item.began))}`;
  setText($("question-said"), `Touchline says ${titleOf(item.label)}, ${percent(item.probability)}.`);
  $("question-why").replaceChildren(...reasons(item).map((text) => make("li", "", text)));
  $("likely").replaceChildren(
    ...item.likely.map(({ class: label, probability }, i) => {
      const button = make("button", "button");
      button.type = "button";
      const dot = make("i");
      dot.style.setProperty("--class", colourOf(label).fill);
      button.append(make("kbd", "", String(i + 1)), dot, titleOf(label), make("span", "quiet", percent(probability)));
      button.addEventListener("click", () => answer({ class: label }));
      const row = make("li");
      row.append(button);
      return row;
    }),
  );
}

// Why a second is suggested.
function reasons({ label, likely, modalities, shadow }) {
  const [first, second] = likely;
  const found = [];
  if (second && first.probability - second.probability < 0.5) found.push(`Close: ${titleOf(second.class)} has ${percent(second.probability)}`);
  for (const { modality, class: other, score } of modalities) {
    if (other !== label) found.push(`${VIEWS[modality]}: ${titleOf(other)}, ${percent(score)}`);
  }
  if (shadow && shadow !== label) found.push(`The shadow says ${titleOf(shadow)}`);
  return found;
}

function showNext() {
  const rows = state.queue.slice(1, 1 + SHOWN).map((item) => {
    const row = make("li");
    const image = make("img");
    image.src = pictureOf(item);
    image.alt = `${titleOf(item.label)}, ${item.stream}`;
    row.append(image);
    return row;
  });
  $("next").replaceChildren(...rows);
  const [answered, left] = [state.done.length, state.queue.length];
  setText($("session"), `${answered} answered · ${left} in the queue`);
  $("undo").disabled = answered === 0;
}

// Takes the next second at once. The requests follow one after the other.
function answer(said) {
  const item = state.queue.shift();
  if (!item) return;
  const entry = { item, id: null };
  state.done.push(entry);
  problem("");
  show();
  const { stream, run, index } = item;
  state.work = state.work.then(async () => {
    const { ok, body, ...failed } = await correct(stream, { run, from: index, to: index }, said);
    if (ok) {
      entry.id = body.id;
    } else {
      state.done = state.done.filter((other) => other !== entry);
      state.skipped.add(keyOf(item));
      problem(problemText(failed));
      showNext();
    }
    await loadKept();
    if (state.queue.length < FEW) await load();
  });
}

function undo() {
  const entry = state.done.pop();
  if (!entry) return;
  state.queue.unshift(entry.item);
  show();
  state.work = state.work.then(async () => {
    const answer = entry.id === null ? { ok: true } : await withdraw(entry.id);
    if (!answer.ok) problem(problemText(answer));
    await loadKept();
  });
}

function problem(text) {
  $("question-problem").hidden = text === "";
  setText($("question-problem"), text);
}

async function loadKept() {
  const { ok, body } = await request("GET", `api/v1/corrections?limit=${KEPT}`);
  if (!ok) return;
  const { corrections, total, bytes, max_bytes: most, classes } = body;
  const mb = (size) => `${(size / 1e6).toFixed(size < 1e7 ? 1 : 0)} MB`;
  setText($("kept-sub"), total === 0 ? "none yet" : `${total} · ${mb(bytes)} of ${mb(most)}`);
  $("counts").replaceChildren(
    ...classes.map(({ class: label, seconds }) => {
      const row = make("li");
      const dot = make("i");
      dot.style.setProperty("--class", colourOf(label).fill);
      row.append(dot, titleOf(label), make("span", "quiet", duration(seconds)));
      return row;
    }),
  );
  $("kept").replaceChildren(...corrections.map(keptRow));
  // With the first correction there is something to learn from.
  if ((total === 0) !== $("learn-start").disabled) learning.load();
}

function keptRow({ id, stream, began, class: label, answer: kind, decision, seconds }) {
  const row = make("li");
  const dot = make("i");
  if (label) dot.style.setProperty("--class", colourOf(label).fill);
  const what = kind === "unsure" ? "Not sure" : titleOf(label);
  const how = kind === "class" && decision.label !== label ? `not ${titleOf(decision.label)}` : kind === "confirm" ? "confirmed" : "";
  const remove = make("button", "button", "Remove");
  remove.type = "button";
  remove.hidden = !state.may;
  remove.setAttribute("aria-label", `Remove ${what}, ${stream}, ${moment(Date.parse(began))}`);
  remove.addEventListener("click", async () => {
    const answer = await withdraw(id);
    if (!answer.ok) problem(problemText(answer));
    state.done = state.done.filter((entry) => entry.id !== id);
    await loadKept();
  });
  row.append(dot, make("b", "", what), make("span", "quiet how", how), make("span", "quiet where", `${stream}, ${moment(Date.parse(began))}${seconds > 1 ? `, ${duration(seconds)}` : ""}`), remove);
  return row;
}

const KEYS = { " ": () => answer({ answer: "confirm" }), u: () => answer({ answer: "unsure" }), z: undo };
addEventListener("keydown", (event) => {
  if (event.key === "Escape" && event.target === field.input) {
    field.clear();
    field.input.blur();
  }
  if (!state.may || isTaken(event)) return;
  // A button takes these itself.
  if ([" ", "Enter"].includes(event.key) && event.target.closest("button, a") !== null) return;
  const likely = state.queue[0]?.likely[Number(event.key) - 1];
  const act = KEYS[event.key] ?? (likely && (() => answer({ class: likely.class })));
  if (act) {
    event.preventDefault();
    act();
  } else if (/^\p{L}$/u.test(event.key)) {
    // The letter is typed into the field.
    field.input.focus();
  }
});
$("confirm").addEventListener("click", KEYS[" "]);
$("unsure").addEventListener("click", KEYS.u);
$("undo").addEventListener("click", undo);
// A second leaves the memory after a while.
$("question-picture").addEventListener("error", () => {
  const item = state.queue.shift();
  if (!item) return;
  state.skipped.add(keyOf(item));
  show();
});

setText($("build"), `Touchline ${info.version} · pack ${info.pack.name} · ${info.classes.length} classes`);
offerZones($("zone"), () => {
  show();
  loadKept();
});
onThemeChange(() => {
  show();
  loadKept();
});
offerLogOut($("log-out")).catch(() => {});
if (info.teaches) {
  state.may = await mayChange();
  learning.may = state.may;
  if (!state.may) say("calm", "You may look, but not answer", "Answers and learning need the admin token.");
  await Promise.all([load(), loadKept()]);
  setInterval(() => {
    if (state.queue.length < FEW && !document.hidden) load();
  }, WAIT_MS);
} else {
  say("calm", "Nothing can be taught", "Start the program with --teach-dir DIR, which keeps the corrections.");
  $("main").hidden = true;
}
