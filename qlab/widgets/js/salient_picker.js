import { choice, digits, linear, panel, path, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 58, RIGHT = 96;
const ROWS = { activation: { top: 26, bottom: 116 }, weight: { top: 150, bottom: 206 } };
const CURVE = { top: 250, bottom: 392 };
const RULES = [["activation", "loudest input"], ["weight", "largest weights"], ["random", "by lot"]];
const HOWS = [["kept", "16 bits"], ["x2", "scaled ×2"], ["x4", "scaled ×4"]];
const DASH = { activation: "none", weight: "7 4", random: "2 3" };

/** Channel shares and errors in the words of the readout. */
export function describe({ errors, orders, activation }, { rule, how, count }) {
  if (!count) return "All channels are rounded: this is the error to beat.";
  const left = errors[how][rule][count];
  const share = digits((100 * count) / activation.length, 2);
  const done = { kept: "kept in 16 bits", x2: "scaled by 2", x4: "scaled by 4" }[how];
  const chosen = { activation: "with the loudest inputs", weight: "with the largest weights", random: "drawn by lot" }[rule];
  const first = orders[rule].slice(0, Math.min(count, 3)).join(", ");
  const verdict = left < 0.995 ? `${digits(100 * left, 3)} % of the output error is left` : "nothing is gained";
  return `${count} of ${activation.length} channels (${share} %) ${chosen} (${first}${count > 3 ? " …" : ""}), ${done}: ${verdict}.`;
}

function render({ model, el }) {
  const data = Object.fromEntries(["layer", "spec", "activation", "weight", "orders", "errors"]
    .map((name) => [name, model.get(name)]));
  const most = data.orders.activation.length;
  const state = { rule: "activation", how: "kept", count: 0 };
  const { controls, stage, readout } = panel(el, {
    title: `Salient channels of ${data.layer}`,
    caption: `${data.layer}, ${data.spec}: the ${data.activation.length} input channels with the mean |x| of 4,096 tokens `
      + "above and the norm of their weights below. Curves: output error, as a share of plain rounding's.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  controls.append(
    slider({ label: "Channels protected", min: 0, max: most, value: 0 }, (count) => update({ count })),
    choice({ label: "Chosen by", value: state.rule, options: RULES }, (rule) => update({ rule })),
    choice({ label: "They are", value: state.how, options: HOWS }, (how) => update({ how })),
  );

  function draw() {
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} 430`, role: "img",
      "aria-label": "Loudness of each input, norm of each column of weights, and the output error" });
    const chosen = new Set(data.orders[state.rule].slice(0, state.count));
    drawRow(picture, "mean |x| of each input", data.activation, chosen, ROWS.activation);
    drawRow(picture, "norm of its weights", data.weight, chosen, ROWS.weight);
    drawCurves(picture, data.errors[state.how], state, most);
    stage.replaceChildren(picture);
    readout.textContent = describe(data, state);
  }

  draw();
}

/** One bar per channel, from zero; the protected ones warm, with a marker at the foot, since some are short. */
function drawRow(picture, title, values, chosen, { top, bottom }) {
  const x = linear(0, values.length, LEFT, WIDTH - 12), y = linear(0, Math.max(...values), bottom, top);
  const width = (WIDTH - 12 - LEFT) / values.length;
  picture.append(text(title, LEFT, top - 10));
  const order = values.map((_, c) => c).sort((a, b) => chosen.has(a) - chosen.has(b));
  for (const c of order) {
    const hot = chosen.has(c), thick = hot ? 3 : Math.max(0.8, width - 0.2);
    picture.append(svg("rect", { class: hot ? "bar warm" : "bar", opacity: hot ? 1 : 0.55,
      x: (x(c) + (width - thick) / 2).toFixed(2), width: thick.toFixed(2), y: y(values[c]).toFixed(2),
      height: (bottom - y(values[c])).toFixed(2) }));
    if (hot) picture.append(svg("path", { class: "bar warm", d: `M${(x(c) + width / 2).toFixed(2)},${bottom + 2}l4,7h-8z` }));
  }
  picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - 12, y1: bottom, y2: bottom }));
}

/** Output error against the number of protected channels, one line for each rule. */
function drawCurves(picture, errors, { rule, count }, most) {
  const top = Math.max(1, ...Object.values(errors).flat());
  const x = linear(0, most, LEFT, WIDTH - RIGHT), y = linear(0, top, CURVE.bottom, CURVE.top);
  picture.append(text("output error, plain rounding: 1", LEFT, CURVE.top - 14));
  [0, 0.5, 1].forEach((tick) => {
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
    picture.append(text(String(tick), LEFT - 8, y(tick) + 4, "end"));
  });
  for (const [name] of RULES) {
    const mine = name === rule;
    picture.append(svg("path", { class: `trace${mine ? " warm" : ""}`, "stroke-dasharray": DASH[name],
      opacity: mine ? 1 : 0.45, d: path(errors[name].map((v, k) => [x(k), y(v)])) }));
  }
  for (const [name, at] of apart(RULES.map(([key]) => [key, y(errors[key][most])]))) {
    picture.append(text(Object.fromEntries(RULES)[name], x(most) + 8, at + 4, "start", name === rule ? "strong" : ""));
  }
  picture.append(svg("circle", { class: "bar warm", cx: x(count), cy: y(errors[rule][count]), r: 6 }));
  for (let k = 0; k <= most; k += 4) picture.append(text(String(k), x(k), CURVE.bottom + 18, "middle"));
  picture.append(text("channels protected", (x(0) + x(most)) / 2, CURVE.bottom + 34, "middle"));
}

/** [[name, y], …] from top to bottom, pushed apart so that no name covers another. */
export function apart(ends, gap = 14) {
  const places = [...ends].sort((a, b) => a[1] - b[1]);
  return places.reduce((done, [name, y]) => {
    const before = done.length ? done[done.length - 1][1] + gap : y;
    return [...done, [name, Math.max(y, before)]];
  }, []);
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
