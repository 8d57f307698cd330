import { choice, digits, html, linear, panel, path, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 58, CELL = 16, TALL = 14, MATRIX = 74, PLAY_MS = 380;
const NAMES = { none: "left to right", desc: "loudest first", static: "static groups" };
const WORDS = {
  none: "columns from left to right, each group's scale fitted when it is reached",
  desc: "loudest columns first, and the first eight of them share a group: stored columns need a group index",
  static: "loudest columns first, but groups are neighbours as stored, fitted before anything moves",
};

/** The weights after `count` columns: each e is taken off along its row of U, and its own column lands on its level. */
export function weightsAfter(weights, run, count) {
  const now = weights.map((row) => [...row]);
  for (let k = 0; k < count; k += 1) {
    now.forEach((row, r) => run.U[k].forEach((u, c) => { row[c] -= run.e[k][r] * u; }));
  }
  return now;
}

/** Of one unit of rounding error in column order[k], what each column still open takes: −U_jk / U_jj. */
export function passedOn(run, k) {
  const own = run.U[k][run.order[k]];
  return run.U[k].map((u, c) => (c === run.order[k] || u === 0 ? 0 : -u / own));
}

/** Both errors after `done` columns beside plain rounding of the same columns. */
export function compared(run, done) {
  const ratio = (key) => (run[`rtn_${key}`][done] > 0 ? run[key][done] / run[`rtn_${key}`][done] : 1);
  return `Beside plain rounding: weights ${digits(ratio("weight"), 2)}× the error, output ${digits(ratio("output"), 2)}×.`;
}

function largestAt(values) {
  return values.reduce((best, v, i) => (Math.abs(v) > Math.abs(values[best]) ? i : best), 0);
}

function render({ model, el }) {
  const get = (name) => model.get(name);
  const [weights, runs, channels, inputs] = ["weights", "runs", "channels", "inputs"].map(get);
  const count = channels.length, rows = weights.length;
  const limit = movement(weights, runs, count);
  const state = { done: 0, order: "none", timer: null };
  const { controls, stage, readout } = panel(el, {
    title: `GPTQ on ${get("layer")}, column by column`,
    caption: `${rows} outputs by ${count} inputs of ${get("layer")}, ${get("spec")}: its loudest input channel and the `
      + `${count - 1} that move most with it, with their real XᵀX. Blue: lowered, orange: raised since the start; `
      + `full colour at ${digits(limit, 2)}. Click a column to go there.`,
  });

  const slide = slider({ label: "Columns quantized", min: 0, max: count, value: 0 },
    (done) => { state.done = done; draw(); });
  const input = slide.querySelector("input");
  const go = (done) => { input.value = done; input.dispatchEvent(new Event("input")); };
  const button = html("button", { type: "button", "aria-pressed": "false" }, "▶ play");
  const pause = () => {
    clearInterval(state.timer);
    state.timer = null;
    button.textContent = state.done === count ? "↺ again" : "▶ play";
    button.setAttribute("aria-pressed", "false");
  };
  const tick = () => {
    if (state.done < count && el.isConnected) go(state.done + 1);
    if (state.done === count || !el.isConnected) pause();
  };
  button.addEventListener("click", () => {
    if (state.timer) return pause();
    if (state.done === count) go(0);
    state.timer = setInterval(tick, PLAY_MS);
    button.textContent = "❚❚ pause";
    button.setAttribute("aria-pressed", "true");
  });
  slide.addEventListener("pointerdown", pause);
  slide.addEventListener("keydown", pause);
  controls.append(
    slide,
    html("fieldset", {}, html("legend", {}, "Run"), html("div", { class: "segments" }, button)),
    choice({ label: "Order of the columns", value: state.order, options: Object.entries(NAMES) },
      (order) => { state.order = order; draw(); }),
  );

  function draw() {
    const run = runs[state.order], done = state.done;
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} 492`, role: "img",
      "aria-label": "Weights coloured by change, the error of the current column, and both running errors" });
    drawInputs(picture, inputs);
    drawMatrix(picture, weights, run, done, limit, (c) => { pause(); go(run.order.indexOf(c) + 1); });
    drawPassed(picture, run, done, count, rows);
    drawErrors(picture, run, done, rows);
    drawCurve(picture, run, done, count, { key: "weight", left: LEFT, title: "error of the weights, Σ(w − ŵ)²" });
    drawCurve(picture, run, done, count, { key: "output", left: 404, title: "error of the output, tr(E H Eᵀ)" });
    stage.replaceChildren(picture);
    readout.textContent = describe(run, done);
    if (!state.timer) button.textContent = done === count ? "↺ again" : "▶ play";
  }

  function describe(run, done) {
    if (!done) return `Nothing quantized yet: ${WORDS[state.order]}.`;
    const column = run.order[done - 1], e = run.e[done - 1], own = run.U[done - 1][column];
    const share = passedOn(run, done - 1), most = largestAt(share);
    const goes = share[most]
      ? `of each unit, channel ${channels[most]} takes ${digits(share[most], 2)}`
      : "nobody is left to take it";
    const worst = Math.abs(e[largestAt(e)] * own);
    return `Column ${done} of ${count}, channel ${channels[column]}: off by up to ${digits(worst, 2)}; ${goes}. `
      + compared(run, done);
  }

  draw();
  return () => clearInterval(state.timer);
}

/** Change at which a cell is fully coloured: what one in twenty weights exceeds at the end, over all orders. */
function movement(weights, runs, count) {
  const moved = Object.values(runs).flatMap((run) => weightsAfter(weights, run, count)
    .flatMap((row, r) => row.map((w, c) => Math.abs(w - weights[r][c]))));
  return moved.sort((a, b) => a - b)[Math.floor(0.95 * (moved.length - 1))] || 1;
}

function at(c) {
  return LEFT + c * CELL;
}

/** Above the matrix: how loud the input of each column is. */
function drawInputs(picture, inputs) {
  const top = Math.max(...inputs);
  picture.append(text("input", LEFT - 8, MATRIX - 12, "end"));
  inputs.forEach((x, c) => {
    const height = Math.max(1, 46 * (x / top));
    picture.append(svg("rect", { class: "bar", opacity: 0.45, x: at(c) + 1, y: MATRIX - 6 - height,
      width: CELL - 2, height }));
  });
}

/** The weights as they are, coloured by how far they have moved; columns done are closed by a bar below. */
function drawMatrix(picture, weights, run, done, limit, onPick) {
  const now = weightsAfter(weights, run, done), rows = weights.length;
  const bottom = MATRIX + rows * TALL;
  picture.append(text("weights", LEFT - 8, MATRIX + (rows * TALL) / 2 + 4, "end"));
  now.forEach((row, r) => row.forEach((w, c) => {
    const change = w - weights[r][c];
    const cell = { x: at(c), y: MATRIX + r * TALL, width: CELL - 1, height: TALL - 1 };
    picture.append(svg("rect", { ...cell, fill: "var(--line)", opacity: 0.35 }));
    if (change) {
      picture.append(svg("rect", { ...cell, class: change > 0 ? "bar warm" : "bar",
        opacity: Math.min(1, Math.abs(change) / limit).toFixed(2) }));
    }
  }));
  run.order.forEach((c, k) => {
    if (k < done) picture.append(svg("rect", { x: at(c), y: bottom + 1, width: CELL - 1, height: 4, class: "bar" }));
    const tint = run.group[c] % 2 ? 0.35 : 0.8;
    picture.append(svg("rect", { x: at(c), y: bottom + 9, width: CELL - 1, height: 13, fill: "var(--line)",
      opacity: tint }));
    picture.append(text(String(run.group[c]), at(c) + CELL / 2, bottom + 20, "middle"));
    const target = svg("rect", { x: at(c), y: MATRIX, width: CELL, height: bottom - MATRIX + 22, fill: "transparent",
      style: "cursor: pointer" });
    target.addEventListener("click", () => onPick(c));
    picture.append(target);
  });
  picture.append(text("group", LEFT - 8, bottom + 20, "end"));
  if (done) {
    picture.append(svg("rect", { x: at(run.order[done - 1]) - 1, y: MATRIX - 2, width: CELL + 1,
      height: bottom - MATRIX + 8, fill: "none", stroke: "var(--ink)", "stroke-width": 2, "pointer-events": "none" }));
  }
}

/** Below the matrix: the row of U that the error travels along, per unit of rounding error. */
function drawPassed(picture, run, done, count, rows) {
  const middle = MATRIX + rows * TALL + 58, half = 26;
  picture.append(text("passed on", LEFT - 8, middle + 4, "end"));
  picture.append(svg("line", { class: "axis", x1: LEFT, x2: at(count), y1: middle, y2: middle }));
  if (!done) return;
  const share = passedOn(run, done - 1);
  const top = Math.max(...share.map(Math.abs));
  if (!top) return;
  picture.append(text(`up to ${digits(top, 2)} of w − q`, at(count) + 16, middle + 4));
  share.forEach((s, c) => {
    const height = (half * Math.abs(s)) / top;
    if (s) {
      picture.append(svg("rect", { class: s > 0 ? "bar warm" : "bar", x: at(c) + 2, width: CELL - 4,
        y: (s > 0 ? middle - height : middle).toFixed(2), height: height.toFixed(2) }));
    }
  });
}

/** Right of the matrix: the rounding error of the current column in each row. */
function drawErrors(picture, run, done, rows) {
  const left = at(run.order.length) + 16, right = WIDTH - 8, middle = (left + right) / 2;
  picture.append(text("w − q of this column", middle, MATRIX - 12, "middle"));
  picture.append(svg("line", { class: "axis", x1: middle, x2: middle, y1: MATRIX, y2: MATRIX + rows * TALL }));
  if (!done) return;
  const k = done - 1, own = run.U[k][run.order[k]];
  const errors = run.e[k].map((e) => e * own);
  const top = Math.max(...run.e.flatMap((e, j) => e.map((x) => Math.abs(x * run.U[j][run.order[j]]))));
  errors.forEach((x, r) => {
    const width = ((right - middle) * Math.abs(x)) / top;
    picture.append(svg("rect", { class: x > 0 ? "bar warm" : "bar", y: MATRIX + r * TALL + 2, height: TALL - 5,
      x: (x > 0 ? middle : middle - width).toFixed(2), width: width.toFixed(2) }));
  });
}

/** One running error against the columns done: GPTQ solid, plain rounding of the same columns dashed. */
function drawCurve(picture, run, done, count, { key, left, title }) {
  const top = 374, bottom = 462, right = left + 226;
  const ours = run[key], theirs = run[`rtn_${key}`];
  const x = linear(0, count, left, right), y = linear(0, Math.max(...ours, ...theirs) * 1.05, bottom, top);
  const points = (values, end) => path(values.slice(0, end + 1).map((v, k) => [x(k), y(v)]));
  picture.append(text(title, left, top - 12));
  picture.append(svg("line", { class: "axis", x1: left, x2: right, y1: bottom, y2: bottom }));
  picture.append(svg("path", { class: "trace", d: points(theirs, count), "stroke-dasharray": "5 4", opacity: 0.3 }));
  picture.append(svg("path", { class: "trace warm", d: points(ours, count), opacity: 0.25 }));
  picture.append(svg("path", { class: "trace", d: points(theirs, done), "stroke-dasharray": "5 4" }));
  picture.append(svg("path", { class: "trace warm", d: points(ours, done) }));
  picture.append(svg("circle", { class: "bar", cx: x(done), cy: y(theirs[done]), r: 4 }));
  picture.append(svg("circle", { class: "bar warm", cx: x(done), cy: y(ours[done]), r: 5 }));
  const above = ours[count] > theirs[count];
  const gap = Math.abs(y(ours[count]) - y(theirs[count])) < 13 ? 7 : 0;
  picture.append(text("GPTQ", right + 8, y(ours[count]) + 4 + (above ? -gap : gap), "start", "strong"));
  picture.append(text("rounding", right + 8, y(theirs[count]) + 4 + (above ? gap : -gap)));
  picture.append(text("0", left, bottom + 16, "middle"), text(String(count), right, bottom + 16, "middle"));
  picture.append(text("columns quantized", (left + right) / 2, bottom + 16, "middle"));
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
