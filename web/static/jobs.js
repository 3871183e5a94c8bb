// What the jobs besides fraud are doing: sessions, orders and enrichment, from this worker's metrics.
import * as api from "./api.js";
import { byId, h } from "./dom.js";
import * as format from "./format.js";

const LINE = /^famulus_function_(\w+)\{(.*)\} (\S+)$/;
const LABEL = /(\w+)="((?:[^"\\]|\\.)*)"/g;

/** Metrics of functions by `operator/name/label`, and histograms as `[[upper bound in seconds, count], ...]`. */
function parse(text) {
  const values = new Map();
  const histograms = new Map();
  for (const line of text.split("\n")) {
    const found = LINE.exec(line);
    if (!found) continue;
    const [, kind, labels, number] = found;
    const { operator, name, label, le } = Object.fromEntries([...labels.matchAll(LABEL)].map(([, key, value]) => [key, value]));
    const id = `${operator}/${name}/${label}`;
    if (kind === "events_total" || kind === "value") values.set(id, Number(number));
    if (kind === "seconds_bucket") histograms.set(id, [...(histograms.get(id) ?? []), [le === "+Inf" ? Infinity : Number(le), Number(number)]]);
  }
  return { values, histograms };
}

/** Upper bound in milliseconds of the bucket that holds a quantile, of what came since the last look where there was something. */
function quantile(buckets, before, q) {
  let counts = buckets.map(([bound, count], i) => [bound, count - (before?.[i]?.[1] ?? 0)]);
  if (!counts.at(-1)[1]) counts = buckets;
  const wanted = q * counts.at(-1)[1];
  const bound = counts.find(([, count]) => count >= wanted)[0];
  return bound === Infinity ? "over 10 s" : bound < 1 ? `≤ ${format.count(bound * 1000)} ms` : `≤ ${format.value(bound)} s`;
}

const share = (part, whole) => (whole ? `${Math.round((100 * part) / whole)} %` : "–");

function tile(title, figures, bad = "") {
  return h(
    "section",
    { class: "job" },
    h("h3", {}, title),
    h("dl", {}, ...figures.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))),
    bad ? h("p", { class: "job-note", role: "status" }, bad) : null,
  );
}

export function jobsPanel() {
  const panel = byId("jobs");
  let before;

  async function poll() {
    const { values, histograms } = parse(await api.metrics());
    const of = (id) => values.get(id) ?? 0;
    const tiles = [];
    if (values.has("sessions/sessions_open/")) {
      tiles.push(
        tile("Sessions", [
          ["Open now", format.count(of("sessions/sessions_open/"))],
          ["Ended", format.count(of("sessions/sessions_ended/"))],
          ["Conversion", share(of("sessions/sessions_converted/"), of("sessions/sessions_ended/"))],
        ]),
      );
    }
    if (values.has("orders/orders_waiting/")) {
      tiles.push(
        tile("Orders", [
          ["Waiting", format.count(of("orders/orders_waiting/"))],
          ["Matched", format.count(of("orders/orders/MATCHED"))],
          ["Never paid", format.count(of("orders/orders/PAYMENT_TIMEOUT"))],
          ["No order", format.count(of("orders/orders/ORDER_NOT_FOUND"))],
        ]),
      );
    }
    const latency = histograms.get("enrichment/lookup/");
    if (latency) {
      const [cache, database, none] = ["cache", "database", "default"].map((from) => of(`enrichment/profiles/${from}`));
      const all = cache + database + none;
      const failing = of("enrichment/sources_failing/");
      tiles.push(
        tile(
          "Profiles",
          [
            ["Cache", share(cache, all)],
            ["Database", share(database, all)],
            ["Default", share(none, all)],
            ["p95", all ? quantile(latency, before, 0.95) : "–"],
          ],
          failing ? "A profile source fails; events go on without it." : "",
        ),
      );
      before = latency;
    }
    panel.hidden = !tiles.length;
    byId("job-tiles").replaceChildren(...tiles);
  }

  return { poll };
}
