// What a transformer block does between its matrices, in vectors of sixteen floats; included by the leaf files alone.
#pragma once
#include "tiles.h"

// Here a sum need not be the same everywhere.
#if defined(__clang__)
#pragma clang fp contract(fast)
#else
#pragma GCC push_options
#pragma GCC optimize("fp-contract=fast")
#endif

namespace {

// The compiler splits such a vector into what the instruction set has.
typedef float Wide __attribute__((vector_size(64)));
typedef int32_t WideInt __attribute__((vector_size(64)));

inline Wide wide(const float* p) {
  Wide v;
  __builtin_memcpy(&v, p, 64);
  return v;
}

inline void store(float* p, const Wide& v) { __builtin_memcpy(p, &v, 64); }

inline float added(const Wide& v) {
  float sum = 0;
  for (int i = 0; i < 16; ++i) sum += v[i];
  return sum;
}

// e^x within 2 units in the last place: 2^n · 2^f, f in [-½, ½], by a polynomial.
inline Wide exponential(Wide x) {
  const Wide high = Wide{} + 88.0f, low = Wide{} - 87.0f;
  x = x > high ? high : x;
  x = x < low ? low : x;
  const Wide magic = Wide{} + 12582912.0f;
  const Wide shifted = x * 1.44269504f + magic;
  const Wide n = shifted - magic;
  const Wide r = (x - n * 0.693145752f) - n * 1.42860677e-06f;
  Wide p = r * 1.38888889e-03f + 8.33333333e-03f;
  p = p * r + 4.16666667e-02f;
  p = p * r + 1.66666667e-01f;
  p = p * r + 0.5f;
  p = p * r + 1.0f;
  p = p * r + 1.0f;
  WideInt bits;
  __builtin_memcpy(&bits, &shifted, 64);
  const WideInt power = (bits - 0x4B400000 + 127) << 23;
  Wide scale;
  __builtin_memcpy(&scale, &power, 64);
  return p * scale;
}

// y = x / √(mean x² + eps) · weight; n a multiple of 16.
void rms_norm(const float* x, const float* weight, float eps, int64_t n, float* y) {
  Wide squares = {};
  for (int64_t i = 0; i < n; i += 16) squares += wide(x + i) * wide(x + i);
  const float scale = 1 / __builtin_sqrtf(added(squares) / (float)n + eps);
  for (int64_t i = 0; i < n; i += 16) store(y + i, wide(x + i) * scale * wide(weight + i));
}

// gate = gate · sigmoid(gate) · up.
void swiglu(float* gate, const float* up, int64_t n) {
  for (int64_t i = 0; i < n; i += 16) {
    const Wide g = wide(gate + i);
    store(gate + i, g / (exponential(-g) + 1.0f) * wide(up + i));
  }
}

// Rows of values that are added up at once: the sums stay in registers.
template <int Q, int W>
inline void mix(const Heads& h, const float* weights, int64_t room, int64_t keys, int64_t from) {
  Wide sums[Q][W] = {};
  for (int64_t k = 0; k < keys; ++k)
#pragma GCC unroll 4
    for (int w = 0; w < W; ++w) {
      const Wide v = wide(h.values + k * h.size + from + 16 * w);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) sums[i][w] += v * weights[i * room + k];
    }
  for (int i = 0; i < Q; ++i)
    for (int w = 0; w < W; ++w) store(h.out[i] + from + 16 * w, sums[i][w]);
}

template <int Q>
void attend_some(const Heads& h, float* weights) {
  int64_t most = 0;
  for (int i = 0; i < Q; ++i) most = h.seen[i] > most ? h.seen[i] : most;
  const int64_t room = (most + 15) / 16 * 16;
  for (int64_t k = 0; k < room; k += 16) {
    Wide dots[Q] = {};
    for (int64_t d = 0; d < h.size; ++d) {
      const Wide key = wide(h.keys + k * h.size + d * 16);
#pragma GCC unroll 4
      for (int i = 0; i < Q; ++i) dots[i] += key * h.query[i][d];
    }
    for (int i = 0; i < Q; ++i) store(weights + i * room + k, dots[i] * h.scale);
  }
  for (int i = 0; i < Q; ++i) {
    float* w = weights + i * room;
    for (int64_t k = h.seen[i]; k < room; ++k) w[k] = -__builtin_inff();
    Wide peaks = wide(w);
    for (int64_t k = 16; k < room; k += 16) {
      const Wide x = wide(w + k);
      peaks = x > peaks ? x : peaks;
    }
    float peak = peaks[0];
    for (int l = 1; l < 16; ++l) peak = peaks[l] > peak ? peaks[l] : peak;
    Wide sums = {};
    for (int64_t k = 0; k < room; k += 16) {
      const Wide e = exponential(wide(w + k) - peak);
      store(w + k, e);
      sums += e;
    }
    // What lies beyond has a weight of e^-87 at most, and counts for nothing.
    const float inverse = 1 / added(sums);
    for (int64_t k = 0; k < room; k += 16) store(w + k, wide(w + k) * inverse);
    for (int64_t k = h.seen[i]; k < room; ++k) w[k] = 0;
  }
  int64_t from = 0;
  for (; from + 64 <= h.size; from += 64) mix<Q, 4>(h, weights, room, most, from);
  for (; from < h.size; from += 16) mix<Q, 1>(h, weights, room, most, from);
}

void attend(const Heads& h, float* weights) {
  switch (h.queries) {
    case 1: return attend_some<1>(h, weights);
    case 2: return attend_some<2>(h, weights);
    case 3: return attend_some<3>(h, weights);
    default: return attend_some<4>(h, weights);
  }
}

}  // namespace

#if defined(__clang__)
#pragma clang fp contract(off)
#else
#pragma GCC pop_options
#endif
