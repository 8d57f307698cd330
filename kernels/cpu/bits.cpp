// Eight codes at a time, as the bytes of a 64-bit number: side by side in a line, or of eight neighbouring lines. Plain
// integers, which a compiler turns into vectors.
#include "bits.h"

#include <algorithm>
#include <atomic>
#include <bit>
#include <cstring>

#include "pool.h"

static_assert(std::endian::native == std::endian::little, "words are taken apart into bytes in memory's order");

namespace {

constexpr int64_t kCodes = 1 << 14;  // that a thread takes at once
constexpr int64_t kColumns = 256;    // of a run, side by side

// `low` ones at the bottom of every field of `width` bits.
constexpr uint64_t ones(int low, int width) {
  uint64_t mask = (1ull << low) - 1;
  for (int at = width; at < 64; at *= 2) mask |= mask << at;
  return mask;
}

// Neighbouring fields of `width` bits, `low` of them in use, moved together in pairs; and apart again.
constexpr uint64_t joined(uint64_t x, int low, int width) {
  const uint64_t lower = ones(low, 2 * width);
  return (x & lower) | (x >> (width - low) & lower << low);
}

constexpr uint64_t parted(uint64_t x, int low, int width) {
  const uint64_t lower = ones(low, 2 * width);
  return (x & lower) | (x & lower << low) << (width - low);
}

template <int B>
constexpr uint64_t packed(uint64_t x) {
  return joined(joined(joined(x, B, 8), 2 * B, 16), 4 * B, 32);
}

template <int B>
constexpr uint64_t unpacked(uint64_t x) {
  return parted(parted(parted(x, 4 * B, 32), 2 * B, 16), B, 8);
}

uint64_t eight(const uint8_t* p, int64_t bytes = 8) {
  uint64_t x = 0;
  bytes < 8 ? std::memcpy(&x, p, bytes) : std::memcpy(&x, p, 8);
  return x;
}

// `n` codes of one line, from a whole word on; returns them all in one, or'ed.
template <int B>
uint64_t pack_line(const uint8_t* codes, int64_t n, uint8_t* out) {
  const int64_t size = 4 * words_of(n, B);
  uint64_t seen = 0;
  int64_t i = 0, at = 0;
  for (; i + 64 <= n && at + 7 * B + 8 <= size; i += 64, at += 8 * B) {
    uint64_t x[8];
    std::memcpy(x, codes + i, 64);
    for (int k = 0; k < 8; ++k) seen |= x[k];
    for (int k = 0; k < 8; ++k) x[k] = packed<B>(x[k]);
    for (int k = 0; k < 8; ++k) std::memcpy(out + at + k * B, &x[k], 8);  // the next one covers what is too much
  }
  for (; at < size; i += 8, at += B) {
    const uint64_t x = i < n ? eight(codes + i, std::min<int64_t>(8, n - i)) : 0;
    const uint64_t bytes = packed<B>(x);
    seen |= x;
    std::memcpy(out + at, &bytes, std::min<int64_t>(B, size - at));
  }
  return seen;
}

template <int B>
void unpack_line(const uint8_t* in, int64_t n, uint8_t* codes) {
  const int64_t size = 4 * words_of(n, B);
  int64_t i = 0, at = 0;
  for (; i + 64 <= n && at + 7 * B + 8 <= size; i += 64, at += 8 * B) {
    uint64_t x[8];
    for (int k = 0; k < 8; ++k) x[k] = eight(in + at + k * B);
    for (int k = 0; k < 8; ++k) x[k] = unpacked<B>(x[k]);
    std::memcpy(codes + i, x, 64);
  }
  for (; i < n; i += 8, at += B) {
    const uint64_t x = unpacked<B>(eight(in + at, std::min<int64_t>(B, size - at)));
    std::memcpy(codes + i, &x, std::min<int64_t>(8, n - i));
  }
}

// 32 codes of up to kColumns neighbouring lines, `inner` apart, into B words of each: first to bytes [4 · B][columns].
template <int B>
uint64_t pack_run(const uint8_t* codes, int64_t n, int64_t inner, int64_t columns, uint32_t* words, int64_t count) {
  constexpr int kUnits = kColumns / 8;
  alignas(64) uint64_t bytes[4 * B][kUnits] = {};
  uint64_t seen = 0;
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) {
    if (i >= n) break;
    alignas(64) uint64_t x[kUnits] = {};
    std::memcpy(x, codes + i * inner, columns);
    const int byte = i * B / 8, shift = i * B % 8;
    const uint64_t mask = ones(8 - shift, 8);
    for (int u = 0; u < kUnits; ++u) {
      seen |= x[u];
      bytes[byte][u] |= (x[u] & mask) << shift;
    }
    if (shift + B > 8)
      for (int u = 0; u < kUnits; ++u) bytes[byte + 1][u] |= (x[u] & ~mask) >> (8 - shift);
  }
  for (int64_t w = 0; w < count; ++w) {
    const uint8_t* four[4];
    for (int k = 0; k < 4; ++k) four[k] = reinterpret_cast<const uint8_t*>(bytes[4 * w + k]);
    uint32_t* out = words + w * inner;
    for (int64_t c = 0; c < columns; ++c)
      out[c] = four[0][c] | uint32_t{four[1][c]} << 8 | uint32_t{four[2][c]} << 16 | uint32_t{four[3][c]} << 24;
  }
  return seen;
}

