// Arithmetic that a reader could do by hand, equal to qlab's Python on every input (tests/widgets/test_quant_js.py).

/** Nearest integer, halves to the even one: torch.round. */
export function roundHalfEven(x) {
  const floor = Math.floor(x);
  const rest = x - floor;
  if (rest !== 0.5) return rest < 0.5 ? floor : floor + 1;
  return floor % 2 === 0 ? floor : floor + 1;
}

export function clamp(x, lo, hi) {
  return Math.min(Math.max(x, lo), hi);
}

/** Scale and zero of the rule `asym` (zero forced into the range) for weights in [lo, hi]; qlab.ranges._asym. */
export function asymmetric(lo, hi, bits) {
  [lo, hi] = [Math.min(lo, 0), Math.max(hi, 0)];
  if (lo === 0 && hi === 0) [lo, hi] = [-1, 1];
  const scale = (hi - lo) / (2 ** bits - 1);
  return { scale, zero: roundHalfEven(-lo / scale) };
}

/** Scale and zero of the rule `sym`: max|w| sits at (2^bits − 1)/2 steps, bits ≥ 2; qlab.ranges._sym. */
export function symmetric(lo, hi, bits) {
  const absmax = Math.max(Math.abs(lo), Math.abs(hi)) || 1;
  return { scale: absmax / ((2 ** bits - 1) / 2), zero: 2 ** (bits - 1) };
}

/** The code of one weight. */
export function encode(w, { scale, zero }, bits) {
  return clamp(roundHalfEven(w / scale) + zero, 0, 2 ** bits - 1);
}

/** The value of one code. */
export function decode(code, { scale, zero }) {
  return scale * (code - zero);
}

/** Codes and values of `weights` in groups of `size`, each group with its own range (real scales, not float16). */
export function quantize(weights, { bits, size, rule }) {
  const codes = [], values = [], groups = [];
  for (let start = 0; start < weights.length; start += size) {
    const group = weights.slice(start, start + size);
    const params = (rule === "sym" ? symmetric : asymmetric)(Math.min(...group), Math.max(...group), bits);
    groups.push(params);
    for (const w of group) {
      codes.push(encode(w, params, bits));
      values.push(decode(codes.at(-1), params));
    }
  }
  return { codes, values, groups };
}
