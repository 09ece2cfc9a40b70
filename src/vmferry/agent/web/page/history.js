// The migrations that are remembered, and the search among them.

import { ask, element, failed, fill, time, told } from "./words.js";

const MS_PER_DAY = 86400000;
const MOST = 200;
const table = document.getElementById("history");
const form = document.getElementById("search");

function wanted() {
  const fields = form.elements;
  const query = new URLSearchParams({ limit: MOST + 1 });
  for (const name of ["vm", "status", "policy"]) if (fields[name].value) query.set(name, fields[name].value);
  const day = (field) => new Date(`${field.value}T00:00`).getTime();
  if (fields.from.value) query.set("since_ms", day(fields.from));
  if (fields.to.value) query.set("until_ms", day(fields.to) + MS_PER_DAY);
  return query;
}

function limits(one) {
  if (!one.limits) return "none";
  const broken = one.limits.filter((verdict) => verdict.kept === false);
  const unknown = one.limits.filter((verdict) => verdict.kept === null);
  if (broken.length) return `✗ ${broken.map((verdict) => verdict.limit).join(", ")}`;
  return unknown.length ? `? ${unknown.map((verdict) => verdict.limit).join(", ")}` : "✓ kept";
}

export async function showHistory() {
  let rows;
  try {
    rows = await ask(`api/migrations?${wanted()}`);
  } catch (error) {
    failed(table, error);
    return;
  }
  const focused = document.activeElement?.getAttribute("href");
  fill(table, rows.slice(0, MOST).map((one) => ({
    "began": element("a", new Date(one.began_ms).toLocaleString(), null, { href: `migrations/${one.id}` }),
    "VM": one.vm_name,
    "what was done": `${one.mode}${one.variant ? `, ${one.variant}` : ""}`,
    "state": one.state,
    "total time": told(one.total_time_ms, time),
    "downtime": told(one.downtime_ms, (ms) => `${ms} ms`),
    "work lost": told(one.work_lost_percent, (share) => `${share.toFixed(0)} %`),
    "limits": limits(one),
  })));
  if (!rows.length) note("None is remembered that fits.");
  if (rows.length > MOST) note(`The newest ${MOST} are shown; a search finds older ones.`);
  if (focused) [...table.querySelectorAll("a")].find((one) => one.getAttribute("href") === focused)?.focus();
}

function note(text) {
  element("td", text, element("tr", "", table.querySelector("tbody")), { colSpan: 8 });
}

form.addEventListener("submit", (event) => { event.preventDefault(); showHistory(); });
