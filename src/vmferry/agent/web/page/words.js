// How figures are told, and elements made: text is always text, never markup.

export const UNKNOWN = "unknown";

export function element(name, text, parent, properties = {}) {
  const made = Object.assign(document.createElement(name), properties);
  if (text !== "") made.textContent = text;
  if (parent) parent.append(made);
  return made;
}

export function told(value, text) {
  return value === null || value === undefined ? UNKNOWN : text(value);
}

export function size(bytes) {
  const units = ["B", "KiB", "MiB", "GiB", "TiB"];
  let unit = 0;
  while (bytes >= 999.5 && unit < units.length - 1) { bytes /= 1024; unit += 1; }
  return `${Number(bytes.toPrecision(3))} ${units[unit]}`;
}

export const rate = (bytesPerS) => `${size(bytesPerS)}/s`;

export const percent = (value) => `${value} %`;

export function time(ms) {
  const s = Math.abs(ms) / 1000;
  if (s < 100) return `${(ms / 1000).toFixed(1)} s`;
  const minutes = Math.floor(s / 60);
  const sign = ms < 0 ? "-" : "";
  if (minutes < 100) return `${sign}${minutes} min ${Math.floor(s % 60)} s`;
  return `${sign}${Math.floor(minutes / 60)} h ${minutes % 60} min`;
}

export function left(one) {
  if (one.converges === false) {
    // What was found needed under an older throttle is no advice any more.
    const needed = one.needed_percent ?? 0;
    return `no end in sight${needed > (one.throttle_percent ?? 0) ? `; a throttle of ${needed} % would end it` : ""}`;
  }
  if (one.least_left_ms === null) return UNKNOWN;
  if (one.most_left_ms === null) return `over ${time(one.least_left_ms)}`;
  const range = `${time(one.least_left_ms)} to ${time(one.most_left_ms)}`;
  return one.median_left_ms === null ? range : `${time(one.median_left_ms)} (${range})`;
}

export async function ask(path, options = {}) {
  // Returns the answer's JSON. Throws an Error with the agent's own line.
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("the agent does not answer");
  }
  let value = null;
  try {
    value = await answer.json();
  } catch {
    throw new Error(`the agent answers ${answer.status}, and no JSON`);
  }
  if (!answer.ok) throw new Error(value.error);
  return value;
}

export function post(path, body, headers = {}) {
  return ask(path, {
    method: "POST",
    headers: { "Content-Type": "application/json", ...headers },
    body: JSON.stringify(body),
  });
}

export function fill(table, rows) {
  // Each row is an object of contents by the name of the column, which narrow screens show beside them.
  table.querySelector("tbody").replaceChildren(...rows.map((cells) => {
    const row = document.createElement("tr");
    for (const [name, content] of Object.entries(cells)) {
      const cell = element("td", "", row);
      cell.dataset.name = name;
      cell.append(content);
    }
    return row;
  }));
}

export function failed(table, error) {
  const row = document.createElement("tr");
  element("td", error.message, row, { colSpan: 9, className: "fault" });
  table.querySelector("tbody").replaceChildren(row);
}
