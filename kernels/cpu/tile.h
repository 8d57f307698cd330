// Codes and numbers to and from the tile layout of tiles.h, and the multiplication of whole matrices, on several threads.
#pragma once
#include "tiles.h"

extern const Format kFormat[kFormats];
extern const char* const kFormatName[kFormats];

// Codes [rows][columns], one a byte, into planes [⌈rows/16⌉][columns/32][64 · bits]; rows that are missing are zeros.
void tile_codes(const uint8_t* codes, int64_t rows, int64_t columns, int bits, uint8_t* out, int threads);

// The inverse, for rows [first, first + rows); `first` a multiple of 16.
void untile_codes(const uint8_t* tiles, int64_t first, int64_t rows, int64_t columns, int bits, uint8_t* out, int threads);

// The numbers [rows][columns] of rows [first, first + rows).
void dequantize_tiles(FormatId format, const Tiles& w, int64_t first, int64_t rows, float* out, int threads);

// y [tokens][rows] = x [tokens][columns] · Wᵀ with x rounded to 8 bits by block; `half`: scales of blocks of 32 inputs
// as float16.
void multiply_tiles(const Isa& isa, FormatId format, const Tiles& w, int64_t rows, const float* x, int64_t tokens,
                    bool half, float* y, int threads);

// Columns that share a scale of the inputs, and the zero of the codes.
int input_block(const Format& format);
int zero_of(const Format& format);
