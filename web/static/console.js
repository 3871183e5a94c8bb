// The console: wires the panels and keeps them fresh while somebody looks.
import { alertsPanel } from "./alerts.js";
import { byId } from "./dom.js";
import { ruleEditor } from "./editor.js";
import { jobsPanel } from "./jobs.js";
import { lookupPanel } from "./lookup.js";
import { rulesPanel } from "./rules.js";
import { workerPanel } from "./worker.js";

const ALERTS_MS = 1000;
const REST_MS = 2000;

const lookup = lookupPanel();
const editor = ruleEditor(() => rules.poll().catch(() => {}));
const alerts = alertsPanel({ lookUp: lookup.show, editRule: editor.open });
const rules = rulesPanel({ edit: editor.open, offer: alerts.offer });
const worker = workerPanel(lookup.offer);
const jobs = jobsPanel();

byId("new-rule").addEventListener("click", () => editor.open());

/** Run again and again, never twice at once, and not in a tab that nobody sees.  The header says when the worker is away. */
async function keep(poll, pause) {
  for (;;) {
    if (!document.hidden) await poll().catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, pause));
  }
}

keep(worker.poll, REST_MS);
keep(rules.poll, REST_MS);
keep(jobs.poll, REST_MS);
keep(alerts.poll, ALERTS_MS);
