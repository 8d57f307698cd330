import { PLACES, WEIGHTS, decodeWeight, flipped, moved, read, values } from "./blocks.js";
import { choice, digits, html, linear, panel, slider, svg } from "./draw.js";

const WIDTH = 720, LEFT = 58, PER_ROW = 24, CELL = WIDTH / PER_ROW, HIGH = 19, CHART = 128;
const FORMULA = { Q4_0: "d · (q − 8)", Q4_1: "d · q + m", Q8_0: "d · q", Q4_K: "d · sc · q − dmin · m", Q6_K: "d · sc · (q − 32)" };
const NAMES = { d: "d", dmin: "dmin", min: "m", sc: "scale sc", m: "minimum m", q: "code q" };
const EXPONENT = 10, SIGN = 15;  // of a half-precision number: bits 10 … 14, and 15
const SIGNED = { Q8_0: "q", Q6_K: "sc" };  // two's complement: the eighth bit counts −128
const GROUP = { Q4_0: 32, Q4_1: 32, Q8_0: 32, Q4_K: 32, Q6_K: 16 };
const COLOUR = { d: "var(--warm)", dmin: "var(--warm)", m: "var(--good)", scales: "var(--good)" };

/** What a bit of a byte says of weight e: [part, place in it], or null where it says nothing of it. */
export function role(type, e, byte, bit) {
  for (const [part, pieces] of Object.entries(PLACES[type](e))) {
    const piece = pieces.find((p) => p.byte === byte && p.shift <= bit && bit < p.shift + p.count);
    if (piece) return [part, bit - piece.shift + piece.up];
  }
  return null;
}

/** Whether a bit is one of those that weight e is made of. */
export function marks(type, bytes, e, byte, bit) {
  return role(type, e, byte, bit) !== null;
}

/** What a bit of a part does, in words: "worth 8 in the code q", "bit 2 of d's exponent". */
export function worth(type, [part, place]) {
  if (["d", "dmin", "min"].includes(part)) {
    if (place === SIGN) return `the sign of ${NAMES[part]}`;
    const [where, least] = place < EXPONENT ? ["fraction", 0] : ["exponent", EXPONENT];
    return `bit ${place - least} of the ${where} of ${NAMES[part]}`;
  }
  return `worth ${SIGNED[type] === part && place === 7 ? "−128" : 2 ** place} in the ${NAMES[part]}`;
}

/** The first weight that a bit has a part in. */
export function firstOf(type, byte, bit) {
  for (let e = 0; e < WEIGHTS[type]; e++) if (role(type, e, byte, bit)) return e;
  return 0;
}

/** A number in words, a minus in its own length. */
function told(x) {
  if (Number.isNaN(x)) return "not a number";
  return x < 0 ? `−${digits(-x)}` : digits(x);
}

/** The formula of the type, with the numbers of weight e put in, and what comes out. */
export function decodeLine(type, bytes, e) {
  const { d, q, sc, m, dmin, min, value } = decodeWeight(type, bytes, e);
  const inside = (x) => (x < 0 || Number.isNaN(x) ? `(${told(x)})` : told(x));
  const zero = { Q4_0: 8, Q6_K: 32 }[type];  // q counts from here
  const code = zero ? `(${q + zero} − ${zero})` : inside(q);
  const scale = sc === undefined ? inside(d) : `${inside(d)} · ${inside(sc)}`;
  const rest = m !== undefined ? ` − ${inside(dmin)} · ${m}` : min !== undefined ? ` + ${inside(min)}` : "";
  return `${FORMULA[type]} = ${scale} · ${code}${rest} = ${told(value)}`;
}

/** What the turned bits do to the block; flips: [[byte, bit], …]. */
export function describe(type, before, after, flips) {
  if (!flips.length) return "Nothing is changed: these are the bytes of the file.";
  const old = values(type, before), now = values(type, after), { count } = moved(old, now);
  const [byte, bit] = flips[0], mine = role(type, firstOf(type, byte, bit), byte, bit);
  const who = flips.length === 1 ? `Bit ${bit} of byte ${byte}` : `${flips.length} bits`;
  const what = flips.length === 1 && mine ? ` It is ${worth(type, mine)}.` : "";
  if (!count) return `${who} turned over: no weight moves.${what}`;
  const moves = now.map((w, i) => Math.abs(w - old[i])).filter(Number.isFinite);
  const largest = Math.max(...old.map(Math.abs)), most = Math.max(0, ...moves);
  const share = largest && most ? `, ${digits(most / largest, 2)} × the block's largest weight` : "";
  const far = most ? `, the farthest by ${digits(most, 3)}${share}` : "";
  const lost = now.filter((w) => !Number.isFinite(w)).length;
  const none = lost ? `; ${lost} ${lost === 1 ? "is a number" : "are numbers"} no more` : "";
  return `${who} turned over: ${count} of ${old.length} weights ${count === 1 ? "moves" : "move"}${far}${none}.${what}`;
}

