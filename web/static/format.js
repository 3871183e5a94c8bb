// Numbers and times as a person reads them.

const whole = new Intl.NumberFormat("en-US", { maximumFractionDigits: 0 });
const precise = new Intl.NumberFormat("en-US", { maximumFractionDigits: 2 });
const money = new Intl.NumberFormat("en-US", { minimumFractionDigits: 2, maximumFractionDigits: 2 });
const clock = new Intl.DateTimeFormat(undefined, { hour: "2-digit", minute: "2-digit", second: "2-digit", hour12: false });
const day = new Intl.DateTimeFormat(undefined, { day: "2-digit", month: "short", hour: "2-digit", minute: "2-digit", hour12: false });
const full = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium", hour12: false });

export const count = (n) => whole.format(n);

/** A value of an explanation. */
export function value(v) {
  if (typeof v === "number") return precise.format(v);
  if (typeof v === "string") return v;
  return JSON.stringify(v);
}

/** A value whose name says what it is: amounts have cents. */
export const named = (name, v) => (typeof v === "number" && name.includes("amount") ? money.format(v) : value(v));

export const dateTime = (ms) => full.format(new Date(ms));

/** Time of day, with the date where it is not today's. */
export function time(ms) {
  const date = new Date(ms);
  return date.toDateString() === new Date().toDateString() ? clock.format(date) : day.format(date);
}

/** How far an event time is behind the wall clock. */
export function age(ms) {
  const seconds = Math.round((Date.now() - ms) / 1000);
  if (seconds < 1) return "now";
  if (seconds < 120) return `${seconds} s ago`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min ago`;
  if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
  return `${count(Math.round(seconds / 86400))} days ago`;
}

/** Milliseconds to what a datetime-local input holds, in the browser's zone; empty for none. */
export function toLocal(ms) {
  if (ms === null || ms === undefined) return "";
  const date = new Date(ms);
  return new Date(ms - date.getTimezoneOffset() * 60000).toISOString().slice(0, 19);
}

export const fromLocal = (text) => (text ? new Date(text).getTime() : null);
