// Puts the page together: what runs and what is remembered, as events tell of it, and the VMs of this host.

import { showHistory } from "./history.js";
import { showLive } from "./live.js";
import { showVms } from "./vms.js";

const VMS_MS = 15000;
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
  if (now !== keys) showVms();
  keys = now;
});
events.addEventListener("history", showHistory);
setInterval(() => { if (!document.hidden) showVms(); }, VMS_MS);
showVms();
