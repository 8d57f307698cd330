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

// N numbers from each place, as lanes.
template <int N>
inline void load(const float* from, const int64_t* at, F* x) {
  float* lanes = reinterpret_cast<float*>(x);
  for (int l = 0; l < kLanes; ++l)
    for (int i = 0; i < N; ++i) lanes[i * kLanes + l] = from[at[l] + i];
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
