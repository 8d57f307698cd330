import { choice, digits, linear, panel, path, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 58, RIGHT = 104;
const GROUP = { top: 34, bottom: 190 }, CURVE = { top: 240, bottom: 386 };
const RULES = [["paper", "paper, x^α"], ["autoawq", "AutoAWQ"]];
const LINES = [["loss", "the output", "none"], ["loud", "loud channels", "7 4"], ["rest", "all others", "2 3"]];

/** Index of the smallest loss. */
export function best(losses) {
  return losses.reduce((found, loss, k) => (loss < losses[found] ? k : found), 0);
}

/** How many of the weights, given in steps, round to zero. */
export function vanished(steps) {
  return steps.filter((w) => Math.abs(w) <= 0.5).length;
}

export function describe(run, k, points) {
  const least = best(run.loss);
  const where = k === least ? "This is the best of the grid" : `The best is α ${digits(least / points, 3)}`;
  return `α ${digits(k / points, 3)}: output error ${digits(run.loss[k], 2)}× rounding's. Loud channels `
    + `${digits(run.loud[k], 2)}×, all others ${digits(run.rest[k], 2)}×; steps ${digits(run.stretch[k], 3)}× as wide, `
    + `${vanished(run.steps[k])} of ${run.steps[k].length} weights of the group are 0. ${where}.`;
}

function render({ model, el }) {
  const [layer, spec, channels, loud, levels, runs] =
    ["layer", "spec", "channels", "loud", "levels", "runs"].map((name) => model.get(name));
  const points = runs.paper.loss.length - 1;
  const state = { k: 0, rule: "paper" };
  const { controls, stage, readout } = panel(el, {
    title: `How far to scale ${layer}`,
    caption: `${layer}, ${spec}. Above: the first row's weights in channels ${channels[0]} to ${channels.at(-1)} as they `
      + "are rounded, scaled, in steps of their group; the lines are its levels, loud channels are orange. Below: errors as "
      + "shares of plain rounding's own, by α.",
  });
  const slide = slider({ label: "α", min: 0, max: points, value: 0, format: (k) => digits(k / points, 3) },
    (k) => { state.k = k; draw(); });
  const input = slide.querySelector("input");
  const go = (k) => { input.value = k; input.dispatchEvent(new Event("input")); };
  controls.append(slide, choice({ label: "Scale", value: state.rule, options: RULES },
    (rule) => { state.rule = rule; draw(); }));

  function draw() {
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} 428`, role: "img",
      "aria-label": "Scaled weights of one group in steps, and the errors against alpha" });
    drawGroup(picture, runs[state.rule].steps[state.k]);
    drawCurves(picture, runs[state.rule]);
    stage.replaceChildren(picture);
    readout.textContent = describe(runs[state.rule], state.k, points);
  }

  function drawGroup(picture, steps) {
    const x = linear(0, steps.length, LEFT, WIDTH - 12), y = linear(levels[0], levels[1] + 0.5, GROUP.bottom, GROUP.top);
    const width = (WIDTH - 12 - LEFT) / steps.length;
    picture.append(text("weights of one group, in steps", LEFT, GROUP.top - 14));
    for (let level = levels[0]; level <= levels[1]; level += 1) {
      picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - 12, y1: y(level), y2: y(level) }));
      picture.append(text(String(level).replace("-", "−"), LEFT - 8, y(level) + 4, "end"));
    }
    steps.forEach((w, c) => {
      const hot = loud.includes(channels[c]);
      picture.append(svg("rect", { class: hot ? "bar warm" : "bar", opacity: hot ? 1 : 0.6,
        x: (x(c) + 1).toFixed(2), width: Math.max(1, width - 2).toFixed(2), y: Math.min(y(0), y(w)).toFixed(2),
        height: Math.max(0.6, Math.abs(y(w) - y(0))).toFixed(2) }));
    });
  }

  function drawCurves(picture, run) {
    const top = Math.max(1.2, Math.min(4, Math.max(...run.loss, ...run.rest)));
    const x = linear(0, points, LEFT, WIDTH - RIGHT), y = linear(0, top, CURVE.bottom, CURVE.top);
    const held = (v) => y(Math.min(v, top));
    picture.append(text("error, plain rounding: 1", LEFT, CURVE.top - 12));
    for (let tick = 0; tick <= top; tick += 1) {
      picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH - RIGHT, y1: y(tick), y2: y(tick) }));
      picture.append(text(String(tick), LEFT - 8, y(tick) + 4, "end"));
    }
    for (const [key, , dash] of LINES) {
      picture.append(svg("path", { class: `trace${key === "loss" ? " warm" : ""}`, "stroke-dasharray": dash,
        d: path(run[key].map((v, k) => [x(k), held(v)])) }));
    }
    const ends = LINES.map(([key, name]) => [name, held(run[key][points])]).sort((a, b) => a[1] - b[1]);
    ends.forEach(([name, at], i) => {
      const above = i ? ends[i - 1][1] + 14 : at;
      ends[i][1] = Math.max(at, above);
      picture.append(text(name, x(points) + 8, ends[i][1] + 4, "start", name === LINES[0][1] ? "strong" : ""));
    });
    const least = best(run.loss);
    picture.append(svg("line", { class: "axis", x1: x(state.k), x2: x(state.k), y1: CURVE.top, y2: CURVE.bottom }));
    picture.append(text("best", x(least), held(run.loss[least]) - 10, "middle"));
    picture.append(svg("circle", { class: "bar warm", cx: x(least), cy: held(run.loss[least]), r: 3 }));
    picture.append(svg("circle", { class: "bar warm", cx: x(state.k), cy: held(run.loss[state.k]), r: 6 }));
    for (let k = 0; k <= points; k += 5) {
      picture.append(text(digits(k / points, 3), x(k), CURVE.bottom + 18, "middle"));
      const target = svg("rect", { x: x(k) - 14, y: CURVE.top, width: 28, height: CURVE.bottom - CURVE.top + 22,
        fill: "transparent", style: "cursor: pointer" });
      target.addEventListener("click", () => go(k));
      picture.append(target);
    }
    picture.append(text("α", (x(0) + x(points)) / 2, CURVE.bottom + 34, "middle"));
  }

  draw();
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
