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

// T neighbouring tiles from `tile` on with M tokens: y[m · stride + 16 · i + r] for tile i and row r of it. `pass` picks
// one vector of the rows where a pass does not take them all.
template <class V, Format F, int M, int T>
inline void product(const Tiles& w, const Inputs& x, float* y, int64_t stride, int64_t tile, int pass) {
  using Int = typename V::Int;
  using Float = typename V::Float;
  constexpr int H = M == 1 ? kRows / V::kLanes : 1;  // vectors of a tile's rows
  constexpr int S = T * H;                           // vectors of rows in all
  constexpr int P = kBlock / F.span;                 // parts of a block with a scale of their own
  constexpr int kSteps = 8 / P;                      // vectors of 4 columns in a part
  constexpr int kCodes = 64 * F.bits;                // bytes of a block
  constexpr int kSubs = F.super ? kSuper / F.span * kRows * (F.extra == Extra::min && !F.nibbles ? 2 : 1) : 0;
  const int64_t groups = F.super ? w.blocks / 8 : (w.blocks + w.group - 1) / w.group;

  Float acc[S][M], part[S][M];
  Int less[S][M];
  for (int s = 0; s < S; ++s)
    for (int m = 0; m < M; ++m) acc[s][m] = V::zero(), part[s][m] = V::zero(), less[s][m] = V::none();
  const auto row_of = [&](int s) { return V::kLanes * (pass + s % H); };
  const uint8_t* const codes = w.codes + tile * w.blocks * kCodes;
  int64_t group = 0, within = 0;  // the group, or super-block, and the block within it
  for (int64_t b = 0; b < w.blocks; ++b) {
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      const int64_t at = ((tile + s / H) * groups + group) * kRows + row_of(s);
      const uint8_t* mine = codes + (s / H * w.blocks + b) * kCodes + 4 * row_of(s);
      if constexpr (M == 1)
        if (s % H == 0)
          for (int v = 0; v < F.bits; ++v) V::prefetch(mine + 64 * v + V::kAhead);
      const uint8_t* sub =
          F.super ? w.sub + ((tile + s / H) * groups + group) * kSubs + within * P * kRows + row_of(s) : nullptr;
      Float scale = V::zero();
      if constexpr (!F.super)
        scale = w.wide ? V::floats((const float*)w.scale + at) : V::halves((const uint16_t*)w.scale + at);
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
          const Int bytes = V::widen(sub + p * kRows);  // without minima they are signed, and stored + 128
          const Float step = V::number(F.nibbles                  ? V::mask32(bytes, 15)
                                       : F.extra == Extra::min ? bytes
                                                               : V::minus(bytes, 128));
          Int minimum = V::none();
          if constexpr (F.extra == Extra::min)
            minimum = F.nibbles ? V::right32(bytes, 4) : V::widen(sub + p * kRows + kSubs / 2);
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) {
            part[s][m] = V::fma(V::number(dot[m].end()), step, part[s][m]);
            if constexpr (F.extra == Extra::min) less[s][m] = V::add_product(less[s][m], minimum, sum + m);
          }
        } else {
          Int zero = V::none();
          Float minimum = V::zero();
          if constexpr (F.extra == Extra::zero) zero = V::widen((const uint8_t*)w.offset + at);
          if constexpr (F.bits == 8 && F.extra == Extra::zero && V::kSigned)
            zero = V::factor(V::minus(zero, 128));
          if constexpr (F.extra == Extra::min) minimum = V::halves((const uint16_t*)w.offset + at);
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) {
            Int total = dot[m].end();
            if constexpr (F.extra == Extra::zero) total = V::add_product(total, zero, sum + m);
            const float one = x.scale[b * M + m];
            acc[s][m] = V::fma(V::number(total), V::times(scale, one), acc[s][m]);
            if constexpr (F.extra == Extra::min) acc[s][m] = V::fma(minimum, V::all(-one * (float)sum[m]), acc[s][m]);
          }
        }
      }
    }
    if (++within == (F.super ? 8 : w.group)) {
      if constexpr (F.super) {
        const float* one = x.scale + (b / 8) * M;
#pragma GCC unroll 8
        for (int s = 0; s < S; ++s) {
          const int64_t at = ((tile + s / H) * groups + group) * kRows + row_of(s);
          const Float scale = V::halves((const uint16_t*)w.scale + at);
          const Float minimum = F.extra == Extra::min ? V::halves((const uint16_t*)w.offset + at) : V::zero();
#pragma GCC unroll 16
          for (int m = 0; m < M; ++m) {
            acc[s][m] = V::fma(part[s][m], V::times(scale, one[m]), acc[s][m]);
            part[s][m] = V::zero();
            if constexpr (F.extra == Extra::min) {
              acc[s][m] = V::fma(V::number(less[s][m]), V::times(minimum, one[m]), acc[s][m]);
              less[s][m] = V::none();
            }
          }
        }
      }
      ++group;
      within = 0;
    }
  }
  for (int s = 0; s < S; ++s)
    for (int m = 0; m < M; ++m) V::store(y + m * stride + s / H * kRows + row_of(s), acc[s][m]);
}

