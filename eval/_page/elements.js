// SPDX-License-Identifier: Apache-2.0
// Elements and numbers as text. Data reaches the page as text nodes and attributes only, never as markup.

/** An HTML element; attributes that are null are left out, `on` holds listeners. */
function element(tag, { on = {}, ...attributes } = {}, ...children) {
  return furnish(document.createElement(tag), attributes, on, children);
}

/** The same for SVG. */
function svgElement(tag, { on = {}, ...attributes } = {}, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  return furnish(node, attributes, on, children);
}

function furnish(node, attributes, on, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (value !== null) node.setAttribute(name, value);
  }
  for (const [event, listener] of Object.entries(on)) node.addEventListener(event, listener);
  node.append(...children);
  return node;
}

/** An element with a label that belongs to it. */
function labelled(text, control) {
  return element("label", { class: "field" }, element("span", {}, text), control);
}

/** A menu; `names` are its entries, and `onChange` gets the index of the chosen one. */
function menu(names, onChange) {
  const select = element("select", {
    on: { change: () => onChange(select.selectedIndex) },
  });
  setEntries(select, names, 0);
  return select;
}

function setEntries(select, names, chosen) {
  select.replaceChildren(...names.map((name) => element("option", {}, name)));
  select.selectedIndex = chosen;
}

function isNumber(value) {
  return typeof value === "number" && Number.isFinite(value);
}

/** Whether there is a value, be it infinite. */
function isMeasured(value) {
  return typeof value === "number" && !Number.isNaN(value);
}

/** A name from outside, as the tables write it. */
function verbatim(name) {
  const letters = [...name]; // whole characters, not halves of a surrogate pair
  const isLong = letters.length > 32;
  const parts = isLong ? [letters.slice(0, -10).join(""), letters.slice(-10).join("")] : [name];
  const look = isLong ? { class: "name long", dir: "auto" } : { class: "name" };
  return element("span", { ...look, title: name }, ...parts.map((part) => element("bdi", {}, part)));
}

/** A number with four significant digits, written as in the tables. */
function formatNumber(value, digits = 4) {
  if (!isMeasured(value)) return "–";
  if (!isNumber(value)) return value > 0 ? "∞" : "−∞";
  if (value === 0) return "0";
  let text;
  if (Math.abs(value) >= 10 ** (digits - 1)) text = groupThousands(value.toFixed(0));
  else if (Math.abs(value) < 1e-4) text = value.toExponential(digits - 1);
  else text = value.toPrecision(digits);
  return text.replaceAll("-", "−");
}

function groupThousands(text) {
  return text.replace(/\B(?=(\d{3})+$)/g, ",");
}

function formatDuration(seconds) {
  if (!isNumber(seconds)) return "–";
  const [factor, unit] = [[1, "s"], [1e-3, "ms"], [1e-6, "µs"]].find(
    ([size], index) => Math.abs(seconds) >= size || index === 2,
  );
  return `${formatNumber(seconds / factor, 3)} ${unit}`;
}

/** A value of a metric with its unit. */
function formatMetric(value, metric) {
  const text = formatNumber(value);
  return metric.unit && isMeasured(value) ? `${text} ${metric.unit}` : text;
}
