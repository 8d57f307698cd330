// Codes in 32-bit words, equal to qlab/words.py for every layout, width and code (tests/widgets/test_packing.py).

export const RUN = 32, WORD = 32;
const HALF = 16, MAGIC = 0x6400, BASE = 1024;

/** Widths of a code's planes, the low bits first. */
export function planes(bits) {
  return [8, 4, 2, 1].filter((width) => bits & width);
}

/** Where code number `code` of a run lies, its low bits first: {word, shift, width, bit}. */
export function fields(layout, bits, code) {
  return layout === "stream" ? streamFields(bits, code) : planeFields(bits, code);
}

export function streamFields(bits, code) {
  const word = Math.floor((code * bits) / WORD), shift = (code * bits) % WORD, here = Math.min(bits, WORD - shift);
  const found = [{ word, shift, width: here, bit: 0 }];
  if (here < bits) found.push({ word: word + 1, shift: 0, width: bits - here, bit: here });
  return found;
}

export function planeFields(bits, code) {
  const columns = (RUN * planes(bits).at(-1)) / HALF;
  const part = Math.floor(code / columns), j = code % columns, found = [];
  let first = 0, bit = 0;
  for (const width of planes(bits)) {
    const slots = HALF / width, slot = part % slots, half = first + Math.floor(part / slots) * columns + j;
    found.push({ word: Math.floor(half / 2), shift: HALF * (half % 2) + 8 * (slot % 2) + width * Math.floor(slot / 2), width, bit });
    first += (RUN * width) / HALF;
    bit += width;
  }
  return found;
}

/** The `bits` words of 32 codes, as unsigned numbers. */
export function packWords(layout, bits, codes) {
  const words = Array(bits).fill(0);
  codes.forEach((code, i) => {
    for (const f of fields(layout, bits, i)) words[f.word] = (words[f.word] | (((code >>> f.bit) & (2 ** f.width - 1)) << f.shift)) >>> 0;
  });
  return words;
}

/** What makes a float of a code, and in planes of its neighbour too: [text, 32 bits or the floats at the end]. */
export function readCode(layout, bits, words, code) {
  const [steps, register] = layout === "stream" ? readStream(bits, words, code) : readPlanes(bits, words, code);
  const halves = layout === "stream" ? [register] : [register & 0xffff, register >>> HALF];
  const middle = BASE + 2 ** (bits - 1);
  return [...steps, [`− ${middle} in fp16${halves.length > 1 ? ", both at once" : ""}`, halves.map((half) => half - MAGIC + BASE - middle)]];
}

export function readStream(bits, words, code) {
  const [low, ...high] = fields("stream", bits, code), mask = 2 ** bits - 1, steps = [];
  let value = shifted(steps, words[low.word], `word ${low.word}`, low.shift);
  for (const f of high) {
    value = ((value | shifted(steps, words[f.word], `word ${f.word}`, -f.bit)) & mask) >>> 0;
    steps.push([`both together & ${hex(mask)}`, value]);
  }
  const masked = !high.length && low.shift + bits < WORD ? `& ${hex(mask)} ` : "";
  value = ((value & mask) | MAGIC) >>> 0;
  return [[...steps, [`${masked}| ${hex(MAGIC)}`, value]], value];
}

export function readPlanes(bits, words, code) {
  const both = 2 ** HALF + 1, steps = [];
  let register = MAGIC * both, before = hex(register);
  for (const f of fields("planes", bits, code)) {
    const value = shifted(steps, words[f.word], `word ${f.word}`, (f.shift % HALF) - f.bit);
    const mask = (2 ** f.width - 1) * 2 ** f.bit * both;
    register = (register | (value & mask)) >>> 0;
    steps.push([`& ${hex(mask, 8)} | ${before}`, register]);
    before = "the last";
  }
  return [steps, register];
}

/** `word` moved right by so many bits, or left; the operation joins `steps`, unless nothing moves. */
export function shifted(steps, word, name, right) {
  if (!right) return word;
  const value = right > 0 ? word >>> right : (word << -right) >>> 0;
  steps.push([`${name} ${right > 0 ? ">>" : "<<"} ${Math.abs(right)}`, value]);
  return value;
}

export function hex(x, digits = 1) {
  return `0x${x.toString(16).padStart(digits, "0")}`;
}

/** Operations for each code of a run, on average. */
export function operations(layout, bits) {
  const none = Array(bits).fill(0), counts = Array.from({ length: RUN }, (_, code) => readCode(layout, bits, none, code).length);
  return counts.reduce((sum, n) => sum + n, 0) / RUN / (layout === "stream" ? 1 : 2);
}

/** How many codes lie in two words of a stream. */
export function straddling(layout, bits) {
  return Array.from({ length: RUN }, (_, code) => code).filter((code) => layout === "stream" && fields(layout, bits, code).length > 1).length;
}
