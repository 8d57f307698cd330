// Codes of 1 to 8 bits in one dense little-endian stream: code i of a line is the bits [i · bits, (i + 1) · bits).
#pragma once
#include <cstdint>

// Codes [outer][n][inner], one a byte, along the middle axis into words [outer][⌈n · bits / 32⌉][inner]; what is left of
// the last word is zero. False, and nothing of use in `words`, where a code has more bits.
bool pack_bits(const uint8_t* codes, int64_t outer, int64_t n, int64_t inner, int bits, uint32_t* words, int threads);

// The inverse.
void unpack_bits(const uint32_t* words, int64_t outer, int64_t n, int64_t inner, int bits, uint8_t* codes, int threads);

inline int64_t words_of(int64_t n, int bits) { return (n * bits + 31) / 32; }
