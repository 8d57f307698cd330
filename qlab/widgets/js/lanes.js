import { choice, digits, html, panel, slider, svg } from "./draw.js";
import { execute } from "./vector.js";

const STRIP = 26;  // the height of the tallest tick, in the strip's own units
const KINDS = ["load", "unpack", "multiply", "add", "scale", "across"];
const KIND_WORDS = { load: "load, store", unpack: "unpack", multiply: "multiply", add: "add", scale: "scale", across: "sum across lanes" };
const COLOUR = { load: "var(--line)", unpack: "var(--quiet)", multiply: "var(--accent)", add: "var(--accent)", scale: "var(--good)", across: "var(--warm)" };
const TALL = { load: 0.5, unpack: 0.5, multiply: 0.75, add: 0.4, scale: 0.6, across: 1 };
const NAMES = { rows: "Rows", tiles: "Tiles" };
const SIGNED_LABEL = { packed: "packed codes", high: "shifted", codes: "codes", inputs: "inputs", pairs: "pairs, 16 bits",
  products: "new pairs", fours: "fours, 32 bits", sum: "sum, 32 bits", number: "as float", scale: "scale", total: "total",
  other: "moved", y: "y" };
const DOES = {
  zeros: "the running total begins at 0", half: "16 bytes, two codes in each", whole: "32 bytes, two codes in each",
  inputs: "the 32 inputs of the block", "four inputs": "the same four inputs for every lane",
  start: "every lane begins with −8 · the sum of the inputs: the codes' zero", starts: "−8 · the inputs' sums: the codes' zero",
  shift: "the upper codes come down", join: "the upper codes go to the upper half", nibbles: "what is not of the code is cut off",
  maddubs: "bytes are multiplied, neighbours added to 16 bits", madd: "neighbours are added to 32 bits",
  dpbusd: "four products at once, added to 32 bits", "add words": "16-bit sums, which still fit", add: "added to the sum",
  convert: "integers become floats", "scale of a row": "the row's one scale, from 16 bits", "scales of rows": "eight rows' scales at once, from 16 bits",
  "times input scale": "times the scale of the inputs", spread: "the one scale, copied to all lanes",
  "multiply and add": "sum times scale, added to the total", "upper half": "the upper four lanes move down", "upper quarter": "two lanes move down",
  "odd lanes": "the last lane moves down", "add floats": "added to those below", "add first": "now lane 0 is the row's product",
  "store first": "one number is stored", store: "eight rows are done",
};

/** Number of instructions of each kind. */
export function tally(program) {
  return Object.fromEntries(KINDS.map((kind) => [kind, program.filter((step) => step.kind === kind).length]));
}

/** A number in words, a minus in its own length. */
export function told(x) {
  return x < 0 ? `−${digits(-x)}` : digits(x);
}

/** What tells one lane from the next: its row in tiles, its columns in rows. */
export function laneLabel(layout, { kind, operation, out, alive }, lane) {
  if (layout === "tiles" || operation === "store first") return `row ${lane}`;
  if (lane >= alive) return "unused";
  if (kind === "across" && alive < 8) return { 4: "8 columns", 2: "16 columns", 1: "all 32" }[alive];
  if (operation === "scale of a row" || out === "scale") return "the row's";
  const from = 4 * lane;
  return out === "packed" || out === "high" ? `${from}–${from + 3}, ${from + 16}–${from + 19}` : `${from}–${from + 3}`;
}

/** The arithmetic of one lane in words, empty where the instruction only moves numbers. */
export function equation({ operation, reads }, values, result, lane) {
  const of = (k, i) => { const x = values[k][i]; return x < 0 ? `(${told(x)})` : told(x); };
  const byte = (i) => `${of(reads.length - 2, i)}·${of(reads.length - 1, i)}`;
  const i = 4 * lane;
  switch (operation) {
    case "maddubs": return `${byte(i)} + ${byte(i + 1)} = ${told(result[2 * lane])} and ${byte(i + 2)} + ${byte(i + 3)} = ${told(result[2 * lane + 1])}`;
    case "dpbusd": return `${of(0, lane)} + ${[0, 1, 2, 3].map((k) => byte(i + k)).join(" + ")} = ${told(result[lane])}`;
    case "madd": return `${of(0, 2 * lane)} + ${of(0, 2 * lane + 1)} = ${told(result[lane])}`;
    case "add words": return [2 * lane, 2 * lane + 1].map((k) => `${of(0, k)} + ${of(1, k)} = ${told(result[k])}`).join(" and ");
    case "add": case "add floats": case "add first": return `${of(0, lane)} + ${of(1, lane)} = ${told(result[lane])}`;
    case "multiply and add": return `${of(0, lane)} · ${of(1, lane)} + ${of(2, lane)} = ${told(result[lane])}`;
    default: return "";
  }
}

