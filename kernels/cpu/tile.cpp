#include "tile.h"

#include <algorithm>
#include <cstring>
#include <memory>
#include <vector>

#include "half.h"
#include "pool.h"

const Format kFormat[kFormats] = {
#define QLAB_FORMAT(name, ...) Format{__VA_ARGS__},
    QLAB_FORMATS(QLAB_FORMAT)
#undef QLAB_FORMAT
};

const char* const kFormatName[kFormats] = {
#define QLAB_FORMAT_NAME(name, ...) #name,
    QLAB_FORMATS(QLAB_FORMAT_NAME)
#undef QLAB_FORMAT_NAME
};

int input_block(const Format& format) { return format.super ? kSuper : kBlock; }

int zero_of(const Format& format) {
  return format.extra != Extra::none ? 0 : format.table ? 128 : 1 << (format.bits - 1);
}

namespace {

constexpr int kQuads = kBlock / 4;
constexpr int kLevels[16] = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};
using Quads = uint8_t[kQuads][64];  // a block with a byte for every code: [column / 4][4 · row + column % 4]

int widest_plane(int bits) { return bits >= 8 ? 8 : bits >= 4 ? 4 : bits >= 2 ? 2 : 1; }

void expand(const uint8_t* block, int bits, Quads& out) {
  std::memset(out, 0, sizeof out);
  for (int left = bits, low = 0; left > 0;) {
    const int width = widest_plane(left), fields = 8 / width, mask = (1 << width) - 1;
    for (int j = 0; j < kQuads; ++j) {
      const uint8_t* vector = block + 64 * (j / fields);
      const int shift = width * (j % fields);
      for (int c = 0; c < 64; ++c) out[j][c] = static_cast<uint8_t>(out[j][c] | ((vector[c] >> shift & mask) << low));
    }
    block += 64 * width;
    low += width;
    left -= width;
  }
}

void compress(const Quads& codes, int bits, uint8_t* block) {
  std::memset(block, 0, 64 * bits);
  for (int left = bits, low = 0; left > 0;) {
    const int width = widest_plane(left), fields = 8 / width, mask = (1 << width) - 1;
    for (int j = 0; j < kQuads; ++j) {
      uint8_t* vector = block + 64 * (j / fields);
      const int shift = width * (j % fields);
      for (int c = 0; c < 64; ++c) vector[c] = static_cast<uint8_t>(vector[c] | ((codes[j][c] >> low & mask) << shift));
    }
    block += 64 * width;
    low += width;
    left -= width;
  }
}

int64_t tiles_of(int64_t rows) { return (rows + kRows - 1) / kRows; }

// A scale and what is added, for the sixteen rows of one part of a block.
struct Rule {
  float scale[kRows], add[kRows];
};

Rule rule_of(const Format& f, const Tiles& w, int64_t tile, int64_t block, int part) {
  Rule rule;
  const int64_t groups = f.super ? w.blocks / 8 : (w.blocks + w.group - 1) / w.group;
  const int64_t at = (tile * groups + (f.super ? block / 8 : block / w.group)) * kRows;
  const int parts = kBlock / f.span, subs = kSuper / f.span * kRows;
  const bool two = f.extra == Extra::min && !f.nibbles;
  for (int r = 0; r < kRows; ++r) {
    const auto half = [&](const void* p) { return half_to_float(static_cast<const uint16_t*>(p)[at + r]); };
    const float scale = w.wide ? static_cast<const float*>(w.scale)[at + r] : half(w.scale);
    if (f.super) {
      const uint8_t* sub = w.sub + at / kRows * subs * (two ? 2 : 1) + (block % 8 * parts + part) * kRows + r;
      const int s = f.nibbles ? *sub & 15 : f.extra == Extra::min ? *sub : *sub - 128;
      const int minimum = f.nibbles ? *sub >> 4 : two ? sub[subs] : 0;
      rule.scale[r] = scale * static_cast<float>(s);
      rule.add[r] = f.extra == Extra::min ? -half(w.offset) * static_cast<float>(minimum) : 0;
    } else {
      rule.scale[r] = scale;
      rule.add[r] = f.extra == Extra::min ? half(w.offset) : 0;
    }
  }
  return rule;
}

// Token tiles of a batch: sixteens, fours, ones. `index` is that of Isa::multiply.
struct Batch {
  int64_t first;
  int tokens, index;
};

std::vector<Batch> batches(int64_t tokens) {
  std::vector<Batch> found;
  for (int64_t at = 0; at < tokens;) {
    const int size = tokens - at >= 16 ? 16 : tokens - at >= 4 ? 4 : 1;
    found.push_back({at, size, size == 16 ? 2 : size == 4 ? 1 : 0});
    at += size;
  }
  return found;
}

}  // namespace

