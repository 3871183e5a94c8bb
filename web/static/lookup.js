// Keyed state by name.
import * as api from "./api.js";
import { byId, h } from "./dom.js";
import * as format from "./format.js";

const ROWS = 200;

export function lookupPanel() {
  const state = byId("lookup-state");
  const key = byId("lookup-key");
  const box = byId("lookup-answer");

  /** The states that can be asked for. */
  function offer(operators) {
    const names = operators.flatMap((operator) => operator.states.map((one) => [operator.uid, one.name]));
    const known = [...state.options].map((option) => option.value);
    const values = names.map((pair) => JSON.stringify(pair));
    if (values.join() === known.join()) return;
    const chosen = state.value;
    state.replaceChildren(...names.map((pair, i) => h("option", { value: values[i] }, pair.join(" / "))));
    if (values.includes(chosen)) state.value = chosen;
  }

  async function ask() {
    const text = key.value.trim();
    if (!state.value || !text) return;
    const [operator, name] = JSON.parse(state.value);
    box.hidden = false;
    try {
      if (text.endsWith("*")) showPage(await api.statesLike(operator, name, text.slice(0, -1)));
      else showOne(await api.stateOf(operator, name, text));
    } catch (refusal) {
      box.replaceChildren(h("p", { class: "error" }, refusal.message));
    }
  }

  function showOne(found) {
    const watermark = found.watermark === null ? "" : `, watermark ${format.time(found.watermark)}`;
    box.replaceChildren(
      h("p", { class: "muted" }, h("strong", {}, found.key), ` on partition ${found.partition}, up to source offset ${format.count(found.source_offset)}${watermark}`),
      body(found.value),
    );
  }

  function showPage(page) {
    const notes = [page.items.length ? `${page.items.length}${page.cursor ? " first" : ""} keys` : "No such key"];
    if (page.partial) notes.push("some may be missing: a partition is being recovered");
    const keys = page.items.map((item) => h("li", {}, h("button", { type: "button", class: "quiet", on: { click: () => show(page.operator, page.state, item.key) } }, item.key), h("span", { class: "muted" }, size(item.value))));
    box.replaceChildren(h("p", { class: "muted" }, notes.join("; ")), h("ul", { class: "keys" }, ...keys));
  }

  const size = (value) => (Array.isArray(value) ? `${format.count(value.length)} entries` : typeof value === "object" && value !== null ? `${Object.keys(value).length} fields` : format.value(value));

  /** Lists of records are tables, newest first; everything else is JSON. */
  function body(value) {
    const isRecord = (entry) => typeof entry === "object" && entry !== null && !Array.isArray(entry);
    if (!Array.isArray(value) || value.length === 0 || !value.every(isRecord)) return h("pre", { class: "condition" }, JSON.stringify(value, null, 2));
    const columns = [...new Set(value.slice(0, ROWS).flatMap(Object.keys))];
    const rows = value.slice(-ROWS).reverse();
    const cell = (column, one) => h("td", { class: typeof one === "number" ? "num" : "" }, /timestamp|_ms$/.test(column) && typeof one === "number" ? format.dateTime(one) : one === undefined ? "" : format.named(column, one));
    return h(
      "div",
      { class: "scroll" },
      h(
        "table",
        { class: "grid" },
        h("caption", {}, `${format.count(value.length)} entries, newest first${value.length > ROWS ? `, ${ROWS} shown` : ""}`),
        h("thead", {}, h("tr", {}, ...columns.map((column) => h("th", { scope: "col", class: typeof value[0][column] === "number" ? "num" : "" }, column)))),
        h("tbody", {}, ...rows.map((entry) => h("tr", {}, ...columns.map((column) => cell(column, entry[column]))))),
      ),
    );
  }

  function show(operator, name, text) {
    state.value = JSON.stringify([operator, name]);
    key.value = text;
    byId("lookup").scrollIntoView({ block: "nearest" });
    ask();
  }

  byId("lookup-form").addEventListener("submit", (event) => {
    event.preventDefault();
    ask();
  });

  return { offer, show };
}
