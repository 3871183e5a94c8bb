// The live list of alerts.
import * as api from "./api.js";
import { byId, h, say } from "./dom.js";
import * as format from "./format.js";

const PAGE = 100;
const KEPT = 1000;

/** `actions`: `lookUp(operator, state, key)`, `editRule(id)`. */
export function alertsPanel(actions) {
  const list = byId("alert-list");
  const scroll = byId("alert-scroll");
  const pause = byId("pause");
  const fresh = byId("fresh");
  const older = byId("older");
  const empty = byId("alert-empty");
  const user = byId("filter-user");
  const rule = byId("filter-rule");
  let shown = new Map(); // alert_id -> <li>
  let waiting = []; // newest first
  let cursor = null;
  let tag = null;
  let paused = false;
  let generation = 0; // of the filter: an answer to an earlier one is dropped

  const filter = () => ({ user_id: user.value.trim(), rule_id: rule.value });
  // Whoever reads further down, or reads an explanation, must not have it pushed away.
  const held = () => paused || scroll.scrollTop > 40 || list.querySelector(".alert-head[aria-expanded=true]") !== null;

  function reset() {
    generation += 1;
    shown = new Map();
    waiting = [];
    cursor = null;
    tag = null;
    list.replaceChildren();
    older.hidden = true;
    fresh.hidden = true;
    scroll.scrollTop = 0;
    poll();
  }

  async function poll() {
    const mine = generation;
    const page = await api.alerts({ ...filter(), limit: PAGE });
    if (mine !== generation || page.tag === tag) return;
    const first = tag === null;
    tag = page.tag;
    const known = new Set(waiting.map((alert) => alert.alert_id));
    const news = page.alerts.filter((alert) => !shown.has(alert.alert_id) && !known.has(alert.alert_id));
    waiting = news.concat(waiting).slice(0, KEPT);
    if (first) {
      cursor = page.cursor;
      older.hidden = cursor === null;
    }
    if (first || !held()) flush(!first);
    else tell();
    say(empty, user.value || rule.value ? "No alert matches." : "No alerts yet. They appear here within a second.");
    empty.hidden = shown.size > 0 || waiting.length > 0;
  }

  function tell() {
    fresh.hidden = waiting.length === 0;
    say(fresh, `${format.count(waiting.length)} new ${waiting.length === 1 ? "alert" : "alerts"}`);
  }

  function flush(animated) {
    const rows = waiting.map((alert) => {
      const row = rowOf(alert, animated);
      shown.set(alert.alert_id, row);
      return row;
    });
    waiting = [];
    list.prepend(...rows);
    for (const [id, row] of [...shown].filter(() => shown.size > KEPT).slice(0, shown.size - KEPT)) {
      if (row.querySelector("[aria-expanded=true]")) continue;
      row.remove();
      shown.delete(id);
    }
    tell();
  }

  async function more() {
    const mine = generation;
    const page = await api.alerts({ ...filter(), limit: PAGE, cursor });
    if (mine !== generation) return;
    for (const alert of page.alerts) {
      if (shown.has(alert.alert_id)) continue;
      const row = rowOf(alert, false);
      shown = new Map([[alert.alert_id, row], ...shown]);
      list.append(row);
    }
    cursor = page.cursor;
    older.hidden = cursor === null;
  }

  function rowOf(alert, animated) {
    const values = Object.entries(alert.explanation?.values ?? {});
    const hint = values.slice(0, 3).map(([name, value]) => `${name} = ${format.named(name, value)}`).join(" · ");
    const details = h("div", { class: "details", hidden: true });
    const head = h(
      "button",
      { type: "button", class: "alert-head", "aria-expanded": "false", on: { click: toggle } },
      h("span", { class: "risk" }, alert.risk_level),
      h("span", { class: "what" }, h("span", { class: "message" }, alert.message.replace(/^Rule triggered: /, "")), h("span", { class: "hint" }, hint)),
      h("span", { class: "who" }, alert.user_id),
      h("time", { class: "when", title: format.dateTime(alert.timestamp) }, format.time(alert.timestamp)),
    );
    function toggle() {
      const open = details.hidden;
      if (open && !details.firstChild) details.append(...explain(alert, values));
      details.hidden = !open;
      head.setAttribute("aria-expanded", String(open));
      if (!held() && waiting.length) flush(true);
    }
    return h("li", { class: animated ? "alert new" : "alert", data: { risk: alert.risk_level } }, head, details);
  }

  function explain(alert, values) {
    const { condition, values: _, ...others } = alert.explanation ?? {};
    const facts = [...values, ...Object.entries(others)];
    const source = alert.source;
    return [
      h("h3", {}, "Condition"),
      h("pre", { class: "condition" }, condition ?? ""),
      facts.length ? h("h3", {}, "Because") : null,
      facts.length ? h("dl", { class: "facts" }, ...facts.flatMap(([name, value]) => [h("dt", {}, name), h("dd", {}, format.named(name, value))])) : null,
      h("h3", {}, "Where from"),
      h(
        "dl",
        { class: "facts" },
        h("dt", {}, "Rule"), h("dd", {}, `${alert.rule_id}, version ${alert.rule_version}`),
        h("dt", {}, "Transaction"), h("dd", {}, alert.transaction_id),
        h("dt", {}, "Event time"), h("dd", {}, format.dateTime(alert.timestamp)),
        h("dt", {}, "Source"), h("dd", {}, `${source.topic}, partition ${source.partition}, offset ${source.offset}`),
        h("dt", {}, "Alert id"), h("dd", {}, alert.alert_id),
      ),
      h(
        "div",
        { class: "actions" },
        h("button", { type: "button", on: { click: () => actions.lookUp("fraud", "history", alert.user_id) } }, "User's history"),
        h("button", { type: "button", on: { click: () => only(alert.user_id) } }, "Only this user"),
        h("button", { type: "button", on: { click: () => actions.editRule(alert.rule_id) } }, "Edit rule"),
      ),
    ].filter(Boolean);
  }

  function only(name) {
    user.value = name;
    reset();
  }

  let typing = 0;
  user.addEventListener("input", () => {
    clearTimeout(typing);
    typing = setTimeout(reset, 250);
  });
  rule.addEventListener("change", reset);
  byId("alert-filter").addEventListener("submit", (event) => {
    event.preventDefault();
    reset();
  });
  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    say(pause, paused ? "Resume" : "Pause");
    if (!paused) flush(true);
  });
  fresh.addEventListener("click", () => {
    scroll.scrollTop = 0;
    flush(true);
  });
  older.addEventListener("click", () => more().catch(reset)); // a cursor of a worker that was restarted begins anew
  scroll.addEventListener("scroll", () => {
    if (!held() && waiting.length) flush(true);
  });

  /** The rules that can be chosen in the filter. */
  function offer(ids) {
    const offered = [...rule.options].slice(1).map((option) => option.value);
    if (offered.join("\n") === ids.join("\n")) return;
    const chosen = rule.value;
    rule.replaceChildren(h("option", { value: "" }, "All rules"), ...ids.map((id) => h("option", { value: id }, id)));
    rule.value = ids.includes(chosen) ? chosen : "";
  }

  return { poll, offer };
}
