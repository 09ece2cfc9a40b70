// The picture of a migration as it runs: what is left to send, how fast both sides are, the throttle, and the end.

import { rate, size, time, UNKNOWN, told } from "./words.js";

const SPACE = "http://www.w3.org/2000/svg";
const LEFT = 72;
const RIGHT = 16;
const TITLE = 88; // wide, the longest title
const PANELS = [
  { title: "left to send", height: 130 },
  { title: "speed", height: 90 },
  { title: "throttle", height: 50 },
];
const GAP = 30;
const FOOT = 24;
const MS_PER_S = 1000;
const STEPS_S = [1, 2, 5, 10, 20, 30, 60, 120, 300, 600, 1200, 1800, 3600, 7200, 14400, 43200, 86400];

function part(name, parent, attributes, text = "") {
  const made = document.createElementNS(SPACE, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text) made.textContent = text;
  parent.append(made);
  return made;
}

function line(points, x, y) {
  // Where a value is not known the line is broken.
  let path = "";
  let begins = true;
  for (const [ms, value] of points) {
    if (value === null || value === undefined) { begins = true; continue; }
    path += `${begins ? "M" : "L"}${x(ms).toFixed(1)} ${y(value).toFixed(1)}`;
    begins = false;
  }
  return path;
}

function steps(points, x, y) {
  let path = "";
  let before = null;
  for (const [ms, value] of points) {
    const known = value ?? 0;
    if (before === null) path = `M${x(ms).toFixed(1)} ${y(0).toFixed(1)}L${x(ms).toFixed(1)} ${y(known).toFixed(1)}`;
    else path += `L${x(ms).toFixed(1)} ${y(before).toFixed(1)}L${x(ms).toFixed(1)} ${y(known).toFixed(1)}`;
    before = known;
  }
  return before === null ? "" : `${path}V${y(0).toFixed(1)}Z`;
}

function lastEnd(one) {
  const elapsed = one.elapsed_ms ?? 0;
  const ends = [elapsed, 5 * MS_PER_S];
  if (one.converges !== false && one.most_left_ms !== null) ends.push(elapsed + one.most_left_ms);
  else if (one.converges !== false && one.least_left_ms !== null) ends.push(elapsed + one.least_left_ms);
  const deadline = one.limits?.finish_by_ms ?? null;
  const most = Math.max(...ends) * 1.04;
  return deadline !== null && deadline < 3 * most ? Math.max(most, deadline * 1.04) : most;
}

function most(points, name) {
  return Math.max(1, ...points.map((point) => point[name] ?? 0));
}

function frame(svg, panel, top, width, label) {
  const bottom = top + panel.height;
  part("text", svg, { x: LEFT, y: top - 8, class: "title" }, panel.title);
  part("path", svg, { d: `M${LEFT} ${top}H${width - RIGHT}M${LEFT} ${bottom}H${width - RIGHT}`, class: "grid" });
  part("text", svg, { x: LEFT - 6, y: top + 5, "text-anchor": "end" }, label);
  part("text", svg, { x: LEFT - 6, y: bottom + 4, "text-anchor": "end" }, "0");
}

function legend(svg, x, y, kind, text) {
  part("path", svg, { d: `M${x} ${y - 4}h22`, class: kind });
  part("text", svg, { x: x + 27, y }, text);
}

function axis(svg, x, end, bottom) {
  const step = STEPS_S.find((s) => (s * MS_PER_S) / end > 1 / 6) ?? STEPS_S.at(-1);
  for (let ms = 0; ms <= end; ms += step * MS_PER_S) {
    part("path", svg, { d: `M${x(ms)} ${bottom}v5`, class: "grid" });
    const text = step < 60 ? `${ms / MS_PER_S} s` : `${ms / 60 / MS_PER_S} min`;
    part("text", svg, { x: x(ms), y: bottom + 18, "text-anchor": "middle" }, text);
  }
}

function marks(svg, one, x, top, bottom, width) {
  const elapsed = one.elapsed_ms ?? 0;
  if (one.converges !== false && one.least_left_ms !== null && one.most_left_ms !== null) {
    const from = x(elapsed + one.least_left_ms);
    const to = x(elapsed + one.most_left_ms);
    part("rect", svg, { x: from, y: top, width: Math.max(2, to - from), height: bottom - top, class: "end" });
    const median = x(elapsed + (one.median_left_ms ?? one.most_left_ms));
    part("path", svg, { d: `M${median} ${top}V${bottom}`, class: "median" });
    const anchor = from > width / 2 ? { x: Math.max(2, to - from) + from, "text-anchor": "end" }
      : { x: Math.max(from, LEFT + TITLE) };
    part("text", svg, { y: top - 8, ...anchor }, "end expected");
  }
  const deadline = one.limits?.finish_by_ms ?? null;
  if (deadline === null) return;
  const at = x(deadline);
  if (at > width - RIGHT) return;
  part("path", svg, { d: `M${at} ${top}V${bottom}`, class: "deadline" });
  part("text", svg, { x: at - 4, y: bottom - 6, "text-anchor": "end" }, "deadline");
}

export function draw(svg, points, one) {
  const width = Math.max(280, svg.parentElement.clientWidth);
  const height = PANELS.reduce((sum, panel) => sum + panel.height + GAP, 0) + FOOT;
  const end = lastEnd(one);
  const x = (ms) => LEFT + ((width - LEFT - RIGHT) * ms) / end;
  svg.replaceChildren();
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  svg.setAttribute("width", width);
  svg.setAttribute("height", height);
  svg.setAttribute("aria-label", described(one));
  const tops = [];
  let top = GAP;
  for (const panel of PANELS) { tops.push(top); top += panel.height + GAP; }
  const bottom = tops[2] + PANELS[2].height;
  marks(svg, one, x, tops[0], bottom, width);

  const total = Math.max(one.total_bytes ?? 1, most(points, "remaining_bytes"));
  const scale = (number, highest) => (value) =>
    tops[number] + PANELS[number].height * (1 - Math.min(1, value / highest));
  const of = (name) => points.map((point) => [point.elapsed_ms, point[name]]);
  frame(svg, PANELS[0], tops[0], width, size(total));
  part("path", svg, { d: line(of("remaining_bytes"), x, scale(0, total)), class: "remaining" });

  const fastest = Math.max(most(points, "bandwidth_bytes_per_s"), most(points, "dirty_bytes_per_s"));
  frame(svg, PANELS[1], tops[1], width, rate(fastest));
  part("path", svg, { d: line(of("bandwidth_bytes_per_s"), x, scale(1, fastest)), class: "link" });
  part("path", svg, { d: line(of("dirty_bytes_per_s"), x, scale(1, fastest)), class: "guest" });
  legend(svg, LEFT + 56, tops[1] - 8, "link", "link");
  legend(svg, LEFT + 122, tops[1] - 8, "guest", "guest dirties");

  frame(svg, PANELS[2], tops[2], width, "100 %");
  part("path", svg, { d: steps(of("throttle_percent"), x, scale(2, 100)), class: "throttle" });
  axis(svg, x, end, bottom);
}

function described(one) {
  const remaining = told(one.remaining_bytes, size);
  const total = told(one.total_bytes, size);
  const throttle = one.throttle_percent === null ? UNKNOWN : `${one.throttle_percent} %`;
  return `The course so far: after ${told(one.elapsed_ms, time)} ${remaining} of ${total} are left to send, ` +
    `sending ${told(one.bandwidth_bytes_per_s, rate)}, dirtied ${told(one.dirty_bytes_per_s, rate)}, ` +
    `throttle ${throttle}`;
}
