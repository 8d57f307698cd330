// Blocks with one scale, the two FP4 formats, and the ternary types.
#pragma once
#include "encode_blocks.h"

namespace {

// Nibbles, and for five bits the fifth of each weight before them.
template <int kBits>
inline void put_nibbles(const I* codes, I* out) {
  if (kBits == 5) {
    put_planes<1, 1>(codes, 4, 4, out);
    out += 4;
  }
  put_planes<4, 16>(codes, 16, 0, out);
}

// Q4_0 and Q5_0: the extreme weight takes the lowest level; under importance the search of Q6_K.
template <int kBits>
inline I encode_symmetric(const Batch& batch, I* out) {
  constexpr int kHalf = 1 << (kBits - 1);
  F codes[32], d;
  if (batch.importance) {
    F w[32];
    weigh<32>(batch.x, batch.importance, batch.square, w);
    d = search_symmetric<32>(batch.x, w, kHalf, codes);
  } else {
    d = farthest<32>(batch.x) / static_cast<float>(-kHalf);
    const F inverse = safe(d);
    for (int i = 0; i < 32; ++i)
      codes[i] = floored(clamp(batch.x[i] * inverse + (kHalf + 0.5f), 0, 2 * kHalf - 1));
  }
  I stored[32];
  to_bytes<32>(codes, stored);
  const I d16 = half(d);
  put_half(d16, out);
  put_nibbles<kBits>(stored, out + 2);
  return is_finite(d) & fits_half(d16);
}

struct Q4_0 {
  static constexpr const char* name = "Q4_0";
  static constexpr int weights = 32, bytes = 18;
  static constexpr Importance importance = Importance::kByRow;
  static I encode(const Batch& batch, I* out) { return encode_symmetric<4>(batch, out); }
};

struct Q5_0 {
  static constexpr const char* name = "Q5_0";
  static constexpr int weights = 32, bytes = 22;
  static constexpr Importance importance = Importance::kByRow;
  static I encode(const Batch& batch, I* out) { return encode_symmetric<5>(batch, out); }
};

// Q4_1 and Q5_1: plain min-max; under importance the search of Q4_K.
template <int kBits>
inline I encode_minmax(const Batch& batch, I* out) {
  constexpr float kTop = (1 << kBits) - 1;
  F codes[32], d, minimum;
  if (batch.importance) {
    F w[32];
    weigh<32>(batch.x, batch.importance, batch.square, w);
    const Found found = search_affine<32, false>(batch.x, w, kTop, -0.9f, 0.05f, 36, codes);
    d = found.scale;
    minimum = found.minimum;
  } else {
    minimum = smallest<32>(batch.x);
    d = (largest<32>(batch.x) - minimum) / kTop;
    const F inverse = safe(d);
    for (int i = 0; i < 32; ++i) codes[i] = floored(clamp((batch.x[i] - minimum) * inverse + 0.5f, 0, kTop));
  }
  I stored[32];
  to_bytes<32>(codes, stored);
  const I d16 = half(d), m16 = half(minimum);
  put_half(d16, out);
  put_half(m16, out + 2);
  put_nibbles<kBits>(stored, out + 4);
  return fits_half(d16) & fits_half(m16);
}

struct Q4_1 {
  static constexpr const char* name = "Q4_1";
  static constexpr int weights = 32, bytes = 20;
  static constexpr Importance importance = Importance::kByRow;
  static I encode(const Batch& batch, I* out) { return encode_minmax<4>(batch, out); }
};

struct Q5_1 {
  static constexpr const char* name = "Q5_1";
  static constexpr int weights = 32, bytes = 24;
  static constexpr Importance importance = Importance::kByRow;
  static I encode(const Batch& batch, I* out) { return encode_minmax<5>(batch, out); }
};

struct Q8_0 {
  static constexpr const char* name = "Q8_0";
  static constexpr int weights = 32, bytes = 34;
  static constexpr Importance importance = Importance::kIgnored;

  static I encode(const Batch& batch, I* out) {
    const F d = peak<32>(batch.x) / 127.0f, inverse = safe(d);
    const I d16 = half(d);
    put_half(d16, out);
    for (int i = 0; i < 32; ++i) out[2 + i] = byte(half_away(batch.x[i] * inverse) + 128.0f) ^ 128;
    return fits_half(d16);
  }
};

struct IQ4_NL {
  static constexpr const char* name = "IQ4_NL";
  static constexpr int weights = 32, bytes = 18;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    F w[32];
    if (batch.importance)
      weigh<32>(batch.x, batch.importance, 2.0f * mean_square<32>(batch.x), w);
    else
      for (int i = 0; i < 32; ++i) w[i] = batch.x[i] * batch.x[i];
    const F d = search_levels<32>(batch.x, w), inverse = safe(d);
    I codes[32];
    for (int i = 0; i < 32; ++i) codes[i] = level_index(batch.x[i] * inverse);
    const I d16 = half(d);
    put_half(d16, out);
    put_planes<4, 16>(codes, 16, 0, out + 2);
    return fits_half(d16);
  }
};

