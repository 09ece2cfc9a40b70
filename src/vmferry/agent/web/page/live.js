// The migrations that run: one card each, which is made once and changes as the migration goes on.

import { addActions } from "./actions.js";
import { draw } from "./picture.js";
import { ask, element, left, percent, rate, size, time, told } from "./words.js";

const MAX_POINTS = 800;
const cards = new Map();
let variants = [];
ask("api/variants").then((names) => { variants = names; }).catch(() => {});

const FIGURES = {
  "has run for": (one) => told(one.elapsed_ms, time),
  "time left": left,
  "left to send": (one) => told(one.remaining_bytes, size),
  "sending": (one) => told(one.bandwidth_bytes_per_s, rate),
  "guest dirties": (one) => told(one.dirty_bytes_per_s, rate),
  "throttle": (one) => told(one.throttle_percent, percent),
  "work lost": (one) => told(one.lost_vcpu_s, (s) => `${s.toFixed(1)} vCPU s`),
  "iteration": (one) => told(one.iteration_count, String),
  "deadline": deadline,
};

function deadline(one) {
  if (one.limits === null || one.limits.finish_by_ms === null) return "none";
  if (one.deadline_left_ms === null) return time(one.limits.finish_by_ms);
  return one.deadline_left_ms < 0 ? `over for ${time(-one.deadline_left_ms)}` : `in ${time(one.deadline_left_ms)}`;
}

class Card {
  constructor(one, parent) {
    this.points = [];
    this.saidCount = -1;
    this.article = element("article", "", parent, { id: `live-${one.key}` });
    const head = element("div", "", this.article, { className: "head" });
    element("h3", one.vm_name, head);
    this.status = element("p", "", head, { className: "badge" });
    this.orders = element("p", "", this.article);
    this.remark = element("p", "", this.article, { className: "fault", hidden: true });
    this.bar = element("progress", "", this.article, { max: 100 });
    const figures = element("dl", "", this.article);
    this.figures = Object.keys(FIGURES).map((name) => {
      const pair = element("div", "", figures, { className: name === "time left" ? "wide" : "" });
      element("dt", name, pair);
      return element("dd", "", pair);
    });
    const place = element("div", "", this.article, { className: "picture" });
    this.svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
    this.svg.setAttribute("role", "img");
    place.append(this.svg);
    const said = element("details", "", this.article, { open: true });
    this.summary = element("summary", "", said);
    this.said = element("ol", "", said, { tabIndex: 0 });
    this.said.setAttribute("aria-label", "what was decided, and why");
    addActions(this.article, one, variants);
    ask(`api/live/${one.key}/course`).then((points) => {
      const first = this.points.length ? this.points[0].elapsed_ms : Infinity;
      this.points = [...points.filter((point) => point.elapsed_ms < first), ...this.points];
      this.draw();
    }).catch(() => {});
  }

  update(one) {
    this.one = one;
    this.status.textContent = one.status;
    this.orders.textContent = `${one.orders} · ${one.rule}`;
    this.remark.hidden = one.remark === "";
    this.remark.textContent = `✗ ${one.remark}`;
    this.bar.hidden = one.percent === null;
    this.bar.value = one.percent ?? 0;
    this.bar.setAttribute("aria-label", `${one.percent} % of the expected time`);
    Object.values(FIGURES).forEach((text, number) => { this.figures[number].textContent = text(one); });
    this.tell(one.said);
    this.add(one);
    this.draw();
  }

  tell(lines) {
    const last = lines.at(-1);
    if (lines.length === this.saidCount && last === this.lastSaid) return;
    const atEnd = this.said.scrollTop + this.said.clientHeight >= this.said.scrollHeight - 4;
    this.summary.textContent = `What was decided, and why (${lines.length})`;
    this.said.replaceChildren(...lines.map((text) => element("li", text)));
    if (atEnd) this.said.scrollTop = this.said.scrollHeight;
    this.saidCount = lines.length;
    this.lastSaid = last;
  }

  add(one) {
    const last = this.points.at(-1);
    if (one.elapsed_ms === null || (last && one.elapsed_ms <= last.elapsed_ms)) return;
    this.points.push(one);
    if (this.points.length > MAX_POINTS) this.points = this.points.filter((_, number) => number % 2 === 0);
  }

  draw() {
    if (this.one) draw(this.svg, this.points, this.one);
  }
}

export function showLive(all) {
  const place = document.getElementById("live");
  const keys = new Set(all.map((one) => one.key));
  for (const [key, card] of cards) {
    if (!keys.has(key)) { card.article.remove(); cards.delete(key); }
  }
  if (all.length && !cards.size) place.replaceChildren();
  for (const one of all) {
    if (!cards.has(one.key)) cards.set(one.key, new Card(one, place));
    cards.get(one.key).update(one);
  }
  if (!all.length && !place.querySelector("p.none")) {
    place.replaceChildren(element("p", "No VM migrates.", null, { className: "none" }));
  }
}

addEventListener("resize", () => { for (const card of cards.values()) card.draw(); });
