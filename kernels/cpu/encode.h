// Blocks of GGUF: encoders in a leaf for each instruction set, which all give the same bytes, and decoders.
#pragma once
#include <stdint.h>

// What an encoder does with importance; σ² of its weights is the mean square of a block, or of the whole row.
enum class Importance { kIgnored, kByBlock, kByRow };

// Rows of weights and where their blocks go; everything is contiguous.
struct EncodeJob {
  const float* W;           // [rows, row]
  const float* importance;  // [row], or null; null where it is ignored
  const float* squares;     // [rows], the mean of each row's squares; null unless importance goes by row
  int64_t row;
  uint8_t* out;
};

struct BlockEncoder {
  const char* name;
  int weights, bytes;  // of a block
  Importance importance;
  // Writes blocks [begin, end). False where torch has to say what becomes of them: a number is NaN or infinite, or a
  // scale does not fit its float16.
  bool (*encode)(const EncodeJob& job, int64_t begin, int64_t end);
};

constexpr int kBlockTypes = 16;

struct EncodeLeaf {
  const char* isa;
  BlockEncoder types[kBlockTypes];
  // Mean square of rows [begin, end), summed in order.
  void (*row_squares)(const float* W, int64_t row, int64_t begin, int64_t end, float* out);
};

struct BlockDecoder {
  const char* name;
  int weights, bytes;
  void (*decode)(const uint8_t* data, int64_t blocks, float* out);
};

// IQ4_NL's levels, ggml's kvalues_iq4nl.
constexpr float kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

extern const BlockDecoder block_decoders[kBlockTypes];
extern const EncodeLeaf encode_scalar;
#if defined(__x86_64__)
extern const EncodeLeaf encode_avx2;
extern const EncodeLeaf encode_avx512;
#endif
