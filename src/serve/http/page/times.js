// Times on the page: in the zone that the viewer chose, with the date where it is not today's.

const STORED = "touchline-zone";
const asked = new URLSearchParams(location.search).get("zone");

// Storage may be off.
function stored() {
  try {
    return localStorage.getItem(STORED);
  } catch {
    return null;
  }
}

// Names of zones that the browser knows; anything else is the zone of the machine.
function valid(name) {
  try {
    return new Intl.DateTimeFormat("en-GB", { timeZone: name }).resolvedOptions().timeZone;
  } catch {
    return undefined;
  }
}

let house = null;
let choice = asked ?? stored() ?? "";
let formats;

// "" is the server's zone if it names one, or else the viewer's.
function zone() {
  if (choice === "utc") return "UTC";
  if (choice === "local") return undefined;
  return valid(choice || house || "");
}

function prepare() {
  const timeZone = zone();
  const time = { hour: "2-digit", minute: "2-digit", second: "2-digit", hourCycle: "h23", timeZone };
  formats = {
    clock: new Intl.DateTimeFormat("en-GB", time),
    day: new Intl.DateTimeFormat("en-GB", { day: "numeric", month: "short", year: "numeric", timeZone }),
    weekday: new Intl.DateTimeFormat("en-GB", { weekday: "short", day: "numeric", month: "short", year: "numeric", timeZone }),
    zone: new Intl.DateTimeFormat("en-GB", { timeZoneName: "short", timeZone }),
  };
}
prepare();

// The zone of the server's configuration, or null.
export function setHouseZone(name) {
  house = name;
  prepare();
}

// The name of the zone, as the server knows it.
export const zoneId = () => new Intl.DateTimeFormat("en-GB", { timeZone: zone() }).resolvedOptions().timeZone;

export const clock = (ms) => formats.clock.format(ms);
export const day = (ms) => formats.weekday.format(ms);
export const zoneName = (ms) => formats.zone.formatToParts(ms).find(({ type }) => type === "timeZoneName").value;

// A time with its date, unless it is on the same day as `now`, and its zone.
export function moment(ms, now = Date.now()) {
  const date = formats.day.format(ms);
  return `${date === formats.day.format(now) ? "" : `${date}, `}${clock(ms)} ${zoneName(ms)}`;
}

// Fills `select` with the zones and calls `then` after a choice.
export function offerZones(select, then) {
  const options = [["", house ? `House (${house})` : null], ["local", "Local time"], ["utc", "UTC"]];
  if (asked && !["local", "utc"].includes(asked)) options.unshift([asked, asked]);
  select.replaceChildren(...options.filter(([, text]) => text).map(([value, text]) => new Option(text, value)));
  select.value = choice === "" && !house ? "local" : choice;
  select.addEventListener("change", () => {
    choice = select.value;
    try {
      localStorage.setItem(STORED, choice);
    } catch {
      // It applies until the page is closed.
    }
    prepare();
    then();
  });
}
