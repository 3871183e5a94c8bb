// The HTTP interface of this worker.

/** An answer that is a problem (RFC 9457), or no answer at all (status 0). */
export class Refusal extends Error {
  constructor(status, problem) {
    super(problem.detail || problem.title || `HTTP ${status}`);
    this.status = status;
    this.problem = problem;
  }
}

async function request(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { credentials: "same-origin", signal: AbortSignal.timeout(15000), ...options });
  } catch {
    throw new Refusal(0, { detail: "The worker does not answer." });
  }
  if (response.status === 401 && location.pathname === "/") location.reload(); // the sign-in form takes over
  if (!response.ok) throw new Refusal(response.status, await response.json().catch(() => ({})));
  return response;
}

async function send(method, path, body, version) {
  const headers = version ? { "If-Match": `"${version}"` } : {};
  if (body !== undefined) headers["Content-Type"] = "application/json";
  const response = await request(path, { method, headers, body: body === undefined ? undefined : JSON.stringify(body) });
  return response.status === 204 ? null : response.json();
}

const get = async (path) => (await request(path)).json();
const part = encodeURIComponent;
const query = (values) => new URLSearchParams(Object.entries(values).filter(([, value]) => value)).toString();

/** `{alerts, cursor, tag}`; the tag is the same as long as nothing has happened. */
export async function alerts(filter) {
  const response = await request(`/v1/alerts?${query(filter)}`, { cache: "no-cache" });
  return { ...(await response.json()), tag: response.headers.get("ETag") };
}

export async function rules() {
  const found = [];
  let cursor = null;
  do {
    const page = await get(`/v1/rules?${query({ limit: 1000, cursor })}`);
    found.push(...page.rules);
    cursor = page.cursor;
  } while (cursor);
  return found;
}

export const rule = (id) => get(`/v1/rules/${part(id)}`);
export const putRule = (id, body, version) => send("PUT", `/v1/rules/${part(id)}`, body, version);
export const deleteRule = (id, version) => send("DELETE", `/v1/rules/${part(id)}`, undefined, version);
export const rollback = (id, to, version) => send("POST", `/v1/rules/${part(id)}/rollback`, { to }, version);

export async function history(id) {
  const found = [];
  let cursor = null;
  do {
    const page = await get(`/v1/rules/${part(id)}/history?${query({ limit: 1000, cursor })}`);
    found.push(...page.versions);
    cursor = page.cursor;
  } while (cursor);
  return found;
}

export const operators = async () => (await get("/v1/operators")).operators;
export const metrics = async () => (await request("/metrics")).text();
export const stateOf = (operator, state, key) => get(`/v1/state/${part(operator)}/${part(state)}/${part(key)}`);
export const statesLike = (operator, state, prefix) => get(`/v1/state/${part(operator)}/${part(state)}?${query({ prefix, limit: 50 })}`);

/** `{status, checks}`, also where the worker is not ready. */
export async function readiness() {
  try {
    return await get("/readyz");
  } catch (refusal) {
    if (refusal.status === 503) return refusal.problem;
    throw refusal;
  }
}
