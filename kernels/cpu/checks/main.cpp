// The kernels without Python: every one on random data in buffers of exactly the size it may read, for the compiler's
// sanitizers; and one kernel once, for a counter of instructions.
//
//   checks kernels SEED                              every kernel, and a decoder, held to float64
//   checks threads SEED                              the pool and what runs on it, from several threads
//   checks broken memory | threads                   a bug, to see that it is seen
//   checks count FORMAT ISA TOKENS ROWS COLUMNS N    N runs of one kernel
//
// Silent unless something is wrong.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <string>
#include <thread>
#include <vector>

#include "../isa.h"
#include "../pool.h"
#include "samples.h"

namespace {

// y within what float32 can lose of the sums: two roundings for every scale on the way, and four for a product.
void check_multiply(int id) {
  const Format& f = kFormat[id];
  const int64_t rows = between(1, 50), columns = f.super ? kSuper * between(1, 2) : kBlock * between(1, 9);
  const int64_t group = between(1, columns / kBlock), tokens = between(1, 35);
  const bool half = between(0, 1);
  const Sample w(id, rows, columns, group, between(0, 1));
  const Buffer<float> x = normals(tokens * columns), numbers(rows * columns), y(tokens * rows);
  dequantize_tiles(w.linear.format, w.linear.tiles, 0, rows, numbers.data(), 2);
  const Buffer<int64_t> ids(3);
  const Buffer<float> some(3 * columns);
  for (int i = 0; i < 3; ++i) ids[i] = between(0, rows - 1);
  dequantize_rows(w.linear.format, w.linear.tiles, ids.data(), 3, some.data(), 2);
  for (int i = 0; i < 3; ++i)
    require(!std::memcmp(&some[i * columns], &numbers[ids[i] * columns], 4 * columns), "a row by its number");
  for (const Isa* isa : isas()) {
    const std::string name = std::string(kFormatName[id]) + " by " + isa->name;
    multiply_tiles(*isa, {{w.linear.format, w.linear.tiles, rows, y.data()}}, x.data(), tokens, half, 3);
    for (int64_t m = 0; m < tokens; ++m) {
      const Coded mine(*isa, f, &x[m * columns], 1, columns, half);
      require(mine.same(Coded(kScalar, f, &x[m * columns], 1, columns, half)), "inputs of " + name);
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < columns; ++k) {
          const double input = double(mine.scale[k / input_block(f)]) * mine.codes[k], weight = numbers[r * columns + k];
          sum += input * weight;
          // no term of a weight is larger than its scale · 255 and its minimum: 2 · 2^-7 · 255 · 255
          size += std::abs(input) * (f.extra == Extra::min ? (f.super ? 2 * 255 * 255.0 : 512.0) / 128 : std::abs(weight));
        }
        const double steps = 2.0 * static_cast<double>(columns) / f.span + 4;
        require(std::abs(y[m * rows + r] - sum) <= steps * std::ldexp(size, -24), name);
      }
    }
  }
}

// The same for floats, whose inputs are not rounded: a rounding for every column.
void check_floats(int id) {
  const int64_t rows = between(1, 50), columns = kBlock * between(1, 9), tokens = between(1, 35);
  const Sample w(id, rows, columns, 1, false);
  const Buffer<float> x = normals(tokens * columns), numbers(rows * columns), y(tokens * rows);
  dequantize_tiles(w.linear.format, w.linear.tiles, 0, rows, numbers.data(), 2);
  for (const Isa* isa : isas()) {
    multiply_tiles(*isa, {{w.linear.format, w.linear.tiles, rows, y.data()}}, x.data(), tokens, false, 3);
    for (int64_t m = 0; m < tokens; ++m)
      for (int64_t r = 0; r < rows; ++r) {
        double sum = 0, size = 0;
        for (int64_t k = 0; k < columns; ++k) {
          const double term = double(x[m * columns + k]) * numbers[r * columns + k];
          sum += term;
          size += std::abs(term);
        }
        const double most = static_cast<double>(columns + 1) * std::ldexp(size, -24);
        require(std::abs(y[m * rows + r] - sum) <= most, std::string(kFormatName[id]) + " by " + isa->name);
      }
  }
}

