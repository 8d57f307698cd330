// The one algorithm of the matrix kernels, over the vectors V of an instruction set; included by its leaf file alone.
//
// V offers kLanes (rows in a vector), Int and Float vectors, Dot (the running dot products of one token with the rows),
// and the few operations used below.
#pragma once
#include "tiles.h"

namespace {

// Columns 4·j … 4·j + 3 of the rows of a vector, one code a byte; `p`: this vector's part of a block's first vector.
template <class V, Format F>
inline __attribute__((always_inline)) typename V::Int codes_of(const uint8_t* p, int j) {
  if constexpr (F.bits == 8) {
    return V::load(p + 64 * j);
  } else if constexpr (F.bits >= 4) {
    typename V::Int u = V::mask(V::right(V::load(p + 64 * (j / 2)), 4 * (j % 2)), 15);
    if constexpr (F.table) u = V::level(u);
    if constexpr (F.bits == 5) u = V::either(u, V::mask(V::shift(V::load(p + 256), 4 - j), 16));
    if constexpr (F.bits == 6)
      u = V::either(u, V::mask(V::shift(V::load(p + 256 + 64 * (j / 4)), 4 - 2 * (j % 4)), 48));
    return u;
  } else {
    typename V::Int u = V::mask(V::right(V::load(p + 64 * (j / 4)), 2 * (j % 4)), 3);
    if constexpr (F.bits == 3) u = V::either(u, V::mask(V::shift(V::load(p + 128), 2 - j), 4));
    return u;
  }
}

template <class V, Format F, int M>
void multiply(const Tiles& w, const Inputs& x, float* y, int64_t stride, int64_t first, int64_t last) {
  using Int = typename V::Int;
  using Float = typename V::Float;
  constexpr int kVectors = kRows / V::kLanes;
  // One token is bound by memory: read a block once. Several are bound by registers: take the rows of one vector.
  constexpr int H = M == 1 ? kVectors : 1;
  constexpr int P = kBlock / F.span;           // parts of a block with a scale of their own
  constexpr int kSteps = 8 / P;                // vectors of 4 columns in a part
  constexpr int kCodes = 64 * F.bits;          // bytes of a block
  constexpr int kSubs = F.super ? kSuper / F.span * kRows * (F.extra == Extra::min && !F.nibbles ? 2 : 1) : 0;
  const int64_t groups = F.super ? w.blocks / 8 : (w.blocks + w.group - 1) / w.group;

  for (int64_t t = first; t < last; ++t) {
    for (int pass = 0; pass < kVectors; pass += H) {
      Float acc[H][M], part[H][M];
      Int less[H][M];
      for (int h = 0; h < H; ++h)
        for (int m = 0; m < M; ++m) acc[h][m] = V::zero(), part[h][m] = V::zero(), less[h][m] = V::none();
      const uint8_t* codes = w.codes + t * w.blocks * kCodes;
      int64_t group = t * groups, within = 0;  // the group, or super-block, and the block within it
      for (int64_t b = 0; b < w.blocks; ++b, codes += kCodes) {
        if constexpr (M == 1)
          for (int v = 0; v < F.bits; ++v) V::prefetch(codes + 64 * v + V::kAhead);
#pragma GCC unroll 4
        for (int h = 0; h < H; ++h) {
          const int row = V::kLanes * (pass + h);
          const uint8_t* mine = codes + 4 * row;
          const int64_t at = group * kRows + row;
          const uint8_t* sub = F.super ? w.sub + group * kSubs + within * P * kRows + row : nullptr;
          Float scale = V::zero();
          if constexpr (!F.super) scale = w.wide ? V::floats((const float*)w.scale + at) : V::halves((const uint16_t*)w.scale + at);
#pragma GCC unroll 2
          for (int p = 0; p < P; ++p) {
            typename V::template Dot<F> dot[M];
            for (int m = 0; m < M; ++m) dot[m].begin(F.extra == Extra::none ? x.start + (b * P + p) * M + m : nullptr);
#pragma GCC unroll 8
            for (int j = 0; j < kSteps; ++j) {
              const Int u = codes_of<V, F>(mine, p * kSteps + j);
              const int8_t* q = x.codes + ((b * 8 + p * kSteps + j) * M) * 4;
#pragma GCC unroll 16
              for (int m = 0; m < M; ++m) dot[m].step(u, q + 4 * m, j);
            }
            const int32_t* sum = x.sum + (b * P + p) * M;
            if constexpr (F.super) {
              const Int bytes = V::widen(sub + p * kRows);  // for Q3_K and Q6_K signed, and stored + 128
              const Float s = V::number(F.nibbles ? V::mask32(bytes, 15) : F.extra == Extra::min ? bytes : V::minus(bytes, 128));
              Int minimum = V::none();
              if constexpr (F.extra == Extra::min)
                minimum = F.nibbles ? V::right32(bytes, 4) : V::widen(sub + p * kRows + kSubs / 2);
#pragma GCC unroll 16
              for (int m = 0; m < M; ++m) {
                part[h][m] = V::fma(V::number(dot[m].end()), s, part[h][m]);
                if constexpr (F.extra == Extra::min) less[h][m] = V::add_product(less[h][m], minimum, sum + m);
              }
            } else {
              Int zero = V::none();
              Float minimum = V::zero();
              if constexpr (F.extra == Extra::zero) zero = V::widen((const uint8_t*)w.offset + at);
              if constexpr (F.bits == 8 && V::kSigned) zero = V::mask32(V::minus(zero, 128), 0xFFFF);
              if constexpr (F.extra == Extra::min) minimum = V::halves((const uint16_t*)w.offset + at);
#pragma GCC unroll 16
              for (int m = 0; m < M; ++m) {
                Int total = dot[m].end();
                if constexpr (F.extra == Extra::zero) total = V::add_product(total, zero, sum + m);
                const float one = x.scale[b * M + m];
                acc[h][m] = V::fma(V::number(total), V::times(scale, one), acc[h][m]);
                if constexpr (F.extra == Extra::min) acc[h][m] = V::fma(minimum, V::all(-one * (float)sum[m]), acc[h][m]);
              }
            }
          }
        }
        if (++within == (F.super ? 8 : w.group)) {
          if constexpr (F.super) {
            const float* one = x.scale + (b / 8) * M;
#pragma GCC unroll 4
            for (int h = 0; h < H; ++h) {
              const int64_t at = group * kRows + V::kLanes * (pass + h);
              const Float scale = V::halves((const uint16_t*)w.scale + at);
              const Float minimum = F.extra == Extra::min ? V::halves((const uint16_t*)w.offset + at) : V::zero();
#pragma GCC unroll 16
              for (int m = 0; m < M; ++m) {
                acc[h][m] = V::fma(part[h][m], V::times(scale, one[m]), acc[h][m]);
                part[h][m] = V::zero();
                if constexpr (F.extra == Extra::min) {
                  acc[h][m] = V::fma(V::number(less[h][m]), V::times(minimum, one[m]), acc[h][m]);
                  less[h][m] = V::none();
                }
              }
            }
          }
          ++group;
          within = 0;
        }
      }
      for (int h = 0; h < H; ++h)
        for (int m = 0; m < M; ++m) V::store(y + m * stride + (t - first) * kRows + V::kLanes * (pass + h), acc[h][m]);
    }
  }
}

}  // namespace

// The kernels of V, as the rows of Isa::multiply.
#define QLAB_KERNELS_OF(name, ...)                                                                         \
  {multiply<V, Format{__VA_ARGS__}, 1>, multiply<V, Format{__VA_ARGS__}, 4>, multiply<V, Format{__VA_ARGS__}, 16>},
