import { choice, digits, linear, panel, slider, svg } from "./draw.js";

// Arithmetic equal to qlab.widgets.protocols (tests/widgets/test_protocols.py).

/** Mean per token and its standard error from sums over clusters of tokens. */
export function clusterMean(sums, sizes) {
  const C = sums.length;
  const total = sizes.reduce((a, b) => a + b, 0);
  const mean = sums.reduce((a, b) => a + b, 0) / total;
  const squares = sums.reduce((sum, y, c) => sum + (y - mean * sizes[c]) ** 2, 0);
  return { mean, se: C > 1 ? Math.sqrt((C / (C - 1)) * squares) / total : NaN };
}

/** How many standard errors lie between two models. */
export function gap(a, b, sizes, paired) {
  if (paired) {
    const { mean, se } = clusterMean(a.map((x, c) => x - b[c]), sizes);
    return inErrors(mean, se);
  }
  const [one, other] = [clusterMean(a, sizes), clusterMean(b, sizes)];
  return inErrors(one.mean - other.mean, Math.hypot(one.se, other.se));
}

function inErrors(difference, se) {
  return difference ? Math.abs(difference) / se : 0;
}

/** Everything that is drawn: a row for each model and the gap of each pair, on the first `chunks` of the text. */
export function measure({ names, sizes, sums, chunks: all }, { protocol, chunks, paired }) {
  const count = (sizes[protocol].length / all) * chunks;
  const m = sizes[protocol].slice(0, count);
  const losses = sums[protocol].map((row) => row.slice(0, count));
  const rows = losses.map((row, i) => {
    const { mean, se } = clusterMean(row, m);
    // paired, the bar is the error of the ratio to the reference, which then has none of its own
    const ratio = clusterMean(row.map((y, c) => y - losses[0][c]), m);
    return { name: names[i], ppl: Math.exp(mean), se: paired ? ratio.se : se };
  });
  const pairs = [];
  for (let i = 0; i < losses.length; i++)
    for (let j = i + 1; j < losses.length; j++) pairs.push({ i, j, gap: gap(losses[i], losses[j], m, paired) });
  return { clusters: count, tokens: m.reduce((a, b) => a + b, 0), rows, pairs };
}

const SEPARATED = 2;
const [WIDTH, TOP, ROW, LEFT, RIGHT] = [740, 14, 44, 132, 590];

