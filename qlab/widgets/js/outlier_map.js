import { choice, digits, linear, panel, path, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 58, RIGHT = 10;
const BARS = { top: 24, bottom: 152 };
const CURVE = { top: 216, bottom: 342 };
const NAMES = { weights: "weights", activations: "activations", both: "both" };

/** Channels of the `count` largest magnitudes, largest first; the first of equals wins, as in Python. */
export function largest(magnitudes, count) {
  const order = magnitudes.map((_, i) => i).sort((a, b) => magnitudes[b] - magnitudes[a] || a - b);
  return order.slice(0, count);
}

/** Largest magnitude of the channels that are not chosen, and how many times the median of all channels it is. */
export function remaining(magnitudes, count) {
  const sorted = [...magnitudes].sort((a, b) => b - a);
  const median = sorted[sorted.length - 1 - Math.floor((sorted.length - 1) / 2)]; // torch.median: the lower of two
  return { limit: sorted[count], ratio: sorted[count] / median };
}

/** Error now over error with no channel treated, in words. */
export function change(before, after) {
  if (after === before) return "the same as with none treated";
  const [factor, word] = after < before ? [before / after, "less"] : [after / before, "more"];
  return `${digits(factor, 2)}× ${word} than with none treated`;
}

function percent(x) {
  return `${digits(100 * x, 2)}%`;
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const magnitudes = get("magnitudes"), losses = get("losses"), bits = get("bits");
  const most = losses.weights.kept.length - 1;
  const state = { count: 0, how: "kept", what: "activations" };
  const { controls, stage, readout } = panel(el, {
    title: `Outlier channels of ${get("layer")}`,
    caption: `Real inputs of ${get("layer")} for 64 tokens; ${bits}-bit rounding, one scale per token or per output row. `
      + "Error: share of the layer's output energy that is lost.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  controls.append(
    slider({ label: "Largest channels treated", min: 0, max: most, value: 0 }, (count) => update({ count })),
    choice({ label: "They are", value: state.how,
      options: [["kept", "kept exact"], ["clipped", "clipped"], ["zeroed", "zeroed"]] }, (how) => update({ how })),
    choice({ label: `Rounded to ${bits} bits`, value: state.what, options: Object.entries(NAMES) },
      (what) => update({ what })),
  );

  function draw() {
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} 380`, role: "img",
      "aria-label": "Channel magnitudes above, output error below" });
    drawBars(picture, magnitudes, state);
    drawCurves(picture, losses, state, most);
    stage.replaceChildren(picture);
    readout.textContent = describe();
  }

  function describe() {
    const now = losses[state.what][state.how][state.count], none = losses[state.what][state.how][0];
    const { limit, ratio } = remaining(magnitudes, state.count);
    const kind = { kept: "kept exact", clipped: `clipped to ±${digits(limit, 3)}`, zeroed: "zeroed" }[state.how];
    const who = state.what === "both" ? "weights and activations" : state.what;
    const treated = state.count
      ? `${state.count} of ${magnitudes.length} channels (${percent(state.count / magnitudes.length)}) ${kind}`
      : "No channel treated";
    const compared = state.count ? `, ${change(none, now)}` : "";
    return `${treated}; ${bits}-bit ${who}: output error ${percent(now)}${compared}. `
      + `Largest other channel: ${digits(ratio, 3)}× the median.`;
  }

  draw();
}

/** One bar per channel on a logarithmic scale, the treated ones in the warm colour with a marker at the foot. */
function drawBars(picture, magnitudes, { count, how }) {
  const positive = magnitudes.filter((m) => m > 0);
  const low = 10 ** Math.floor(Math.log10(Math.min(...positive))), high = Math.max(...positive) * 1.25;
  const x = linear(0, magnitudes.length, LEFT, WIDTH - RIGHT);
  const y = linear(Math.log10(low), Math.log10(high), BARS.bottom, BARS.top);
  const height = (m) => BARS.bottom - y(Math.log10(Math.max(m, low)));
  const width = (WIDTH - LEFT - RIGHT) / magnitudes.length;
  const chosen = new Set(largest(magnitudes, count));
  const { limit } = remaining(magnitudes, count);
  picture.append(text("max |x| of each input channel", LEFT, 12));
  decades(picture, low, high, y, String);
  const bars = magnitudes.map((m, i) => ({ m, i, hot: chosen.has(i) })).sort((a, b) => a.hot - b.hot);
  for (const { m, i, hot } of bars) {
    const shown = hot && how === "zeroed" ? low : hot && how === "clipped" ? limit : m;
    if (hot && shown < m) picture.append(bar(x(i), height(m), width, "soft"));
    picture.append(bar(x(i), height(shown), width, hot ? "warm" : ""));
    if (hot) picture.append(svg("path", { d: triangle(x(i) + width / 2, BARS.bottom + 3), class: "bar warm" }));
  }
  picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: BARS.bottom, y2: BARS.bottom }));
  picture.append(text("channel 0", LEFT, BARS.bottom + 22), text(String(magnitudes.length - 1), WIDTH - RIGHT,
    BARS.bottom + 22, "end"));
}

function bar(x, height, width, kind) {
  const thick = kind ? Math.max(width, 3) : Math.max(width, 0.8);
  return svg("rect", { class: `bar ${kind}`, x: (x - (thick - width) / 2).toFixed(2), width: thick.toFixed(2),
    y: (BARS.bottom - height).toFixed(2), height: Math.max(height, 0).toFixed(2) });
}

function triangle(x, y) {
  return `M${x},${y}l4,7h-8z`;
}

/** The output error against the number of treated channels, one line for each side that may be rounded. */
function drawCurves(picture, losses, { count, how, what }, most) {
  const all = Object.values(losses).flatMap((ways) => Object.values(ways).flat()).filter((v) => v > 0);
  const low = Math.min(...all) / 1.3, high = Math.max(...all, 1) * 1.1;
  const x = linear(0, most, LEFT + 8, WIDTH - RIGHT - 92);
  const y = linear(Math.log10(low), Math.log10(high), CURVE.bottom, CURVE.top);
  picture.append(text("output error, log scale", LEFT, CURVE.top - 12));
  decades(picture, low, high, y, percent);
  for (const name of Object.keys(NAMES)) {
    const points = losses[name][how].map((v, k) => [x(k), y(Math.log10(v))]);
    const mine = name === what;
    picture.append(svg("path", { class: `trace${mine ? " warm" : ""}`, d: path(points),
      "stroke-dasharray": { weights: "none", activations: "7 4", both: "2 3" }[name], opacity: mine ? 1 : 0.45 }));
  }
  const ends = Object.keys(NAMES).map((name) => [name, y(Math.log10(losses[name][how][most]))]);
  for (const [name, where] of labelPlaces(ends, CURVE.bottom)) {
    picture.append(text(NAMES[name], x(most) + 8, where + 4, "start", name === what ? "strong" : ""));
  }
  const at = [x(count), y(Math.log10(losses[what][how][count]))];
  picture.append(svg("line", { class: "axis", x1: at[0], x2: at[0], y1: CURVE.top, y2: CURVE.bottom }));
  picture.append(svg("circle", { class: "bar warm", cx: at[0], cy: at[1], r: 6 }));
  for (let k = 0; k <= most; k += 4) picture.append(text(String(k), x(k), CURVE.bottom + 18, "middle"));
  picture.append(text("channels treated, largest first", (x(0) + x(most)) / 2, CURVE.bottom + 34, "middle"));
}

/** Heights of the names at the ends of the lines, [[name, y], …], pushed apart so that none covers another. */
export function labelPlaces(ends, bottom, gap = 14) {
  const places = [...ends].sort((a, b) => a[1] - b[1]).map(([name, y]) => [name, y]);
  for (let i = 1; i < places.length; i += 1) places[i][1] = Math.max(places[i][1], places[i - 1][1] + gap);
  const over = Math.max(0, places[places.length - 1][1] - bottom);
  return places.map(([name, y]) => [name, y - over]);
}

function decades(picture, low, high, y, format) {
  for (let e = Math.ceil(Math.log10(low) - 1e-9); e <= Math.log10(high) + 1e-9; e += 1) {
    const at = y(e);
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: at, y2: at, opacity: 0.6 }));
    picture.append(text(format(Number((10 ** e).toPrecision(1))), LEFT - 8, at + 4, "end"));
  }
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