/** The numbers of a lane in a register: four bytes, two words, or one of 32 bits. */
function inLane(register, lane) {
  const many = register.length / 8;
  return register.slice(many * lane, many * lane + many);
}

function render({ model, el }) {
  const programs = model.get("programs"), memory = model.get("memory");
  const state = { layout: "rows", isa: "AVX2", at: model.get("first"), lane: 0 };
  const runs = {};
  for (const layout of ["rows", "tiles"]) for (const isa of ["AVX2", "VNNI"]) {
    const program = programs[`${layout} ${isa}`].map(([name, operation, kind, out, reads, at, row, alive, quad]) =>
      ({ name, operation, kind, out, reads, at, row, alive, quad }));
    runs[`${layout} ${isa}`] = { program, results: execute(program, { ...memory, data: memory.data[layout] }) };
  }
  const { controls, stage, readout } = panel(el, {
    title: "Lane by lane",
    caption: `${model.get("source")} Eight rows times 32 columns, once through. The register has eight lanes of 32 bits, one under the `
      + "other; the last column is what the instruction writes. Choose a lane to see its sum.",
  });
  const place = html("span", { style: "display: contents" });
  const update = (change, renewed) => { Object.assign(state, change); if (renewed) renew(); draw(); };
  controls.append(
    choice({ label: "Layout", value: "rows", options: [["rows", "Rows"], ["tiles", "Tiles"]] }, (layout) => update({ layout, at: moved(layout, state.isa) }, true)),
    choice({ label: "Instructions", value: "AVX2", options: [["AVX2", "AVX2"], ["VNNI", "VNNI"]] }, (isa) => update({ isa, at: moved(state.layout, isa) }, true)),
    place,
  );

  /** Where the same thing happens in the other program: the next instruction of that operation, or of its kind. */
  function moved(layout, isa) {
    const now = run().program[state.at], { program } = runs[`${layout} ${isa}`];
    const same = program.findIndex((step) => step.operation === now.operation);
    const alike = program.findIndex((step) => step.kind === now.kind);
    return same >= 0 ? same : alike >= 0 ? alike : program.length - 1;
  }

  function run() { return runs[`${state.layout} ${state.isa}`]; }

  function renew() {
    const last = run().program.length;
    place.replaceChildren(slider({ label: "Instruction", min: 1, max: last, value: state.at + 1, format: (n) => `${n} of ${last}` },
      (n) => update({ at: n - 1 })));
  }

  function draw() {
    const { program, results } = run(), step = program[state.at];
    const values = step.reads.map((name) => results[lastWrite(program, name, state.at)]);
    const chosen = state.lane;
    stage.replaceChildren(drawStrips(runs, state), drawLegend(tally(program)), drawStep(step, state),
      drawLanes(step, values, results[state.at], state, (lane) => { update({ lane }); stage.querySelector(`[data-lane="${lane}"]`)?.focus({ preventScroll: true }); }));
    const sum = equation(step, values, results[state.at], chosen);
    const used = chosen < step.alive || state.layout === "tiles";
    const mine = sum && used ? ` Lane ${chosen} (${where(step, state.layout, chosen)}): ${sum}.` : "";
    readout.textContent = `${step.name}: ${DOES[step.operation]}.${mine}`;
  }

  renew();
  draw();
}

function where(step, layout, lane) {
  const label = laneLabel(layout, step, lane);
  return layout === "tiles" ? label : `row ${step.row}, ${/^\d/.test(label) && !/columns/.test(label) ? "columns " : ""}${label}`;
}

/** The instruction before `at` that wrote a register. */
function lastWrite(program, name, at) {
  for (let k = at - 1; k >= 0; k--) if (program[k].out === name) return k;
  return -1;
}