void tile_codes(const uint8_t* codes, int64_t rows, int64_t columns, int bits, uint8_t* out, int threads) {
  const int64_t blocks = columns / kBlock;
  parallel(tiles_of(rows), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t b = 0; b < blocks; ++b) {
        Quads quads;
        std::memset(quads, 0, sizeof quads);
        for (int r = 0; r < kRows && t * kRows + r < rows; ++r)
          for (int j = 0; j < kQuads; ++j)
            std::memcpy(&quads[j][4 * r], codes + (t * kRows + r) * columns + b * kBlock + 4 * j, 4);
        compress(quads, bits, out + (t * blocks + b) * 64 * bits);
      }
  });
}

void untile_codes(const uint8_t* tiles, int64_t first, int64_t rows, int64_t columns, int bits, uint8_t* out,
                  int threads) {
  const int64_t blocks = columns / kBlock;
  parallel(tiles_of(rows), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      for (int64_t b = 0; b < blocks; ++b) {
        Quads quads;
        expand(tiles + ((first / kRows + t) * blocks + b) * 64 * bits, bits, quads);
        for (int r = 0; r < kRows && t * kRows + r < rows; ++r)
          for (int j = 0; j < kQuads; ++j)
            std::memcpy(out + (t * kRows + r) * columns + b * kBlock + 4 * j, &quads[j][4 * r], 4);
      }
  });
}

void dequantize_tiles(FormatId format, const Tiles& w, int64_t first, int64_t rows, float* out, int threads) {
  const Format f = kFormat[format];
  const int64_t columns = w.blocks * kBlock;
  const int parts = kBlock / f.span, quads_of_part = kQuads / parts;
  float level[256];
  for (int q = 0; q < 256; ++q) level[q] = f.table ? kLevels[q & 15] : q - zero_of(f);
  parallel(tiles_of(rows), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const int64_t tile = first / kRows + t;
      for (int64_t b = 0; b < w.blocks; ++b) {
        Quads quads;
        expand(w.codes + (tile * w.blocks + b) * 64 * f.bits, f.bits, quads);
        const int64_t groups = (w.blocks + w.group - 1) / w.group;
        const uint8_t* zeros = f.extra == Extra::zero
                                   ? static_cast<const uint8_t*>(w.offset) + (tile * groups + b / w.group) * kRows
                                   : nullptr;
        for (int part = 0; part < parts; ++part) {
          const Rule rule = rule_of(f, w, tile, b, part);
          for (int r = 0; r < kRows && t * kRows + r < rows; ++r) {
            float* to = out + (t * kRows + r) * columns + b * kBlock + part * f.span;
            const float zero = zeros ? zeros[r] : 0;
            for (int j = 0; j < quads_of_part; ++j)
              for (int i = 0; i < 4; ++i)
                to[4 * j + i] =
                    rule.scale[r] * (level[quads[part * quads_of_part + j][4 * r + i]] - zero) + rule.add[r];
          }
        }
      }
    }
  });
}

void multiply_tiles(const Isa& isa, FormatId format, const Tiles& w, int64_t rows, const float* x, int64_t tokens,
                    bool half, float* y, int threads) {
  const Format f = kFormat[format];
  const int64_t columns = w.blocks * kBlock, tiles = tiles_of(rows), parts = kBlock / f.span;
  const Rounding how{input_block(f), f.span, zero_of(f), half};
  const int64_t scales = columns / how.block, sums = w.blocks * parts;
  // Kept from call to call: a fresh buffer costs more in page faults than the rounding.
  thread_local std::vector<int8_t> codes;
  thread_local std::vector<float> scale;
  thread_local std::vector<int32_t> sum;
  codes.resize(tokens * columns);
  scale.resize(tokens * scales);
  sum.resize(2 * tokens * sums);
  int8_t* const code_at = codes.data();
  float* const scale_at = scale.data();
  int32_t* const sum_at = sum.data();
  const std::vector<Batch> parts_of_x = batches(tokens);
  const auto outputs = [&](const Batch& batch) {
    return Outputs{code_at + batch.first * columns, scale_at + batch.first * scales, sum_at + 2 * batch.first * sums,
                   sum_at + (2 * batch.first + batch.tokens) * sums};
  };
  parallel(static_cast<int64_t>(parts_of_x.size()), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i)
      isa.quantize(x + parts_of_x[i].first * columns, columns, parts_of_x[i].tokens, columns, how,
                   outputs(parts_of_x[i]));
  });
  // Small enough that a thread which another program delays holds up no one, large enough to stream.
  const int64_t grain = std::max<int64_t>(1, tiles / (8 * threads));
  parallel(tiles, grain, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)  // a tile stays in the cache while the tokens pass by
      for (const Batch& batch : parts_of_x) {
        const Outputs o = outputs(batch);
        const Inputs in{o.codes, o.scale, o.sum, o.start};
        const Multiply run = isa.multiply[format][batch.index];
        float* to = y + batch.first * rows;
        if ((t + 1) * kRows <= rows) {
          run(w, in, to + t * kRows, rows, t, t + 1);
          continue;
        }
        float edge[kMostTokens * kRows];  // the last tile may reach beyond the matrix
        run(w, in, edge, kRows, t, t + 1);
        for (int m = 0; m < batch.tokens; ++m)
          std::copy_n(edge + m * kRows, rows - t * kRows, to + m * rows + t * kRows);
      }
  });
}
