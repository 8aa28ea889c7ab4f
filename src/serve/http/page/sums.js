// Hours by stream, sport and day, the share of unknown time, and availability.

import { $, make } from "./base.js";
import { titleOf } from "./colours.js";

const hours = (seconds) => (seconds === 0 ? "–" : seconds < 60 ? `${Math.ceil(seconds)}\u00a0s` : seconds < 3600 ? `${Math.round(seconds / 60)}\u00a0min` : `${(seconds / 3600).toFixed(1)}\u00a0h`);
// Rounded down: 100 % is all.
const share = (value) => (value === null ? "–" : `${Math.floor(value * 1000) / 10}\u00a0%`);
const decided = ({ classes }) => Object.values(classes).reduce((sum, seconds) => sum + seconds, 0);
const top = ({ classes }) => Object.entries(classes).sort((a, b) => b[1] - a[1]).slice(0, 3).map(([id, seconds]) => `${titleOf(id)} ${hours(seconds)}`).join(", ") || "–";

const HEAD = ["On air", "Not sure", "No programme", "No decision", "Share not sure", "Availability", "Most"];
const cells = (times) => [hours(decided(times)), hours(times.unknown_s), hours(times.no_programme_s), hours(times.undecided_s), share(times.unknown_share), share(times.availability), top(times)];

// Fills the table. `by` is stream, class or day.
export function showSums(sums, by) {
  const [head, rows, total] = { stream: byStream, class: byClass, day: byDay }[by](sums);
  const line = (tag, [first, ...rest]) => {
    const row = make("tr");
    const name = make("th", "", first);
    name.scope = tag === "th" ? "col" : "row";
    row.append(name, ...rest.map((text) => make(tag, "", text)));
    if (tag === "th") for (const cell of row.children) cell.scope = "col";
    return row;
  };
  const [thead, tbody, tfoot] = ["thead", "tbody", "tfoot"].map((tag) => make(tag));
  thead.append(line("th", head));
  tbody.append(...rows.map((row) => line("td", row)));
  if (total && rows.length > 1) tfoot.append(line("td", total));
  $("sums").dataset.by = by;
  $("sums").replaceChildren(thead, tbody, tfoot);
}

function byStream({ streams, total }) {
  const rows = streams.map((stream) => [stream.label ?? stream.stream, ...cells(stream.total)]);
  return [["Stream", ...HEAD], rows, ["All", ...cells(total)]];
}

function byClass({ streams, total }) {
  const classes = Object.entries(total.classes).sort((a, b) => b[1] - a[1]);
  const shown = streams.filter((stream) => decided(stream.total) > 0);
  const rows = classes.map(([id, seconds]) => [titleOf(id), hours(seconds), ...shown.map(({ total }) => hours(total.classes[id] ?? 0))]);
  return [["Sport", "All", ...shown.map((stream) => stream.label ?? stream.stream)], rows, null];
}

function byDay({ streams, total }) {
  const days = streams[0]?.days.map(({ date }) => date) ?? [];
  const rows = days.map((date, i) => {
    const sum = { classes: {}, unknown_s: 0, no_programme_s: 0, undecided_s: 0, expected_s: 0 };
    for (const day of streams.map(({ days }) => days[i])) {
      for (const key of ["unknown_s", "no_programme_s", "undecided_s", "expected_s"]) sum[key] += day[key];
      for (const [id, seconds] of Object.entries(day.classes)) sum.classes[id] = (sum.classes[id] ?? 0) + seconds;
    }
    const known = decided(sum) + sum.unknown_s;
    const of = (part, whole) => (whole > 0 ? Math.min(1, part / whole) : null);
    return [date, ...cells({ ...sum, unknown_share: of(sum.unknown_s, known), availability: of(known + sum.no_programme_s, sum.expected_s) })];
  });
  return [["Day", ...HEAD], rows, ["All", ...cells(total)]];
}
