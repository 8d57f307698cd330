import { choice, digits, html, linear, panel, slider, svg } from "./draw.js";

// --- What each bit of a block says: [field, group or weight, place], and a number is the sum of its bits' places. ---

const D = "d", DMIN = "dmin", SC = "sc", M = "m", Q = "q";
export const TYPES = {
  Q4_0: { weights: 32, group: 32, zero: 8, line: "d · (q − 8)", bits: [half(D), nibbles(16, 16)] },
  Q4_1: { weights: 32, group: 32, zero: 0, line: "d · q + m", bits: [half(D), half(DMIN), nibbles(16, 16)] },
  Q8_0: { weights: 32, group: 32, zero: 0, line: "d · q", bits: [half(D), bytes(Q, 32)] },
  Q2_K: { weights: 256, group: 16, zero: 0, line: "d · sc · q − dmin · m",
    bits: [pairs(16), planes(64, 32, 2), half(D), half(DMIN)] },
  Q4_K: { weights: 256, group: 32, zero: 0, line: "d · sc · q − dmin · m",
    bits: [half(D), half(DMIN), sixes(), nibbles(128, 32)] },
  Q6_K: { weights: 256, group: 16, zero: 32, line: "d · sc · (q − 32)",
    bits: [nibbles(128, 64), planes(64, 32, 2, 4), bytes(SC, 16), half(D)] },
};
Object.values(TYPES).forEach((type) => { type.bits = type.bits.flat(); });

/** A half-precision number: 16 bits, the lowest first. */
function half(field) {
  return Array.from({ length: 16 }, (_, place) => [field, 0, place]);
}

/** Codes of `width` bits in bytes: the lowest bits of a run of `run` bytes first, then the next ones, from `place` on. */
function planes(count, run, width, place = 0) {
  const each = 8 / width;
  return Array.from({ length: 8 * count }, (_, at) => {
    const byte = at >> 3, bit = at & 7, plane = Math.floor(bit / width);
    return [Q, Math.floor(byte / run) * run * each + plane * run + (byte % run), place + (bit % width)];
  });
}

function nibbles(count, run) {
  return planes(count, run, 4);
}

/** Signed bytes; the eighth bit counts −128. */
function bytes(field, count) {
  return Array.from({ length: 8 * count }, (_, at) => [field, at >> 3, at & 7]);
}

/** Q2_K: a byte holds the scale and the minimum of a group. */
function pairs(count) {
  return Array.from({ length: 8 * count }, (_, at) => [(at & 7) < 4 ? SC : M, at >> 3, at & 3]);
}

/** Q4_K: eight scales and eight minima of 6 bits in twelve bytes; the last four of each lie in two places. */
function sixes() {
  return Array.from({ length: 96 }, (_, at) => {
    const byte = at >> 3, bit = at & 7;
    if (byte >= 8) return [bit < 4 ? SC : M, byte - 4, bit & 3];
    const field = byte < 4 ? SC : M;
    return bit < 6 ? [field, byte & 3, bit] : [field, (byte & 3) + 4, bit - 2];
  });
}

/** What a bit adds to its number when it is set. */
export function worth(name, [field, , place]) {
  const signed = (name === "Q8_0" && field === Q) || (name === "Q6_K" && field === SC);
  return signed && place === 7 ? -128 : 2 ** place;
}

/** The half-precision number of 16 bits: sign, 5 bits of exponent, 10 of fraction. */
export function half16(bits) {
  const sign = bits >> 15 ? -1 : 1, exponent = (bits >> 10) & 31, fraction = bits & 1023;
  if (exponent === 31) return fraction ? NaN : sign * Infinity;
  return exponent ? sign * (1 + fraction / 1024) * 2 ** (exponent - 15) : sign * fraction * 2 ** -24;
}

