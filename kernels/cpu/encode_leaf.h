// One leaf: every type, compiled for the instruction set that the including file is compiled for.
#pragma once
#include "decode_blocks.h"
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

template <class Type, void (*decode_block)(const uint8_t*, float*)>
constexpr BlockType block_type() {
  return {Type::name,       Type::weights,     Type::bytes,
          Type::importance, encode_type<Type>, decode_type<Type, decode_block>};
}

constexpr EncodeLeaf leaf(const char* isa) {
  return {isa,
          {block_type<Q4_0, decode_nibbles<4, false>>(), block_type<Q4_1, decode_nibbles<4, true>>(),
           block_type<Q5_0, decode_nibbles<5, false>>(), block_type<Q5_1, decode_nibbles<5, true>>(),
           block_type<Q8_0, decode_q8_0>(), block_type<Q2_K, decode_q2_k>(), block_type<Q3_K, decode_q3_k>(),
           block_type<Q4_K, decode_sixes<4>>(), block_type<Q5_K, decode_sixes<5>>(), block_type<Q6_K, decode_q6_k>(),
           block_type<IQ4_NL, decode_iq4_nl>(), block_type<IQ4_XS, decode_iq4_xs>(), block_type<TQ1_0, decode_tq1_0>(),
           block_type<TQ2_0, decode_tq2_0>(), block_type<MXFP4, decode_mxfp4>(), block_type<NVFP4, decode_nvfp4>()},
          row_squares};
}

}  // namespace
