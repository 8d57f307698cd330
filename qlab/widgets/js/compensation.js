import { choice, digits, html, linear, panel, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 52, TOP = 66, CELL = 17;
const WHO = [["all", "everyone"], ["later", "only those after it"]];

/** The helpers of an error in weight j, strongest first: [[k, change], …] without those that do nothing. */
export function helpers(moves, j) {
  return moves[j].map((move, k) => [k, move]).filter(([k, move]) => k !== j && move !== 0)
    .sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
}

/** What the reader is told about channel j. */
export function describe(frame, who, j, channels) {
  const { moves, left } = frame[who];
  const best = helpers(moves, j).slice(0, 3);
  const share = `${digits(100 * left[j], 2)} % of its output error stays`;
  if (!best.length) return `Channel ${channels[j]} is off by one: nobody can help, and all of its output error stays.`;
  const named = best.map(([k, move]) => `${channels[k]} takes ${digits(move, 2)}`).join(", ");
  return `Channel ${channels[j]} is off by one: ${named}; ${share}.`;
}

function render({ model, el }) {
  const [layer, channels, inputs, mixes, frames] =
    ["layer", "channels", "inputs", "mixes", "frames"].map((name) => model.get(name));
  const count = channels.length, bottom = TOP + count * CELL;
  const state = { mix: 0, who: "all", j: 0 };
  const { controls, stage, readout } = panel(el, {
    title: `Who can make up for an error in ${layer}`,
    caption: `The ${count} input channels of ${layer} that share the most, loudest first, with their real XᵀX. Colour is `
      + "correlation: blue negative, orange positive. Bars are in units of output: an exact copy of the channel would cancel the "
      + "error with −1, a mirror image with +1. Click a column to let that weight be off.",
  });
  const slide = slider({ label: "Channel that is off", min: 0, max: count - 1, value: 0, format: (j) => channels[j] },
    (j) => { state.j = j; draw(); });
  const input = slide.querySelector("input");
  controls.append(
    slide,
    slider({ label: "H towards cI", min: 0, max: mixes.length - 1, value: 0,
      format: (k) => `${digits(100 * mixes[k], 2)} %` }, (k) => { state.mix = k; draw(); }),
    choice({ label: "Who may help", options: WHO, value: state.who }, (who) => { state.who = who; draw(); }),
  );

  function draw() {
    const frame = frames[state.mix];
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${bottom + 66}`, role: "img",
      "aria-label": "Correlations of the inputs, what the other weights do about one error, and how much of it stays" });
    drawInputs(picture);
    drawMatrix(picture, frame.correlation);
    drawAnswers(picture, frame[state.who].moves);
    drawLeft(picture, frame[state.who].left);
    stage.replaceChildren(picture);
    readout.textContent = describe(frame, state.who, state.j, channels);
  }

  function drawInputs(picture) {
    const height = linear(0, Math.max(...inputs), 0, TOP - 28);
    picture.append(text("input", LEFT - 8, TOP - 12, "end"));
    inputs.forEach((x, c) => {
      const h = Math.max(1, height(x));
      picture.append(svg("rect", { class: "bar", opacity: 0.45, x: LEFT + c * CELL + 1, y: (TOP - 6 - h).toFixed(2),
        width: CELL - 2, height: h.toFixed(2) }));
    });
  }

  function drawMatrix(picture, correlation) {
    correlation.forEach((row, r) => {
      picture.append(text(String(channels[r]), LEFT - 8, TOP + r * CELL + 12, "end", r === state.j ? "strong" : ""));
      row.forEach((value, c) => {
        const cell = { x: LEFT + c * CELL, y: TOP + r * CELL, width: CELL - 1, height: CELL - 1 };
        picture.append(svg("rect", { ...cell, fill: "var(--line)", opacity: 0.35 }));
        if (value) {
          picture.append(svg("rect", { ...cell, class: value > 0 ? "bar warm" : "bar",
            opacity: Math.min(1, Math.abs(value)).toFixed(2) }));
        }
      });
    });
    picture.append(svg("rect", { x: LEFT + state.j * CELL - 1.5, y: TOP - 2, width: CELL + 2, height: count * CELL + 3,
      fill: "none", stroke: "var(--ink)", "stroke-width": 2 }));
    channels.forEach((_, c) => {
      const target = svg("rect", { x: LEFT + c * CELL, y: TOP, width: CELL, height: count * CELL, fill: "transparent",
        style: "cursor: pointer" });
      target.addEventListener("click", () => { input.value = c; input.dispatchEvent(new Event("input")); });
      picture.append(target);
    });
  }

  /** Row by row beside the matrix: the error itself, and what each of the others does about it. */
  function drawAnswers(picture, moves) {
    const left = LEFT + count * CELL + 34, right = WIDTH - 14;
    const x = linear(-1.2, 1.2, left, right), zero = x(0);
    picture.append(text("what each weight does, in output", zero, TOP - 28, "middle"));
    [-1, 0, 1].forEach((tick) => {
      picture.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: TOP, y2: bottom }));
      picture.append(text(tick < 0 ? "−1" : String(tick), x(tick), TOP - 8, "middle"));
    });
    moves[state.j].forEach((move, k) => {
      const value = k === state.j ? 1 : Math.max(-1.2, Math.min(1.2, move));
      const from = Math.min(zero, x(value)), width = Math.abs(x(value) - zero);
      const own = k === state.j ? { fill: "var(--ink)" } : { class: value > 0 ? "bar warm" : "bar" };
      if (value) {
        picture.append(svg("rect", { ...own, x: from.toFixed(2), y: TOP + k * CELL + 2, width: width.toFixed(2),
          height: CELL - 5 }));
      }
    });
    picture.append(text("the error", zero - 8, TOP + state.j * CELL + 12, "end", "strong"));
  }

  /** Below: how much of each channel's error stays, the chosen one marked. */
  function drawLeft(picture, left) {
    const base = bottom + 52, height = linear(0, 1, 0, 38);
    picture.append(text("stays", LEFT - 8, base - 10, "end"));
    left.forEach((share, c) => {
      const cell = { x: LEFT + c * CELL + 1, width: CELL - 2 };
      picture.append(svg("rect", { ...cell, y: base - 38, height: 38, fill: "var(--line)", opacity: 0.35 }));
      picture.append(svg("rect", { ...cell, class: c === state.j ? "bar warm" : "bar",
        y: (base - height(share)).toFixed(2), height: height(share).toFixed(2) }));
    });
    const all = left.reduce((a, b) => a + b, 0) / count;
    picture.append(text(`of this error ${digits(100 * left[state.j], 2)} % stays`, LEFT + count * CELL + 34, base - 22,
      "start", "strong"));
    picture.append(text(`on average over the ${count}: ${digits(100 * all, 2)} %`, LEFT + count * CELL + 34, base - 4));
  }

  draw();
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