template <int B>
void unpack_run(const uint32_t* words, int64_t count, int64_t inner, int64_t columns, uint8_t* codes, int64_t n) {
  constexpr int kUnits = kColumns / 8;
  alignas(64) uint64_t bytes[4 * B][kUnits] = {};
  for (int64_t w = 0; w < count; ++w)
    for (int k = 0; k < 4; ++k) {
      uint8_t* to = reinterpret_cast<uint8_t*>(bytes[4 * w + k]);
      for (int64_t c = 0; c < columns; ++c) to[c] = static_cast<uint8_t>(words[w * inner + c] >> 8 * k);
    }
#pragma GCC unroll 32
  for (int i = 0; i < 32; ++i) {
    if (i >= n) break;
    alignas(64) uint64_t x[kUnits];
    const int byte = i * B / 8, shift = i * B % 8;
    const uint64_t mask = ones(std::min(B, 8 - shift), 8);
    for (int u = 0; u < kUnits; ++u) x[u] = bytes[byte][u] >> shift & mask;
    if (shift + B > 8) {
      const uint64_t rest = ones(shift + B - 8, 8);
      for (int u = 0; u < kUnits; ++u) x[u] |= (bytes[byte + 1][u] & rest) << (8 - shift);
    }
    std::memcpy(codes + i * inner, x, columns);
  }
}

// f(outer, first code, codes, first column, columns) for every piece, on several threads.
template <class F>
void pieces(int64_t outer, int64_t n, int64_t inner, int threads, const F& f) {
  if (!outer || !n || !inner) return;
  const int64_t run = inner == 1 ? kCodes : 32, wide = inner == 1 ? 1 : kColumns;
  const int64_t runs = (n + run - 1) / run, blocks = (inner + wide - 1) / wide;
  const int64_t of_one = std::min(run, n) * std::min(wide, inner);
  parallel(outer * runs * blocks, std::max<int64_t>(1, kCodes / of_one), threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t at = i / blocks % runs * run, column = i % blocks * wide;
      f(i / blocks / runs, at, std::min(run, n - at), column, std::min(wide, inner - column));
    }
  });
}

template <int B>
bool pack(const uint8_t* codes, int64_t outer, int64_t n, int64_t inner, uint32_t* words, int threads) {
  std::atomic<bool> fits{true};
  const int64_t count = words_of(n, B);
  pieces(outer, n, inner, threads, [&](int64_t o, int64_t at, int64_t some, int64_t column, int64_t columns) {
    const uint8_t* from = codes + (o * n + at) * inner + column;
    uint32_t* to = words + (o * count + at * B / 32) * inner + column;
    const uint64_t seen = inner == 1 ? pack_line<B>(from, some, reinterpret_cast<uint8_t*>(to))
                                     : pack_run<B>(from, some, inner, columns, to, words_of(some, B));
    if (seen & ~ones(B, 8)) fits = false;
  });
  return fits;
}

template <int B>
bool unpack(const uint32_t* words, int64_t outer, int64_t n, int64_t inner, uint8_t* codes, int threads) {
  const int64_t count = words_of(n, B);
  pieces(outer, n, inner, threads, [&](int64_t o, int64_t at, int64_t some, int64_t column, int64_t columns) {
    const uint32_t* from = words + (o * count + at * B / 32) * inner + column;
    uint8_t* to = codes + (o * n + at) * inner + column;
    inner == 1 ? unpack_line<B>(reinterpret_cast<const uint8_t*>(from), some, to)
               : unpack_run<B>(from, words_of(some, B), inner, columns, to, some);
  });
  return true;
}

}  // namespace

#define QLAB_WIDTHS(f) \
  {f<1>, f<2>, f<3>, f<4>, f<5>, f<6>, f<7>, f<8>}

bool pack_bits(const uint8_t* codes, int64_t outer, int64_t n, int64_t inner, int bits, uint32_t* words, int threads) {
  constexpr decltype(&pack<1>) of[] = QLAB_WIDTHS(pack);
  return of[bits - 1](codes, outer, n, inner, words, threads);
}

void unpack_bits(const uint32_t* words, int64_t outer, int64_t n, int64_t inner, int bits, uint8_t* codes, int threads) {
  constexpr decltype(&unpack<1>) of[] = QLAB_WIDTHS(unpack);
  of[bits - 1](words, outer, n, inner, codes, threads);
}
