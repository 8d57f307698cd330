// Lanes: one number of each of kLanes blocks. Code on lanes reads like code on one block, and adds in its order.
//
// Included by each leaf under its own compiler flags. All of it lies in an unnamed namespace, so that the linker cannot
// merge what was compiled for a newer instruction set into the portable path.
#pragma once
#if defined(__AVX2__)
#include <immintrin.h>
#endif
#include <stdint.h>

namespace {

#if defined(__AVX512F__)
constexpr int kLanes = 16;
#elif defined(__AVX2__)
constexpr int kLanes = 8;
#else
constexpr int kLanes = 4;
#endif

typedef float F __attribute__((vector_size(4 * kLanes)));
typedef int32_t I __attribute__((vector_size(4 * kLanes)));  // of a comparison: 0 or −1

constexpr float kMax = 3.40282347e38f;
constexpr float kSmall = 1e-15f;  // ggml's GROUP_MAX_EPS: a group that small is empty

inline F all(float x) { return x - F{}; }

inline I bits(F x) { return reinterpret_cast<I>(x); }
inline F from_bits(I x) { return reinterpret_cast<F>(x); }

inline F magnitude(F x) { return from_bits(bits(x) & 0x7fffffff); }

inline F with_sign(F size, F sign) { return from_bits(bits(size) | (bits(sign) & INT32_MIN)); }

// To the nearest integer, halves to even; −0 stays what it is.
inline F nearest(F x) {
#if defined(__AVX512F__)
  // gcc 12 warns of the unmasked one's own code.
  const __m512 near = _mm512_maskz_roundscale_ps(0xffff, reinterpret_cast<__m512>(x), _MM_FROUND_TO_NEAREST_INT);
  return reinterpret_cast<F>(near);
#elif defined(__AVX2__)
  return reinterpret_cast<F>(_mm256_round_ps(reinterpret_cast<__m256>(x), _MM_FROUND_TO_NEAREST_INT));
#else
  const F size = magnitude(x);  // from 2^23 on there is nothing behind the point
  return size < 8388608.0f ? with_sign((size + 8388608.0f) - 8388608.0f, x) : x;
#endif
}

// Of x ≥ 0.
inline F floored(F x) {
  const F near = nearest(x);
  return near > x ? near - 1.0f : near;
}

// Halves away from zero, as C's roundf; adding ½ first would make a whole 1 of the float just below it.
inline F half_away(F x) {
  const F size = magnitude(x), whole = floored(size);
  return with_sign(size - whole >= 0.5f ? whole + 1.0f : whole, x);
}

// NaN stays NaN.
inline F clamp(F x, float low, float high) {
  x = all(low) > x ? all(low) : x;
  return all(high) < x ? all(high) : x;
}

// The lowest eight bits of an integer below 2^22; 0 of NaN and infinity, where a cast would be undefined.
inline I byte(F x) { return (bits(x + 12582912.0f) - 0x4B400000) & 255; }

inline F root(F x) {
  for (int l = 0; l < kLanes; ++l) x[l] = __builtin_sqrtf(x[l]);
  return x;
}

// 1/x, and 0 where x is 0.
inline F safe(F x) { return x == 0.0f ? F{} : 1.0f / x; }

inline bool any(I mask) {
  int32_t found = 0;
  for (int l = 0; l < kLanes; ++l) found |= mask[l];
  return found != 0;
}

inline I is_finite(F x) { return magnitude(x) <= kMax; }

// As float16, halves to even: its sixteen bits.
inline I half(F x) {
  const I sign = bits(x) >> 16 & 0x8000;
  const F size = magnitude(x);
  // In a float16's denormals the addition itself rounds, to units of 2^-24.
  const I small = bits(size + 0.5f) - 0x3f000000;
  const I odd = bits(size) >> 13 & 1;
  const I normal = (bits(size) - (112 << 23) + 0xfff + odd) >> 13;
  const I finite = size < 0x1p-14f ? small : normal;
  return sign | (size >= 65520.0f ? I{} + 0x7c00 : size == size ? finite : I{} + 0x7e00);
}

// The number that sixteen bits stand for; finite.
inline F from_half(I h) {
  return with_sign(from_bits((h & 0x7fff) << 13) * 0x1p112f, from_bits(h << 16));
}

inline I fits_half(I h) { return (h & 0x7c00) != 0x7c00; }

// The entry of largest magnitude, with its sign; the first of equals, and never −0.
template <int N>
inline F farthest(const F* x) {
  F found = x[0];
  for (int i = 1; i < N; ++i) found = magnitude(x[i]) > magnitude(found) ? x[i] : found;
  return found + 0.0f;
}

template <int N>
inline F smallest(const F* x) {
  F found = x[0];
  for (int i = 1; i < N; ++i) found = x[i] < found ? x[i] : found;
  return found;
}

template <int N>
inline F largest(const F* x) {
  F found = x[0];
  for (int i = 1; i < N; ++i) found = x[i] > found ? x[i] : found;
  return found;
}

template <int N>
inline F peak(const F* x) {
  F found = magnitude(x[0]);
  for (int i = 1; i < N; ++i) found = magnitude(x[i]) > found ? magnitude(x[i]) : found;
  return found;
}

template <int N>
inline F total(const F* x) {
  F sum = x[0];
  for (int i = 1; i < N; ++i) sum += x[i];
  return sum;
}

}  // namespace
