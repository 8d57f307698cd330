import { choice, digits, html, panel, slider } from "./draw.js";
import { executeHalves, half } from "./halves.js";

const DOES = {
  shift: "the next codes come down", lop: "the code's bits are kept, 0x6400 set around them: 1024 + n, or 1024 + 16 n, as float16",
  fma: "1024 and the zero, 8, are taken off", mul: "times the scale", and: "all but four bits are cut off",
  sub: "the zero, 8, is taken off: an integer", convert: "the integer becomes a float16", pair: "two halves are put into one register",
};
const LETTERS = { sign: "s", exponent: "e", mantissa: "m", integer: "" };

/** How many instructions are done and how many weights are ready after step `at`. */
export function progress(program, at) {
  const done = program.slice(0, at + 1);
  return [done.length, done.filter(({ operation }) => operation === "mul").reduce((sum, { codes }) => sum + codes.length, 0)];
}

/** What the bits of a register mean: one float16 in each half, an integer, or a word of codes. */
export function kindOf({ operation }) {
  if (operation === "shift") return "codes";
  return operation === "and" || operation === "sub" ? "integer" : operation === "convert" ? "low" : "halves";
}

/** A number as it stands in the text, a minus in its own length. */
export function said(x) {
  return x < 0 ? `−${digits(-x)}` : digits(x);
}

/** The arithmetic of a step in words: of the code it is about, or of both of its pair. */
export function sentence({ operation, constants, codes }, before, after) {
  const low = (register, s) => half((register >>> s) & 0xffff), each = (f) => codes.map((code, i) => `code ${code}: ${f(16 * i, code)}`).join("; ");
  switch (operation) {
    case "lop": return each((s) => `${said(low(after, s))} = 1024 + ${constants[0] & 0xf ? "" : "16 · "}${(low(after, s) - 1024) / (constants[0] & 0xf ? 1 : 16)}`);
    case "fma": return each((s) => `${constants[0] === 1 ? said(low(before, s)) : `${said(low(before, s))} / 16`} − ${said(-constants[1])} = ${said(low(after, s))}`);
    case "mul": return each((s) => `weight ${said(low(after, s))}`);
    case "and": return each(() => `${after}`);
    case "sub": return each(() => said(after | 0));
    case "convert": return each(() => said(half(after & 0xffff)));
    case "pair": return each((s) => said(low(after, s)));
    default: return "";
  }
}

function render({ model, el }) {
  const programs = {};
  for (const way of ["magic", "plain"]) programs[way] = model.get("programs")[way].map(([name, operation, out, reads, constants, codes]) =>
    ({ name, operation, out, reads, constants, codes }));
  const state = { way: "magic", at: 0, word: model.get("word") >>> 0 }, scale = model.get("scale");
  const { controls, stage, readout } = panel(el, {
    title: "The magic word",
    caption: `${model.get("source")} Bits are written highest first; each is a button of the word. Both ways end with the same eight weights.`,
  });
  const place = html("span", { style: "display: contents" });
  controls.append(choice({ label: "Way", value: "magic", options: [["magic", "Magic number"], ["plain", "Plain"]] },
    (way) => { Object.assign(state, { way, at: 0 }); renew(); draw(); }), place);

  function renew() {
    const last = programs[state.way].length;
    place.replaceChildren(slider({ label: "Instruction", min: 1, max: last, value: state.at + 1, format: (n) => `${n} of ${last}` },
      (n) => { state.at = n - 1; draw(); }));
  }

  function flip(bit) {
    state.word = (state.word ^ (1 << bit)) >>> 0;
    draw();
    stage.querySelector(`[data-bit="${bit}"]`)?.focus({ preventScroll: true });
  }

  function draw() {
    const program = programs[state.way], step = program[state.at];
    const results = executeHalves(program, state.word, scale), after = results[state.at];
    const last = program.slice(0, state.at).findLastIndex(({ out }) => out === step.reads[0]);
    const before = last < 0 ? state.word : results[last];
    const rows = [row("word", state.word, "codes", { codes: step.codes, flip })];
    if (step.reads[0] !== "word" && ["lop", "and", "shift"].includes(step.operation)) rows.push(row("shifted", before, "codes", {}));
    if (step.operation === "lop") rows.push(row("mask", step.constants[0], "mask", {}), row("insert", step.constants[1], "mask", {}));
    if (step.operation === "and") rows.push(row("mask", step.constants[0], "mask", {}));
    stage.replaceChildren(tally(programs, state), html("div", { class: "decode" }, html("code", {}, written(step))),
      html("div", { class: "words" }, ...rows, row("result", after, kindOf(step), { written: true })), legend());
    const words = sentence(step, before, after);
    readout.textContent = `${step.name}: ${DOES[step.operation]}.${words ? ` ${words[0].toUpperCase()}${words.slice(1)}.` : ""}`;
  }

  renew();
  draw();
}

