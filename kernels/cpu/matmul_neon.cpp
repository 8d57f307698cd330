// NEON with the dot product of ARMv8.2: four rows in a vector, sixteen products of signed bytes in one instruction.
#include <arm_neon.h>

#include "block_ops.h"
#include "round_inputs.h"
#include "tile_kernel.h"

namespace {

struct V {
  using Int = int32x4_t;
  using Float = float32x4_t;
  static constexpr int kLanes = 4;
  static constexpr bool kSigned = true;
  static constexpr int kStreams = 2;   // tiles that one token goes through together
  static constexpr int kAhead = 1024;  // bytes between what is multiplied and what is fetched

  static uint8x16_t bytes(Int a) { return vreinterpretq_u8_s32(a); }
  static Int whole(uint8x16_t a) { return vreinterpretq_s32_u8(a); }

  static Int load(const uint8_t* p) { return whole(vld1q_u8(p)); }
  static Int mask(Int a, int bits) { return whole(vandq_u8(bytes(a), vdupq_n_u8((uint8_t)bits))); }
  static Int either(Int a, Int b) { return vorrq_s32(a, b); }
  static Int right(Int a, int n) { return whole(bytes(a) >> n); }  // of every byte
  static Int shift(Int a, int n) { return n > 0 ? whole(bytes(a) << n) : right(a, -n); }
  static Int level(Int u) {
    const int8x16_t levels = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
    return vreinterpretq_s32_s8(vqtbl1q_s8(levels, bytes(u)));
  }
  static Int none() { return vdupq_n_s32(0); }
  static Int widen(const uint8_t* p) {
    uint32_t four;
    __builtin_memcpy(&four, p, 4);
    const uint16x8_t wide = vmovl_u8(vcreate_u8(four));
    return vreinterpretq_s32_u32(vmovl_u16(vget_low_u16(wide)));
  }
  static Int minus(Int a, int n) { return vsubq_s32(a, vdupq_n_s32(n)); }
  static Int factor(Int a) { return a; }
  static Int mask32(Int a, int n) { return vandq_s32(a, vdupq_n_s32(n)); }
  static Int right32(Int a, int n) { return a >> n; }
  static Int add_product(Int a, Int b, const int32_t* c) { return vmlaq_n_s32(a, b, *c); }

  static Float zero() { return vdupq_n_f32(0); }
  static Float all(float x) { return vdupq_n_f32(x); }
  static Float number(Int a) { return vcvtq_f32_s32(a); }
  static Float halves(const uint16_t* p) { return vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(p))); }
  static Float brains(const uint16_t* p) {
    return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(p), 16));
  }
  static Float floats(const float* p) { return vld1q_f32(p); }
  static Float times(Float a, float b) { return vmulq_n_f32(a, b); }
  static Float fma(Float a, Float b, Float c) { return vfmaq_f32(c, a, b); }
  static void store(float* p, Float a) { vst1q_f32(p, a); }
  static void prefetch(const uint8_t* p) { __builtin_prefetch(p); }

  template <Format F>
  struct Dot {
    static constexpr bool kEight = F.bits == 8 || F.table;  // signed numbers: nothing to begin with
    Int sum;
    void begin(const int32_t* start) { sum = start && !kEight ? vdupq_n_s32(*start) : none(); }
    void step(Int u, const int8_t* x, int) {
      int32_t four;
      __builtin_memcpy(&four, x, 4);
      if constexpr (F.bits == 8) u = whole(veorq_u8(bytes(u), vdupq_n_u8(128)));
      sum = vdotq_s32(sum, vreinterpretq_s8_s32(u), vreinterpretq_s8_s32(vdupq_n_s32(four)));
    }
    Int end() const { return sum; }
  };
};

}  // namespace

const Isa kNeon = {"neon", {QLAB_FORMATS(QLAB_KERNELS_OF)}, {QLAB_FLOATS(QLAB_FLOAT_KERNELS_OF)},
                    round_inputs<V>, rms_norm, swiglu, attend};