// Every kernel on one tile that begins and ends with its buffers.
void check_kernels(int id) {
  const Format& f = kFormat[id];
  for (int index = 0; index < 3; ++index) {
    const int tokens = index == 2 ? 16 : index == 1 ? 4 : 1;
    const int64_t columns = f.super ? kSuper : kBlock * between(1, 3);
    const Sample w(id, 2 * kRows, columns, between(1, columns / kBlock), between(0, 1));
    const Buffer<float> x = normals(tokens * columns);
    for (const Isa* isa : isas()) {
      const Coded in(*isa, f, x.data(), tokens, columns, between(0, 1));
      const Inputs inputs{in.codes.data(), in.scale.data(), in.sum.data(), in.start.data()};
      const Buffer<float> both(tokens * 2 * kRows), second(tokens * kRows);
      isa->multiply[id][index](w.linear.tiles, inputs, both.data(), 2 * kRows, 0, 2);
      isa->multiply[id][index](w.linear.tiles, inputs, second.data(), kRows, 1, 2);
      for (int m = 0; m < tokens; ++m)
        require(!std::memcmp(&both[m * 2 * kRows + kRows], &second[m * kRows], 4 * kRows), "a tile alone");
    }
  }
}

void check_tiling() {
  for (int bits = 1; bits <= 8; ++bits) {
    const int64_t rows = between(1, 70), columns = kBlock * between(1, 5), tiles = (rows + kRows - 1) / kRows;
    const Buffer<uint8_t> codes(rows * columns), packed(tiles * columns / kBlock * 64 * bits), back(rows * columns);
    for (int64_t i = 0; i < codes.size; ++i) codes[i] = static_cast<uint8_t>(between(0, (1 << bits) - 1));
    tile_codes(codes.data(), rows, columns, bits, packed.data(), 3);
    untile_codes(packed.data(), 0, rows, columns, bits, back.data(), 3);
    require(!std::memcmp(codes.data(), back.data(), codes.size), "codes there and back");
  }
}

// Norm, gate and attention against float64; 1e-5 is a hundred roundings of float32.
void check_block_ops(const Isa& isa) {
  const auto near = [&](double found, double wanted, double size, const char* what) {
    require(std::abs(found - wanted) <= 1e-5 * size, std::string(what) + " by " + isa.name);
  };
  const int64_t n = 16 * between(1, 9);
  const Buffer<float> x = normals(n), weight = normals(n), y(n), up = normals(n), gate = normals(n, 30);
  double squares = 0;
  for (int64_t i = 0; i < n; ++i) squares += double(x[i]) * x[i];
  isa.rms_norm(x.data(), weight.data(), 1e-5f, n, y.data());
  for (int64_t i = 0; i < n; ++i) {
    const double wanted = x[i] / std::sqrt(squares / double(n) + 1e-5) * weight[i];
    near(y[i], wanted, std::abs(wanted), "norm");
    y[i] = gate[i];
  }
  isa.swiglu(y.data(), up.data(), n);
  for (int64_t i = 0; i < n; ++i) {
    const double wanted = gate[i] / (1 + std::exp(-double(gate[i]))) * up[i];
    near(y[i], wanted, std::abs(wanted) + 1e-30, "gate");
  }
  const int64_t seen = between(1, 70), room = (seen + 15) / 16 * 16, size = 16 * between(1, 9);
  const int queries = static_cast<int>(between(1, 4));
  const Buffer<float> keys = normals(room * size), values = normals(room * size), q = normals(queries * size);
  const Buffer<float> out(queries * size), room_for_weights(queries * room);
  Heads heads{queries, {}, {}, {}, keys.data(), values.data(), size, 0.25f};
  for (int i = 0; i < queries; ++i) {
    heads.query[i] = &q[i * size];
    heads.out[i] = &out[i * size];
    heads.seen[i] = std::max<int64_t>(1, seen - (queries - 1 - i));
  }
  isa.attend(heads, room_for_weights.data());
  for (int i = 0; i < queries; ++i) {
    std::vector<double> weights;
    double total = 0, largest = 0;
    for (int64_t k = 0; k < heads.seen[i]; ++k) {
      double dot = 0;
      for (int64_t d = 0; d < size; ++d) dot += double(q[i * size + d]) * keys[k / 16 * 16 * size + d * 16 + k % 16];
      weights.push_back(dot / 4);
      largest = std::max(largest, std::abs(dot));
    }
    for (double& w : weights) total += w = std::exp(w - largest / 4);
    for (int64_t d = 0; d < size; ++d) {
      double wanted = 0;
      for (size_t k = 0; k < weights.size(); ++k) wanted += weights[k] / total * values[int64_t(k) * size + d];
      near(out[i * size + d], wanted, 4 * (1 + largest), "attention");
    }
  }
}