/** An instruction with its constants, as one would write it down. */
export function written({ name, operation, out, reads, constants }) {
  const hex = (x) => `0x${(x >>> 0).toString(16).padStart(8, "0")}`, from = reads.join(", ");
  switch (operation) {
    case "lop": return `${name} ${out} = (${from} & ${hex(constants[0])}) | ${hex(constants[1])}`;
    case "fma": return `${name} ${out} = ${out} × ${constants[0] === 1 ? "1" : "1/16"} − ${-constants[1]}`;
    case "and": return `${name} ${out} = ${from} & 0xf`;
    case "shift": return `${name} ${out} = ${from} >> ${constants[0]}`;
    case "sub": return `${name} ${out} = ${from} − ${constants[0]}`;
    case "mul": return `${name} ${out} = ${reads.join(" × ")}`;
    default: return `${name} ${out} = ${operation}(${from})`;
  }
}

/** Both ways on one scale: a tick for each instruction, the running count, and the weights that are ready. */
function tally(programs, { way, at }) {
  const longest = Math.max(...Object.values(programs).map((program) => program.length));
  return html("div", { class: "tally" }, ...["magic", "plain"].map((name) => {
    const program = programs[name], active = name === way;
    const [count, ready] = active ? progress(program, at) : progress(program, program.length - 1);
    const ticks = program.map((step, k) => html("i", { class: `${step.operation} ${active && k > at ? "later" : ""}`, title: step.name }));
    return html("div", { class: active ? "" : "faint" }, html("span", {}, name === "magic" ? "Magic" : "Plain"),
      html("div", { style: `width: ${((100 * program.length) / longest).toFixed(2)}%` }, ...ticks),
      html("b", {}, `${count} for ${ready} weights`));
  }));
}

/** A register: two groups of sixteen bits with what they mean, the high half first. */
function row(label, register, kind, { codes = [], flip, written: result }) {
  const groups = [16, 0].map((low) => {
    const bits = Array.from({ length: 16 }, (_, i) => low + 15 - i).map((bit) => {
      const one = (register >>> bit) & 1, used = codes.includes(Math.floor(bit / 4));
      const role = kind === "halves" || (kind === "low" && low === 0) ? roleOf(bit - low) : "";
      const names = `bit ${role}${used ? " used" : ""}${bit % 4 === 3 ? " first" : ""}${one ? " one" : ""}`;
      if (!flip) return html("span", { class: names, title: role ? role : "" }, String(one));
      const button = html("button", { type: "button", class: names, "aria-pressed": one === 1, "data-bit": bit, "data-lm-suppress-shortcuts": "true",
        "aria-label": `bit ${bit}, of code ${Math.floor(bit / 4)}` }, String(one));
      button.addEventListener("click", () => flip(bit));
      return button;
    });
    return html("div", { class: "half" }, html("div", { class: "bits" }, ...bits), html("small", {}, meaning(register, kind, low)));
  });
  return html("div", { class: result ? "word result" : "word" }, html("span", {}, label), ...groups);
}

/** The field of a float16 that a bit belongs to. */
function roleOf(bit) {
  return bit === 15 ? "sign" : bit >= 10 ? "exponent" : "mantissa";
}

/** A half register in words. */
export function meaning(register, kind, low) {
  const sixteen = (register >>> low) & 0xffff;
  if (kind === "codes") return [3, 2, 1, 0].map((k) => (sixteen >> (4 * k)) & 0xf).join(" · ");
  if (kind === "halves" || (kind === "low" && low === 0)) return said(half(sixteen));
  if (kind === "integer") return low === 0 ? said(register | 0) : "";
  return kind === "mask" ? `0x${sixteen.toString(16).padStart(4, "0")}` : "";
}

function legend() {
  return html("div", { class: "fields" }, ...["sign", "exponent", "mantissa"].map((role) =>
    html("span", {}, html("span", { class: `bit ${role}` }, LETTERS[role]), ` ${role}`)));
}

export default { render };
