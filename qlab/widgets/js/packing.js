import { choice, html, panel, slider } from "./draw.js";
import { RUN, WORD, fields, operations, packWords, planes, readCode, straddling } from "./words.js";

const LAYOUTS = { stream: "Dense stream", planes: "Planes" };

/** Which code a bit of a word belongs to, and in which of its fields: {word: [[code, field, place in the code], …]}. */
export function owners(layout, bits) {
  const words = Array.from({ length: bits }, () => Array(WORD).fill(null));
  for (let code = 0; code < RUN; code++) {
    fields(layout, bits, code).forEach((f, part) => {
      for (let k = 0; k < f.width; k++) words[f.word][f.shift + k] = [code, part, f.bit + k];
    });
  }
  return words;
}

/** The bytes, what straddles, and what a code costs, in a sentence or two. */
export function told(layout, bits) {
  const each = operations(layout, bits).toFixed(2), across = straddling(layout, bits);
  const where = layout === "planes" ? `in ${planes(bits).length === 1 ? "one plane" : `planes of ${planes(bits).join(" + ")} bits`}`
    : across ? `in a stream; ${across} codes straddle two words` : "in a stream; no code straddles two words";
  return `Stored: ${4 * bits} bytes for 32 codes, ${where}. Unpacked: ${each} operations a code. Multiplied: in fp16, as at every width.`;
}

/** Where a code lies, in a sentence. */
export function located(layout, bits, code) {
  const places = fields(layout, bits, code).map(({ word, shift, width }) =>
    `${width > 1 ? `bits ${shift}–${shift + width - 1}` : `bit ${shift}`} of word ${word}`);
  return `Code ${code}: ${places.join(", ")}.`;
}

function render({ model, el }) {
  const all = model.get("codes"), state = { layout: "stream", bits: model.get("bits"), code: model.get("first") };
  const { controls, stage, readout } = panel(el, {
    title: "Codes in words",
    caption: `${model.get("source")} Bit 31 of a word is on the left, bit 0 on the right. Neighbouring codes alternate between a light and `
      + "a dark shade; of several planes the second is orange, the third green. Framed: the bits of the chosen code; dashed: those of "
      + "the code that is unpacked with it. Empty: what 8 bits would take besides. Choose a code with the slider, or click one of its bits.",
  });
  const update = (change) => { Object.assign(state, change); draw(); };
  const place = slider({ label: "Code", min: 0, max: RUN - 1, value: state.code }, (code) => update({ code }));
  const choose = (code) => {
    const input = place.querySelector("input");
    input.value = code;
    input.dispatchEvent(new Event("input"));
  };
  controls.append(
    slider({ label: "Bits", min: 1, max: 8, value: state.bits }, (bits) => update({ bits })),
    choice({ label: "Layout", value: state.layout, options: Object.entries(LAYOUTS) }, (layout) => update({ layout })),
    place,
  );

  function draw() {
    const { layout, bits, code } = state, codes = all[String(bits)], words = packWords(layout, bits, codes);
    const view = { layout, bits, code, codes, words, partner: layout === "planes" ? code ^ 1 : -1 };
    stage.replaceChildren(drawCodes(view, choose), drawWords(view, choose), drawSteps(view));
    readout.textContent = `${located(layout, bits, code)} ${told(layout, bits)}`;
  }

  draw();
}

function frame({ code, partner }, owner) {
  return owner === code ? " chosen" : owner === partner ? " partner" : "";
}

/** The 32 codes as numbers. */
function drawCodes(view, choose) {
  const cells = view.codes.map((value, i) => {
    const cell = html("span", { class: frame(view, i).trim(), title: `code ${i}` }, String(value));
    cell.addEventListener("click", () => choose(i));
    return cell;
  });
  return html("div", { class: "packed-codes", role: "img", "aria-label": `The 32 codes: ${view.codes.join(", ")}` }, ...cells);
}

/** The words, a line each, a cell for each bit. */
function drawWords(view, choose) {
  const { layout, bits, words } = view, owned = owners(layout, bits);
  const lines = owned.map((cells, n) => html("div", { class: "packed-word" }, html("b", {}, `${n}`), ...cells.map((_, k) => {
    const at = WORD - 1 - k, [code, part, bit] = cells[at], shade = shadeOf(layout, bits, code, part);
    const cell = html("i", { class: `${shade}${frame(view, code)}`, title: `bit ${at} of word ${n}: bit ${bit} of code ${code}` },
      String((words[n] >>> at) & 1));
    cell.addEventListener("click", () => choose(code));
    return cell;
  })));
  const spared = Array.from({ length: 8 - bits }, (_, n) => html("div", { class: "packed-word spared" }, html("b", {}, `${bits + n}`), html("span", {})));
  return html("div", { class: "packed-words", role: "img", "aria-label": `${bits} words of 32 bits` }, ...lines, ...spared);
}

/** The colour tells the plane, light and dark tell a code from the next one in the word. */
function shadeOf(layout, bits, code, part) {
  if (layout === "stream") return `plane0 ${code % 2 ? "dark" : "light"}`;
  const { shift, width } = fields(layout, bits, code)[part];
  return `plane${part} ${(shift / width) % 2 ? "dark" : "light"}`;
}

/** Operation by operation, from the words to the number that is multiplied. */
function drawSteps({ layout, bits, words, code, codes }) {
  const rows = readCode(layout, bits, words, code).map(([text, result], n) => html("tr", {}, html("th", { scope: "row" }, String(n + 1)),
    html("td", {}, html("code", {}, text)), html("td", {}, html("code", {}, shown(result)))));
  const pair = layout === "planes" ? `Codes ${code & ~1} and ${code | 1}, ${codes[code & ~1]} and ${codes[code | 1]}` : `Code ${code}, ${codes[code]}`;
  return html("div", { class: "packed-steps" }, html("div", { class: "decode" }, `${pair}, in ${rows.length} operations:`), html("table", {}, html("tbody", {}, ...rows)));
}

function shown(result) {
  if (!Array.isArray(result)) return `0x${result.toString(16).padStart(8, "0")}`;
  return result.map((x) => (x < 0 ? `−${-x}` : String(x))).join(" and ");
}

export default { render };
