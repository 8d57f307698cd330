// The readable kernel, and the oracle of the others: one code at a time.
#include "half.h"
#include "block_ops.h"
#include "round_inputs.h"

namespace {

constexpr int kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

// Column `k` of row `r` in a block of tiles: the planes of a code, the low bits first.
int code_at(const uint8_t* block, int bits, int r, int k) {
  int code = 0, low = 0;
  for (int left = bits; left > 0;) {
    const int width = left >= 8 ? 8 : left >= 4 ? 4 : left >= 2 ? 2 : 1;
    const int fields = 8 / width, quad = k / 4;  // quads of columns to a vector
    const uint8_t byte = block[64 * (quad / fields) + 4 * r + k % 4];
    code |= (byte >> (width * (quad % fields)) & ((1 << width) - 1)) << low;
    block += 64 * width;
    low += width;
    left -= width;
  }
  return code;
}

template <Format F, int M>
void multiply(const Tiles& w, const Inputs& x, float* y, int64_t stride, int64_t first, int64_t last) {
  constexpr int P = kBlock / F.span;
  constexpr int kZero = F.table ? 0 : F.extra == Extra::none ? 1 << (F.bits - 1) : 0;
  constexpr int kSubs = kSuper / F.span * kRows;
  const int64_t groups = F.super ? w.blocks / 8 : (w.blocks + w.group - 1) / w.group;
  for (int64_t t = first; t < last; ++t)
    for (int r = 0; r < kRows; ++r)
      for (int m = 0; m < M; ++m) {
        float total = 0;
        for (int64_t b = 0; b < w.blocks; ++b) {
          const uint8_t* block = w.codes + (t * w.blocks + b) * 64 * F.bits;
          const int64_t g = t * groups + (F.super ? b / 8 : b / w.group);
          const float scale = !F.super && w.wide ? static_cast<const float*>(w.scale)[g * kRows + r]
                                                 : half_to_float(static_cast<const uint16_t*>(w.scale)[g * kRows + r]);
          const float one = x.scale[(F.super ? b / 8 : b) * M + m];
          for (int p = 0; p < P; ++p) {
            int dot = 0, sum = 0;
            for (int k = p * F.span; k < (p + 1) * F.span; ++k) {
              const int code = code_at(block, F.bits, r, k);
              const int q = x.codes[((b * 8 + k / 4) * M + m) * 4 + k % 4];
              dot += (F.table ? kLevels[code] : code - kZero) * q;
              sum += q;
            }
            if constexpr (F.super) {
              const int64_t at = (b % 8 * P + p) * kRows + r;
              const uint8_t* sub = w.sub + g * kSubs * (F.extra == Extra::min && !F.nibbles ? 2 : 1);
              const int s = F.nibbles ? sub[at] & 15 : F.extra == Extra::min ? sub[at] : sub[at] - 128;
              total += one * (scale * s * dot);
              if constexpr (F.extra == Extra::min) {
                const int minimum = F.nibbles ? sub[at] >> 4 : sub[at + kSubs];
                total -= one * (half_to_float(static_cast<const uint16_t*>(w.offset)[g * kRows + r]) * minimum * sum);
              }
            } else {
              if constexpr (F.extra == Extra::zero) dot -= static_cast<const uint8_t*>(w.offset)[g * kRows + r] * sum;
              total += one * (scale * dot);
              if constexpr (F.extra == Extra::min)
                total += one * (half_to_float(static_cast<const uint16_t*>(w.offset)[g * kRows + r]) * sum);
            }
          }
        }
        y[m * stride + (t - first) * kRows + r] = total;
      }
}

float number_at(int format, const uint8_t* numbers, int64_t at) {
  if (format == k_float32) return ((const float*)numbers)[at];
  const uint16_t bits = ((const uint16_t*)numbers)[at];
  return format == k_float16 ? half_to_float(bits) : brain_to_float(bits);
}

template <int F, int M>
void multiply_floats(const Tiles& w, const float* x, float* y, int64_t stride, int64_t first, int64_t last) {
  const int64_t columns = w.blocks * kBlock;
  for (int64_t t = first; t < last; ++t)
    for (int r = 0; r < kRows; ++r)
      for (int m = 0; m < M; ++m) {
        float total = 0;
        for (int64_t k = 0; k < columns; ++k)
          total += number_at(F, w.codes, (t * columns + k) * kRows + r) * x[k * M + m];
        y[m * stride + (t - first) * kRows + r] = total;
      }
}

struct V {};

}  // namespace

#define QLAB_SCALAR_OF(name, ...) {multiply<Format{__VA_ARGS__}, 1>, multiply<Format{__VA_ARGS__}, 4>, multiply<Format{__VA_ARGS__}, 16>},

#define QLAB_SCALAR_FLOATS_OF(name, ...) {multiply_floats<k_##name, 1>, multiply_floats<k_##name, 4>, multiply_floats<k_##name, 16>},

const Isa kScalar = {"scalar", {QLAB_FORMATS(QLAB_SCALAR_OF)}, {QLAB_FLOATS(QLAB_SCALAR_FLOATS_OF)},
                     round_inputs<V>, rms_norm, swiglu, attend};
