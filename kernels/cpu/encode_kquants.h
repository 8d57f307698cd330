// Super-blocks of 256 weights, whose scales and minima are themselves on a grid.
#pragma once
#include "encode_blocks.h"

namespace {

// What a search of scales and minima leaves for the bytes.
template <int kGroups>
struct Affine {
  I codes[256], sc[kGroups], m[kGroups], d, dmin, fine;
};

// Scales x ≥ 0 on levels 0 … top, the largest at the top; gives the step.
template <int N>
inline F scales_by_max(const F* x, float top, F* codes) {
  const F hi = largest<N>(x), inverse = hi > 0.0f ? top / hi : F{};
  for (int i = 0; i < N; ++i) {
    const F code = nearest(inverse * x[i]);
    codes[i] = code > top ? all(top) : code;
  }
  return (hi + 0.0f) / top;
}

// How a type searches where no importance is given: first candidate, step, steps; and how σ² counts where it is.
struct Plan {
  float top, sub, first, step;
  int steps;
  float sigma;
};

template <int kGroups, bool kAbsolute>
void encode_affine(const Batch& batch, const Plan& plan, Affine<kGroups>& found) {
  constexpr int N = 256 / kGroups;
  const F* x = batch.x;
  F w[256], codes[256], scale[kGroups], minimum[kGroups], weight[kGroups], sc[kGroups], m[kGroups];
  if (batch.importance) weigh<256>(x, batch.importance, plan.sigma * mean_square<256>(x), w);
  found.fine = I{} - 1;
  for (int g = 0; g < kGroups; ++g) {
    const F* group = x + g * N;
    F* wg = w + g * N;
    Found one;
    if (batch.importance) {
      one = search_affine<N, false>(group, wg, plan.top, -0.9f, 0.05f, 36, codes + g * N);
      weight[g] = total<N>(wg);
    } else {
      const F around = kAbsolute ? F{} : root(mean_square<N>(group));
      for (int i = 0; i < N; ++i) wg[i] = around + magnitude(group[i]);
      one = search_affine<N, kAbsolute>(group, wg, plan.top, plan.first, plan.step, plan.steps, codes + g * N);
    }
    scale[g] = one.scale;
    minimum[g] = -one.minimum;
    found.fine &= is_finite(scale[g]) & is_finite(minimum[g]);
  }
  const bool fit = batch.importance != nullptr;
  found.d = half(fit ? fit_scales<kGroups>(scale, weight, plan.sub, sc) : scales_by_max<kGroups>(scale, plan.sub, sc));
  found.dmin =
      half(fit ? fit_scales<kGroups>(minimum, weight, plan.sub, m) : scales_by_max<kGroups>(minimum, plan.sub, m));
  found.fine &= fits_half(found.d) & fits_half(found.dmin);
  const F d = from_half(found.d), dmin = from_half(found.dmin);
  for (int g = 0; g < kGroups; ++g) {
    const F step = d * sc[g], below = dmin * m[g];
    for (int i = g * N; i < g * N + N; ++i) {
      const F code = clamp(nearest((x[i] + below) / step), 0, plan.top);
      found.codes[i] = byte(step == 0.0f ? codes[i] : code);
    }
  }
  to_bytes<kGroups>(sc, found.sc);
  to_bytes<kGroups>(m, found.m);
}

struct Q2_K {
  static constexpr const char* name = "Q2_K";
  static constexpr int weights = 256, bytes = 84;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    Affine<16> found;
    encode_affine<16, true>(batch, {3, 15, -0.5f, 0.1f, 15, 1}, found);
    for (int g = 0; g < 16; ++g) out[g] = found.sc[g] | found.m[g] << 4;
    put_planes<2, 32>(found.codes, 64, 0, out + 16);
    put_half(found.d, out + 80);
    put_half(found.dmin, out + 82);
    return found.fine;
  }
};

// Eight scales and eight minima of six bits: the upper two of the last four stand above those of the first four.
inline void put_sixes(const I* sc, const I* m, I* out) {
  for (int g = 0; g < 4; ++g) {
    out[g] = sc[g] | sc[g + 4] >> 4 << 6;
    out[g + 4] = m[g] | m[g + 4] >> 4 << 6;
    out[g + 8] = (sc[g + 4] & 15) | (m[g + 4] & 15) << 4;
  }
}

struct Q4_K {
  static constexpr const char* name = "Q4_K";
  static constexpr int weights = 256, bytes = 144;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    Affine<8> found;
    encode_affine<8, false>(batch, {15, 63, -1, 0.1f, 20, 2}, found);
    put_half(found.d, out);
    put_half(found.dmin, out + 2);
    put_sixes(found.sc, found.m, out + 4);
    put_planes<4, 32>(found.codes, 128, 0, out + 16);
    return found.fine;
  }
};

struct Q5_K {
  static constexpr const char* name = "Q5_K";
  static constexpr int weights = 256, bytes = 176;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    Affine<8> found;
    encode_affine<8, false>(batch, {31, 63, -0.5f, 0.1f, 15, 2}, found);
    put_half(found.d, out);
    put_half(found.dmin, out + 2);
    put_sixes(found.sc, found.m, out + 4);
    put_planes<1, 32>(found.codes, 32, 4, out + 16);
    put_planes<4, 32>(found.codes, 128, 0, out + 48);
    return found.fine;
  }
};

