// What may be done about a migration: forms that ask the agent, and tell what it has observed.

import { element, post } from "./words.js";

let token = "";
const MS_PER_MIN = 60000;

const acting = document.getElementById("acting");
acting.querySelector("form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = event.target.elements.token.value;
  event.target.reset();
  acting.querySelector("output").textContent = "kept in this page only";
});

function needsToken() {
  if (token) return false;
  acting.open = true;
  acting.querySelector("input").focus();
  return true;
}

function number(parent, text, name, attributes) {
  const label = element("label", `${text} `, parent);
  return element("input", "", label, { name, type: "number", ...attributes });
}

function choice(parent, text, name, options) {
  const label = element("label", `${text} `, parent);
  const select = element("select", "", label, { name });
  for (const [value, shown] of options) element("option", shown, select, { value });
  return select;
}

function limitFields(form, unsaid) {
  // `unsaid` tells what a field that is left empty means.
  number(form, "finish by, minutes from its begin", "finish", { min: 0.01, step: "any", placeholder: unsaid });
  number(form, "downtime at most, ms", "downtime", { min: 1, step: 1, placeholder: unsaid });
  number(form, "work lost at most, %", "loss", { min: 0, max: 100, step: "any", placeholder: unsaid });
  choice(form, "on a limit", "onLimit",
    [["", "as it is"], ["cancel", "cancel"], ["switchover", "switch over"], ["continue", "continue"]]);
}

function limitsOf(form, empty) {
  // A field that is left empty becomes `empty`: null is no limit, undefined leaves it as it is.
  const value = (name, scale) => {
    const text = form.elements[name].value;
    return text === "" ? empty : scale(Number(text));
  };
  return {
    finish_by_ms: value("finish", (minutes) => Math.round(minutes * MS_PER_MIN)),
    max_downtime_ms: value("downtime", Math.round),
    max_guest_loss_percent: value("loss", (share) => share),
    on_limit: form.elements.onLimit.value || undefined,
  };
}

function action(parent, name, button, key, path, fields, body) {
  const details = element("details", "", parent);
  element("summary", name, details);
  const form = element("form", "", details);
  fields(form);
  const submit = element("button", button, form);
  const output = element("output", "", form);
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (needsToken()) return;
    submit.disabled = true;
    output.className = "";
    output.textContent = "asked for; waiting until it is so";
    try {
      const answer = await post(`api/live/${key}/${path}`, body(form), { Authorization: `Bearer ${token}` });
      output.textContent = `${answer.is_so ? "✓" : "…"} ${answer.text}`;
    } catch (error) {
      output.className = "fault";
      output.textContent = `✗ ${error.message}`;
      if (/token for actions/.test(error.message)) token = "";
    }
    submit.disabled = false;
  });
  return form;
}

export function addActions(parent, one, variants) {
  const place = element("div", "", parent, { className: "actions" });
  action(place, "Steer", "Steer it", one.key, "steer", (form) => {
    choice(form, "by", "variant", [["", "what its rule names"], ...variants.map((name) => [name, name])]);
    limitFields(form, "as its rule says");
  }, (form) => ({ variant: form.elements.variant.value || null, ...limitsOf(form, undefined) }));
  const limits = action(place, "Set limits", "Keep these limits", one.key, "limits",
    (form) => limitFields(form, "no limit"), (form) => limitsOf(form, null));
  if (one.limits) {
    const { finish_by_ms: finish, max_downtime_ms: downtime, max_guest_loss_percent: loss } = one.limits;
    if (finish !== null) limits.elements.finish.value = finish / MS_PER_MIN;
    if (downtime !== null) limits.elements.downtime.value = downtime;
    if (loss !== null) limits.elements.loss.value = loss;
  }
  action(place, "Cancel", "Cancel the migration; the guest stays here", one.key, "cancel", () => {}, () => ({}));
}
