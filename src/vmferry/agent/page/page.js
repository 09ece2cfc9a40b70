"use strict";

const UNKNOWN = "unknown";

function element(name, text, parent) {
  const made = document.createElement(name);
  made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

function told(value, text) {
  return value === null || value === undefined ? UNKNOWN : text(value);
}

function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${Number(bytes.toPrecision(3))} ${units[unit]}`;
}

const seconds = (ms) => `${(ms / 1000).toFixed(1)} s`;

function left(one) {
  if (one.converges === false) return "no end in sight";
  if (one.least_left_ms === null) return UNKNOWN;
  const most = one.most_left_ms === null ? "" : ` to ${seconds(one.most_left_ms)}`;
  return `${most ? "" : "over "}${seconds(one.least_left_ms)}${most}`;
}

function showLive(all) {
  const place = document.getElementById("live");
  const made = all.map((one) => {
    const article = document.createElement("article");
    element("h3", `${one.vm_name}: ${one.status}`, article);
    element("p", `${one.mode}${one.variant ? `, ${one.variant}` : ""} (${one.rule})`, article);
    if (one.percent !== null) {
      const bar = element("progress", "", article);
      bar.max = 100;
      bar.value = one.percent;
      bar.setAttribute("aria-label", `${one.percent} %`);
    }
    const figures = element("dl", "", article);
    const rows = {
      "has run for": told(one.elapsed_ms, seconds),
      "time left": left(one),
      "left to send": told(one.remaining_bytes, size),
      "sending": told(one.bandwidth_bytes_per_s, (rate) => `${size(rate)}/s`),
      "dirtied": told(one.dirty_bytes_per_s, (rate) => `${size(rate)}/s`),
      "throttle": told(one.throttle_percent, (percent) => `${percent} %`),
      "iteration": told(one.iteration_count, String),
    };
    for (const [name, text] of Object.entries(rows)) {
      const pair = element("div", "", figures);
      element("dt", name, pair);
      element("dd", text, pair);
    }
    const said = element("ol", "", article);
    said.tabIndex = 0;
    said.setAttribute("aria-label", "what was decided, and why");
    for (const line of one.said) element("li", line, said);
    return article;
  });
  place.replaceChildren(...(made.length ? made : [element("p", "No VM migrates.")]));
  for (const list of place.querySelectorAll("ol")) list.scrollTop = list.scrollHeight;
}

async function showHistory() {
  const wanted = new URLSearchParams(new FormData(document.getElementById("search")));
  const answer = await fetch(`api/migrations?${wanted}`);
  const body = document.querySelector("#history tbody");
  if (!answer.ok) {
    body.replaceChildren(element("tr", (await answer.json()).error));
    return;
  }
  body.replaceChildren(...(await answer.json()).map((one) => {
    const row = document.createElement("tr");
    const link = document.createElement("a");
    link.href = `migrations/${one.id}`;
    link.textContent = new Date(one.began_ms).toLocaleString();
    const lost = told(one.work_lost_percent, (percent) => `${percent.toFixed(0)} %`);
    const cells = {
      "began": link, "VM": one.vm_name, "what was done": one.mode, "state": one.state,
      "total time": told(one.total_time_ms, seconds), "downtime": told(one.downtime_ms, (ms) => `${ms} ms`),
      "work lost": lost,
    };
    for (const [name, content] of Object.entries(cells)) {
      const cell = element("td", "", row);
      cell.dataset.name = name;
      cell.append(content);
    }
    return row;
  }));
}

let liveCount = 0;
const events = new EventSource("api/events");
events.onopen = () => { document.getElementById("state").textContent = "up to date"; };
events.onerror = () => { document.getElementById("state").textContent = "the agent does not answer; trying again"; };
events.addEventListener("live", (event) => {
  const all = JSON.parse(event.data);
  showLive(all);
  if (all.length < liveCount) setTimeout(showHistory, 1500);
  liveCount = all.length;
});
document.getElementById("search").addEventListener("submit", (event) => { event.preventDefault(); showHistory(); });
showHistory();
