import { choice, digits, linear, panel, path, slider, svg } from "./draw.js";
import { quantize } from "./quant.js";

/** Everything that is drawn; equal to qlab (tests/widgets/test_grid_explorer.py). Errors count every weight but the outlier. */
export function measure(row, at, value, bits, size, rule) {
  const weights = row.map((w, i) => (i === at ? value : w));
  const { codes, values, groups } = quantize(weights, { bits, size, rule });
  const errors = values.map((v, i) => v - weights[i]);
  const home = Math.floor(at / size);
  let [signal, noise] = [0, 0];
  const used = new Set();
  weights.forEach((w, i) => {
    if (i === at) return;
    signal += w * w;
    noise += errors[i] ** 2;
    if (Math.floor(i / size) === home) used.add(codes[i]);
  });
  return {
    errors, home,
    scales: groups.map((g) => g.scale),
    zeros: groups.map((g) => g.zero),
    used: [...used].sort((a, b) => a - b),
    rms: Math.sqrt(noise / (weights.length - 1)),
    snr: 10 * Math.log10(signal / noise),
    rate: bits + (groups.length * (rule === "sym" ? 16 : 16 + bits)) / weights.length,
  };
}

const REACH = 16; // standard deviations the outlier can be dragged to
const BIN = 0.25; // width of a histogram bar, in standard deviations
const [WIDTH, HEIGHT, LEFT, RIGHT] = [740, 352, 124, 728];
const [TOP, FLOOR, STRIP, ERR_TOP, ERR_FLOOR] = [30, 150, 182, 246, 324];

