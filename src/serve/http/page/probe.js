// The result of a test of an address: what was found, and the first picture.

import { capital, icon, make } from "./base.js";

const KINDS = { rtsp: "RTSP", http: "File on a web server", hls: "HLS", "http-live": "Stream over HTTP", srt: "SRT", rtmp: "RTMP", udp: "UDP", file: "File", testsrc: "Test picture" };
const CHANNELS = { 1: "mono", 2: "stereo" };
const joined = (parts) => parts.filter(Boolean).join(", ");
const megabits = (bandwidth) => (bandwidth ? `${(bandwidth / 1e6).toFixed(bandwidth < 1e6 ? 2 : 1)} Mbit/s` : null);

function pictures(video) {
  if (!video) return "None";
  const { codec, width, height, frame_rate: rate, interlaced } = video;
  return joined([codec ?? "Not coded", width && height && `${width} × ${height}`, rate && `${rate} a second`, interlaced && "interlaced"]);
}

function sound(audio) {
  if (!audio) return "None";
  const { codec, rate, channels } = audio;
  return joined([codec ?? "Not coded", rate && `${rate / 1000} kHz`, channels && (CHANNELS[channels] ?? `${channels} channels`)]);
}

function variantList(variants) {
  const list = make("ul", "variants");
  for (const { height, bandwidth, chosen } of variants) {
    const row = make("li", "", joined([height ? `${height} lines` : "Sound or unknown size", megabits(bandwidth), chosen && "played"]));
    row.dataset.chosen = chosen;
    list.append(row);
  }
  return list;
}

// Shows `found`, an answer of the API, in `place`.
export function showProbe(place, found) {
  const { reachable, failure } = found;
  const parts = [];
  const title = failure ? (reachable ? "Media arrived, and then the source failed" : "The test failed") : "The address works";
  const head = make("p", "verdict");
  head.append(icon(failure ? "alert" : "check"), make("strong", "", title));
  parts.push(head);
  if (failure) parts.push(make("p", "", `${capital(failure.cause)}. ${capital(failure.advice)}.`));
  if (reachable) {
    const box = make("div", "found");
    if (found.picture) {
      const picture = make("img", "first");
      Object.assign(picture, { src: found.picture, alt: "First picture of the source" });
      box.append(picture);
    }
    const facts = make("dl");
    const row = (name, value) => {
      const dd = make("dd");
      dd.append(value);
      facts.append(make("dt", "", name), dd);
    };
    row("Source", KINDS[found.kind] ?? found.kind);
    row("Pictures", pictures(found.video));
    row("Sound", sound(found.audio));
    const first = found.first_picture_ms;
    if (found.video) row("First picture", first === null ? "None in the time of the test" : `After ${(first / 1000).toFixed(1)} s`);
    if (found.variants.length) row("Variants", variantList(found.variants));
    box.append(facts);
    parts.push(box);
  }
  place.dataset.level = failure ? "bad" : "good";
  place.replaceChildren(...parts);
  place.hidden = false;
}
