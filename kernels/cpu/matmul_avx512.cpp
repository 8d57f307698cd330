// AVX-512 with VNNI: sixteen rows in a vector, 64 products in one instruction.
#include <immintrin.h>

#include "block_ops.h"
#include "round_inputs.h"
#include "tile_kernel.h"

namespace {

struct V {
  using Int = __m512i;
  using Float = __m512;
  static constexpr int kLanes = 16;
  static constexpr bool kSigned = false;
  static constexpr int kStreams = 4;  // tiles that one token goes through together
  static constexpr int kAhead = 2048;  // bytes between what is multiplied and what is fetched

  static Int load(const uint8_t* p) { return _mm512_loadu_si512(p); }
  static Int mask(Int a, int bits) { return _mm512_and_si512(a, _mm512_set1_epi8((char)bits)); }
  static Int either(Int a, Int b) { return _mm512_or_si512(a, b); }
  // Shifts of 16-bit lanes: what crosses into the neighbouring byte is masked off.
  static Int right(Int a, int n) { return n ? _mm512_srli_epi16(a, n) : a; }
  static Int shift(Int a, int n) { return n > 0 ? _mm512_slli_epi16(a, n) : right(a, -n); }
  static Int level(Int u) {
    const __m128i levels = _mm_setr_epi8(1, 24, 45, 63, 79, 93, 106, 118, (char)129, (char)141, (char)153, (char)166,
                                         (char)181, (char)197, (char)217, (char)241);  // + 128
    return _mm512_shuffle_epi8(_mm512_broadcast_i32x4(levels), u);
  }
  static Int none() { return _mm512_setzero_si512(); }
  static Int widen(const uint8_t* p) { return _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i*)p)); }
  static Int minus(Int a, int n) { return _mm512_sub_epi32(a, _mm512_set1_epi32(n)); }
  static Int mask32(Int a, int n) { return _mm512_and_si512(a, _mm512_set1_epi32(n)); }
  static Int right32(Int a, int n) { return _mm512_srli_epi32(a, n); }
  // a + b · *c; b below 2^15 and c a sum of 32 codes, so their lower 16 bits say it all.
  static Int add_product(Int a, Int b, const int32_t* c) { return _mm512_dpwssd_epi32(a, b, _mm512_set1_epi32(*c)); }

  static Float zero() { return _mm512_setzero_ps(); }
  static Float all(float x) { return _mm512_set1_ps(x); }
  static Float number(Int a) { return _mm512_cvtepi32_ps(a); }
  static Float halves(const uint16_t* p) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i*)p)); }
  static Float brains(const uint16_t* p) {
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(_mm256_loadu_si256((const __m256i*)p)), 16));
  }
  static Float floats(const float* p) { return _mm512_loadu_ps(p); }
  static Float times(Float a, float b) { return _mm512_mul_ps(a, _mm512_set1_ps(b)); }
  static Float fma(Float a, Float b, Float c) { return _mm512_fmadd_ps(a, b, c); }
  static void store(float* p, Float a) { _mm512_storeu_ps(p, a); }
  static void prefetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

  template <Format F>
  struct Dot {
    Int sum;
    void begin(const int32_t* start) { sum = start ? _mm512_set1_epi32(*start) : _mm512_setzero_si512(); }
    void step(Int u, const int8_t* x, int) {
      int four;
      __builtin_memcpy(&four, x, 4);
      sum = _mm512_dpbusd_epi32(sum, u, _mm512_set1_epi32(four));
    }
    Int end() const { return sum; }
  };
};

}  // namespace

const Isa kAvx512 = {"avx512", {QLAB_FORMATS(QLAB_KERNELS_OF)}, {QLAB_FLOATS(QLAB_FLOAT_KERNELS_OF)},
                    round_inputs<V>, rms_norm, swiglu, attend};
