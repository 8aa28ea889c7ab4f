// The login exchanges a token for a session cookie, which the browser sends with event streams and pictures.

import { $, url } from "./base.js";

function say(text) {
  $("problem").textContent = text;
  $("problem").hidden = false;
  $("token").select();
}

$("login").addEventListener("submit", async (event) => {
  event.preventDefault();
  const button = event.target.querySelector("button");
  button.disabled = true;
  try {
    const answer = await fetch(url("api/v1/session"), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({ token: $("token").value.trim() }),
    });
    if (answer.ok) {
      // The address still names the stream.
      location.reload();
      return;
    }
    const wait = answer.headers.get("retry-after");
    const problem = await answer.json();
    say(wait ? `Too many wrong tokens. Try again in ${wait} s.` : `${problem.error[0].toUpperCase()}${problem.error.slice(1)}.`);
  } catch {
    say("No connection to the server.");
  }
  button.disabled = false;
});