/** The numbers that the bytes of a block spell: d, dmin, sc and m of each group, q and w of each weight. */
export function decodeBlock(name, data) {
  const { weights, group, zero, bits } = TYPES[name];
  const raw = { d: [0], dmin: [0], sc: Array(weights / group).fill(0), m: Array(weights / group).fill(0), q: Array(weights).fill(0) };
  const has = { sc: false, m: false };
  bits.forEach((bit, at) => {
    has[bit[0]] = true;
    if ((data[at >> 3] >> (at & 7)) & 1) raw[bit[0]][bit[1]] += worth(name, bit);
  });
  const d = half16(raw.d[0]), dmin = half16(raw.dmin[0]);
  const sc = has.sc ? raw.sc : raw.sc.map(() => 1);
  const least = (g) => (has.m ? -dmin * raw.m[g] : dmin);
  const w = raw.q.map((q, i) => {
    const g = Math.floor(i / group), step = Math.fround(d * sc[g]);
    const product = Math.fround(step * (q - zero));
    return has.dmin ? Math.fround(product + Math.fround(least(g))) : product;
  });
  return { d, dmin, sc, m: raw.m, q: raw.q, w, has };
}

/** The bytes with some bits turned over. */
export function flipped(data, flips) {
  const out = [...data];
  for (const at of flips) out[at >> 3] ^= 1 << (at & 7);
  return out;
}

/** Positions in the block of the bits that weight i is made of, by field, the highest place first. */
export function bitsOf(name, i) {
  const { group, bits } = TYPES[name];
  const mine = { [D]: 0, [DMIN]: 0, [SC]: Math.floor(i / group), [M]: Math.floor(i / group), [Q]: i };
  const found = {};
  bits.forEach(([field, index, place], at) => {
    if (mine[field] === index) (found[field] ??= []).push([place, at]);
  });
  for (const field in found) found[field] = found[field].sort((a, b) => b[0] - a[0]).map(([, at]) => at);
  return found;
}

// --- Words ---

const signed = (x) => (x < 0 ? `−${digits(-x)}` : Number.isNaN(x) ? "not a number" : digits(x));
const plain = (x) => (Number.isNaN(x) ? "not a number" : x < 0 ? `(${signed(x)})` : digits(x));

/** The decode line of one weight in numbers. */
export function decodeLine(name, block, i) {
  const { group, zero, line } = TYPES[name], g = Math.floor(i / group), q = block.q[i];
  const code = zero ? `(${q} − ${zero})` : plain(q);
  const scale = [plain(block.d), ...(block.has.sc ? [plain(block.sc[g])] : [])].join(" · ");
  const m = block.has.m ? ` − ${plain(block.dmin)} · ${block.m[g]}` : block.has.dmin ? ` + ${plain(block.dmin)}` : "";
  return `w = ${line} = ${scale} · ${code}${m} = ${signed(block.w[i])}`;
}

/** What a bit is called: "bit 4 of the exponent of d", "bit 3 (worth 8) of the code of weight 7". */
export function bitName(name, at) {
  const bit = TYPES[name].bits[at], [field, index, place] = bit;
  const { group, weights } = TYPES[name], first = index * group;
  if (field === D || field === DMIN) {
    const of = name === "Q4_1" && field === DMIN ? "m" : field;
    if (place === 15) return `the sign of ${of}`;
    return place > 9 ? `bit ${place - 10} of the exponent of ${of}` : `bit ${place} of the fraction of ${of}`;
  }
  const what = { [SC]: "scale of", [M]: "minimum of", [Q]: "code of" }[field];
  const whose = field === Q ? `weight ${index}` : `weights ${first}–${Math.min(first + group, weights) - 1}`;
  return `the bit worth ${signed(worth(name, bit))} in the ${what} ${whose}`;
}

/** How many weights are not what they were, the largest move, and how many are no numbers any more. */
export function moved(before, after) {
  const changed = after.map((w, i) => !(w === before[i]));
  const moves = after.map((w, i) => Math.abs(w - before[i])).filter((move, i) => changed[i] && Number.isFinite(move));
  const lost = after.filter((w) => !Number.isFinite(w)).length;
  return { changed, count: changed.filter(Boolean).length, largest: moves.length ? Math.max(...moves) : 0, lost };
}

