// Inputs to 8 bits by block, as ggml rounds them: 127 / max|x|, halves to even. Plain loops that a compiler turns into
// vectors; every operation is rounded once, so that all instruction sets give the same codes.
#pragma once
#include "tiles.h"

namespace {

inline float from_bits(uint32_t u) {
  float x;
  __builtin_memcpy(&x, &u, 4);
  return x;
}

inline uint32_t to_bits(float x) {
  uint32_t u;
  __builtin_memcpy(&u, &x, 4);
  return u;
}

// x ≥ 0 rounded to float16 and back, halves to even; infinite above its range.
inline float as_half(float x) {
  if (!(x >= 6.103515625e-05f)) return (x + 0.5f) - 0.5f;  // multiples of 2^-24
  const uint32_t u = to_bits(x);
  const float rounded = from_bits((u + 0xFFF + (u >> 13 & 1)) & ~0x1FFFu);
  return rounded > 65504.0f ? __builtin_inff() : rounded;
}

typedef int32_t Lanes __attribute__((vector_size(64)));
typedef float Floats __attribute__((vector_size(64)));

inline Lanes lanes(const void* p) {
  Lanes v;
  __builtin_memcpy(&v, p, 64);
  return v;
}

// The other half of the lanes in front: sixteen, eight, four, two become one.
template <int half>
inline Lanes swapped(Lanes v) {
#define QLAB_INDEX                                                                                       \
  0 ^ half, 1 ^ half, 2 ^ half, 3 ^ half, 4 ^ half, 5 ^ half, 6 ^ half, 7 ^ half, 8 ^ half, 9 ^ half, \
      10 ^ half, 11 ^ half, 12 ^ half, 13 ^ half, 14 ^ half, 15 ^ half
#if defined(__clang__)
  return __builtin_shufflevector(v, v, QLAB_INDEX);
#else
  return __builtin_shuffle(v, Lanes{QLAB_INDEX});  // gcc knows the other one from its version 12 on
#endif
#undef QLAB_INDEX
}

inline Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }

inline int32_t largest(Lanes v) {
  v = larger(v, swapped<8>(v));
  v = larger(v, swapped<4>(v));
  v = larger(v, swapped<2>(v));
  return larger(v, swapped<1>(v))[0];
}

inline int32_t total(Lanes v) {
  v += swapped<8>(v);
  v += swapped<4>(v);
  v += swapped<2>(v);
  return (v + swapped<1>(v))[0];
}

template <class V>
void round_inputs(const float* x, int64_t stride, int tokens, int64_t columns, Rounding how, Outputs out) {
  constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the lowest bits
  const int parts = kBlock / how.span;
  for (int m = 0; m < tokens; ++m) {
    for (int64_t first = 0; first < columns; first += how.block) {
      const float* v = x + m * stride + first;
      Lanes most = {};  // magnitudes are compared as integers: infinity and NaN are the largest
      for (int i = 0; i < how.block; i += 16) {
        const Lanes a = lanes(v + i) & 0x7FFFFFFF;
        most = larger(a, most);
      }
      const float peak = from_bits((uint32_t)largest(most));
      const bool finite = peak <= 3.40282347e+38f;
      float inverse = peak > 0 ? 127.0f / peak : 0.0f;
      // A peak below 2^-121 has no inverse: such a block is empty.
      if (!finite || !(inverse <= 3.40282347e+38f)) inverse = 0;
      float scale = how.block == kSuper ? (inverse > 0 ? 1 / inverse : 0.0f) : peak / 127;
      if (how.half && how.block == kBlock) scale = as_half(scale);
      out.scale[first / how.block * tokens + m] = finite ? scale : __builtin_nanf("");
      for (int k = 0; k < how.block; k += kBlock) {
        const int64_t b = (first + k) / kBlock;
        int8_t codes[kBlock];
        Lanes sums[2];
        for (int h = 0; h < 2; ++h) {
          Floats f;
          __builtin_memcpy(&f, v + k + 16 * h, 64);
          f = f * inverse + kMagic;
          sums[h] = finite ? lanes(&f) - (int32_t)to_bits(kMagic) : Lanes{};
          for (int i = 0; i < 16; ++i) codes[16 * h + i] = (int8_t)sums[h][i];
        }
        for (int j = 0; j < 8; ++j) __builtin_memcpy(out.codes + ((b * 8 + j) * tokens + m) * 4, codes + 4 * j, 4);
        for (int p = 0; p < parts; ++p) {
          const int32_t sum = total(parts == 1 ? sums[0] + sums[1] : sums[p]);
          out.sum[(b * parts + p) * tokens + m] = -sum;
          out.start[(b * parts + p) * tokens + m] = -sum * how.zero;
        }
      }
    }
  }
}

}  // namespace