function render({ model, el }) {
  const data = Object.fromEntries(["weights", "at", "sigma", "rule", "name"].map((key) => [key, model.get(key)]));
  const real = data.weights[data.at];
  const sign = Math.sign(real);
  const sizes = [data.weights.length, 128, 32];
  const state = { reach: Number(Math.abs(real / data.sigma).toFixed(1)), bits: 4, size: sizes[0] };
  const { controls, stage, readout } = panel(el, {
    title: "Grid explorer: drag the outlier",
    caption: `The ${data.weights.length} weights of ${data.name}. Drag the round handle or the slider: only one weight moves, ` +
      "and errors, SNR and levels in use count the others alone. Bright ticks: levels that these use; pale ticks: wasted.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  const reach = slider({ label: "Outlier", min: 2, max: REACH, step: 0.1, value: state.reach, format: (x) => `${x.toFixed(1)} σ` },
    (x) => update({ reach: x }));
  controls.append(reach,
    slider({ label: "Bits", min: 2, max: 8, value: state.bits }, (bits) => update({ bits })),
    choice({ label: "One scale for", value: state.size, options: [[sizes[0], "whole row"], [128, "128"], [32, "32"]] },
      (size) => update({ size })));
  const others = data.weights.filter((_, i) => i !== data.at);
  const far = REACH * data.sigma * sign;
  const [lo, hi] = [Math.min(...others, far), Math.max(...others, far)];
  const x = linear(lo - data.sigma / 2, hi + data.sigma / 2, LEFT, RIGHT);
  const scene = { ...data, x, lo, hi, sign, bars: histogram(others, data.sigma) };

  function draw() {
    const value = Number((sign * state.reach * data.sigma).toPrecision(4));
    const now = measure(data.weights, data.at, value, state.bits, state.size, data.rule);
    stage.replaceChildren(chart(scene, state, value, now));
    readout.textContent = words(now, state);
  }
  follow(stage, (share) => {
    const weight = lo - data.sigma / 2 + ((share * WIDTH - LEFT) / (RIGHT - LEFT)) * (hi - lo + data.sigma);
    const input = reach.querySelector("input");
    input.value = (weight * sign) / data.sigma; // the input keeps its own bounds and step
    input.dispatchEvent(new Event("input"));
  });
  draw();
}

/** Call `onMove` with the pointer's place across the stage (0 to 1) while its handle is dragged. */
function follow(stage, onMove) {
  let dragging = false;
  stage.addEventListener("pointerdown", (event) => {
    dragging = event.target.classList.contains("handle");
    if (dragging) { stage.setPointerCapture(event.pointerId); event.preventDefault(); }
  });
  stage.addEventListener("pointermove", (event) => {
    const box = stage.getBoundingClientRect();
    if (dragging) onMove((event.clientX - box.left) / box.width);
  });
  for (const end of ["pointerup", "pointercancel"]) stage.addEventListener(end, () => { dragging = false; });
}

/** [left edge, share of the fullest bar] of each bar that is not empty. */
function histogram(weights, sigma) {
  const counts = new Map();
  for (const w of weights) {
    const bin = Math.floor(w / sigma / BIN);
    counts.set(bin, (counts.get(bin) ?? 0) + 1);
  }
  const most = Math.max(...counts.values());
  return [...counts].map(([bin, count]) => [bin * BIN * sigma, count / most]);
}

function chart(scene, state, value, now) {
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": "weights, levels and errors" });
  root.append(...weightsAbove(scene, value));
  const grouped = now.scales.length > 1;
  const rows = [[now.home, grouped ? "levels of its group" : "levels", "var(--warm)", now.used]];
  if (grouped) rows.push([now.home ? now.home - 1 : 1, "of the next group", "var(--accent)", null]);
  rows.forEach(([group, label, colour, used], i) =>
    root.append(...levels(scene, state.bits, now.scales[group], now.zeros[group], STRIP + 26 * i, label, colour, used)));
  root.append(...errorsBelow(scene, state, now));
  return root;
}

function weightsAbove({ x, sigma, bars, lo, hi, sign }, value) {
  const y = linear(0, 1, FLOOR, TOP);
  const parts = bars.map(([left, share]) => svg("rect", {
    class: "bar", x: x(left) + 0.5, width: x(BIN * sigma) - x(0) - 1, y: y(share) - 1, height: FLOOR - y(share) + 1, rx: 1 }));
  parts.push(svg("path", { class: "axis", d: path([[LEFT, FLOOR], [RIGHT, FLOOR]]) }), side("weights", FLOOR - 4));
  for (let tick = Math.ceil(lo); tick <= hi; tick++)
    parts.push(svg("text", { x: x(tick), y: FLOOR + 17, "text-anchor": "middle" }, tick));
  const at = x(value);
  const inner = Math.abs(value) > 13 * sigma ? (sign > 0 ? "end" : "start") : "middle";
  parts.push(
    svg("line", { x1: at, x2: at, y1: FLOOR, y2: FLOOR - 42, stroke: "var(--warm)", "stroke-width": 2 }),
    svg("circle", { class: "handle", cx: at, cy: FLOOR - 42, r: 17, fill: "var(--warm-soft)", style: "cursor:grab;touch-action:none" }),
    svg("circle", { class: "handle", cx: at, cy: FLOOR - 42, r: 8, fill: "var(--warm)", style: "cursor:grab;touch-action:none" }),
    svg("text", { class: "strong", x: at, y: FLOOR - 68, "text-anchor": inner }, `one weight: ${digits(value, 3)}`));
  return parts;
}

/** One row of ticks: bright where a weight of the group lands (`used`, null for all), pale where none does. */
function levels({ x }, bits, scale, zero, y, label, colour, used) {
  const width = bits > 6 ? 1 : 2.4;
  const parts = [side(label, y + 12)];
  for (const bright of [false, true]) {
    const codes = Array.from({ length: 2 ** bits }, (_, code) => code).filter((code) => (!used || used.includes(code)) === bright);
    const d = codes.map((code) => `M${x(scale * (code - zero)).toFixed(2)},${y}v16`).join("");
    parts.push(svg("path", { d, stroke: colour, "stroke-width": width, "stroke-opacity": bright ? 1 : 0.3, fill: "none" }));
  }
  return parts;
}

/** |error| of each weight along the row, under the half step that bounds its group; the axis holds still while dragging. */
function errorsBelow({ weights, lo, hi, at }, { bits, size }, { errors, scales, home }) {
  const top = (hi - lo) / (2 ** bits - 1) / 2;
  const x = linear(0, weights.length, LEFT, RIGHT);
  const y = (error) => ERR_FLOOR - Math.min(Math.abs(error) / top, 1.06) * (ERR_FLOOR - ERR_TOP);
  const stems = (mine) => errors.map((e, i) =>
    (Math.floor(i / size) === home) === mine && i !== at ? `M${x(i + 0.5).toFixed(1)},${ERR_FLOOR}V${y(e).toFixed(1)}` : "").join("");
  const bound = scales.flatMap((s, g) => [[x(g * size), y(s / 2)], [x(Math.min((g + 1) * size, weights.length)), y(s / 2)]]);
  return [
    svg("path", { d: stems(false), stroke: "var(--accent)", "stroke-width": 0.7, fill: "none" }),
    svg("path", { d: stems(true), stroke: "var(--warm)", "stroke-width": 0.7, fill: "none" }),
    svg("path", { d: path(bound), stroke: "var(--ink)", "stroke-width": 1.2, fill: "none" }),
    svg("path", { class: "axis", d: path([[LEFT, ERR_FLOOR], [RIGHT, ERR_FLOOR]]) }),
    side("|error|", ERR_FLOOR - 4), side("half a step", y(scales[0] / 2) + 4 > ERR_FLOOR - 20 ? ERR_FLOOR - 22 : y(scales[0] / 2) + 4),
    svg("text", { x: LEFT, y: ERR_FLOOR + 18 }, "first weight of the row"),
    svg("text", { x: RIGHT, y: ERR_FLOOR + 18, "text-anchor": "end" }, "last"),
  ];
}

function side(text, y) {
  return svg("text", { x: LEFT - 12, y, "text-anchor": "end" }, text);
}

function words({ scales, home, used, rms, snr, rate }, { bits }) {
  const where = scales.length > 1 ? " in its group" : "";
  return `Step ${digits(scales[home], 3)}${where}, ${used.length} of ${2 ** bits} levels in use. ` +
    `Rms error ${digits(rms, 3)}, SNR ${digits(snr, 3)} dB, ${rate.toFixed(3)} bits per weight.`;
}

export default { render };