/** The effect of the flips, in a sentence. */
export function effect(name, data, flips) {
  if (!flips.length) return "As it is in the file. Turn a bit over.";
  const before = decodeBlock(name, data), after = decodeBlock(name, flipped(data, flips));
  const { count, largest, lost } = moved(before.w, after.w), top = Math.max(...before.w.map(Math.abs));
  const who = flips.length === 1 ? `Turned over: ${bitName(name, flips[0])}.` : `${flips.length} bits turned over.`;
  if (!count) return `${who} No weight moves.`;
  const weights = count === 1 ? "1 weight moves" : `${count} of ${before.w.length} weights move`;
  const share = top ? `, ${digits(largest / top, 3)} × the largest weight of the block` : "";
  const far = largest ? `${weights}${count === 1 ? "" : ", the farthest"} by ${digits(largest)}${share}.` : `${weights}.`;
  return `${who} ${far}${lost ? ` ${lost} are no numbers any more.` : ""}`;
}

// --- The picture ---

const WIDTH = 720, PER_ROW = 24, CELL = WIDTH / PER_ROW, HIGH = 18, BIT = 21, CHART = 132;
const COLOURS = { [Q]: "var(--accent)", [SC]: "var(--warm)", [M]: "var(--good)", [D]: "var(--warm)", [DMIN]: "var(--good)" };
const FAINT = { [Q]: 0.16, [SC]: 0.24, [M]: 0.24, [D]: 0.5, [DMIN]: 0.5 };

