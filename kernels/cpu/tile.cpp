#include "tile.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <vector>

#include "half.h"
#include "pool.h"

const Format kFormat[kAllFormats] = {
#define QLAB_FORMAT(name, ...) Format{__VA_ARGS__},
    QLAB_FORMATS(QLAB_FORMAT)
#undef QLAB_FORMAT
#define QLAB_FLOAT(name, bits) Format{bits},
    QLAB_FLOATS(QLAB_FLOAT)
#undef QLAB_FLOAT
};

const char* const kFormatName[kAllFormats] = {
#define QLAB_FORMAT_NAME(name, ...) #name,
    QLAB_FORMATS(QLAB_FORMAT_NAME)
    QLAB_FLOATS(QLAB_FORMAT_NAME)
#undef QLAB_FORMAT_NAME
};

int input_block(const Format& format) { return format.super ? kSuper : kBlock; }

int zero_of(const Format& format) {
  return format.extra != Extra::none ? 0 : format.table ? 128 : 1 << (format.bits - 1);
}

namespace {

constexpr int kQuads = kBlock / 4;
constexpr int64_t kStream = 4;             // tiles that a kernel may read side by side
constexpr int64_t kInputsAtHand = 1 << 19;  // bytes of inputs that stay in a core's second cache
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

using Levels = std::array<float, 256>;

Levels levels_of(FormatId format) {
  Levels level{};
  if (is_float(format)) return level;
  const Format& f = kFormat[format];
  for (int q = 0; q < 256; ++q) level[q] = static_cast<float>(f.table ? kLevels[q & 15] : q - zero_of(f));
  return level;
}

void read_tile(FormatId format, const Tiles& w, int64_t tile, int first, int last, float* out) {
  const int64_t columns = w.blocks * kBlock;
  for (int64_t k = 0; k < columns; ++k)
    for (int r = first; r < last; ++r) {
      const int64_t at = (tile * columns + k) * kRows + r;
      const auto bits = [&] { return reinterpret_cast<const uint16_t*>(w.codes)[at]; };
      out[(r - first) * columns + k] = format == k_float32   ? reinterpret_cast<const float*>(w.codes)[at]
                                       : format == k_float16 ? half_to_float(bits())
                                                             : brain_to_float(bits());
    }
}

// Rows [first, last) of a tile.
void dequantize_tile(FormatId format, const Levels& level, const Tiles& w, int64_t tile, int first, int last,
                     float* out) {
  if (is_float(format)) return read_tile(format, w, tile, first, last, out);
  const Format& f = kFormat[format];
  const int64_t columns = w.blocks * kBlock, groups = (w.blocks + w.group - 1) / w.group;
  const int parts = kBlock / f.span, quads_of_part = kQuads / parts;
  for (int64_t b = 0; b < w.blocks; ++b) {
    Quads quads;
    expand(w.codes + (tile * w.blocks + b) * 64 * f.bits, f.bits, quads);
    const uint8_t* zeros = f.extra == Extra::zero
                               ? static_cast<const uint8_t*>(w.offset) + (tile * groups + b / w.group) * kRows
                               : nullptr;
    for (int part = 0; part < parts; ++part) {
      const Rule rule = rule_of(f, w, tile, b, part);
      for (int r = first; r < last; ++r) {
        float* to = out + (r - first) * columns + b * kBlock + part * f.span;
        const float zero = zeros ? zeros[r] : 0;
        for (int j = 0; j < quads_of_part; ++j)
          for (int i = 0; i < 4; ++i)
            to[4 * j + i] = rule.scale[r] * (level[quads[part * quads_of_part + j][4 * r + i]] - zero) + rule.add[r];
      }
    }
  }
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
  const int64_t columns = w.blocks * kBlock;
  const Levels level = levels_of(format);
  parallel(tiles_of(rows), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      dequantize_tile(format, level, w, first / kRows + t, 0,
                      static_cast<int>(std::min<int64_t>(kRows, rows - t * kRows)), out + t * kRows * columns);
  });
}

void dequantize_rows(FormatId format, const Tiles& w, const int64_t* ids, int64_t count, float* out, int threads) {
  const int64_t columns = w.blocks * kBlock;
  const Levels level = levels_of(format);
  parallel(count, 16, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int row = static_cast<int>(ids[i] % kRows);
      dequantize_tile(format, level, w, ids[i] / kRows, row, row + 1, out + i * columns);
    }
  });
}

namespace {

// A batch of inputs rounded in one way, token tile by token tile.
class Rounded {
 public:
  Rounding how;

  // Makes room; buffers are kept from call to call: a fresh one costs more in page faults than the rounding.
  void prepare(const Rounding& rounding, int64_t tokens, int64_t columns) {
    how = rounding;
    columns_ = columns;
    codes_.resize(tokens * columns);
    scale_.resize(tokens * scales());
    sum_.resize(2 * tokens * sums());
  }

  Outputs at(const Batch& batch) {
    return {codes_.data() + batch.first * columns_, scale_.data() + batch.first * scales(),
            sum_.data() + 2 * batch.first * sums(), sum_.data() + (2 * batch.first + batch.tokens) * sums()};
  }

 private:
  int64_t scales() const { return columns_ / how.block; }
  int64_t sums() const { return columns_ / how.span; }

