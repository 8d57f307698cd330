// One leaf: every type, compiled for the instruction set that the including file is compiled for.
#pragma once
#include "encode_kquants.h"
#include "encode_small.h"

namespace {

void row_squares(const float* W, int64_t row, int64_t begin, int64_t end, float* out) {
  for (int64_t r = begin; r < end; r += kLanes) {  // rows side by side: one alone would wait for every addition
    F sum{};
    for (int64_t i = 0; i < row; ++i) {
      F x{};
      for (int l = 0; l < kLanes; ++l) x[l] = W[(r + l < end ? r + l : end - 1) * row + i];
      sum = i ? sum + x * x : x * x;
    }
    for (int l = 0; l < kLanes && r + l < end; ++l) out[r + l] = sum[l] / static_cast<float>(row);
  }
}

template <class Type>
constexpr BlockEncoder encoder() {
  return {Type::name, Type::weights, Type::bytes, Type::importance, encode_type<Type>};
}

constexpr EncodeLeaf leaf(const char* isa) {
  return {isa,
          {encoder<Q4_0>(), encoder<Q4_1>(), encoder<Q5_0>(), encoder<Q5_1>(), encoder<Q8_0>(), encoder<Q2_K>(),
           encoder<Q3_K>(), encoder<Q4_K>(), encoder<Q5_K>(), encoder<Q6_K>(), encoder<IQ4_NL>(), encoder<IQ4_XS>(),
           encoder<TQ1_0>(), encoder<TQ2_0>(), encoder<MXFP4>(), encoder<NVFP4>()},
          row_squares};
}

}  // namespace
