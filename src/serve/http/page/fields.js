// The fields of a stream: what a person can set, and its form in a request. The keys are those of the API.

import { $, make } from "./base.js";

// In place of the secrets in an address.
export const HIDDEN = "***";

const TIERS = { auto: "Automatic", full: "Full: decode all pictures", lean: "Lean: leave out pictures that nothing needs", sparse: "Sparse: no motion", key: "Key pictures only" };

// `empty` says what an empty value means. A key with a point is in an object of the body.
export const FIELDS = [
  { key: "uri", label: "Address", hint: "rtsp, rtsps, srt, rtmp, rtmps or udp; http or https for HLS and files. A login may be part of it.", type: "text", place: "address", wide: true, lengths: [1, 2048] },
  { key: "label", label: "Name", empty: "the id", type: "text", lengths: [1, 120] },
  { key: "group", label: "Group", hint: "The wall shows the streams of a group together.", type: "text", lengths: [1, 64], list: "editor-groups" },
  { key: "latency_ms", label: "Latency, ms", hint: "Jitter buffer of RTSP sources.", empty: "the program's default", type: "number", range: [0, 60000] },
  { key: "tier", label: "Decoding", choices: TIERS },
  { key: "id", label: "Id", hint: "Its name in addresses, metrics and records. It cannot be changed later.", empty: "made from the address", type: "text", lengths: [1, 64], place: "more" },
  { key: "kind", label: "Kind of a web address", choices: { "": "Detected", hls: "HLS" }, place: "more" },
  { key: "rtsp_transport", label: "RTSP transport", choices: { auto: "Automatic", tcp: "TCP", udp: "UDP" }, place: "more" },
  { key: "variant", label: "HLS variant", choices: { fit: "Smallest that suffices", lowest: "Smallest", highest: "Largest" }, place: "more" },
  { key: "max_height", label: "Maximum height of HLS, lines", empty: "no limit", type: "number", range: [1, 8192], place: "more" },
  { key: "audio_language", label: "Language of HLS sound", empty: "the stream's default", hint: "As in de or pt-BR.", type: "text", place: "more" },
  { key: "decoder", label: "Video decoder", choices: { auto: "Automatic", software: "Processor", vaapi: "VA-API", nvdec: "NVDEC" }, place: "more" },
  { key: "isolation", label: "Process", choices: { process: "Its own", none: "That of the program" }, place: "more" },
  { key: "vote.window", label: "Vote window, s", empty: "the program's default", type: "number", range: [1, 3600], place: "more" },
  { key: "vote.stride", label: "Seconds between estimates", empty: "the program's default", type: "number", range: [1, 3600], place: "more" },
  { key: "vote.onset", label: "On air from probability", empty: "the program's default", type: "number", range: [0, 1], step: "any", place: "more" },
  { key: "vote.offset", label: "Off air below probability", empty: "the program's default", type: "number", range: [0, 1], step: "any", place: "more" },
  { key: "retry", label: "Try again if the first attempt fails", type: "checkbox", place: "more" },
  { key: "record", label: "Record its media, if the program records", type: "checkbox", place: "more" },
];

// What opens the source, besides its address: a test needs these.
const OPENING = ["latency_ms", "kind", "rtsp_transport", "variant", "max_height", "audio_language", "decoder", "isolation"];

export const idOf = (key) => `editor-${key.replace(".", "-")}`;

// The element of a field: label, input, hint, and a place for its error.
export function fieldElement(field) {
  const id = idOf(field.key);
  const row = make("div", "field");
  row.dataset.key = field.key;
  row.dataset.wide = field.wide === true;
  row.dataset.type = field.type ?? "choice";
  const label = make("label", "", field.label);
  label.htmlFor = id;
  const input = make(field.choices ? "select" : "input");
  Object.assign(input, { id, name: field.key });
  if (field.choices) input.append(...Object.entries(field.choices).map(([value, title]) => new Option(title, value)));
  else Object.assign(input, { type: field.type, autocomplete: "off", spellcheck: false });
  if (field.type === "number") [input.min, input.max, input.step] = [...field.range, field.step ?? 1];
  if (field.lengths) input.maxLength = field.lengths[1];
  if (field.list) input.setAttribute("list", field.list);
  if (field.key === "uri") input.required = true;
  const hint = make("p", "hint");
  hint.id = `${id}-hint`;
  const error = make("p", "wrong");
  error.id = `${id}-wrong`;
  error.hidden = true;
  input.setAttribute("aria-describedby", `${hint.id} ${error.id}`);
  row.append(...(field.type === "checkbox" ? [input, label] : [label, input]));
  row.append(hint, error);
  return row;
}

// Explains the fields of a new stream, or of one with the address `uri`.
export function explain(uri) {
  for (const { key, hint, empty } of FIELDS) {
    const text = [hint, empty && (uri === null || key !== "latency_ms") && `Empty: ${empty}.`].filter(Boolean).join(" ");
    const place = $(`${idOf(key)}-hint`);
    place.textContent = key === "uri" && uri?.includes(HIDDEN) ? "The login and the secret parts are not shown. Leave the address as it is to keep them." : text;
    place.hidden = place.textContent === "";
  }
}

const read = (input) => (input.type === "checkbox" ? input.checked : input.value.trim());

// The values as they are in the form, by key.
export const valuesOf = (form) => Object.fromEntries(FIELDS.map(({ key }) => [key, read(form.elements.namedItem(key))]));

// Puts `values` into the form, except into the fields that `keep` names.
export function fill(form, values, keep = []) {
  for (const { key, type } of FIELDS) {
    if (keep.includes(key)) continue;
    const input = form.elements.namedItem(key);
    if (type === "checkbox") input.checked = values[key] === true;
    else input.value = values[key] ?? "";
  }
}

// The values of a new stream.
export const NEW = { tier: "auto", kind: "", rtsp_transport: "auto", variant: "fit", decoder: "auto", isolation: "process", retry: true, record: true };

// The values of a stream of the API.
export function valuesOfStream({ uri, settings }) {
  const value = (key) => (key.startsWith("vote.") ? settings.vote[key.slice(5)] : settings[key]);
  return { ...Object.fromEntries(FIELDS.map(({ key, type }) => [key, type === "checkbox" ? value(key) : String(value(key) ?? "")])), uri, id: "" };
}

export const changed = (before, now) => FIELDS.map(({ key }) => key).filter((key) => before[key] !== now[key]);

// The body of a request with the values of `keys`. An empty value selects the default.
export function bodyOf(values, keys) {
  const body = {};
  for (const { key, type } of FIELDS.filter(({ key }) => keys.includes(key))) {
    const value = values[key] === "" ? null : type === "number" ? Number(values[key]) : values[key];
    const [name, inner] = key.split(".");
    if (inner) (body[name] ??= {})[inner] = value;
    else body[name] = value;
  }
  return body;
}

// The body of a test.
export const probeBody = (values) => bodyOf(values, ["uri", ...OPENING.filter((key) => values[key] !== "")]);

// The key of the field that an error is about; an error of a source is about its address.
export function keyOfError(text) {
  const named = text.match(/\b(vote\.\w+|uri|label|group|latency_ms|max_height|audio_language|rtsp_transport|isolation|decoder|variant|window|stride|onset|offset|stream id)\b/i)?.[1].toLowerCase();
  if (named === "stream id") return "id";
  return named ? (FIELDS.find(({ key }) => key === named || key === `vote.${named}`)?.key ?? "uri") : "uri";
}
