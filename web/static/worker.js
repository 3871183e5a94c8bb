// The header and the table of operators: how the worker is and how fast it goes.
import * as api from "./api.js";
import { byId, h, say } from "./dom.js";
import * as format from "./format.js";

const SAMPLES = 60;
const WINDOW_MS = 10000;

/** `offer(operators)` tells others which states exist. */
export function workerPanel(offer) {
  const status = byId("status");
  const line = byId("spark").querySelector("polyline");
  const samples = []; // {at, records, alerts}, oldest first
  const rates = [];

  function state(name, text, title = "") {
    status.dataset.state = name;
    document.body.dataset.worker = name;
    status.title = title;
    say(byId("status-text"), text);
  }

  async function readiness() {
    try {
      const { status: overall, checks } = await api.readiness();
      const reasons = Object.entries(checks).filter(([, check]) => check.status !== "ok");
      const title = reasons.map(([name, check]) => `${name}: ${check.reason}`).join("\n");
      if (overall === "ok") state("ok", "Ready");
      else state("waiting", reasons.length ? `Not ready: ${reasons[0][1].reason}` : "Not ready", title);
    } catch (refusal) {
      state("down", refusal.message);
      samples.length = 0;
    }
  }

  /** Sum of a counter over all its labels. */
  function total(text, name) {
    let sum = 0;
    for (const row of text.split("\n")) {
      if (row.startsWith(name) && (row[name.length] === "{" || row[name.length] === " ")) sum += Number(row.slice(row.lastIndexOf(" ") + 1));
    }
    return sum;
  }

  async function throughput() {
    const text = await api.metrics();
    const now = { at: performance.now(), records: total(text, "famulus_records_processed_total"), alerts: total(text, "famulus_rule_fired_total") };
    const last = samples.at(-1);
    if (last && (now.records < last.records || now.alerts < last.alerts)) samples.length = 0; // the worker was restarted
    samples.push(now);
    while (samples.length > 2 && now.at - samples[1].at > WINDOW_MS) samples.shift();
    if (samples.length < 2) return;
    const previous = samples.at(-2);
    rates.push(((now.records - previous.records) * 1000) / (now.at - previous.at));
    if (rates.length > SAMPLES) rates.shift();
    const span = now.at - samples[0].at;
    say(byId("rate"), format.count(((now.records - samples[0].records) * 1000) / span));
    say(byId("alert-rate"), format.count(((now.alerts - samples[0].alerts) * 60000) / span));
    if (rates.length < 3) return;
    const most = Math.max(...rates, 1);
    line.setAttribute("points", rates.map((rate, i) => `${(100 * (SAMPLES - rates.length + i)) / (SAMPLES - 1)},${(22 - (20 * rate) / most).toFixed(1)}`).join(" "));
  }

  async function operators() {
    const found = await api.operators();
    byId("operator-rows").replaceChildren(...found.map(row));
    const lags = found.map((operator) => operator.lag).filter((lag) => lag !== null);
    say(byId("lag"), lags.length ? format.count(lags.reduce((a, b) => a + b, 0)) : "–");
    offer(found);
  }

  function row(operator) {
    const most = Math.max(1, ...operator.partitions.map((part) => part.lag ?? 0));
    const partitions = operator.partitions.map((part) => {
      const watermark = part.watermark === null ? "no watermark yet" : `watermark ${format.dateTime(part.watermark)}`;
      const level = part.lag ? Math.max(1, Math.ceil((3 * part.lag) / Math.max(most, 100))) : 0;
      return h("li", { data: { level: String(level) }, title: `Partition ${part.partition}: lag ${part.lag ?? "unknown"}, ${watermark}` }, part.partition);
    });
    const watermark = operator.watermark;
    return h(
      "tr",
      {},
      h("td", {}, h("span", { class: "name" }, operator.uid), h("span", { class: "description" }, operator.name)),
      h("td", {}, h("ul", { class: "partitions" }, ...partitions)),
      h("td", { class: "num", title: watermark === null ? "" : format.dateTime(watermark) }, watermark === null ? "–" : format.time(watermark), h("span", { class: "description" }, watermark === null ? "" : format.age(watermark))),
      h("td", { class: "num" }, operator.lag === null ? "–" : format.count(operator.lag)),
    );
  }

  return { poll: () => Promise.all([readiness(), throughput(), operators()]) };
}