// A decoder of random formats: a long prompt at once and its end token by token are the same numbers.
void check_decoder(int64_t prompt) {
  const int64_t head = 16 * between(1, 3), kv = between(1, 2), wide = kv * between(1, 3) * head, hidden = 256, inner = 256;
  const int64_t columns_of_o = (wide + kBlock - 1) / kBlock * kBlock;
  if (columns_of_o != wide) return check_decoder(prompt);
  std::vector<std::unique_ptr<Sample>> matrices;
  std::vector<Buffer<float>> vectors;
  const auto linear = [&](int64_t rows, int64_t columns, bool bias) {
    int id = static_cast<int>(between(0, kAllFormats - 1));
    while (kFormat[id].super && columns % kSuper) id = static_cast<int>(between(0, kAllFormats - 1));
    if (bias) vectors.push_back(normals(rows));
    const float* added = bias ? vectors.back().data() : nullptr;
    matrices.push_back(std::make_unique<Sample>(id, rows, columns, between(1, columns / kBlock), between(0, 1), added));
    return matrices.back()->linear;
  };
  const auto vector = [&](int64_t n) {
    vectors.push_back(normals(n));
    return vectors.back().data();
  };
  const bool bias = between(0, 1), norms = between(0, 1);
  const auto layer = [&] {
    Layer l{};
    l.q = linear(wide, hidden, bias), l.k = linear(kv * head, hidden, bias), l.v = linear(kv * head, hidden, bias);
    l.o = linear(hidden, wide, false), l.gate = linear(inner, hidden, false), l.up = linear(inner, hidden, false);
    l.down = linear(hidden, inner, false);
    l.attention_norm = vector(hidden), l.mlp_norm = vector(hidden);
    if (norms) l.q_norm = vector(head), l.k_norm = vector(head);
    return l;
  };
  const int64_t vocabulary = 70, capacity = prompt + 3;
  const Shape shape{hidden, wide / head, kv, head, inner, capacity, 1e-5f, between(0, 1) == 1};
  const std::vector<Layer> layers{layer(), layer()};
  const Linear embedding = linear(vocabulary, hidden, false), output = linear(vocabulary, hidden, false);
  const float *norm = vector(hidden), *cosines = vector(capacity * head / 2), *sines = vector(capacity * head / 2);
  const Buffer<int64_t> ids(prompt + 3);
  for (int64_t i = 0; i < ids.size; ++i) ids[i] = between(0, vocabulary - 1);
  for (const Isa* isa : isas()) {
    Decoder decoder(shape, layers, embedding, norm, output, cosines, sines);
    const Buffer<float> at_once(vocabulary), stepwise(vocabulary);
    decoder.read(ids.data(), prompt + 3, 0, at_once.data(), *isa, 3);
    decoder.read(ids.data(), prompt, 0, stepwise.data(), *isa, 2);
    for (int64_t i = prompt; i < prompt + 3; ++i) decoder.read(&ids[i], 1, i, stepwise.data(), *isa, 1);
    require(!std::memcmp(at_once.data(), stepwise.data(), 4 * vocabulary), std::string("a prompt at once by ") + isa->name);
  }
}

