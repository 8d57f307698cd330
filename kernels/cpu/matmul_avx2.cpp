// AVX2 with FMA and F16C: eight rows in a vector; bytes are multiplied into 16-bit pairs, which are added as long as
// they cannot overflow.
#include <immintrin.h>

#include "block_ops.h"
#include "round_inputs.h"
#include "tile_kernel.h"

namespace {

struct V {
  using Int = __m256i;
  using Float = __m256;
  static constexpr int kLanes = 8;
  // A pair of unsigned 8-bit codes times inputs overflows 16 bits; signed ones, |w|·(±x), do not.
  static constexpr bool kSigned = true;
  static constexpr int kStreams = 2;  // tiles that one token goes through together
  static constexpr int kAhead = 2048;

  static Int load(const uint8_t* p) { return _mm256_loadu_si256((const __m256i*)p); }
  static Int mask(Int a, int bits) { return _mm256_and_si256(a, _mm256_set1_epi8((char)bits)); }
  static Int either(Int a, Int b) { return _mm256_or_si256(a, b); }
  static Int right(Int a, int n) { return n ? _mm256_srli_epi16(a, n) : a; }
  static Int shift(Int a, int n) { return n > 0 ? _mm256_slli_epi16(a, n) : right(a, -n); }
  static Int level(Int u) {
    const __m128i levels = _mm_setr_epi8(-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113);
    return _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(levels), u);
  }
  static Int none() { return _mm256_setzero_si256(); }
  static Int widen(const uint8_t* p) { return _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i*)p)); }
  static Int minus(Int a, int n) { return _mm256_sub_epi32(a, _mm256_set1_epi32(n)); }
  static Int mask32(Int a, int n) { return _mm256_and_si256(a, _mm256_set1_epi32(n)); }
  static Int right32(Int a, int n) { return _mm256_srli_epi32(a, n); }
  // b as add_product takes it: its lower 16 bits, and nothing above.
  static Int factor(Int a) { return mask32(a, 0xFFFF); }
  static Int add_product(Int a, Int b, const int32_t* c) {
    return _mm256_add_epi32(a, _mm256_madd_epi16(b, _mm256_set1_epi32(*c)));
  }

  static Float zero() { return _mm256_setzero_ps(); }
  static Float all(float x) { return _mm256_set1_ps(x); }
  static Float number(Int a) { return _mm256_cvtepi32_ps(a); }
  static Float halves(const uint16_t* p) { return _mm256_cvtph_ps(_mm_loadu_si128((const __m128i*)p)); }
  static Float brains(const uint16_t* p) {
    return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i*)p)), 16));
  }
  static Float floats(const float* p) { return _mm256_loadu_ps(p); }
  static Float times(Float a, float b) { return _mm256_mul_ps(a, _mm256_set1_ps(b)); }
  static Float fma(Float a, Float b, Float c) { return _mm256_fmadd_ps(a, b, c); }
  static void store(float* p, Float a) { _mm256_storeu_ps(p, a); }
  static void prefetch(const uint8_t* p) { _mm_prefetch((const char*)p, _MM_HINT_T0); }

  template <Format F>
  struct Dot {
    static constexpr bool kEight = F.bits == 8 || F.table;
    static constexpr int kSteps = F.span / 4;
    // How many pairs of products 16 bits can hold: 32767 / (2 · 127 · the largest code).
    static constexpr int kMost = kEight ? 1 : 32767 / (254 * ((1 << F.bits) - 1));
    static constexpr int kFold = kMost >= 8 ? kSteps : kMost >= 4 ? 4 : kMost >= 2 ? 2 : 1;
    Int sum, pairs;
    void begin(const int32_t* start) { sum = start && !kEight ? _mm256_set1_epi32(*start) : _mm256_setzero_si256(); }
    void step(Int u, const int8_t* x, int j) {
      int four;
      __builtin_memcpy(&four, x, 4);
      Int q = _mm256_set1_epi32(four);
      if constexpr (kEight) {
        if constexpr (!F.table) u = _mm256_xor_si256(u, _mm256_set1_epi8((char)128));
        q = _mm256_sign_epi8(q, u);
        u = _mm256_abs_epi8(u);
      }
      const Int products = _mm256_maddubs_epi16(u, q);
      pairs = j % kFold ? _mm256_add_epi16(pairs, products) : products;
      if (j % kFold == kFold - 1)
        sum = _mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
    }
    Int end() const { return sum; }
  };
};

}  // namespace

const Isa kAvx2 = {"avx2", {QLAB_FORMATS(QLAB_KERNELS_OF)}, {QLAB_FLOATS(QLAB_FLOAT_KERNELS_OF)},
                    round_inputs<V>, rms_norm, swiglu, attend};
