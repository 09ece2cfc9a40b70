// Puts the page together: events of what runs, and after each that begins or ends, and now and then, the rest anew.

import { showHistory } from "./history.js";
import { showLive } from "./live.js";
import { showVms } from "./vms.js";

const KEPT_MS = 1500;
const AGAIN_MS = 15000;
const state = document.getElementById("state");
let keys = "";

function tell(text, isFault) {
  state.textContent = text;
  state.className = isFault ? "fault" : "";
}

const events = new EventSource("api/events");
events.onopen = () => tell("● up to date", false);
events.onerror = () => tell("✗ the agent does not answer; trying again", true);
events.addEventListener("live", (event) => {
  const all = JSON.parse(event.data);
  showLive(all);
  const now = all.map((one) => `${one.key} ${one.mode}`).join(" ");
  if (now !== keys) {
    showVms();
    setTimeout(showHistory, KEPT_MS);  // until then the end mostly is in the database
  }
  keys = now;
});
setInterval(() => {
  if (document.hidden) return;
  showVms();
  showHistory();
}, AGAIN_MS);
showVms();
showHistory();
