// Blocks of GGUF back to numbers: scale · level + offset, as qlab/ggml/ reads them. Plain loops, one block at a time:
// vectors wider than every processor's were slower, since most blocks are as short as two of them.
#include "encode.h"
#include "half.h"

namespace {

// Codes of a block, and a scale (and offset) for every group of it.
struct Fields {
  uint8_t codes[256];
  float scale[16], offset[16];
};

inline float float_of(uint32_t bits) {
  float x;
  __builtin_memcpy(&x, &bits, 4);
  return x;
}

// The float16 at p.
inline float half_at(const uint8_t* p) { return half_to_float(static_cast<uint16_t>(p[0] | p[1] << 8)); }

// The inverse of put_planes: codes << shift, beside what stands in `codes` where kBeside.
template <int kBits, int kRun, bool kBeside>
inline void read_planes(const uint8_t* p, int bytes, int shift, uint8_t* codes) {
  constexpr int kPlanes = 8 / kBits, kMask = (1 << kBits) - 1;
  for (int run = 0; run < bytes; run += kRun)
    for (int plane = 0; plane < kPlanes; ++plane) {
      uint8_t* to = codes + run * kPlanes + plane * kRun;
      for (int j = 0; j < kRun; ++j)
        to[j] = static_cast<uint8_t>((kBeside ? to[j] : 0) | (p[run + j] >> (plane * kBits) & kMask) << shift);
    }
}

template <int kBits, int kRun>
inline void get_planes(const uint8_t* p, int bytes, uint8_t* codes) {
  read_planes<kBits, kRun, false>(p, bytes, 0, codes);
}

template <int kBits, int kRun>
inline void add_planes(const uint8_t* p, int bytes, int shift, uint8_t* codes) {
  read_planes<kBits, kRun, true>(p, bytes, shift, codes);
}

// Levels that are integers from `first`.
template <int kWeights, int kGroup, bool kOffset>
inline void write_integers(const Fields& f, int first, float* out) {
  for (int g = 0; g < kWeights / kGroup; ++g)
    for (int i = g * kGroup; i < g * kGroup + kGroup; ++i) {
      const float level = static_cast<float>(f.codes[i] + first) * f.scale[g];
      out[i] = kOffset ? level + f.offset[g] : level;
    }
}

// Levels of a table of sixteen.
template <int kWeights, int kGroup>
inline void write_levels(const Fields& f, const float* table, float* out) {
  for (int g = 0; g < kWeights / kGroup; ++g)
    for (int i = g * kGroup; i < g * kGroup + kGroup; ++i) out[i] = table[f.codes[i]] * f.scale[g];
}

// Q4_0, Q4_1, Q5_0, Q5_1.
template <int kBits, bool kOffset>
inline void decode_nibbles(const uint8_t* p, float* out) {
  Fields f;
  f.scale[0] = half_at(p);
  p += 2;
  if (kOffset) {
    f.offset[0] = half_at(p);
    p += 2;
  }
  get_planes<4, 16>(p + (kBits == 5 ? 4 : 0), 16, f.codes);
  if (kBits == 5) add_planes<1, 1>(p, 4, 4, f.codes);
  write_integers<32, 32, kOffset>(f, kOffset ? 0 : -(1 << (kBits - 1)), out);
}

inline void decode_q8_0(const uint8_t* p, float* out) {
  const float d = half_at(p);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(static_cast<int8_t>(p[2 + i])) * d;
}

inline void decode_q2_k(const uint8_t* p, float* out) {
  Fields f;
  const float d = half_at(p + 80), dmin = half_at(p + 82);
  for (int g = 0; g < 16; ++g) {
    f.scale[g] = static_cast<float>(p[g] & 15) * d;
    f.offset[g] = static_cast<float>(p[g] >> 4) * -dmin;
  }
  get_planes<2, 32>(p + 16, 64, f.codes);
  write_integers<256, 16, true>(f, 0, out);
}

inline void decode_q3_k(const uint8_t* p, float* out) {
  Fields f;
  uint8_t sc[16];
  const float d = half_at(p + 108);
  get_planes<4, 8>(p + 96, 8, sc);
  add_planes<2, 4>(p + 104, 4, 4, sc);
  for (int g = 0; g < 16; ++g) f.scale[g] = static_cast<float>(sc[g] - 32) * d;
  get_planes<2, 32>(p + 32, 64, f.codes);
  add_planes<1, 32>(p, 32, 2, f.codes);
  write_integers<256, 16, false>(f, -4, out);
}

// Q4_K and Q5_K.
template <int kBits>
inline void decode_sixes(const uint8_t* p, float* out) {
  Fields f;
  const float d = half_at(p), dmin = half_at(p + 2);
  const uint8_t* s = p + 4;
  for (int g = 0; g < 4; ++g) {
    f.scale[g] = static_cast<float>(s[g] & 63) * d;
    f.offset[g] = static_cast<float>(s[g + 4] & 63) * -dmin;
    f.scale[g + 4] = static_cast<float>((s[g + 8] & 15) | s[g] >> 6 << 4) * d;
    f.offset[g + 4] = static_cast<float>(s[g + 8] >> 4 | s[g + 4] >> 6 << 4) * -dmin;
  }
  get_planes<4, 32>(p + (kBits == 5 ? 48 : 16), 128, f.codes);
  if (kBits == 5) add_planes<1, 32>(p + 16, 32, 4, f.codes);
  write_integers<256, 32, true>(f, 0, out);
}

inline void decode_q6_k(const uint8_t* p, float* out) {
  Fields f;
  const float d = half_at(p + 208);
  for (int g = 0; g < 16; ++g) f.scale[g] = static_cast<float>(static_cast<int8_t>(p[192 + g])) * d;
  get_planes<4, 64>(p, 128, f.codes);
  add_planes<2, 32>(p + 128, 64, 4, f.codes);
  write_integers<256, 16, false>(f, -32, out);
}

inline void decode_iq4_nl(const uint8_t* p, float* out) {
  Fields f;
  f.scale[0] = half_at(p);
  get_planes<4, 16>(p + 2, 16, f.codes);
  write_levels<32, 32>(f, kLevels, out);
}

inline void decode_iq4_xs(const uint8_t* p, float* out) {
  Fields f;
  uint8_t sc[8];
  const float d = half_at(p);
  get_planes<4, 1>(p + 4, 4, sc);
  add_planes<2, 1>(p + 2, 2, 4, sc);
  for (int g = 0; g < 8; ++g) f.scale[g] = static_cast<float>(sc[g] - 32) * d;
  get_planes<4, 16>(p + 8, 128, f.codes);
  write_levels<256, 32>(f, kLevels, out);
}

// ggml's doubled E2M1.
constexpr float kE2M1[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

inline void decode_mxfp4(const uint8_t* p, float* out) {
  Fields f;
  // half of 2^(p[0] − 127); the two smallest are denormals
  f.scale[0] = p[0] < 2 ? float_of(0x00200000u << p[0]) : float_of((p[0] - 1u) << 23);
  get_planes<4, 16>(p + 1, 16, f.codes);
  write_levels<32, 32>(f, kE2M1, out);
}

inline void decode_nvfp4(const uint8_t* p, float* out) {
  Fields f;
  for (int g = 0; g < 4; ++g) {
    const uint32_t code = p[g] & 127;  // half of an unsigned E4M3, where 0x7F is 0
    const float scale = code < 8 ? static_cast<float>(code) * 0x1p-10f : float_of((code << 20) + (119u << 23));
    f.scale[g] = p[g] == 0x7f ? 0.0f : scale;
  }
  get_planes<4, 8>(p + 4, 32, f.codes);
  write_levels<64, 16>(f, kE2M1, out);
}

inline void decode_tq2_0(const uint8_t* p, float* out) {
  Fields f;
  f.scale[0] = half_at(p + 64);
  get_planes<2, 32>(p, 64, f.codes);
  write_integers<256, 256, false>(f, -1, out);
}

// Digits of `bytes` bytes, plane after plane, the first the highest: multiplying by 3 carries it out of the byte.
inline void get_digits(const uint8_t* p, int bytes, int digits, uint8_t* codes) {
  uint8_t power = 1;
  for (int k = 0; k < digits; ++k, power *= 3)
    for (int j = 0; j < bytes; ++j) codes[k * bytes + j] = static_cast<uint8_t>(p[j] * power) * 3 >> 8;
}

inline void decode_tq1_0(const uint8_t* p, float* out) {
  Fields f;
  f.scale[0] = half_at(p + 52);
  get_digits(p, 32, 5, f.codes);
  get_digits(p + 32, 16, 5, f.codes + 160);
  get_digits(p + 48, 4, 4, f.codes + 240);
  write_integers<256, 256, false>(f, -1, out);
}

template <int kWeights, int kBytes, void (*decode_block)(const uint8_t*, float*)>
void decode_all(const uint8_t* data, int64_t blocks, float* out) {
  for (int64_t b = 0; b < blocks; ++b) decode_block(data + b * kBytes, out + b * kWeights);
}

template <int kWeights, int kBytes, void (*decode_block)(const uint8_t*, float*)>
constexpr BlockDecoder decoder(const char* name) {
  return {name, kWeights, kBytes, decode_all<kWeights, kBytes, decode_block>};
}

}  // namespace

const BlockDecoder block_decoders[kBlockTypes] = {
    decoder<32, 18, decode_nibbles<4, false>>("Q4_0"), decoder<32, 20, decode_nibbles<4, true>>("Q4_1"),
    decoder<32, 22, decode_nibbles<5, false>>("Q5_0"), decoder<32, 24, decode_nibbles<5, true>>("Q5_1"),
    decoder<32, 34, decode_q8_0>("Q8_0"),              decoder<256, 84, decode_q2_k>("Q2_K"),
    decoder<256, 110, decode_q3_k>("Q3_K"),            decoder<256, 144, decode_sixes<4>>("Q4_K"),
    decoder<256, 176, decode_sixes<5>>("Q5_K"),        decoder<256, 210, decode_q6_k>("Q6_K"),
    decoder<32, 18, decode_iq4_nl>("IQ4_NL"),          decoder<256, 136, decode_iq4_xs>("IQ4_XS"),
    decoder<256, 54, decode_tq1_0>("TQ1_0"),           decoder<256, 66, decode_tq2_0>("TQ2_0"),
    decoder<32, 17, decode_mxfp4>("MXFP4"),            decoder<64, 36, decode_nvfp4>("NVFP4"),
};