function render({ model, el }) {
  const blocks = model.get("blocks");
  const state = { which: 0, weight: 0, flips: [], focus: null };
  const { controls, stage, readout } = panel(el, {
    title: "Bits of a block",
    caption: "Every byte of the block, in hexadecimal; outlined: those that the chosen weight is made of. Click a byte to "
      + "choose a weight of it. Below, its bits: the framed ones are the weight's. Turn any of them over. At the bottom: "
      + "all weights of the block, the moved ones in orange, with a grey line where they were.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  const place = html("span", { style: "display: contents" });
  const restore = html("button", { type: "button", class: "restore" }, "As in the file");
  restore.addEventListener("click", () => update({ flips: [], focus: null }));
  controls.append(choice({ label: "Type", value: 0, options: blocks.map((block, n) => [n, block.type]) }, (which) => {
    Object.assign(state, { which, weight: 0, flips: [], focus: null });
    renew();
    draw();
  }), place, restore);

  function renew() {
    const { weights } = blocks[state.which];
    place.replaceChildren(slider({ label: "Weight", min: 0, max: weights - 1, value: 0 }, (weight) => update({ weight, focus: null })));
  }

  function choose(weight) {
    const input = place.querySelector("input");
    input.value = weight;
    input.dispatchEvent(new Event("input"));
  }

  function turn(byte, bit) {
    const has = state.flips.some(([b, i]) => b === byte && i === bit);
    const rest = state.flips.filter(([b, i]) => b !== byte || i !== bit);
    update({ flips: has ? rest : [...state.flips, [byte, bit]], focus: `${byte}.${bit}` });
  }

  function draw() {
    const block = blocks[state.which], { weight, flips } = state;
    const bytes = flips.reduce((now, [byte, bit]) => flipped(now, byte, bit), block.bytes);
    const view = { ...block, weight, flips, old: block.bytes, bytes };
    stage.replaceChildren(drawBytes(view, choose), drawRows(view, turn),
      html("div", { class: "decode" }, `w = ${decodeLine(block.type, bytes, weight)}`), drawWeights(view));
    restore.disabled = !flips.length;
    if (state.focus) stage.querySelector(`[data-bit="${state.focus}"]`)?.focus({ preventScroll: true });
    const where = `${block.tensor}, row ${block.row}, column ${block.column + weight}.`;
    readout.textContent = `${where} ${describe(block.type, block.bytes, bytes, flips)}`;
  }

  renew();
  draw();
}

/** All bytes, tinted by the field they belong to. */
function drawBytes({ type, bytes, old, fields, weight }, choose) {
  const rows = Math.ceil(bytes.length / PER_ROW), mine = new Set(Object.values(PLACES[type](weight)).flat().map((p) => p.byte));
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${rows * HIGH + 26}`, role: "img", "aria-label": `The ${bytes.length} bytes of the block` });
  bytes.forEach((byte, n) => {
    const { name } = fields.find(({ start, size }) => n >= start && n < start + size);
    const x = (n % PER_ROW) * CELL, y = Math.floor(n / PER_ROW) * HIGH, changed = byte !== old[n];
    const cell = svg("g", { style: "cursor: pointer" }, svg("title", {}, `byte ${n}, ${name}`),
      svg("rect", { x: x + 1, y: y + 1, width: CELL - 2, height: HIGH - 2, rx: 2, style: tint(name),
        stroke: mine.has(n) ? "var(--ink)" : "none", "stroke-width": 1.8 }),
      text(byte.toString(16).padStart(2, "0"), x + CELL / 2, y + 14, "middle", changed || mine.has(n) ? "strong" : ""));
    if (changed) cell.append(svg("path", { class: "bar warm", d: `M${x + CELL - 10},${y + 1}h9v9z` }));
    cell.addEventListener("click", () => choose(firstOf(type, n, 0)));
    picture.append(cell);
  });
  let x = 0;
  for (const { name, size } of fields) {
    const label = `${name}: ${size} ${size === 1 ? "byte" : "bytes"}`;
    picture.append(svg("rect", { x, y: rows * HIGH + 8, width: 13, height: 13, rx: 2, style: tint(name) }));
    picture.append(text(label, x + 18, rows * HIGH + 19));
    x += 18 + 6.6 * label.length + 20;
  }
  return picture;
}

function tint(field) {
  return `fill: ${COLOUR[field] ?? "var(--accent)"}; fill-opacity: ${COLOUR[field] ? 0.3 : 0.15}`;
}

/** One row for each part of the weight: its number, and the bytes in which its bits lie, as buttons. */
function drawRows({ type, bytes, weight, flips }, turn) {
  const parts = decodeWeight(type, bytes, weight);
  const rows = html("div", {});
  for (const [part, pieces] of Object.entries(PLACES[type](weight))) {
    const name = part === "sc" || part === "m" ? `${NAMES[part]}, group ${Math.floor(weight / GROUP[type])}` : NAMES[part];
    const value = part === "q" && type !== "Q8_0" ? read(bytes, pieces) : parts[part];  // as stored, or signed
    const cells = [...pieces].reverse().map(({ byte }) => html("span", { class: "byte" }, html("small", {}, `byte ${byte}`),
      ...[7, 6, 5, 4, 3, 2, 1, 0].map((bit) => bitButton(type, bytes, weight, part, byte, bit, flips, turn))));
    rows.append(html("div", { class: "bit-row" }, html("b", {}, `${name} = ${told(value)}`), ...cells));
  }
  return rows;
}

function bitButton(type, bytes, weight, part, byte, bit, flips, turn) {
  const mine = role(type, weight, byte, bit), used = mine?.[0] === part;
  const turned = flips.some(([b, i]) => b === byte && i === bit);
  const first = firstOf(type, byte, bit), says = worth(type, mine ?? role(type, first, byte, bit));
  const words = `bit ${bit} of byte ${byte}, ${says}${mine ? "" : ` of weight ${first}`}`;
  const button = html("button", { type: "button", class: `bit${used ? " used" : ""}`, "aria-pressed": turned, title: words,
    "aria-label": words, "data-bit": `${byte}.${bit}`, "data-lm-suppress-shortcuts": "true" }, String((bytes[byte] >> bit) & 1));
  button.addEventListener("click", () => turn(byte, bit));
  return button;
}

/** Every weight as a bar from zero; a moved one warm, with a grey line where it was; what is no number: a cross. */
function drawWeights({ type, bytes, old, weight }) {
  const before = values(type, old), after = values(type, bytes), n = after.length, group = GROUP[type];
  const finite = [...before, ...after].filter(Number.isFinite), hi = Math.max(0, ...finite), lo = Math.min(0, ...finite);
  const x = linear(0, n, LEFT, WIDTH), y = linear(lo, hi, CHART, 10), wide = (WIDTH - LEFT) / n, thick = Math.max(1.2, 0.72 * wide);
  const picture = svg("svg", { viewBox: `0 0 ${WIDTH} ${CHART + 24}`, role: "img", "aria-label": "All weights of the block" });
  picture.append(text(told(hi), LEFT - 6, 14, "end"), text(told(lo), LEFT - 6, CHART, "end"));
  for (let g = group; g < n; g += group) picture.append(svg("line", { class: "axis", x1: x(g), x2: x(g), y1: 10, y2: CHART }));
  after.forEach((w, i) => {
    const changed = !(w === before[i]);
    picture.append(Number.isFinite(w)
      ? svg("rect", { class: changed ? "bar warm" : "bar", x: (x(i) + (wide - thick) / 2).toFixed(2), width: thick.toFixed(2),
        y: Math.min(y(0), y(w)).toFixed(2), height: Math.max(0.8, Math.abs(y(w) - y(0))).toFixed(2) })
      : text("×", x(i + 0.5), y(0) + 4, "middle", "strong"));
    if (changed) picture.append(svg("line", { x1: x(i), x2: x(i + 1), y1: y(before[i]), y2: y(before[i]), stroke: "var(--quiet)", "stroke-width": 2 }));
  });
  picture.append(svg("line", { class: "axis", x1: LEFT, x2: WIDTH, y1: y(0), y2: y(0) }));
  picture.append(svg("path", { style: "fill: var(--ink)", d: `M${x(weight + 0.5)},${CHART + 5}l5,9h-10z` }));
  picture.append(text(`weight ${weight}`, Math.min(x(weight + 0.5) + 9, WIDTH - 64), CHART + 16, "start", "strong"));
  return picture;
}

function text(content, x, y, anchor = "start", kind = "") {
  return svg("text", { x, y, "text-anchor": anchor, class: kind }, content);
}

export default { render };
