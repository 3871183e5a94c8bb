// The editor of one rule: fields, condition with the refusal shown under it, history and rollback.
import * as api from "./api.js";
import { byId, h, say, toast } from "./dom.js";
import * as format from "./format.js";

/** `changed()` is called after every change that the worker took. */
export function ruleEditor(changed) {
  const dialog = byId("editor");
  const form = byId("editor-form");
  const fields = form.elements;
  const error = byId("when-error");
  const note = byId("editor-note");
  const remove = byId("editor-delete");
  const save = byId("editor-save");
  let version = 0; // that the fields were read from; 0 for a rule that does not exist yet
  let before = "";

  const snapshot = () => JSON.stringify([...new FormData(form)]);

  function clear() {
    error.hidden = true;
    note.hidden = true;
    note.replaceChildren();
    fields.when.removeAttribute("aria-invalid");
    for (const field of [fields.rule_id, fields.description]) field.removeAttribute("aria-invalid");
    disarm();
  }

  function tell(...content) {
    note.replaceChildren(...content);
    note.hidden = false;
  }

  function fill(rule) {
    version = rule.version ?? 0;
    fields.rule_id.value = rule.rule_id ?? "";
    fields.rule_id.readOnly = version > 0;
    fields.description.value = rule.description ?? "";
    fields.risk_level.value = rule.risk_level ?? "MEDIUM";
    fields.when.value = rule.when ?? "";
    fields.active.checked = rule.active ?? true;
    fields.effective_from.value = format.toLocal(rule.effective_from);
    say(byId("editor-title"), version ? rule.rule_id : "New rule");
    const tag = byId("editor-version");
    tag.hidden = version === 0;
    say(tag, `version ${version}`);
    remove.hidden = version === 0;
    before = snapshot();
  }

  async function open(id) {
    clear();
    byId("history").hidden = true;
    byId("when-help").open = id === undefined;
    if (id === undefined) fill({});
    else {
      try {
        fill(await api.rule(id));
      } catch (refusal) {
        toast(refusal.message, "bad");
        return;
      }
      showHistory(id);
    }
    if (!dialog.open) dialog.showModal();
    (id === undefined ? fields.rule_id : fields.when).focus();
  }

  function read() {
    const rule = {
      rule_id: fields.rule_id.value.trim(),
      description: fields.description.value.trim(),
      active: fields.active.checked,
      risk_level: fields.risk_level.value,
      when: fields.when.value,
    };
    const from = format.fromLocal(fields.effective_from.value);
    return from === null ? rule : { ...rule, effective_from: from };
  }

  async function submit() {
    clear();
    const rule = read();
    const missing = [fields.rule_id, fields.description, fields.when].find((field) => !field.value.trim());
    if (missing) {
      missing.setAttribute("aria-invalid", "true");
      missing.focus();
      tell("Fill in the field that is marked.");
      return;
    }
    save.disabled = true;
    try {
      const saved = await api.putRule(rule.rule_id, rule, version);
      toast(`${saved.rule_id} is saved as version ${saved.version}${saved.active ? " and in effect" : ""}.`);
      close();
      changed();
    } catch (refusal) {
      refused(refusal, rule);
    } finally {
      save.disabled = false;
    }
  }

  function refused(refusal, rule) {
    if (refusal.status === 422) {
      const [what, ...where] = refusal.message.split("\n"); // where: the line and the caret under it
      error.replaceChildren(h("p", {}, what), where.length ? h("pre", {}, where.join("\n")) : "");
      error.hidden = false;
      fields.when.setAttribute("aria-invalid", "true");
      mark(refusal.problem.line, refusal.problem.column);
    } else if (refusal.status === 412 || refusal.status === 428) {
      const text = version ? "Somebody changed this rule meanwhile. " : `A rule ${rule.rule_id} exists already. `;
      tell(text, h("button", { type: "button", class: "quiet", on: { click: () => open(rule.rule_id) } }, "Show it"));
    } else tell(refusal.message);
  }

  /** Put the cursor where the condition went wrong; lines and columns count from 1, in characters as Python counts them. */
  function mark(line, column) {
    fields.when.focus();
    if (!line) return;
    const lines = fields.when.value.split("\n");
    const start = lines.slice(0, line - 1).reduce((sum, text) => sum + text.length + 1, 0);
    const within = [...(lines[line - 1] ?? "")].slice(0, Math.max(0, column - 1)).join("").length;
    fields.when.setSelectionRange(start + within, start + within);
  }

  async function showHistory(id) {
    const versions = await api.history(id).catch(() => []);
    if (fields.rule_id.value !== id || versions.length === 0) return;
    byId("history-list").replaceChildren(...versions.reverse().map((step) => past(id, step)));
    byId("history").hidden = false;
  }

  function past(id, step) {
    const current = step.version === version;
    const head = h("div", { class: "past-head" }, h("span", { class: "tag" }, `version ${step.version}`), h("time", { class: "muted" }, format.dateTime(step.accepted_ms)), h("span", { class: "grow" }));
    if (step.rule === null) return h("li", { class: "past" }, head, h("p", { class: "muted" }, "Deleted"));
    const { risk_level, active, when } = step.rule;
    if (current) head.append(h("span", { class: "muted" }, "current"));
    else head.append(h("button", { type: "button", class: "quiet", on: { click: () => goBack(id, step.version) } }, "Roll back to this"));
    return h("li", { class: "past" }, head, h("p", { class: "muted" }, `${risk_level}, ${active ? "active" : "disabled"}: ${step.rule.description}`), h("pre", { class: "condition" }, when));
  }

  async function goBack(id, to) {
    clear();
    try {
      const made = await api.rollback(id, to, version);
      toast(`${id} says again what version ${to} said, as version ${made.version}.`);
      changed();
      await open(id);
    } catch (refusal) {
      refused(refusal, { rule_id: id });
    }
  }

  let armed = 0;

  function disarm() {
    clearTimeout(armed);
    armed = 0;
    say(remove, "Delete");
  }

  async function deleteRule() {
    if (!armed) {
      say(remove, "Really delete?");
      armed = setTimeout(disarm, 4000);
      return;
    }
    clear();
    const id = fields.rule_id.value;
    try {
      await api.deleteRule(id, version);
      toast(`${id} is deleted; its history stays.`);
      close();
      changed();
    } catch (refusal) {
      refused(refusal, { rule_id: id });
    }
  }

  function close() {
    disarm();
    dialog.close();
  }

  /** Leave unless that would lose what was typed; a second time leaves in any case. */
  function leave(event) {
    event.preventDefault();
    if (snapshot() === before || !note.hidden) close();
    else tell("This rule has changes that are not saved. Close once more to drop them.");
  }

  form.addEventListener("submit", (event) => {
    event.preventDefault();
    submit();
  });
  fields.when.addEventListener("keydown", (event) => {
    if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) submit();
  });
  fields.when.addEventListener("input", () => fields.when.removeAttribute("aria-invalid"));
  dialog.addEventListener("cancel", leave);
  byId("editor-close").addEventListener("click", leave);
  byId("editor-cancel").addEventListener("click", close);
  remove.addEventListener("click", deleteRule);

  return { open };
}
