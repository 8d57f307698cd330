// A vector processor of 256 bits, equal to qlab/lanes.py on every program (tests/widgets/test_lanes.py).

/** x as a signed integer of so many bits keeps it. */
export function wrap(x, bits) {
  const whole = 2 ** bits, half = whole / 2;
  return ((((x + half) % whole) + whole) % whole) - half;
}

/** vpmaddubsw: unsigned bytes times signed ones, neighbours added, held at the ends of 16 bits. */
export function maddubs(u, s) {
  return pairs(u).map((_, k) => Math.max(-32768, Math.min(32767, u[2 * k] * s[2 * k] + u[2 * k + 1] * s[2 * k + 1])));
}

/** vpmaddwd: 16-bit products, neighbours added to 32 bits. */
export function madd(a, b) {
  return pairs(a).map((_, k) => wrap(a[2 * k] * b[2 * k] + a[2 * k + 1] * b[2 * k + 1], 32));
}

/** vpdpbusd: four products of bytes added to each 32-bit lane. */
export function dpbusd(acc, u, s) {
  return acc.map((a, k) => wrap([0, 1, 2, 3].reduce((sum, i) => sum + u[4 * k + i] * s[4 * k + i], a), 32));
}

/** vpaddw: 16-bit sums; what does not fit wraps around. */
export function addWords(a, b) {
  return a.map((x, k) => wrap(x + b[k], 16));
}

/** vpsrlw on bytes: each pair as one 16-bit number. */
export function shiftWords(a, n) {
  return pairs(a).flatMap((_, k) => {
    const word = (a[2 * k] + 256 * a[2 * k + 1]) >> n;
    return [word & 255, word >> 8];
  });
}

function pairs(a) {
  return Array.from({ length: a.length / 2 });
}

/** The result of every instruction; memory: { data, inputs, scales, one } with the data of the program's layout. */
export function execute(program, memory) {
  const registers = { y: Array(8).fill(0) };
  return program.map((step) => {
    const result = resultOf(step, step.reads.map((name) => registers[name]), memory, registers.y);
    registers[step.out] = result;
    return result;
  });
}

function resultOf({ operation, at }, reads, { data, inputs, scales, one }, y) {
  const [a, b, c] = reads, zeros = (n) => Array(n).fill(0), sum = (list) => list.reduce((x, z) => x + z, 0);
  const blocks = inputs.length / 32;
  switch (operation) {
    case "zeros": return zeros(8);
    case "half": return [...data.slice(at, at + 16), ...zeros(16)];
    case "whole": return data.slice(at, at + 32);
    case "inputs": return inputs.slice(at, at + 32);
    case "four inputs": return Array(8).fill(inputs.slice(at, at + 4)).flat();
    case "start": return Array(8).fill(-8 * sum(inputs.slice(32 * at, 32 * at + 32)));
    case "starts": return zeros(8).map((_, k) => -8 * sum(inputs.slice(32 * at + 4 * k, 32 * at + 4 * k + 4)));
    case "shift": return shiftWords(a, at);
    case "join": return [...a.slice(0, 16), ...b.slice(0, 16)];
    case "nibbles": return a.map((byte) => byte & 15);
    case "maddubs": return maddubs(a, b);
    case "madd": return madd(a, Array(16).fill(1));
    case "dpbusd": return dpbusd(a, b, c);
    case "add words": return addWords(a, b);
    case "add": return a.map((x, k) => wrap(x + b[k], 32));
    case "convert": return a.map(Math.fround);
    case "scale of a row": return [scales[Math.floor(at / blocks)][at % blocks], ...zeros(7)];
    case "scales of rows": return scales.map((row) => row[at]);
    case "times input scale": return a.map((x) => Math.fround(x * one[at]));
    case "spread": return Array(8).fill(a[0]);
    case "multiply and add": return a.map((x, k) => Math.fround(x * b[k] + c[k]));
    case "upper half": return [...a.slice(4), ...zeros(4)];
    case "upper quarter": return [a[2], a[3], a[2], a[3], ...zeros(4)];
    case "odd lanes": return [a[1], a[1], a[3], a[3], ...zeros(4)];
    case "add floats": return [...a.slice(0, 4).map((x, k) => Math.fround(x + b[k])), ...zeros(4)];
    case "add first": return [Math.fround(a[0] + b[0]), ...a.slice(1)];
    case "store first": return y.map((old, r) => (r === at ? a[0] : old));
    case "store": return [...a];
    default: throw new Error(`no instruction ${operation}`);
  }
}