template <class V, Format F, int M>
void multiply(const Tiles& w, const Inputs& x, float* y, int64_t stride, int64_t first, int64_t last) {
  if constexpr (M == 1) {
    // One token is bound by memory, which gives most to a core that reads in several places at once.
    constexpr int T = V::kStreams;
    for (; first + T <= last; first += T, y += T * kRows) product<V, F, 1, T>(w, x, y, stride, first, 0);
    for (; first < last; ++first, y += kRows) product<V, F, 1, 1>(w, x, y, stride, first, 0);
  } else {
    // Several are bound by registers: one vector of rows at a time.
    for (; first < last; ++first, y += kRows)
      for (int pass = 0; pass < kRows / V::kLanes; ++pass) product<V, F, M, 1>(w, x, y, stride, first, pass);
  }
}

// Sixteen rows of floats of one column, or as many of them as a vector has.
template <class V, int F>
inline typename V::Float floats_of(const uint8_t* p) {
  if constexpr (F == k_float16) return V::halves((const uint16_t*)p);
  if constexpr (F == k_bfloat16) return V::brains((const uint16_t*)p);
  if constexpr (F == k_float32) return V::floats((const float*)p);
}

// The same product for floats, x [columns][M].
template <class V, int F, int M, int T>
inline void product_of_floats(const Tiles& w, const float* x, float* y, int64_t stride, int64_t tile, int pass) {
  constexpr int H = M == 1 ? kRows / V::kLanes : 1;
  constexpr int S = T * H;
  constexpr int kBytes = F == k_float32 ? 4 : 2;
  constexpr int kLine = 64 / (kBytes * kRows);  // columns of a cache line
  const int64_t columns = w.blocks * kBlock;
  typename V::Float acc[S][M];
  for (int s = 0; s < S; ++s)
    for (int m = 0; m < M; ++m) acc[s][m] = V::zero();
  const auto row_of = [&](int s) { return V::kLanes * (pass + s % H); };
  const uint8_t* const numbers = w.codes + tile * columns * kRows * kBytes;
  for (int64_t k = 0; k < columns; ++k)
#pragma GCC unroll 8
    for (int s = 0; s < S; ++s) {
      const uint8_t* mine = numbers + ((s / H * columns + k) * kRows + row_of(s)) * kBytes;
      if constexpr (M == 1)
        if (s % H == 0 && k % kLine == 0) V::prefetch(mine + V::kAhead);
      const typename V::Float u = floats_of<V, F>(mine);
#pragma GCC unroll 16
      for (int m = 0; m < M; ++m) acc[s][m] = V::fma(u, V::all(x[k * M + m]), acc[s][m]);
    }
  for (int s = 0; s < S; ++s)
    for (int m = 0; m < M; ++m) V::store(y + m * stride + s / H * kRows + row_of(s), acc[s][m]);
}

template <class V, int F, int M>
void multiply_floats(const Tiles& w, const float* x, float* y, int64_t stride, int64_t first, int64_t last) {
  if constexpr (M == 1) {
    constexpr int T = V::kStreams;
    for (; first + T <= last; first += T, y += T * kRows) product_of_floats<V, F, 1, T>(w, x, y, stride, first, 0);
    for (; first < last; ++first, y += kRows) product_of_floats<V, F, 1, 1>(w, x, y, stride, first, 0);
  } else {
    for (; first < last; ++first, y += kRows)
      for (int pass = 0; pass < kRows / V::kLanes; ++pass) product_of_floats<V, F, M, 1>(w, x, y, stride, first, pass);
  }
}

}  // namespace

// The kernels of V, as the rows of Isa::multiply and Isa::multiply_floats.
#define QLAB_KERNELS_OF(name, ...)                                                                         \
  {multiply<V, Format{__VA_ARGS__}, 1>, multiply<V, Format{__VA_ARGS__}, 4>, multiply<V, Format{__VA_ARGS__}, 16>},
#define QLAB_FLOAT_KERNELS_OF(name, ...)                                                          \
  {multiply_floats<V, k_##name, 1>, multiply_floats<V, k_##name, 4>, multiply_floats<V, k_##name, 16>},
