// Controls and SVG helpers shared by every widget. Nothing here knows about quantization.

export function html(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

export function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS("http://www.w3.org/2000/svg", tag), attributes, children);
}

function fill(node, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The frame of a widget: `controls` on top, a drawing area, a readout that screen readers announce, a caption. */
export function panel(el, { title, caption = "" }) {
  const controls = html("div", { class: "controls" });
  const stage = html("div", { class: "stage" });
  const readout = html("div", { "data-qlab-readout": "", role: "status", "aria-live": "polite" });
  el.append(html("div", { class: "qlab-widget", role: "group", "aria-label": title },
    controls, stage, readout, html("div", { class: "caption" }, caption)));
  return { controls, stage, readout };
}

/** A labelled slider; `format` words its value beside the label. `onInput` gets the number. */
export function slider({ label, min, max, step = 1, value, format = String }, onInput) {
  const shown = html("b", {}, format(value));
  // JupyterLab's own shortcuts would take the arrow keys away
  const keys = { "data-lm-suppress-shortcuts": "true" };
  const input = html("input", { type: "range", min, max, step, value, "aria-label": label, ...keys });
  input.addEventListener("input", () => {
    shown.textContent = format(Number(input.value));
    onInput(Number(input.value));
  });
  return html("label", {}, html("span", {}, `${label} `, shown), input);
}

/** A row of buttons of which one is pressed; `options` is a list of [value, text]. */
export function choice({ label, options, value }, onInput) {
  const buttons = options.map(([key, text]) => {
    const button = html("button", { type: "button", "aria-pressed": key === value }, text);
    button.addEventListener("click", () => {
      buttons.forEach((b) => b.setAttribute("aria-pressed", b === button));
      onInput(key);
    });
    return button;
  });
  return html("fieldset", {}, html("legend", {}, label), html("div", { class: "segments" }, ...buttons));
}

/** A linear map from [a, b] to [c, d]. */
export function linear(a, b, c, d) {
  return (x) => c + ((x - a) / (b - a || 1)) * (d - c);
}

/** The points of an SVG path through [[x, y], …]. */
export function path(points) {
  return points.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(2)},${y.toFixed(2)}`).join("");
}

/** Four significant digits, as the Python side prints them. */
export function digits(x, count = 4) {
  return Number.isFinite(x) ? String(Number(x.toPrecision(count))) : "∞";
}
