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

template <class V>
void round_inputs(const float* x, int64_t stride, int tokens, int64_t columns, Rounding how, Outputs out) {
  constexpr float kMagic = 12582912.0f;  // 1.5 · 2^23: adding it leaves the nearest integer in the lowest bits
  const int parts = kBlock / how.span;
  for (int m = 0; m < tokens; ++m) {
    for (int64_t first = 0; first < columns; first += how.block) {
      const float* v = x + m * stride + first;
      float lanes[16] = {};
      int bad[16] = {};
      for (int i = 0; i < how.block; i += 16)
        for (int l = 0; l < 16; ++l) {
          const float a = __builtin_fabsf(v[i + l]);
          lanes[l] = a > lanes[l] ? a : lanes[l];
          bad[l] |= !(a <= 3.40282347e+38f);
        }
      float peak = 0;
      int broken = 0;
      for (int l = 0; l < 16; ++l) peak = lanes[l] > peak ? lanes[l] : peak, broken |= bad[l];
      float inverse = peak > 0 ? 127.0f / peak : 0.0f;
      // A peak below 2^-121 has no inverse: such a block is empty.
      if (!(inverse <= 3.40282347e+38f)) inverse = 0;
      float scale = how.block == kSuper ? (inverse > 0 ? 1 / inverse : 0.0f) : peak / 127;
      if (how.half && how.block == kBlock) scale = as_half(scale);
      if (broken) scale = __builtin_nanf(""), inverse = 0;
      out.scale[first / how.block * tokens + m] = scale;
      for (int k = 0; k < how.block; k += kBlock) {
        const int64_t b = (first + k) / kBlock;
        int8_t codes[kBlock];
        for (int i = 0; i < kBlock; ++i) codes[i] = (int8_t)(to_bits(v[k + i] * inverse + kMagic) - to_bits(kMagic));
        for (int j = 0; j < 8; ++j) __builtin_memcpy(out.codes + ((b * 8 + j) * tokens + m) * 4, codes + 4 * j, 4);
        for (int p = 0; p < parts; ++p) {
          int32_t sum = 0;
          for (int i = 0; i < how.span; ++i) sum += codes[p * how.span + i];
          out.sum[(b * parts + p) * tokens + m] = -sum;
          out.start[(b * parts + p) * tokens + m] = -sum * how.zero;
        }
      }
    }
  }
}

}  // namespace