// Signed codes of 256 weights in groups of 16 under signed scales `sc` in units of d; gives the codes from 0.
template <int kHalf, int kSub>
inline void round_symmetric(const F* x, const F* found, const F* sc, F d, I* codes) {
  for (int g = 0; g < 16; ++g) {
    const F step = d * (sc[g] - static_cast<float>(kSub));
    for (int i = g * 16; i < g * 16 + 16; ++i) {
      const F code = clamp(nearest(x[i] / step), -kHalf, kHalf - 1) + static_cast<float>(kHalf);
      codes[i] = byte(step == 0.0f ? found[i] : code);
    }
  }
}

// Signed scales on levels −sub … sub − 1, the farthest at −sub; gives the step, 0 where `empty`.
template <int N>
inline F scales_by_extreme(const F* scale, float sub, F extreme, I empty, F* sc) {
  const F inverse = -sub / (empty ? all(1) : extreme);
  for (int g = 0; g < N; ++g) sc[g] = clamp(nearest(inverse * scale[g]), -sub, sub - 1) + sub;
  return empty ? F{} : 1.0f / inverse;
}

struct Q3_K {
  static constexpr const char* name = "Q3_K";
  static constexpr int weights = 256, bytes = 110;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    F w[256], found[256], scale[16], weight[16], sc[16], d;
    if (batch.importance) weigh<256>(batch.x, batch.importance, 2.0f * mean_square<256>(batch.x), w);
    I fine = I{} - 1;
    for (int g = 0; g < 16; ++g) {
      const F* x = batch.x + g * 16;
      F* wg = w + g * 16;
      if (batch.importance) {
        scale[g] = search_symmetric<16>(x, wg, 4, found + g * 16);
        weight[g] = total<16>(wg);
      } else {
        for (int i = 0; i < 16; ++i) wg[i] = x[i] * x[i];
        scale[g] = refine_symmetric<16>(x, wg, 4, found + g * 16);
      }
      fine &= is_finite(scale[g]);
    }
    if (batch.importance) {
      d = search_symmetric<16>(scale, weight, 32, sc);
    } else {
      const F extreme = farthest<16>(scale);
      const I empty = extreme == 0.0f;
      d = scales_by_extreme<16>(scale, 32, extreme, empty, sc);
      for (int g = 0; g < 16; ++g) sc[g] = empty ? F{} : sc[g];
    }
    const I d16 = half(d);
    I codes[256], scales[16];
    round_symmetric<4, 32>(batch.x, found, sc, from_half(d16), codes);
    to_bytes<16>(sc, scales);
    put_planes<1, 32>(codes, 32, 2, out);
    put_planes<2, 32>(codes, 64, 0, out + 32);
    put_planes<4, 8>(scales, 8, 0, out + 96);
    put_planes<2, 4>(scales, 4, 4, out + 104);
    put_half(d16, out + 108);
    return fine & fits_half(d16);
  }
};

struct Q6_K {
  static constexpr const char* name = "Q6_K";
  static constexpr int weights = 256, bytes = 210;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    F w[256], found[256], scale[16], sc[16];
    I fine = I{} - 1;
    for (int i = 0; i < 256; ++i) w[i] = batch.importance ? batch.importance[i] : batch.x[i] * batch.x[i];
    for (int g = 0; g < 16; ++g) {
      scale[g] = search_symmetric<16>(batch.x + g * 16, w + g * 16, 32, found + g * 16);
      fine &= is_finite(scale[g]);
    }
    const F extreme = farthest<16>(scale);
    const I empty = magnitude(extreme) < kSmall;
    const F d = scales_by_extreme<16>(scale, 128, extreme, empty, sc);
    for (int g = 0; g < 16; ++g) sc[g] = empty ? all(128) : sc[g];
    const I d16 = half(d);
    I codes[256];
    round_symmetric<32, 128>(batch.x, found, sc, from_half(d16), codes);
    for (int i = 0; i < 256; ++i) codes[i] = d == 0.0f ? I{} : codes[i];  // an empty super-block is all zeros
    put_planes<4, 64>(codes, 128, 0, out);
    put_planes<2, 32>(codes, 64, 4, out + 128);
    for (int g = 0; g < 16; ++g) out[192 + g] = byte(sc[g]) ^ 128;
    put_half(d16, out + 208);
    return fine & fits_half(d16);
  }
};

struct IQ4_XS {
  static constexpr const char* name = "IQ4_XS";
  static constexpr int weights = 256, bytes = 136;
  static constexpr Importance importance = Importance::kByBlock;

  static I encode(const Batch& batch, I* out) {
    F w[256], scale[8];
    I fine = I{} - 1;
    if (batch.importance)
      weigh<256>(batch.x, batch.importance, 2.0f * mean_square<256>(batch.x), w);
    else
      for (int i = 0; i < 256; ++i) w[i] = batch.x[i] * batch.x[i];
    for (int g = 0; g < 8; ++g) {
      scale[g] = search_levels<32>(batch.x + g * 32, w + g * 32);
      fine &= is_finite(scale[g]);
    }
    const F d = -farthest<8>(scale) / 32.0f, inverse = safe(d);
    I codes[256], scales[8];
    for (int g = 0; g < 8; ++g) {
      const F sc = clamp(nearest(inverse * scale[g]), -32, 31), units = safe(d * sc);
      scales[g] = byte(sc + 32.0f);
      for (int i = g * 32; i < g * 32 + 32; ++i) codes[i] = level_index(batch.x[i] * units);
    }
    const I d16 = half(d);
    put_half(d16, out);
    put_planes<2, 1>(scales, 2, 4, out + 2);
    put_planes<4, 1>(scales, 4, 0, out + 4);
    put_planes<4, 16>(codes, 128, 0, out + 8);
    return fine & fits_half(d16);
  }
};

}  // namespace
