// The VMs of the host, the rule that holds for each, and forecasts on demand.

import { ask, element, failed, fill, post, size, told, UNKNOWN } from "./words.js";

const LOOK_MS = 1000;
const BITS_PER_MBIT = 1e6;
const OWN = "original";
const table = document.getElementById("roster");
const place = document.getElementById("forecast");
let shown = "";

export async function showVms() {
  try {
    const { vms, not_told: notTold } = await ask("api/vms");
    const focused = document.activeElement?.dataset?.address;
    fill(table, vms.map((vm) => ({
      "VM": vm.name, "state": state(vm), "what is done": vm.orders, "why": vm.rule, "forecast": button(vm),
    })));
    for (const line of notTold) {
      const row = element("tr", "", table.querySelector("tbody"));
      element("td", `✗ ${line}`, row, { colSpan: 5, className: "fault" });
    }
    if (!vms.length && !notTold.length) {
      element("td", "No VM is known.", element("tr", "", table.querySelector("tbody")), { colSpan: 5 });
    }
    if (focused) [...table.querySelectorAll("button")].find((one) => one.dataset.address === focused)?.focus();
  } catch (error) {
    failed(table, error);
  }
}

function state(vm) {
  if (vm.live === null) return vm.state ?? UNKNOWN;
  return element("a", "migrates", null, { href: `#live-${vm.live}` });
}

function button(vm) {
  const made = element("button", "Forecast", null, { type: "button" });
  made.disabled = vm.live !== null || vm.mode === "ignore";
  made.dataset.address = vm.address;
  made.setAttribute("aria-label", `Forecast for ${vm.name}`);
  made.addEventListener("click", () => open(vm));
  return made;
}

function open(vm) {
  shown = vm.address;
  const article = element("article", "");
  element("h3", `Forecast for ${vm.name}`, article);
  element("p", "Nothing is moved: for some seconds it is measured how the guest writes, and then guests that write " +
    "so are migrated in virtual time.", article);
  const form = element("form", "", article);
  const field = (text, name) => element("input", "", element("label", `${text} `, form),
    { name, type: "number", min: 1, step: "any", placeholder: "as the VM has it" });
  field("link, Mbit/s", "link");
  field("downtime limit, ms", "downtime");
  element("button", "Measure and work out", form);
  const result = element("div", "", article);
  form.addEventListener("submit", (event) => { event.preventDefault(); begin(vm, form, result); });
  place.replaceChildren(article);
  form.elements.link.focus();
  article.scrollIntoView({ block: "nearest" });
  watch(vm, result);
}

async function begin(vm, form, result) {
  const value = (name) => Number(form.elements[name].value) || null;
  const link = value("link");
  const terms = {
    bandwidth_bytes_per_s: link && Math.round((link * BITS_PER_MBIT) / 8),
    downtime_limit_ms: value("downtime") && Math.round(value("downtime")),
  };
  try {
    show(result, await post(path(vm), terms));
    watch(vm, result);
  } catch (error) {
    result.replaceChildren(element("p", `✗ ${error.message}`, null, { className: "fault" }));
  }
}

const path = (vm) => `api/vms/${encodeURIComponent(vm.address)}/forecast`;

async function watch(vm, result) {
  // Looks until the forecast is over, or another one is shown.
  while (shown === vm.address && result.isConnected) {
    let forecast;
    try {
      forecast = await ask(path(vm));
    } catch (error) {
      result.replaceChildren(element("p", `✗ ${error.message}`, null, { className: "fault" }));
      return;
    }
    if (forecast.state === "none") return;
    show(result, forecast);
    if (forecast.state === "done" || forecast.state === "failed") return;
    await new Promise((done) => { setTimeout(done, LOOK_MS); });
  }
}

function show(result, forecast) {
  if (forecast.state === "failed") {
    result.replaceChildren(element("p", `✗ ${forecast.error}`, null, { className: "fault" }));
  } else if (forecast.state === "done") {
    result.replaceChildren(...finished(forecast));
  } else {
    result.replaceChildren(element("p", `… ${forecast.state}`));
  }
}

function finished({ asked_ms: asked, sentence, forecast }) {
  const table = element("table", "");
  const head = element("tr", "", element("thead", "", table));
  for (const name of ["strategy", "chance", "total time", "downtime", "work lost", "sent"]) element("th", name, head);
  element("tbody", "", table);
  fill(table, forecast.strategies.map((each) => ({
    "strategy": each.strategy === OWN && forecast.qemu ? `QEMU's own (${OWN})` : each.strategy,
    "chance": `${Math.round(100 * each.chance)} %`,
    "total time": range(each.total_time_ms, (ms) => (ms / 1000).toFixed(1), "s"),
    "downtime": range(each.downtime_ms, (ms) => ms.toFixed(0), "ms"),
    "work lost": range(each.work_lost_vcpu_s, (s) => s.toFixed(1), "vCPU s"),
    "sent": told(each.sent_bytes, (sent) => size(sent.p50)),
  })));
  const said = `${sentence} ${forecast.reason}`;
  const link = Number(((forecast.bandwidth_bytes_per_s * 8) / BITS_PER_MBIT).toPrecision(4));
  const terms = `link ${link} Mbit/s, downtime limit ${forecast.downtime_limit_ms} ms`;
  return [
    element("p", said, null, { className: "answer" }),
    element("p", `Asked for at ${new Date(asked).toLocaleString()}: ${terms}. Four of five migrations are to lie ` +
      "within the ranges; the middle is the median."),
    table,
    ...forecast.unknown.map((what) => element("p", `Not known: ${what}.`, null, { className: "small" })),
  ];
}

function range(interval, text, unit) {
  return told(interval, ({ p10, p50, p90 }) => `${text(p50)} ${unit} (${text(p10)} to ${text(p90)})`);
}
