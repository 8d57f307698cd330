// A register of 32 bits and the instructions on it, as `qlab/halves.py` has them: tested equal to it on random words.

/** The number of 16 bits of float16. */
export function half(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >> 10) & 0x1f, mantissa = bits & 0x3ff;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent ? (1024 + mantissa) * 2 ** (exponent - 25) : mantissa * 2 ** -24);
}

/** The 16 bits of x rounded to float16, half to even. */
export function toHalf(x) {
  if (Number.isNaN(x)) return 0x7e00;
  const sign = x < 0 || Object.is(x, -0) ? 0x8000 : 0, size = Math.abs(x);
  if (size >= 65520) return sign | 0x7c00;
  const exponent = size < 2 ** -14 ? -14 : Math.floor(Math.log2(size));
  const low = size < 2 ** exponent ? exponent - 1 : size >= 2 ** (exponent + 1) ? exponent + 1 : exponent;  // log2 may round
  const step = 2 ** (Math.max(low, -14) - 10), units = size / step, floor = Math.floor(units), rest = units - floor;
  const whole = floor + (rest > 0.5 || (rest === 0.5 && floor % 2) ? 1 : 0);
  return sign | (whole < 1024 ? whole : (Math.max(low, -14) + 14) * 1024 + whole);
}

/** Two halves in a register. */
export function pair(low, high) {
  return (((high & 0xffff) << 16) | (low & 0xffff)) >>> 0;
}

/** The register that every instruction writes. */
export function executeHalves(steps, word, scale) {
  const registers = { word: word >>> 0, scale: pair(toHalf(scale), toHalf(scale)) };
  return steps.map(({ operation, out, reads, constants }) =>
    (registers[out] = resultOf(operation, reads.map((name) => registers[name]), constants)));
}

function resultOf(operation, [a, b], [first, second]) {
  const both = (of) => pair(toHalf(of(0)), toHalf(of(16)));
  switch (operation) {
    case "shift": return a >>> first;
    case "lop": return ((a & first) | second) >>> 0;
    case "and": return (a & first) >>> 0;
    case "sub": return (a - first) >>> 0;
    case "convert": return toHalf(a | 0);
    case "pair": return pair(a, b);
    case "fma": return both((s) => half((a >>> s) & 0xffff) * first + second);
    default: return both((s) => half((a >>> s) & 0xffff) * half((b >>> s) & 0xffff));
  }
}
