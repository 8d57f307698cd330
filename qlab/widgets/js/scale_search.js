import { clamp, roundHalfEven } from "./quant.js";
import { digits, linear, panel, path, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 58, RIGHT = 14, TOP_LEVEL = 15;
const RESIDUALS = { top: 34, bottom: 182 };
const MAP = { left: 58, right: 336, top: 246, bottom: 446 };
const CURVE = { left: 424, right: 706, top: 246, bottom: 446 };
const STEP = 0.0025;

/** The code of each weight, its value, and Σ w·(x − x̂)², on the levels minimum + scale·(0 … 15). */
export function fit(weights, importance, scale, minimum) {
  const codes = weights.map((x) => clamp(roundHalfEven((x - minimum) / scale), 0, TOP_LEVEL));
  const values = codes.map((q) => scale * q + minimum);
  const error = weights.reduce((sum, x, i) => sum + importance[i] * (x - values[i]) ** 2, 0);
  return { codes, values, error };
}

export function describe({ scale, minimum, error, start, least }) {
  const share = error / start;
  const verdict = error <= least * 1.005 ? "as good as llama.cpp's best"
    : share < 0.995 ? `llama.cpp's best has ${digits(100 * least / start, 3)} %`
      : share <= 1.005 ? "this is min-max's" : "worse than min-max";
  return `Scale ${scale.toFixed(3)} × and minimum ${minimum.toFixed(3)} × min-max's: `
    + `${digits(100 * share, 3)} % of its weighted error; ${verdict}.`;
}

function render({ model, el }) {
  const [layer, weights, importance, base, candidates, reach, surface] =
    ["layer", "weights", "importance", "base", "candidates", "reach", "surface"].map((name) => model.get(name));
  const start = candidates[0][0], least = candidates.at(-1)[1], last = candidates.length - 1;
  const state = { scale: 1, minimum: 1, k: 0 };
  const { controls, stage, readout } = panel(el, {
    title: `Scale and minimum of one group of ${layer}`,
    caption: `${layer}. Above: each weight's error; on a vertical line it would be none; large dots count more. Left: the `
      + "weighted error of every scale and minimum near min-max, fainter is less. Right: each candidate's error, and the best so far.",
  });
  const times = (v) => `${v.toFixed(3)} ×`;
  const range = { min: 1 - reach, max: 1 + reach, step: STEP, value: 1, format: times };
  let following = false;
  const moved = (name) => (value) => { if (!following) { state[name] = value; draw(); } };
  const sliders = {
    scale: slider({ label: "Scale", ...range }, moved("scale")),
    minimum: slider({ label: "Minimum", ...range }, moved("minimum")),
  };
  const word = (k) => (k ? `${k} of ${last}` : "min-max");
  const steps = slider({ label: "llama.cpp after candidate", min: 0, max: last, value: 0, format: word }, take);
  controls.append(sliders.scale, sliders.minimum, steps);

  /** Scale and minimum of the best after candidate k; their sliders follow. */
  function take(k) {
    const [, , scale, minimum] = candidates[k];
    Object.assign(state, { k, scale: scale / base[0], minimum: minimum / base[1] });
    following = true;
    for (const name of ["scale", "minimum"]) {
      const input = sliders[name].querySelector("input");
      input.value = state[name];
      input.dispatchEvent(new Event("input"));
    }
    following = false;
    draw();
  }

  const jump = (k) => {
    const input = steps.querySelector("input");
    input.value = k;
    input.dispatchEvent(new Event("input"));
  };
  const ground = drawSurface(surface, reach);

  function draw() {
    const scale = state.scale * base[0], minimum = state.minimum * base[1];
    const now = fit(weights, importance, scale, minimum);
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} 490`, role: "img",
      "aria-label": "Error of each weight, map of the weighted error, and the candidates of the search" });
    drawResiduals(picture, weights, importance, now.values, { scale, minimum, step: base[0] });
    picture.append(ground);
    drawPath(picture, candidates, base, reach, state);
    drawCandidates(picture, candidates, { ...state, error: now.error }, jump);
    stage.replaceChildren(picture);
    readout.textContent = describe({ ...state, error: now.error, start, least });
  }

  draw();
}

/** Levels as vertical lines, and over each weight its error in steps of min-max; the area of a dot is its importance. */
function drawResiduals(picture, weights, importance, values, { scale, minimum, step }) {
  const { top, bottom } = RESIDUALS;
  const low = Math.min(...weights), high = Math.max(...weights), room = (high - low) * 0.06;
  const x = linear(low - room, high + room, LEFT, WIDTH - RIGHT), y = linear(-1, 1, bottom, top);
  picture.append(text("error of each weight, in steps", LEFT, top - 14));
  for (let q = 0; q <= TOP_LEVEL; q += 1) {
    const at = x(minimum + scale * q);
    if (at < LEFT || at > WIDTH - RIGHT) continue;
    picture.append(svg("line", { class: "axis", x1: at, x2: at, y1: top, y2: bottom }));
    picture.append(text(String(q), at, bottom + 16, "middle"));
  }
  for (const tick of [-0.5, 0, 0.5]) {
    picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick),
      "stroke-dasharray": tick ? "2 4" : "none" }));
    picture.append(text(String(tick).replace("-", "−"), LEFT - 8, y(tick) + 4, "end"));
  }
  const most = Math.max(...importance);
  weights.forEach((w, i) => {
    const off = clamp((w - values[i]) / step, -1, 1);
    picture.append(svg("line", { class: "trace warm", opacity: 0.6, x1: x(w), x2: x(w), y1: y(0), y2: y(off) }));
    picture.append(svg("circle", { class: "bar", cx: x(w).toFixed(2), cy: y(off).toFixed(2),
      r: (6 * Math.sqrt(importance[i] / most)).toFixed(2) }));
  });
  picture.append(text("weight, and the code of each level", WIDTH - RIGHT, top - 14, "end"));
}

/** The map, drawn once: one square for each scale and minimum, the darker the larger the error. */
function drawSurface(surface, reach) {
  const ground = svg("g", {});
  const n = surface.length, wide = (MAP.right - MAP.left) / n, high = (MAP.bottom - MAP.top) / n;
  const least = Math.min(...surface.flat()), most = Math.max(...surface.flat());
  const depth = linear(Math.log(least), Math.log(most), 0.02, 0.95);
  surface.forEach((row, i) => row.forEach((value, j) => {
    ground.append(svg("rect", { class: "bar", opacity: depth(Math.log(value)).toFixed(3),
      x: (MAP.left + j * wide).toFixed(2), y: (MAP.bottom - (i + 1) * high).toFixed(2),
      width: wide.toFixed(2), height: high.toFixed(2), "shape-rendering": "crispEdges" }));
  }));
  ground.append(text("weighted error by scale and minimum", MAP.left, MAP.top - 14));
  for (const factor of [1 - reach, 1, 1 + reach]) {
    const name = factor === 1 ? "1" : factor.toFixed(1);
    const [x, y] = place(factor, factor, reach);
    ground.append(text(name, x, MAP.bottom + 16, "middle"), text(name, MAP.left - 8, y + 4, "end"));
  }
  ground.append(text("scale, of min-max's", (MAP.left + MAP.right) / 2, MAP.bottom + 32, "middle"));
  const side = text("minimum", MAP.left - 34, (MAP.top + MAP.bottom) / 2, "middle");
  side.setAttribute("transform", `rotate(-90 ${MAP.left - 34} ${(MAP.top + MAP.bottom) / 2})`);
  ground.append(side);
  return ground;
}

/** Where a scale and a minimum lie on the map. */
function place(scale, minimum, reach) {
  return [linear(1 - reach, 1 + reach, MAP.left, MAP.right)(clamp(scale, 1 - reach, 1 + reach)),
    linear(1 - reach, 1 + reach, MAP.bottom, MAP.top)(clamp(minimum, 1 - reach, 1 + reach))];
}

/** The bests up to candidate k, joined, min-max as a cross; and where the sliders stand. */
function drawPath(picture, candidates, base, reach, { k, scale, minimum }) {
  const points = candidates.slice(0, k + 1).map(([, , s, m]) => place(s / base[0], m / base[1], reach));
  const [x0, y0] = points[0];
  picture.append(svg("path", { class: "trace warm", "stroke-width": 1.4, d: path(points) }));
  points.slice(1).forEach(([x, y]) => picture.append(svg("circle", { class: "bar warm", cx: x, cy: y, r: 2.5 })));
  picture.append(svg("path", { class: "trace warm", d: `M${x0 - 5},${y0 - 5}l10,10m0,-10l-10,10` }));
  const [x, y] = place(scale, minimum, reach);
  picture.append(svg("circle", { class: "trace warm", cx: x, cy: y, r: 7, "stroke-width": 2.5 }));
}

/** Errors of the candidates as dots, the best so far as a line of steps, and the sliders' own as a level. */
function drawCandidates(picture, candidates, { k, error }, jump) {
  const start = candidates[0][0], top = 2;
  const x = linear(0, candidates.length - 1, CURVE.left + 8, CURVE.right - 6), y = linear(0, top, CURVE.bottom, CURVE.top);
  const held = (v) => y(Math.min(v / start, top));
  picture.append(text("weighted error, min-max: 1", CURVE.left, CURVE.top - 14));
  for (const tick of [0, 0.5, 1, 1.5, 2]) {
    picture.append(svg("line", { class: "axis", x1: CURVE.left, x2: CURVE.right, y1: y(tick), y2: y(tick) }));
    picture.append(text(String(tick), CURVE.left - 8, y(tick) + 4, "end"));
  }
  const stairs = candidates.flatMap(([, best], i) => (i ? [[x(i), held(candidates[i - 1][1])], [x(i), held(best)]]
    : [[x(0), held(best)]]));
  picture.append(svg("path", { class: "trace warm", d: path(stairs) }));
  candidates.forEach(([own], i) => {
    const cut = own / start > top;
    picture.append(cut ? svg("path", { class: "bar", d: `M${x(i)},${CURVE.top - 6}l4,7h-8z` })
      : svg("circle", { class: "bar", cx: x(i), cy: held(own), r: i === k ? 5.5 : 3.5 }));
    const target = svg("rect", { x: x(i) - 6, y: CURVE.top, width: 12, height: CURVE.bottom - CURVE.top,
      fill: "transparent", style: "cursor: pointer" });
    target.addEventListener("click", () => jump(i));
    picture.append(target);
  });
  picture.append(svg("line", { class: "trace warm", "stroke-dasharray": "3 4", x1: CURVE.left, x2: CURVE.right,
    y1: held(error), y2: held(error) }));
  for (let i = 0; i < candidates.length; i += 5) picture.append(text(String(i), x(i), CURVE.bottom + 16, "middle"));
  picture.append(text("candidate (0: min-max)", (CURVE.left + CURVE.right) / 2, CURVE.bottom + 32, "middle"));
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
