// float16 and bfloat16 without instructions for it.
#pragma once
#include <stdint.h>

namespace {

inline float half_to_float(uint16_t h) {
  const uint32_t sign = (uint32_t)(h & 0x8000) << 16;
  const uint32_t magnitude = h & 0x7FFF;
  uint32_t bits;
  float x;
  if (magnitude >= 0x7C00) {  // infinity and NaN
    bits = sign | 0x7F800000 | magnitude << 13;
    __builtin_memcpy(&x, &bits, 4);
    return x;
  }
  // 2^112 · the number that the same bits mean in float32; exact, subnormals included.
  bits = magnitude << 13;
  __builtin_memcpy(&x, &bits, 4);
  x *= 5.192296858534828e+33f;
  return sign ? -x : x;
}

inline float brain_to_float(uint16_t b) {
  const uint32_t bits = (uint32_t)b << 16;
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

}  // namespace