// Halfway between the levels of ggml's doubled E2M1.
constexpr float kBetween[7] = {0.5f, 1.5f, 2.5f, 3.5f, 5, 7, 10};

// Codes of x on these levels under a scale; ties go towards zero.
template <int N>
inline void put_fp4(const F* x, F scale, I* out) {
  const F step = scale == 0.0f ? all(1) : scale;  // a scale of 0 stands for a group that is
  I codes[N];
  for (int i = 0; i < N; ++i) {
    const F size = magnitude(x[i]) / step;
    I code{};
    for (float between : kBetween) code -= size > between;
    codes[i] = code | ((x[i] < 0.0f) & (code > 0) & 8);
  }
  put_planes<4, N / 2>(codes, N / 2, 0, out);
}

struct MXFP4 {
  static constexpr const char* name = "MXFP4";
  static constexpr int weights = 32, bytes = 17;
  static constexpr Importance importance = Importance::kIgnored;

  // A power of two that puts the largest weight in the top binade.
  static I encode(const Batch& batch, I* out) {
    const I exponent = (bits(peak<32>(batch.x)) >> 23) - 2, sc = exponent > 0 ? exponent : I{};
    const F scale = from_bits((sc + 1) << 23) * 0.25f;  // half of 2^(sc − 127), which may be a denormal
    out[0] = sc;
    put_fp4<32>(batch.x, scale, out + 1);
    return I{} - 1;
  }
};

struct NVFP4 {
  static constexpr const char* name = "NVFP4";
  static constexpr int weights = 64, bytes = 36;
  static constexpr Importance importance = Importance::kIgnored;

  static I encode(const Batch& batch, I* out) {
    for (int g = 0; g < 4; ++g) {
      const I sc = ue4m3(peak<16>(batch.x + 16 * g) / 6.0f);
      out[g] = sc;
      const F normal = from_bits((sc << 20) + (119 << 23));  // half of 2^(e − 7) · (1 + m/8)
      put_fp4<16>(batch.x + 16 * g, sc < 8 ? __builtin_convertvector(sc, F) * 0x1p-10f : normal, out + 4 + 8 * g);
    }
    return I{} - 1;
  }

  // The nearest unsigned E4M3 number, halves away from zero, 448 at most; no subnormal is rounded up to a normal one.
  static I ue4m3(F x) {
    I small{};
    for (int k = 0; k < 7; ++k) small -= x >= (static_cast<float>(k) + 0.5f) * 0x1p-9f;
    const I rounded = ((bits(x) + 0x80000) >> 20) - (120 << 3), normal = rounded < 126 ? rounded : I{} + 126;
    return x < 0x1p-6f ? small : normal;
  }
};

// −1, 0 or 1 as 0, 1, 2 under max|w|.
inline I ternary(const F* x, I* codes) {
  const F d = peak<256>(x), inverse = safe(d);
  for (int i = 0; i < 256; ++i) codes[i] = byte(half_away(x[i] * inverse) + 1.0f);
  return half(d);
}

struct TQ2_0 {
  static constexpr const char* name = "TQ2_0";
  static constexpr int weights = 256, bytes = 66;
  static constexpr Importance importance = Importance::kIgnored;

  static I encode(const Batch& batch, I* out) {
    I codes[256];
    const I d16 = ternary(batch.x, codes);
    put_planes<2, 32>(codes, 64, 0, out);
    put_half(d16, out + 64);
    return fits_half(d16);
  }
};

struct TQ1_0 {
  static constexpr const char* name = "TQ1_0";
  static constexpr int weights = 256, bytes = 54;
  static constexpr Importance importance = Importance::kIgnored;

  static I encode(const Batch& batch, I* out) {
    I codes[256];
    const I d16 = ternary(batch.x, codes);
    digits<32, 5>(codes, out);
    digits<16, 5>(codes + 160, out + 32);
    digits<4, 4>(codes + 240, out + 48);
    put_half(d16, out + 52);
    return fits_half(d16);
  }

  // Ternary digits of N bytes, plane after plane, the first the highest of five: ⌈number · 256 / 243⌉.
  template <int N, int kDigits>
  static void digits(const I* codes, I* out) {
    for (int j = 0; j < N; ++j) {
      I number{};
      for (int k = 0; k < 5; ++k) number = number * 3 + (k < kDigits ? codes[k * N + j] : I{});
      out[j] = (number * 256 + 242) / 243;
    }
  }
};

}  // namespace