function render({ model, el }) {
  const tensors = model.get("tensors");
  const state = { tensor: 0, block: 0, weight: 0, flips: [], focus: null };
  const { controls, stage, readout } = panel(el, {
    title: "Bits of a block",
    caption: "Bytes as they lie in the file, in hexadecimal; outlined: those of the chosen weight. Click a bit, or reach it "
      + "with Tab and the arrow keys and press Enter. Below: every weight of the block, and where it was (grey).",
  });
  const sliders = html("span", { style: "display: contents" });
  const update = (change) => { Object.assign(state, change); draw(); };
  const undo = html("button", { type: "button", style: "font: inherit; padding: .25rem .7rem; cursor: pointer" }, "Undo all");
  undo.addEventListener("click", () => update({ flips: [], focus: null }));
  controls.append(
    choice({ label: "Tensor", value: 0, options: tensors.map(({ type }, n) => [n, type]) }, (tensor) => {
      Object.assign(state, { tensor, block: 0, weight: 0, flips: [], focus: null });
      renew();
      draw();
    }),
    sliders, undo,
  );

  function renew() {
    const { type, blocks } = tensors[state.tensor];
    sliders.replaceChildren(
      slider({ label: "Block", min: 0, max: blocks.length - 1, value: 0, format: (n) => String(blocks[n].block) },
        (block) => update({ block, flips: [], focus: null })),
      slider({ label: "Weight", min: 0, max: TYPES[type].weights - 1, value: 0 }, (weight) => update({ weight, focus: null })),
    );
  }

  function turn(at) {
    const has = state.flips.includes(at);
    update({ flips: has ? state.flips.filter((flip) => flip !== at) : [...state.flips, at], focus: at });
  }

  function draw() {
    const tensor = tensors[state.tensor], block = tensor.blocks[state.block], data = unhex(block.bytes);
    const view = { ...state, name: tensor.type, data: flipped(data, state.flips), original: data };
    view.before = decodeBlock(view.name, data);
    view.after = decodeBlock(view.name, view.data);
    const map = Math.ceil(data.length / PER_ROW) * HIGH + 28, fields = fieldRows(view);
    const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${map + fields.height + CHART + 34}`, role: "group",
      "aria-label": `Block ${block.block} of ${tensor.tensor}, its bytes, the bits of weight ${state.weight}, and all weights`,
      "data-lm-suppress-shortcuts": "true" });
    drawBytes(picture, view, (weight) => { choose(weight); });
    drawFields(picture, view, fields, map, turn);
    drawWeights(picture, view, map + fields.height + 22);
    stage.replaceChildren(picture);
    if (state.focus !== null) picture.querySelector(`[data-bit="${state.focus}"]`)?.focus({ preventScroll: true });
    readout.replaceChildren(
      html("div", {}, `${tensor.tensor}, ${tensor.type}, row ${block.row}, column ${block.column + state.weight}, group `
        + `${Math.floor(state.weight / TYPES[view.name].group)}`),
      html("div", {}, html("b", {}, decodeLine(view.name, view.after, state.weight))),
      html("div", {}, effect(view.name, data, state.flips)),
    );
  }

  function choose(weight) {
    const input = sliders.querySelectorAll("input")[1];
    input.value = weight;
    input.dispatchEvent(new Event("input"));
  }

  renew();
  draw();
}

function unhex(text) {
  return text.match(/../g).map((pair) => parseInt(pair, 16));
}

/** All bytes, 24 in a row, tinted by what they hold; a click on one chooses a weight that it is part of. */
function drawBytes(picture, { name, data, original, weight }, choose) {
  const mine = new Set(Object.values(bitsOf(name, weight)).flat().map((at) => at >> 3));
  const { bits, group } = TYPES[name];
  data.forEach((byte, n) => {
    const x = (n % PER_ROW) * CELL, y = Math.floor(n / PER_ROW) * HIGH;
    const [field, index] = bits[8 * n], changed = byte !== original[n];
    const cell = svg("g", { style: "cursor: pointer" },
      svg("title", {}, `byte ${n}: ${bitName(name, 8 * n)} …`),
      svg("rect", { x: x + 1, y: y + 1, width: CELL - 2, height: HIGH - 2, rx: 2,
        style: `fill: ${COLOURS[field]}; fill-opacity: ${FAINT[field]}`, stroke: mine.has(n) ? "var(--ink)" : "none", "stroke-width": 1.6 }),
      text(hex(byte), x + CELL / 2, y + HIGH - 5, "middle", changed || mine.has(n) ? "strong" : ""));
    if (changed) cell.append(svg("path", { class: "bar warm", d: `M${x + CELL - 9},${y + 1}h8v8z` }));
    cell.addEventListener("click", () => choose({ [Q]: index, [SC]: index * group, [M]: index * group }[field] ?? weight));
    picture.append(cell);
  });
  const names = [[Q, "codes"], [SC, "scales"], [M, "minima"], [D, "d"], [DMIN, name === "Q4_1" ? "m" : "dmin"]];
  let x = 0;
  const y = Math.ceil(data.length / PER_ROW) * HIGH + 6;
  for (const [field, label] of names.filter(([key]) => bits.some(([other]) => other === key))) {
    const shown = field === SC && bits.some(([other]) => other === M) ? "scales and minima" : label;
    if (field === M) continue;
    picture.append(svg("rect", { x, y, width: 12, height: 12, rx: 2, style: `fill: ${COLOURS[field]}; fill-opacity: ${FAINT[field]}` }));
    picture.append(text(shown, x + 17, y + 11));
    x += 17 + 7 * shown.length + 18;
  }
}

/** The fields of a weight and where each is drawn: two rows, the 16-bit numbers above. */
function fieldRows({ name, weight }) {
  const found = bitsOf(name, weight), rows = [[D, DMIN], [SC, M, Q]], places = [];
  let y = 0;
  for (const row of rows) {
    let x = 0;
    for (const field of row.filter((key) => found[key])) {
      places.push({ field, at: found[field], x, y });
      x += found[field].length * BIT + 22;
    }
    y += 66;
  }
  return { places, height: y + 6 };
}

function drawFields(picture, view, { places }, top, turn) {
  const { name, after, weight } = view, g = Math.floor(weight / TYPES[name].group);
  const value = { [D]: after.d, [DMIN]: after.dmin, [SC]: after.sc[g], [M]: after.m[g], [Q]: after.q[weight] };
  const label = { [D]: "d", [DMIN]: name === "Q4_1" ? "m" : "dmin", [SC]: `sc of group ${g}`, [M]: `m of group ${g}`,
    [Q]: `q of weight ${weight}` };
  const order = places.flatMap(({ at }) => at);
  for (const { field, at, x, y } of places) {
    picture.append(text(`${label[field]} = ${signed(value[field])}`, x, top + y + 12, "start", "strong"));
    at.forEach((bit, n) => picture.append(bitCell(view, bit, x + n * BIT, top + y + 18, order, turn)));
  }
}

/** One bit as a switch: its value, and below it what it is worth. */
function bitCell({ name, data, flips, focus }, at, x, y, order, turn) {
  const on = (data[at >> 3] >> (at & 7)) & 1, bit = TYPES[name].bits[at], colour = COLOURS[bit[0]];
  const changed = flips.includes(at), focusable = focus === null ? at === order[0] : at === focus;
  const cell = svg("g", { role: "switch", "aria-checked": on ? "true" : "false", "aria-label": bitName(name, at),
    "data-bit": at, tabindex: focusable ? 0 : -1, style: "cursor: pointer" },
  svg("title", {}, `byte ${at >> 3}, bit ${at & 7}: ${bitName(name, at)}`),
  svg("rect", { x: x + 1, y, width: BIT - 2, height: BIT, rx: 3, stroke: changed ? "var(--ink)" : colour,
    "stroke-width": changed ? 2.4 : 1, style: `fill: ${colour}; fill-opacity: ${on ? 1 : 0.08}` }),
  svg("text", { x: x + BIT / 2, y: y + 15, "text-anchor": "middle",
    style: `fill: ${on ? "var(--panel)" : "var(--ink)"}; font-weight: 600` }, String(on)),
  svg("text", { x: x + BIT / 2, y: y + 34, "text-anchor": "middle", style: "font-size: 9.5px" }, placeName(name, bit)));
  cell.addEventListener("click", () => turn(at));
  cell.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") turn(at);
    else if (step) stepTo(cell, order[order.indexOf(at) + step]);
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  return cell;
}

function stepTo(cell, at) {
  const next = cell.ownerSVGElement.querySelector(`[data-bit="${at}"]`);
  if (!next) return;
  cell.setAttribute("tabindex", -1);
  next.setAttribute("tabindex", 0);
  next.focus();
}

function placeName(name, [field, , place]) {
  if (field === D || field === DMIN) return place === 15 ? "±" : place > 9 ? `e${place - 10}` : `f${place}`;
  return signed(worth(name, [field, 0, place]));
}

/** Every weight as a bar from zero; moved ones warm, with a grey mark where they were; no number: a cross below. */
function drawWeights(picture, { before, after, weight, name }, top) {
  const { changed } = moved(before.w, after.w), finite = [...before.w, ...after.w].filter(Number.isFinite);
  const hi = Math.max(0, ...finite), lo = Math.min(0, ...finite), n = after.w.length;
  const left = 58, x = linear(0, n, left, WIDTH), y = linear(lo, hi, top + CHART - 16, top), wide = (WIDTH - left) / n;
  picture.append(text(signed(hi), left - 6, top + 5, "end"), text(signed(lo), left - 6, top + CHART - 12, "end"));
  const group = TYPES[name].group;
  for (let g = group; g < n; g += group) {
    picture.append(svg("line", { class: "axis", x1: x(g), x2: x(g), y1: top, y2: top + CHART - 16 }));
  }
  after.w.forEach((w, i) => {
    const thick = Math.max(1.2, wide * 0.72), at = x(i) + (wide - thick) / 2;
    if (Number.isFinite(w)) {
      picture.append(svg("rect", { class: changed[i] ? "bar warm" : "bar", x: at.toFixed(2), width: thick.toFixed(2),
        y: Math.min(y(0), y(w)).toFixed(2), height: Math.max(0.8, Math.abs(y(w) - y(0))).toFixed(2) }));
    } else {
      picture.append(text("×", x(i + 0.5), y(0) + 4, "middle", "strong"));
    }
    if (changed[i]) picture.append(svg("line", { x1: x(i), x2: x(i + 1), y1: y(before.w[i]), y2: y(before.w[i]), stroke: "var(--quiet)", "stroke-width": 1.6 }));
  });
  picture.append(svg("line", { class: "axis", x1: left, x2: WIDTH, y1: y(0), y2: y(0) }));
  picture.append(svg("path", { style: "fill: var(--ink)", d: `M${x(weight + 0.5)},${top + CHART - 12}l5,9h-10z` }));
  picture.append(text(`weight ${weight}`, Math.min(x(weight + 0.5) + 9, WIDTH - 66), top + CHART - 2, "start", "strong"));
}

function hex(byte) {
  return byte.toString(16).padStart(2, "0");
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
