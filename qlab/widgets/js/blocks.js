// How GGUF's blocks spell out their weights: equal to qlab.ggml on every byte (tests/widgets/test_block_inspector.py).
// A byte is a number 0 … 255; every product and sum is rounded to single precision, as llama.cpp computes.

const f = Math.fround;

/** The number that two bytes of a half-precision float stand for: ±1.m · 2^(e − 15). */
export function half(low, high) {
  const bits = low + 256 * high, sign = bits >> 15 ? -1 : 1, e = (bits >> 10) & 31, m = bits & 1023;
  if (e === 31) return m ? NaN : sign * Infinity;
  return sign * (e ? (1 + m / 1024) * 2 ** (e - 15) : (m / 1024) * 2 ** -14);
}

/** A piece of a number: `count` bits of byte `byte`, from bit `shift` on, that count 2^up each. */
const piece = (byte, shift, count, up = 0) => ({ byte, shift, count, up });
const float16 = (byte) => [piece(byte, 0, 8), piece(byte + 1, 0, 8, 8)];

/** The whole number that pieces put together. */
export function read(bytes, pieces) {
  return pieces.reduce((sum, p) => sum + ((bytes[p.byte] >> p.shift) & (2 ** p.count - 1)) * 2 ** p.up, 0);
}

/** The 6-bit scale and minimum of group j of Q4_K, in its twelve bytes from 4 on. */
function sixes(j) {
  return j < 4
    ? { sc: [piece(4 + j, 0, 6)], m: [piece(8 + j, 0, 6)] }
    : { sc: [piece(8 + j, 0, 4), piece(j, 6, 2, 4)], m: [piece(8 + j, 4, 4), piece(4 + j, 6, 2, 4)] };
}

/** Of weight e: where its code lies, and the scale and minimum that it shares. */
export const PLACES = {
  Q4_0: (e) => ({ d: float16(0), q: [piece(2 + (e % 16), 4 * (e >> 4), 4)] }),
  Q4_1: (e) => ({ d: float16(0), min: float16(2), q: [piece(4 + (e % 16), 4 * (e >> 4), 4)] }),
  Q8_0: (e) => ({ d: float16(0), q: [piece(2 + e, 0, 8)] }),
  Q4_K: (e) => ({ d: float16(0), dmin: float16(2), ...sixes(e >> 5),
    q: [piece(16 + 32 * (e >> 6) + (e % 32), 4 * ((e >> 5) % 2), 4)] }),
  Q6_K: (e) => {
    const h = e >> 7, r = e % 128;
    return { d: float16(208), sc: [piece(192 + (e >> 4), 0, 8)],
      q: [piece(64 * h + (r % 64), 4 * (r >> 6), 4), piece(128 + 32 * h + (r % 32), 2 * (r >> 5), 2, 4)] };
  },
};

export const WEIGHTS = { Q4_0: 32, Q4_1: 32, Q8_0: 32, Q4_K: 256, Q6_K: 256 };

/** Signed fields: what a stored code minus this is, Q8_0's and Q6_K's scales being two's complement. */
const signed = (x) => (x < 128 ? x : x - 256);
const LEVEL = { Q4_0: (q) => q - 8, Q4_1: (q) => q, Q8_0: signed, Q4_K: (q) => q, Q6_K: (q) => q - 32 };

/** Everything about weight e of a block: its parts as numbers, and its value. */
export function decodeWeight(type, bytes, e) {
  const at = PLACES[type](e), number = (pieces) => half(bytes[pieces[0].byte], bytes[pieces[1].byte]);
  const q = LEVEL[type](read(bytes, at.q)), d = number(at.d);
  if (type === "Q4_1") {
    const min = number(at.min);
    return { q, d, min, value: f(f(d * q) + min) };
  }
  if (!at.sc) return { q, d, value: f(d * q) };
  const sc = type === "Q6_K" ? signed(read(bytes, at.sc)) : read(bytes, at.sc), scale = f(d * sc);
  if (!at.m) return { q, d, sc, value: f(scale * q) };
  const dmin = number(at.dmin), m = read(bytes, at.m);
  return { q, d, sc, dmin, m, value: f(f(scale * q) - f(dmin * m)) };
}

/** All weights of a block. */
export function values(type, bytes) {
  return Array.from({ length: WEIGHTS[type] }, (_, e) => decodeWeight(type, bytes, e).value);
}

/** The bytes with one bit turned over. */
export function flipped(bytes, byte, bit) {
  return bytes.map((b, i) => (i === byte ? b ^ (1 << bit) : b));
}

/** How many weights two blocks differ in, and by how much at most; a NaN differs from everything. */
export function moved(before, after) {
  const changes = after.map((w, i) => (Object.is(w, before[i]) ? 0 : Math.abs(w - before[i])));
  const count = after.filter((w, i) => !(w === before[i])).length;
  return { count, most: changes.some(Number.isNaN) ? NaN : Math.max(...changes) };
}
