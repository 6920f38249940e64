// Making elements and saving files. Text is always set as text, never as HTML.

/** An element with properties, and children that are elements or text. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else if (name === "colour") element.style.backgroundColor = value;
    else if (name in element && !name.startsWith("aria")) element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== undefined && child !== null && child !== false));
  return element;
}

export const byId = (id) => document.getElementById(id);

/** Offer a Blob as a download. */
export function save(blob, name) {
  const url = URL.createObjectURL(blob);
  const link = make("a", { href: url, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
}

let timer = 0;
/** A sentence over the panes that goes by itself. */
export function note(sentence, seconds = 5) {
  const element = byId("note");
  element.textContent = sentence;
  element.hidden = !sentence;
  clearTimeout(timer);
  if (sentence) timer = setTimeout(() => { element.hidden = true; }, seconds * 1000);
}

export const rgb = (colour, opacity = 1) => `rgba(${colour.join(",")},${opacity})`;

export const reducedMotion = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

/** A number for people: fixed digits, or a dash where there is none. */
export const shown = (value, digits = 1) => (Number.isFinite(value) ? value.toFixed(digits) : "–");