  int64_t columns_ = 0;
  std::vector<int8_t> codes_;
  std::vector<float> scale_;
  std::vector<int32_t> sum_;
};

// A batch of inputs as they are, [columns][tokens] for each token tile.
class Turned {
 public:
  void prepare(int64_t tokens, int64_t columns) { columns_ = columns, x_.resize(tokens * columns); }

  void turn(const float* x, const Batch& batch) {
    for (int64_t k = 0; k < columns_; ++k)
      for (int m = 0; m < batch.tokens; ++m)
        x_[batch.first * columns_ + k * batch.tokens + m] = x[(batch.first + m) * columns_ + k];
  }

  const float* at(const Batch& batch) const { return x_.data() + batch.first * columns_; }

 private:
  int64_t columns_ = 0;
  std::vector<float> x_;
};

// Tiles [first, last) with one token tile, by run(y, stride, first, last); the matrix' last tile may reach beyond its rows.
template <class Run>
void multiply_part(const Run& run, const Product& p, const Batch& batch, int64_t first, int64_t last) {
  float* const y = p.y + batch.first * p.rows;
  const int64_t whole = std::min(last, p.rows / kRows);
  if (first < whole) run(y + first * kRows, p.rows, first, whole);
  if (whole == last) return;
  float edge[kMostTokens * kRows];
  run(edge, kRows, last - 1, last);
  for (int m = 0; m < batch.tokens; ++m)
    std::copy_n(edge + m * kRows, p.rows % kRows, y + m * p.rows + (last - 1) * kRows);
}

Rounding rounding_for(const Format& f, bool half) { return {input_block(f), f.span, zero_of(f), half}; }

bool same(const Rounding& a, const Rounding& b) { return a.block == b.block && a.span == b.span && a.zero == b.zero; }

}  // namespace

void multiply_tiles(const Isa& isa, const std::vector<Product>& products, const float* x, int64_t tokens, bool half,
                    int threads) {
  const int64_t columns = products.front().tiles.blocks * kBlock;
  thread_local std::vector<Rounded> ways;
  thread_local Turned as_they_are;
  std::vector<int> way_of;
  int count = 0;
  bool floats = false;
  for (const Product& p : products) {
    if (is_float(p.format)) {
      floats = true;
      way_of.push_back(-1);
      continue;
    }
    const Rounding how = rounding_for(kFormat[p.format], half);
    int way = 0;
    while (way < count && !same(ways[way].how, how)) ++way;
    if (way == count) {
      if (static_cast<int>(ways.size()) == count) ways.emplace_back();
      ways[count++].prepare(how, tokens, columns);
    }
    way_of.push_back(way);
  }
  if (floats) as_they_are.prepare(tokens, columns);
  std::vector<Rounded>& rounded = ways;  // the caller's, also on the other threads
  Turned& turned = as_they_are;
  const std::vector<Batch> parts = batches(tokens);
  const int64_t pieces = static_cast<int64_t>(parts.size());
  parallel((count + floats) * pieces, 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Batch& batch = parts[i % pieces];
      if (i / pieces == count) {
        turned.turn(x, batch);
        continue;
      }
      Rounded& to = rounded[i / pieces];
      isa.quantize(x + batch.first * columns, columns, batch.tokens, columns, to.how, to.at(batch));
    }
  });
  std::vector<int64_t> first;  // the number of each matrix's first tile, counted through all of them
  int64_t tiles = 0;
  for (const Product& p : products) first.push_back(tiles), tiles += tiles_of(p.rows);
  // Small enough that a thread which another program delays holds up no one, large enough to stream.
  const int64_t grain = std::max<int64_t>(kStream, tiles / (32 * threads) / kStream * kStream);
  parallel(tiles, grain, threads, [&](int64_t begin, int64_t end) {
    for (size_t which = 0; which < products.size(); ++which) {
      const Product& p = products[which];
      const int64_t from = std::max(begin - first[which], int64_t{0});
      const int64_t to = std::min(end - first[which], tiles_of(p.rows));
      const auto multiply_batch = [&](const Batch& batch, int64_t t, int64_t step) {
        multiply_part(
            [&](float* y, int64_t stride, int64_t begin_tile, int64_t end_tile) {
              if (is_float(p.format)) {
                const MultiplyFloats run = isa.multiply_floats[p.format - kFormats][batch.index];
                run(p.tiles, turned.at(batch), y, stride, begin_tile, end_tile);
              } else {
                const Outputs o = rounded[way_of[which]].at(batch);
                const Inputs in{o.codes, o.scale, o.sum, o.start};
                isa.multiply[p.format][batch.index](p.tiles, in, y, stride, begin_tile, end_tile);
              }
            },
            p, batch, t, t + step);
      };
      // One token takes all tiles at a time. For several, a tile stays in the first cache while tokens pass by, as many
      // as stay in the second one while all tiles do.
      const int64_t step = tokens == 1 ? to - from : 1;
      const int64_t bytes = kMostTokens * columns * (is_float(p.format) ? 4 : 1);
      const int64_t together = std::max<int64_t>(kInputsAtHand / bytes, 1);
      for (int64_t at = 0; at < pieces; at += together)
        for (int64_t t = from; t < to; t += step)
          for (int64_t i = at; i < std::min(pieces, at + together); ++i) multiply_batch(parts[i], t, step);
    }
  });
}
