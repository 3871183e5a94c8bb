// Elements without HTML text: what comes from users only ever becomes a text node.

export const byId = (id) => document.getElementById(id);

/** Make an element.  `props`: `class`, `on` (listeners by name), `data`, properties, and `aria-*`/`role`/`for` attributes. */
export function h(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(props)) {
    if (value === undefined || value === null) continue;
    if (name === "on") for (const [event, listener] of Object.entries(value)) element.addEventListener(event, listener);
    else if (name === "class") element.className = value;
    else if (name === "data") Object.assign(element.dataset, value);
    else if (name.includes("-") || name === "role" || name === "for" || name === "colspan") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== null && child !== undefined).map((child) => (child instanceof Node ? child : String(child))));
  return element;
}

/** Set a text only where it changes, so that screen readers are not told the same thing every second. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

let hiding = 0;

/** A short message at the foot of the page. */
export function toast(text, kind = "ok") {
  const box = byId("toast");
  box.textContent = text;
  box.dataset.kind = kind;
  box.hidden = false;
  clearTimeout(hiding);
  hiding = setTimeout(() => (box.hidden = true), kind === "ok" ? 3000 : 7000);
}
