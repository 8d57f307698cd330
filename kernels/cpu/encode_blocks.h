// What every type's encoder is given and helps itself to.
#pragma once
#include "encode_search.h"

namespace {

// kLanes blocks: weight by weight, with the importance of each (or null) and the mean square of its row.
struct Batch {
  const F* x;
  const F* importance;
  F square;
};

// w = importance · √(σ² + x²), σ² being given.
template <int N>
inline void weigh(const F* x, const F* importance, F sigma, F* w) {
  for (int i = 0; i < N; ++i) w[i] = root(sigma + x[i] * x[i]) * importance[i];
}

template <int N>
inline F mean_square(const F* x) {
  F sum = x[0] * x[0];
  for (int i = 1; i < N; ++i) sum += x[i] * x[i];
  return sum / static_cast<float>(N);
}

inline void put_half(I h, I* out) {
  out[0] = h & 255;
  out[1] = h >> 8;
}

// Codes into `bytes` bytes, `kBits` of each: every run of kRun bytes holds the codes of kRun neighbours in its lowest
// bits, of the next kRun in the bits above …
template <int kBits, int kRun>
inline void put_planes(const I* codes, int bytes, int shift, I* out) {
  constexpr int kPlanes = 8 / kBits, kMask = (1 << kBits) - 1;
  for (int run = 0; run < bytes; run += kRun)
    for (int j = 0; j < kRun; ++j) {
      I packed{};
      for (int p = 0; p < kPlanes; ++p)
        packed |= (codes[run * kPlanes + p * kRun + j] >> shift & kMask) << (p * kBits);
      out[run + j] = packed;
    }
}

template <int N>
inline void to_bytes(const F* x, I* out) {
  for (int i = 0; i < N; ++i) out[i] = byte(x[i]);
}

typedef float Four __attribute__((vector_size(16)));

inline Four four_at(const float* p) {
  Four x;
  __builtin_memcpy(&x, p, 16);
  return x;
}

// N numbers from each place, as lanes: squares of four by four are turned over in registers.
template <int N>
inline void load(const float* from, const int64_t* at, F* x) {
  Four* to = reinterpret_cast<Four*>(x);
  for (int l = 0; l < kLanes; l += 4)
    for (int i = 0; i < N; i += 4) {
      const Four a = four_at(from + at[l] + i), b = four_at(from + at[l + 1] + i);
      const Four c = four_at(from + at[l + 2] + i), d = four_at(from + at[l + 3] + i);
      const Four ab = __builtin_shufflevector(a, b, 0, 4, 1, 5), cd = __builtin_shufflevector(c, d, 0, 4, 1, 5);
      const Four AB = __builtin_shufflevector(a, b, 2, 6, 3, 7), CD = __builtin_shufflevector(c, d, 2, 6, 3, 7);
      Four* square = to + (i * kLanes + l) / 4;
      square[0] = __builtin_shufflevector(ab, cd, 0, 1, 4, 5);
      square[kLanes / 4] = __builtin_shufflevector(ab, cd, 2, 3, 6, 7);
      square[2 * kLanes / 4] = __builtin_shufflevector(AB, CD, 0, 1, 4, 5);
      square[3 * kLanes / 4] = __builtin_shufflevector(AB, CD, 2, 3, 6, 7);
    }
}

template <int N>
inline I all_finite(const F* x) {
  I fine = I{} - 1;
  for (int i = 0; i < N; ++i) fine &= is_finite(x[i]);
  return fine;
}

template <class Type>
bool encode_type(const EncodeJob& job, int64_t begin, int64_t end) {
  constexpr int N = Type::weights;
  const int64_t per_row = job.row / N;
  F x[N], importance[N];
  I out[Type::bytes], fine = I{} - 1;
  for (int64_t b = begin; b < end; b += kLanes) {
    Batch batch{x, nullptr, F{}};
    int64_t at[kLanes], column[kLanes];
    for (int l = 0; l < kLanes; ++l) {  // the last block stands in for those that are missing
      const int64_t block = b + l < end ? b + l : end - 1;
      at[l] = block * N;
      column[l] = block % per_row * N;
      if (job.squares) batch.square[l] = job.squares[block / per_row];
    }
    load<N>(job.W, at, x);
    fine &= all_finite<N>(x);
    if (job.importance) {
      load<N>(job.importance, column, importance);
      fine &= all_finite<N>(importance);
      batch.importance = importance;
    }
    fine &= Type::encode(batch, out);
    const int lanes = end - b < kLanes ? static_cast<int>(end - b) : kLanes;
    for (int l = 0; l < lanes; ++l) {
      uint8_t* to = job.out + (b + l) * Type::bytes;
      for (int j = 0; j < Type::bytes; ++j) to[j] = static_cast<uint8_t>(out[j][l]);
    }
  }
  return !any(~fine);
}

}  // namespace
