// Codes and numbers to and from the tile layout of tiles.h, and the multiplication of whole matrices, on several threads.
#pragma once
#include <vector>

#include "tiles.h"

extern const Format kFormat[kAllFormats];
extern const char* const kFormatName[kAllFormats];

inline bool is_float(FormatId format) { return format >= kFormats; }

// Codes [rows][columns], one a byte, into planes [⌈rows/16⌉][columns/32][64 · bits]; rows that are missing are zeros.
void tile_codes(const uint8_t* codes, int64_t rows, int64_t columns, int bits, uint8_t* out, int threads);

// The inverse, for rows [first, first + rows); `first` a multiple of 16.
void untile_codes(const uint8_t* tiles, int64_t first, int64_t rows, int64_t columns, int bits, uint8_t* out, int threads);

// The numbers [rows][columns] of rows [first, first + rows).
void dequantize_tiles(FormatId format, const Tiles& w, int64_t first, int64_t rows, float* out, int threads);

// The same for `count` rows in any order.
void dequantize_rows(FormatId format, const Tiles& w, const int64_t* ids, int64_t count, float* out, int threads);

// One matrix of a product, and where its result goes: y [tokens][rows].
struct Product {
  FormatId format;
  Tiles tiles;
  int64_t rows;
  float* y;
};

// y = x · Wᵀ for every W of `products`, with x [tokens][columns] rounded to 8 bits by block where W is quantized, once
// for all that round it alike; `half`: scales of blocks of 32 inputs as float16.
void multiply_tiles(const Isa& isa, const std::vector<Product>& products, const float* x, int64_t tokens, bool half,
                    int threads);

// Columns that share a scale of the inputs, and the zero of the codes.
int input_block(const Format& format);
int zero_of(const Format& format);