// Many callers, each with bodies that call again: every number once.
void check_pool() {
  std::vector<std::thread> callers;
  for (int c = 0; c < 5; ++c)
    callers.emplace_back([c] {
      for (int round = 0; round < 60; ++round) {
        const int64_t n = 7 * c + round;
        std::atomic<int64_t> sum{0}, inner{0};
        parallel(n, 1 + round % 5, 1 + c, [&](int64_t begin, int64_t end) {
          for (int64_t i = begin; i < end; ++i) {
            sum += i;
            parallel(10, 1, 4, [&](int64_t b, int64_t e) { inner += e - b; });
          }
        });
        require(sum == n * (n - 1) / 2 && inner == 10 * n, "a sum of the pool");
      }
    });
  for (std::thread& t : callers) t.join();
}

// Products of several threads at once, each with its own room for rounded inputs.
void check_callers() {
  const Sample w(k_int4_zero, 70, 96, 2, false);
  const Buffer<float> x = normals(21 * 96), wanted(21 * 70);
  const auto product = [&](float* y, int threads) {
    multiply_tiles(isa_named(""), {{w.linear.format, w.linear.tiles, 70, y}}, x.data(), 21, false, threads);
  };
  product(wanted.data(), 1);
  std::vector<std::thread> callers;
  for (int c = 0; c < 4; ++c)
    callers.emplace_back([&] {
      const Buffer<float> y(wanted.size);
      for (int i = 0; i < 20; ++i) {
        product(y.data(), 3);
        require(!std::memcmp(y.data(), wanted.data(), 4 * y.size), "a product beside others");
      }
    });
  for (std::thread& t : callers) t.join();
}

int format_named(const std::string& name) {
  for (int id = 0; id < kFormats; ++id)
    if (name == kFormatName[id]) return id;
  require(false, "no format is called " + name);
  return 0;
}

void count(const std::string& format, const std::string& isa_name, int tokens, int64_t rows, int64_t columns, int runs) {
  const int id = format_named(format);
  const Isa& isa = isa_named(isa_name);
  const Sample w(id, rows, columns, 1, false);
  const Buffer<float> x = normals(tokens * columns), y(tokens * rows);
  const Coded in(isa, kFormat[id], x.data(), tokens, columns, false);
  const Inputs inputs{in.codes.data(), in.scale.data(), in.sum.data(), in.start.data()};
  const int index = tokens == 16 ? 2 : tokens == 4 ? 1 : 0;
  for (int i = 0; i < runs; ++i) isa.multiply[id][index](w.linear.tiles, inputs, y.data(), rows, 0, rows / kRows);
}

// A matrix that is one byte short, or a sum without a lock.
int broken(const std::string& how) {
  if (how == "memory") {
    Sample w(k_int4, kRows, kBlock, 1, false);
    const Buffer<uint8_t> less(w.codes.size - 1);
    w.linear.tiles.codes = less.data();
    const Buffer<float> x = normals(kBlock), y(kRows);
    multiply_tiles(isa_named(""), {{w.linear.format, w.linear.tiles, kRows, y.data()}}, x.data(), 1, false, 1);
  } else {
    int64_t sum = 0;
    std::thread other([&] { ++sum; });
    ++sum;
    other.join();
  }
  return 0;
}

}  // namespace

int main(int n, char** given) {
  const std::string mode = n > 1 ? given[1] : "";
  if (mode == "kernels" && n == 3) {
    draw.seed(static_cast<unsigned>(std::atoi(given[2])));
    check_tiling();
    for (int id = 0; id < kFormats; ++id) check_kernels(id), check_multiply(id);
    for (int id = kFormats; id < kAllFormats; ++id) check_floats(id);
    for (const Isa* isa : isas())
      for (int i = 0; i < 20; ++i) check_block_ops(*isa);
    check_decoder(260);
    return 0;
  }
  if (mode == "threads" && n == 3) {
    draw.seed(static_cast<unsigned>(std::atoi(given[2])));
    check_pool();
    check_callers();
    check_multiply(k_super4_min);
    check_decoder(between(1, 30));
    return 0;
  }
  if (mode == "broken" && n == 3) return broken(given[2]);
  if (mode == "count" && n == 8) {
    count(given[2], given[3], std::atoi(given[4]), std::atoll(given[5]), std::atoll(given[6]), std::atoi(given[7]));
    return 0;
  }
  std::fprintf(stderr, "checks kernels SEED | threads SEED | broken memory | broken threads | count FORMAT ISA TOKENS ROWS COLUMNS RUNS\n");
  return 2;
}