/** Both layouts as strips of ticks, one for each instruction, on one scale. */
function drawStrips(runs, { layout, isa, at }) {
  const longest = Math.max(...["rows", "tiles"].map((name) => runs[`${name} ${isa}`].program.length));
  return html("div", { class: "strips" }, ...["rows", "tiles"].map((name) => {
    const { program } = runs[`${name} ${isa}`], active = name === layout;
    const ticks = program.map(({ kind, name: title }, k) => svg("rect", { x: k + 0.1, y: STRIP * (1 - TALL[kind]), width: 0.8, height: TALL[kind] * STRIP,
      style: `fill: ${COLOUR[kind]}${kind === "add" ? "; fill-opacity: .55" : ""}` }, svg("title", {}, title)));
    const picture = svg("svg", { viewBox: `0 0 ${longest} ${STRIP}`, preserveAspectRatio: "none", role: "img",
      "aria-label": `The ${program.length} instructions of ${NAMES[name].toLowerCase()}, in order` }, ...ticks);
    const mark = html("span", { class: "here", style: `left: ${((100 * (at + 0.5)) / longest).toFixed(3)}%` }, "▲");
    return html("div", { class: active ? "strip" : "strip faint" }, html("span", {}, `${NAMES[name]} `, html("b", {}, String(program.length))),
      html("div", {}, picture, ...(active ? [mark] : [])));
  }));
}

function drawLegend(counts) {
  return html("div", { class: "kinds" }, ...KINDS.map((kind) => html("span", { class: counts[kind] ? "" : "none" },
    html("i", { style: `background: ${COLOUR[kind]}; height: ${TALL[kind]}em${kind === "add" ? "; opacity: .55" : ""}` }),
    `${KIND_WORDS[kind]} `, html("b", {}, String(counts[kind])))));
}

/** What is in hand: the instruction's name, and the part of the matrix that all lanes have in common. */
function drawStep({ name, row, quad, operation }, { layout }) {
  const common = layout === "rows" ? `row ${row}` : quad >= 0 ? `columns ${4 * quad}–${4 * quad + 3} of every row` : "every row";
  return html("div", { class: "decode" }, html("code", {}, name), operation === "store first" ? "" : ` ${common}`);
}

/** A table: a lane to a line, the registers that are read, and the one that is written. */
function drawLanes(step, values, result, { layout, lane: chosen }, choose) {
  const registers = [...step.reads.map((name, k) => [name, values[k], false]), [step.out, result, true]];
  const stores = step.operation === "store first"; // a line is a row of y: what is stored stands in its line
  const lines = stores ? "row" : layout === "tiles" ? "lane = row" : "lane = columns";
  const head = html("tr", {}, html("th", { scope: "col" }, lines),
    ...registers.map(([name, values, written]) => html("th", { scope: "col", colspan: values.length / 8, class: written ? "written" : "" },
      `${written && step.reads.length ? "→ " : ""}${SIGNED_LABEL[name]}`)));
  const rows = Array.from({ length: 8 }, (_, lane) => {
    const dead = layout === "rows" && !stores && lane >= step.alive;
    const button = html("button", { type: "button", "aria-pressed": lane === chosen, "data-lane": lane, "data-lm-suppress-shortcuts": "true",
      "aria-label": `lane ${lane}: ${laneLabel(layout, step, lane)}` }, laneLabel(layout, step, lane));
    button.addEventListener("click", () => choose(lane));
    const held = (register, written) => (!stores || written ? inLane(register, lane) : lane === step.row ? [register[0]] : [NaN]);
    const cells = registers.flatMap(([name, register, written]) => held(register, written).map((x, i) =>
      html("td", { class: `${written ? "written" : ""}${i ? "" : " first"}` }, Number.isNaN(x) ? "" : shown(name, x, step))));
    return html("tr", { class: `${dead ? "dead" : ""}${lane === chosen ? " chosen" : ""}` }, html("th", { scope: "row" }, button), ...cells);
  });
  return html("div", { class: "lanes" }, html("table", {}, html("thead", {}, head), html("tbody", {}, ...rows)));
}

/** Bytes of two codes as two hexadecimal digits, all else as numbers. */
function shown(name, x, { operation }) {
  const pairs = name === "packed" || name === "high" || operation === "join" || operation === "shift" || (operation === "nibbles" && x > 15);
  return pairs ? x.toString(16).padStart(2, "0") : told(Number.isInteger(x) ? x : Number(x.toPrecision(3)));
}

export default { render };
