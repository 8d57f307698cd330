// The tile layout, and what a kernel needs to know of a matrix. A leaf's header: plain pointers, no standard library.
//
// Sixteen rows by 32 columns make a tile block. A processor multiplies four neighbouring bytes of each 32-bit lane and
// adds them up in the lane: so a lane is a row, a 64-byte vector holds 4 columns of 16 rows, and no sum ever has to be
// taken across lanes. Byte 4·r + i of a vector belongs to row r. Codes of b bits lie in planes of 8, 4, 2 or 1 bits
// (5 = 4 + 1, 6 = 4 + 2, 3 = 2 + 1), the low bits first; field q of vector v of a plane of w bits is column
// 4·(v·8/w + q) + i.
//
// Floats lie in the same tiles, sixteen rows of a column, then of the next one.
#pragma once
#include <stdint.h>

constexpr int kRows = 16;   // of a tile
constexpr int kBlock = 32;  // columns of a tile block
constexpr int kSuper = 256; // columns that share the scale of scales

enum class Extra : uint8_t {
  none,  // symmetric: the codes' zero is the same for all, and is taken off through Inputs::start
  zero,  // an integer zero point for each group
  min,   // a minimum for each group: added where it is a float, subtracted where it stands under a scale of its own
};

// One way of storing a matrix; every one is a kernel of its own.
struct Format {
  int bits;     // floats have 16 or 32, and none of what follows
  bool table;   // the codes are numbers of IQ4_NL's levels
  bool super;   // scales (and minima) are bytes under a float16 for 256 columns
  int span;     // columns between two scales: 16 or 32; groups of more than 32 repeat theirs
  Extra extra;
  bool nibbles; // a scale and a minimum share a byte (Q2_K)
};

// A matrix of tiles; T tiles, B blocks of 32 columns, G groups, S = B / 8 super-blocks.
struct Tiles {
  const uint8_t* codes;  // [T][B][64 · bits]; floats: [T][B][32][16] of them, and nothing below but B
  const void* scale;     // [T][G][16] float16 or float32; super: [T][S][16] float16
  const void* offset;    // zero: [T][G][16] uint8; min: [T][G][16] float16; super with min: [T][S][16] float16
  const uint8_t* sub;    // super: [T][S][256 / span][16] scales, then as many minima; one of both where nibbles
  int64_t blocks;        // B
  int64_t group;         // blocks to a group: the last one may have fewer
  bool wide;             // scale is float32
};

// The inputs of up to kMostTokens tokens, M of them, quantized to 8 bits; P = parts of a block that have a scale of
// their own, 1 or 2.
struct Inputs {
  const int8_t* codes;   // [B][8][M][4]: four columns of every token, then the next four
  const float* scale;    // [B][M]; super: [S][M]
  const int32_t* sum;    // [B][P][M] sums of codes, negated
  const int32_t* start;  // [B][P][M] what a dot product begins with: -(the codes' zero) · the sum
};

constexpr int kMostTokens = 16;

// y[m · stride + r] for the tokens m of x and the rows r of tiles [first, last), counted from the first of them.
// x of floats is [columns][M]: a column of every token, then the next one.
using Multiply = void (*)(const Tiles& w, const Inputs& x, float* y, int64_t stride, int64_t first, int64_t last);
using MultiplyFloats = void (*)(const Tiles& w, const float* x, float* y, int64_t stride, int64_t first, int64_t last);

// Where quantize_inputs writes; the shapes are those of Inputs.
struct Outputs {
  int8_t* codes;
  float* scale;
  int32_t* sum;
  int32_t* start;
};

// How inputs are to be rounded.
struct Rounding {
  int block;   // columns that share a scale: 32 or 256
  int span;    // columns of a sum: 16 or 32
  int zero;    // the codes' zero
  bool half;   // scales as float16, as llama.cpp stores those of blocks of 32
};

// Rounds M ≤ kMostTokens rows of `columns` floats; a block with NaN or infinity gets the scale NaN.
using Quantize = void (*)(const float* x, int64_t stride, int tokens, int64_t columns, Rounding how, Outputs out);

// The formats that have kernels: name, then the fields of Format.
#define QLAB_FORMATS(X)                                  \
  X(int2, 2, false, false, 32, Extra::none, false)       \
  X(int3, 3, false, false, 32, Extra::none, false)       \
  X(int4, 4, false, false, 32, Extra::none, false)       \
  X(int5, 5, false, false, 32, Extra::none, false)       \
  X(int8, 8, false, false, 32, Extra::none, false)       \
  X(int2_zero, 2, false, false, 32, Extra::zero, false)  \
  X(int3_zero, 3, false, false, 32, Extra::zero, false)  \
  X(int4_zero, 4, false, false, 32, Extra::zero, false)  \
  X(int8_zero, 8, false, false, 32, Extra::zero, false)  \
  X(int4_min, 4, false, false, 32, Extra::min, false)    \
  X(int5_min, 5, false, false, 32, Extra::min, false)    \
  X(levels4, 4, true, false, 32, Extra::none, false)     \
  X(super2_min, 2, false, true, 16, Extra::min, true)    \
  X(super3, 3, false, true, 16, Extra::none, false)      \
  X(super4_min, 4, false, true, 32, Extra::min, false)   \
  X(super5_min, 5, false, true, 32, Extra::min, false)   \
  X(super6, 6, false, true, 16, Extra::none, false)      \
  X(super_levels4, 4, true, true, 32, Extra::none, false)

// Matrices that are not quantized; their kernels take inputs as they are.
#define QLAB_FLOATS(X) X(float16, 16) X(bfloat16, 16) X(float32, 32)

enum FormatId {
#define QLAB_NAME(name, ...) k_##name,
  QLAB_FORMATS(QLAB_NAME)
  kFormats,  // the floats follow
  kLastFormat = kFormats - 1,
  QLAB_FLOATS(QLAB_NAME)
#undef QLAB_NAME
  kAllFormats
};
constexpr int kFloats = kAllFormats - kFormats;

// Up to four queries on the keys and values of one head; `size` numbers to a head, a multiple of 16.
struct Heads {
  int queries;
  const float* query[4];  // [size]
  float* out[4];          // [size]
  int64_t seen[4];        // how many keys each query sees
  const float* keys;      // [keys / 16][size][16]: sixteen keys side by side, so that no sum crosses a vector
  const float* values;    // [keys][size]
  int64_t size;
  float scale;
};

// What an instruction set offers.
struct Isa {
  const char* name;
  Multiply multiply[kFormats][3];  // for 1, 4 and 16 tokens
  MultiplyFloats multiply_floats[kFloats][3];
  Quantize quantize;
  void (*rms_norm)(const float* x, const float* weight, float eps, int64_t n, float* y);
  void (*swiglu)(float* gate, const float* up, int64_t n);  // gate = silu(gate) · up
  void (*attend)(const Heads& heads, float* weights);       // weights: room for 4 · keys, rounded up to 16
};

extern const Isa kScalar;
#if defined(__x86_64__)
extern const Isa kAvx2, kAvx512;
#elif defined(__aarch64__)
extern const Isa kNeon;
#endif
