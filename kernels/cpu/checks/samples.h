// Random matrices and inputs of the kernels, in heap buffers that end where they may be read.
#pragma once
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <string>

#include "../decoder.h"
#include "../half.h"
#include "../tile.h"

namespace {

std::mt19937 draw;

int64_t between(int64_t low, int64_t high) { return std::uniform_int_distribution<int64_t>(low, high)(draw); }
float normal() { return std::normal_distribution<float>()(draw); }

void require(bool holds, const std::string& what) {
  if (holds) return;
  std::fprintf(stderr, "wrong: %s\n", what.c_str());
  std::exit(1);
}

// A heap buffer with nothing behind it.
template <class T>
struct Buffer {
  std::unique_ptr<T[]> own;
  int64_t size = 0;
  explicit Buffer(int64_t n = 0) : own(new T[n]()), size(n) {}
  T* data() const { return own.get(); }
  T& operator[](int64_t i) const { return own[i]; }
};

Buffer<float> normals(int64_t n, float spread = 1) {
  Buffer<float> made(n);
  for (int64_t i = 0; i < n; ++i) made[i] = spread * normal();
  return made;
}

// float16 between 2^-10 and 2^-7, of either sign.
uint16_t small_half() { return static_cast<uint16_t>(between(0, 1) << 15 | between(5, 7) << 10 | between(0, 1023)); }

// A random matrix of one format.
struct Sample {
  Buffer<uint8_t> codes, sub, scale, offset;
  Linear linear{};

  Sample(int id, int64_t rows, int64_t columns, int64_t group, bool wide, const float* bias = nullptr) {
    const Format& f = kFormat[id];
    const int64_t tiles = (rows + kRows - 1) / kRows, blocks = columns / kBlock;
    const int64_t groups = f.super ? blocks / 8 : (blocks + group - 1) / group;
    wide = wide && !f.super;
    if (is_float(static_cast<FormatId>(id))) {
      codes = numbers(id, tiles * kRows * columns);
      linear = {static_cast<FormatId>(id), {}, rows, columns, bias};
      linear.tiles = {codes.data(), nullptr, nullptr, nullptr, blocks, 1, false};
      return;
    }
    codes = bytes(tiles * blocks * 64 * f.bits);
    scale = wide ? floats(tiles * groups * kRows) : halves(tiles * groups * kRows);
    if (f.extra == Extra::zero) offset = bytes(tiles * groups * kRows);
    if (f.extra == Extra::min) offset = halves(tiles * groups * kRows);
    if (f.super) sub = bytes(tiles * groups * kSuper / f.span * kRows * (f.extra == Extra::min && !f.nibbles ? 2 : 1));
    linear = {static_cast<FormatId>(id), {}, rows, columns, bias};
    linear.tiles = {codes.data(), scale.data(), offset.data(), sub.data(), blocks, f.super ? 8 : group, wide};
  }

 private:
  static Buffer<uint8_t> bytes(int64_t n) {
    Buffer<uint8_t> made(n);
    const int64_t kind = between(0, 9);  // sometimes the extremes
    for (int64_t i = 0; i < n; ++i) made[i] = static_cast<uint8_t>(kind == 0 ? 0 : kind == 1 ? 255 : between(0, 255));
    return made;
  }
  static Buffer<uint8_t> numbers(int id, int64_t n) {
    if (id == k_float16) return halves(n);
    const Buffer<uint8_t> wide = floats(n);
    if (id == k_float32) return floats(n);
    Buffer<uint8_t> made(2 * n);
    for (int64_t i = 0; i < n; ++i) std::memcpy(&made[2 * i], &wide[4 * i + 2], 2);
    return made;
  }
  static Buffer<uint8_t> halves(int64_t n) {
    Buffer<uint8_t> made(2 * n);
    for (int64_t i = 0; i < n; ++i) {
      const uint16_t h = small_half();
      std::memcpy(&made[2 * i], &h, 2);
    }
    return made;
  }
  static Buffer<uint8_t> floats(int64_t n) {
    Buffer<uint8_t> made(4 * n);
    for (int64_t i = 0; i < n; ++i) {
      const float x = half_to_float(small_half());
      std::memcpy(&made[4 * i], &x, 4);
    }
    return made;
  }
};

// Inputs rounded by an instruction set.
struct Coded {
  Buffer<int8_t> codes;
  Buffer<float> scale;
  Buffer<int32_t> sum, start;

  Coded(const Isa& isa, const Format& f, const float* x, int tokens, int64_t columns, bool half)
      : codes(tokens * columns), scale(tokens * (columns / input_block(f))), sum(tokens * (columns / f.span)),
        start(sum.size) {
    const Rounding how{input_block(f), f.span, zero_of(f), half};
    isa.quantize(x, columns, tokens, columns, how, {codes.data(), scale.data(), sum.data(), start.data()});
  }
  bool same(const Coded& other) const {
    return !std::memcmp(codes.data(), other.codes.data(), codes.size) &&
           !std::memcmp(scale.data(), other.scale.data(), 4 * scale.size) &&
           !std::memcmp(sum.data(), other.sum.data(), 4 * sum.size) &&
           !std::memcmp(start.data(), other.start.data(), 4 * start.size);
  }
};

}  // namespace
