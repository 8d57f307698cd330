import { choice, html, linear, panel, slider, svg } from "./draw.js";

// Arithmetic equal to qlab.widgets.memory_calculator.needs (tests/widgets/test_memory_calculator.py).
const FLOAT_BITS = 16;

/** Bytes of the parts of a model that answers at `context` tokens, and their total. */
export function needs(shape, format, context, runtime) {
  const weights = (shape.linear_params * format.linear_bits) / 8 + (shape.embedding_params * format.embedding_bits) / 8 +
    (shape.other_params * FLOAT_BITS) / 8;
  const kv = (2 * shape.layers * shape.kv_heads * shape.head_dim * context * FLOAT_BITS) / 8;
  return { weights, kv, runtime, total: weights + kv + runtime };
}

/** Whether `bytes` are at most `gigabytes`, 10⁹ bytes each. */
export function fits(bytes, gigabytes) {
  return bytes <= gigabytes * 1e9;
}

/** The end of the axis in GB: the bar, the device asked for, and round. */
export function axisEnd(total, target) {
  const wanted = Math.max(total / 1e9, target) * 1.04;
  return [34, 50, 90, 120, 170, 200, 260].find((end) => end >= wanted) ?? Math.ceil(wanted / 100) * 100;
}

const PARTS = [
  ["weights", "weights", "var(--accent)"],
  ["kv", "KV cache", "var(--warm)"],
  ["runtime", "runtime, assumed", "var(--quiet)"],
];
const [WIDTH, LEFT, RIGHT, TOP, BAR, BOTTOM] = [740, 4, 724, 44, 58, 152];

function render({ model, el }) {
  const data = Object.fromEntries(
    ["shapes", "formats", "devices", "contexts", "runtime", "start"].map((key) => [key, model.get(key)]));
  const state = { ...data.start };
  const { controls, stage, readout } = panel(el, {
    title: "Does the model fit?",
    caption: "GB are 10⁹ bytes. The 31 that a laptop reports are usually GiB, 7% more: the margin is yours. " +
      "The KV cache is 16-bit; 0.75 GB of runtime are an assumption; parameters are counted from each model's config.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  const named = (list) => list.map(({ name }) => [name, name]);
  controls.append(
    choice({ label: "Model", value: state.shape, options: named(data.shapes) }, (shape) => update({ shape })),
    choice({ label: "Format of the weights", value: state.format, options: named(data.formats) }, (format) => update({ format })),
    slider({
      label: "Context", min: 0, max: data.contexts.length - 1, value: data.contexts.indexOf(state.context),
      format: (i) => `${thousands(data.contexts[i])} tokens`,
    }, (i) => update({ context: data.contexts[i] })));

  function draw() {
    const shape = data.shapes.find(({ name }) => name === state.shape);
    const format = data.formats.find(({ name }) => name === state.format);
    const parts = needs(shape, format, state.context, data.runtime);
    stage.replaceChildren(chart(parts, data.devices, state.target), legend(parts));
    readout.replaceChildren(...words(shape, format, parts, state));
  }
  draw();
}

function chart(parts, devices, target) {
  const end = axisEnd(parts.total, target);
  const x = linear(0, end, LEFT, RIGHT);
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${BOTTOM}`, role: "img", "aria-label": "memory needed, against devices" });
  root.append(svg("rect", { x: LEFT, y: TOP, width: RIGHT - LEFT, height: BAR, rx: 8, fill: "var(--accent-soft)", opacity: 0.45 }));
  let at = 0;
  for (const [key, , colour] of PARTS) {
    const [from, to] = [x(at / 1e9), x((at + parts[key]) / 1e9)];
    root.append(svg("rect", { x: from, y: TOP, width: Math.max(to - from, 0), height: BAR, fill: colour, stroke: "var(--panel)", "stroke-width": 1 }));
    at += parts[key];
  }
  for (const device of devices) if (device <= end) root.append(...marker(device, x(device), parts.total, device === target));
  const tip = Math.min(Math.max(x(parts.total / 1e9), 44), RIGHT - 40);
  root.append(svg("text", { class: "strong", x: tip, y: TOP - 12, "text-anchor": "middle", style: "font-size:20px" }, gigabytes(parts.total)));
  return root;
}

/** A device: a line through the bar, its size, and whether the bar ends before it. */
function marker(device, x, total, isTarget) {
  const good = fits(total, device);
  const colour = good ? "var(--good)" : "var(--quiet)";
  const line = { x1: x, x2: x, y1: TOP - 6, y2: TOP + BAR + 8, stroke: "var(--ink)", "stroke-width": isTarget ? 2.4 : 1.2 };
  const style = `font-size:${isTarget ? 15 : 13}px;fill:${isTarget ? "var(--ink)" : "var(--quiet)"};font-weight:${isTarget ? 700 : 400}`;
  return [
    svg("line", isTarget ? line : { ...line, "stroke-dasharray": "4 4" }),
    svg("text", { x, y: TOP + BAR + 25, "text-anchor": "middle", style }, isTarget ? `${device} GB` : String(device)),
    svg("text", { x, y: TOP + BAR + 44, "text-anchor": "middle", style: `font-size:15px;font-weight:700;fill:${colour}` }, good ? "✓" : "✗"),
  ];
}

function legend(parts) {
  const row = html("div", { style: "display:flex;flex-wrap:wrap;gap:.2rem 1.3rem;font-size:13px;margin:.1rem 0 .2rem" });
  for (const [key, name, colour] of PARTS) {
    const swatch = html("span", { style: `display:inline-block;width:.8em;height:.8em;border-radius:3px;margin-right:.4em;background:${colour}` });
    row.append(html("span", {}, swatch, `${name} `, html("b", {}, gigabytes(parts[key]))));
  }
  return row;
}

function words(shape, format, parts, { context, target }) {
  const good = fits(parts.total, target);
  const verdict = html("b", { style: `color:var(--${good ? "good" : "warm"})` }, `${good ? "fits" : "does not fit"} in ${target} GB`);
  const longer = context > shape.trained ? ` (${shape.name} was trained for ${thousands(shape.trained)} tokens.)` : "";
  return [
    `${shape.name} at ${thousands(context)} tokens needs ${gigabytes(parts.total)}: `, verdict,
    `. Weights: ${format.says}.${longer}`,
  ];
}

function gigabytes(bytes) {
  const gb = bytes / 1e9;
  return `${gb.toFixed(gb < 100 ? (gb < 1 ? 2 : 1) : 0)} GB`;
}

function thousands(n) {
  return String(n).replace(/\B(?=(\d{3})+$)/g, ",");
}

export default { render };