function render({ model, el }) {
  const data = Object.fromEntries(
    ["names", "bits", "protocols", "sizes", "sums", "chunks", "chunk_tokens"].map((key) => [key, model.get(key)]));
  const state = { protocol: data.protocols[1][0], chunks: data.chunks, paired: false };
  const { controls, stage, readout } = panel(el, {
    title: "Perplexity under four protocols",
    caption: "Bars reach 2 standard errors (SE) to each side, clustered by window. Paired, a bar is the error of the " +
      "ratio to the reference on the same tokens. A closed bracket: neighbours more than 2 SE apart.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  controls.append(
    choice({ label: "Protocol", value: state.protocol, options: data.protocols }, (protocol) => update({ protocol })),
    slider({ label: "Text", min: 2, max: data.chunks, value: state.chunks, format: (n) => `${thousands(n * data.chunk_tokens)} tokens` },
      (chunks) => update({ chunks })),
    choice({ label: "Errors", value: "no", options: [["no", "unpaired"], ["yes", "paired"]] },
      (paired) => update({ paired: paired === "yes" })));
  const range = domain(data);

  function draw() {
    const now = measure(data, state);
    stage.replaceChildren(chart(data, now, range, state.paired));
    readout.textContent = words(data, now, state);
  }
  draw();
}

/** The range of every dot the controls can reach, and of the bars over the whole text: the axis stays while dots move. */
function domain(data) {
  const all = [];
  for (const [protocol] of data.protocols)
    for (let chunks = 2; chunks <= data.chunks; chunks++)
      for (const { ppl, se } of measure(data, { protocol, chunks, paired: chunks < data.chunks }).rows)
        all.push(ppl, ...(chunks < data.chunks ? [] : [ppl * Math.exp(-2 * se), ppl * Math.exp(2 * se)]));
  return [Math.min(...all) / 1.02, Math.max(...all) * 1.02];
}

function chart(data, { rows, pairs }, [lo, hi], paired) {
  const bottom = TOP + ROW * rows.length;
  const root = svg("svg", { viewBox: `0 0 ${WIDTH} ${bottom + 44}`, role: "img", "aria-label": "perplexity of each model" });
  const log = linear(Math.log(lo), Math.log(hi), LEFT, RIGHT);
  const x = (ppl) => Math.min(Math.max(log(Math.log(ppl)), LEFT), RIGHT);
  for (const tick of ticks(lo, hi)) {
    root.append(svg("line", { class: "axis", x1: x(tick), x2: x(tick), y1: TOP, y2: bottom }),
      svg("text", { x: x(tick), y: bottom + 17, "text-anchor": "middle" }, tick));
  }
  root.append(svg("text", { x: (LEFT + RIGHT) / 2, y: bottom + 38, "text-anchor": "middle" }, "perplexity, log scale"));
  if (paired) {
    const at = x(rows[0].ppl);
    root.append(svg("line", { x1: at, x2: at, y1: TOP, y2: bottom, stroke: "var(--warm)", "stroke-width": 1.5, "stroke-dasharray": "5 4" }));
  }
  rows.forEach((row, i) => root.append(...dot(row, data.bits[i], TOP + ROW * (i + 0.5), x, i === 0)));
  for (const { i, j, gap } of pairs) if (j === i + 1) root.append(...bracket(gap, TOP + ROW * (i + 0.5)));
  return root;
}

function dot({ name, ppl, se }, bits, y, x, isReference) {
  const [a, b] = [x(ppl * Math.exp(-2 * se)), x(ppl * Math.exp(2 * se))];
  const colour = isReference ? "var(--warm)" : "var(--accent)";
  const line = (x1, y1, x2, y2) => svg("line", { x1, y1, x2, y2, stroke: colour, "stroke-width": 2.2, "stroke-linecap": "round" });
  return [
    svg("text", { class: "strong", x: 0, y: y - 1, style: "font-size:13.5px" }, name),
    svg("text", { x: 0, y: y + 14 }, isReference ? "float" : `${bits} bits per weight`),
    line(a, y, b, y),
    ...[a, b].filter((end) => end > LEFT && end < RIGHT).map((end) => line(end, y - 5, end, y + 5)), // a bar cut off has no cap
    svg("circle", { cx: x(ppl), cy: y, r: 5.5, fill: colour, stroke: "var(--panel)", "stroke-width": 1.5 }),
    svg("text", { class: "strong", x: x(ppl), y: y - 11, "text-anchor": "middle", style: "paint-order:stroke;stroke:var(--panel);stroke-width:5px" }, digits(ppl)),
  ];
}

/** Between two neighbouring rows: closed and solid when they are separated, open and dashed when not. */
function bracket(gap, y) {
  const apart = gap > SEPARATED;
  const [x, y1, y2] = [RIGHT + 26, y + 6, y + ROW - 6];
  const d = apart ? `M${x - 8},${y1}H${x}V${y2}H${x - 8}` : `M${x},${y1}V${y2}`;
  return [
    svg("path", { d, fill: "none", stroke: apart ? "var(--good)" : "var(--quiet)", "stroke-width": 2, "stroke-dasharray": apart ? "none" : "3 4" }),
    svg("text", { class: apart ? "strong" : "", x: x + 10, y: (y1 + y2) / 2 - 2 }, apart ? "separated" : "cannot tell"),
    svg("text", { x: x + 10, y: (y1 + y2) / 2 + 13 }, `${digits(gap, 2)} SE apart`),
  ];
}

/** Round numbers inside [lo, hi], at most eight of them. */
export function ticks(lo, hi) {
  for (const step of [1, 2, 5, 10, 20, 50]) {
    const first = Math.ceil(lo / step);
    const count = Math.floor(hi / step) - first + 1;
    if (count <= 8) return Array.from({ length: Math.max(count, 0) }, (_, i) => (first + i) * step);
  }
  return [];
}

function words(data, { rows, pairs, clusters, tokens }, { protocol, paired }) {
  const what = data.protocols.find(([key]) => key === protocol)[2];
  const open = pairs.filter((pair) => !(pair.gap > SEPARATED));
  const separated = pairs.length - open.length;
  const named = open.slice(0, 3).map(({ i, j }) => `${data.names[i]} and ${data.names[j]}`).join(", ");
  const rest = open.length > 3 ? ` and ${open.length - 3} more` : "";
  return `${capital(what)}: the reference scores ${digits(rows[0].ppl)} on ${thousands(tokens)} tokens in ${clusters} clusters. ` +
    `${paired ? "Paired" : "Unpaired"} errors separate ${separated || "none"} of the ${pairs.length} pairs` +
    (open.length && separated ? `, not ${named}${rest}.` : ".");
}

function thousands(n) {
  return String(n).replace(/\B(?=(\d{3})+$)/g, ",");
}

function capital(text) {
  return text[0].toUpperCase() + text.slice(1);
}

export default { render };
