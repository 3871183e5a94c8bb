// The table of rules.
import * as api from "./api.js";
import { byId, h, say, toast } from "./dom.js";
import * as format from "./format.js";

/** `actions`: `edit(id)`, `offer(ids)`. */
export function rulesPanel(actions) {
  const body = byId("rule-rows");
  const rows = new Map(); // rule_id -> {row, cells..., rule}

  async function poll() {
    const rules = await api.rules();
    const ids = rules.map((rule) => rule.rule_id);
    const gone = [...rows.keys()].filter((id) => !ids.includes(id));
    for (const id of gone) {
      rows.get(id).row.remove();
      rows.delete(id);
    }
    for (const [place, rule] of rules.entries()) {
      if (!rows.has(rule.rule_id)) rows.set(rule.rule_id, build(rule.rule_id));
      const parts = rows.get(rule.rule_id);
      fill(parts, rule);
      if (body.children[place] !== parts.row) body.insertBefore(parts.row, body.children[place] ?? null);
    }
    byId("rules-empty").hidden = rules.length > 0;
    const active = rules.filter((rule) => rule.active).length;
    say(byId("rules-note"), rules.length ? `${active} of ${rules.length} active` : "");
    actions.offer(ids);
  }

  function build(id) {
    const parts = {
      name: h("span", { class: "name" }, id),
      description: h("span", { class: "description" }),
      version: h("td", { class: "num" }),
      fired: h("td", { class: "num" }),
      errors: h("td", { class: "num" }),
      toggle: h("input", { type: "checkbox", class: "switch", role: "switch", "aria-label": `${id} active`, on: { change: () => toggle(parts) } }),
    };
    const open = h("button", { type: "button", class: "rule-open", on: { click: () => actions.edit(id) } }, parts.name, parts.description);
    parts.row = h("tr", {}, h("td", {}, open), parts.version, parts.fired, parts.errors, h("td", { class: "toggle" }, parts.toggle));
    return parts;
  }

  function fill(parts, rule) {
    if (parts.rule && rule.version < parts.rule.version) return; // asked before the last change
    parts.rule = rule;
    parts.row.dataset.risk = rule.risk_level;
    parts.row.classList.toggle("off", !rule.active);
    parts.errors.classList.toggle("bad", rule.errors > 0);
    say(parts.description, rule.description);
    say(parts.version, String(rule.version));
    say(parts.fired, format.count(rule.fired));
    say(parts.errors, format.count(rule.errors));
    if (!parts.toggle.disabled) parts.toggle.checked = rule.active;
  }

  async function toggle(parts) {
    const { rule, toggle: box } = parts;
    const { rule_id, description, risk_level, when, effective_from } = rule;
    const body = { rule_id, description, risk_level, when, active: box.checked };
    if (effective_from !== null) body.effective_from = effective_from;
    box.disabled = true; // until the worker has answered
    try {
      const { version } = await api.putRule(rule_id, body, rule.version);
      parts.rule = { ...rule, version, active: body.active };
      toast(`${rule_id} is ${body.active ? "active" : "disabled"}.`);
    } catch (refusal) {
      toast(refusal.message, "bad");
    }
    box.disabled = false;
    await poll().catch(() => (box.checked = rule.active));
  }

  return { poll };
}
