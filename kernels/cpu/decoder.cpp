#include "decoder.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "pool.h"

namespace {

constexpr int64_t kAtOnce = 256;  // tokens that go through the blocks together
constexpr int kQueries = 4;       // of one kv head that share a look at its keys

}  // namespace

Decoder::Decoder(const Shape& shape, std::vector<Layer> layers, const Linear& embedding, const float* norm,
                 const Linear& head, const float* cosines, const float* sines)
    : shape_(shape), layers_(std::move(layers)), embedding_(embedding), head_(head), norm_(norm), cosines_(cosines),
      sines_(sines) {
  const int64_t cache = static_cast<int64_t>(layers_.size()) * cache_of_layer();
  keys_.resize(cache);
  values_.resize(cache);
}

void Decoder::read(const int64_t* ids, int64_t count, int64_t past, float* logits, const Isa& isa, int threads) {
  for (int64_t at = 0; at < count; at += kAtOnce) {
    const int64_t n = std::min(kAtOnce, count - at);
    x_.resize(n * shape_.hidden);
    dequantize_rows(embedding_.format, embedding_.tiles, ids + at, n, x_.data(), threads);
    for (int layer = 0; layer < static_cast<int>(layers_.size()); ++layer) block(layer, n, past + at, isa, threads);
    if (at + n < count) continue;
    normed_.resize(std::max<int64_t>(normed_.size(), shape_.hidden));
    isa.rms_norm(x_.data() + (n - 1) * shape_.hidden, norm_, shape_.epsilon, shape_.hidden, normed_.data());
    multiply({{&head_, logits}}, normed_.data(), 1, isa, threads);
  }
}

// x += attention(norm(x)); x += mlp(norm(x)).
void Decoder::block(int layer, int64_t count, int64_t past, const Isa& isa, int threads) {
  const Layer& w = layers_[layer];
  const Shape& s = shape_;
  const auto normalize = [&](const float* weight) {
    normed_.resize(count * s.hidden);
    parallel(count, 8, threads, [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        isa.rms_norm(x_.data() + t * s.hidden, weight, s.epsilon, s.hidden, normed_.data() + t * s.hidden);
    });
  };
  const auto add = [&](const std::vector<float>& change) {
    for (int64_t i = 0; i < count * s.hidden; ++i) x_[i] += change[i];
  };

  normalize(w.attention_norm);
  q_.resize(count * s.heads * s.head);
  k_.resize(count * s.kv_heads * s.head);
  v_.resize(count * s.kv_heads * s.head);
  multiply({{&w.q, q_.data()}, {&w.k, k_.data()}, {&w.v, v_.data()}}, normed_.data(), count, isa, threads);
  turn(q_.data(), s.heads, count, past, w.q_norm, isa);
  turn(k_.data(), s.kv_heads, count, past, w.k_norm, isa);
  remember(layer, count, past);
  attend(layer, count, past, isa, threads);
  multiply({{&w.o, normed_.data()}}, mixed_.data(), count, isa, threads);
  add(normed_);

  normalize(w.mlp_norm);
  gate_.resize(count * s.intermediate);
  up_.resize(count * s.intermediate);
  multiply({{&w.gate, gate_.data()}, {&w.up, up_.data()}}, normed_.data(), count, isa, threads);
  parallel(count * s.intermediate / 16, 64, count > 1 ? threads : 1, [&](int64_t begin, int64_t end) {
    isa.swiglu(gate_.data() + 16 * begin, up_.data() + 16 * begin, 16 * (end - begin));
  });
  multiply({{&w.down, normed_.data()}}, gate_.data(), count, isa, threads);
  add(normed_);
}

void Decoder::multiply(std::initializer_list<std::pair<const Linear*, float*>> products, const float* x, int64_t count,
                       const Isa& isa, int threads) {
  std::vector<Product> together;
  for (const auto& [w, y] : products) {
    const Product product{w->format, w->tiles, w->rows, y};
    if (!w->order) {
      together.push_back(product);
      continue;
    }
    sorted_.resize(count * w->columns);
    for (int64_t t = 0; t < count; ++t)
      for (int64_t i = 0; i < w->columns; ++i) sorted_[t * w->columns + i] = x[t * w->columns + w->order[i]];
    multiply_tiles(isa, {product}, sorted_.data(), count, shape_.half, threads);
  }
  if (!together.empty()) multiply_tiles(isa, together, x, count, shape_.half, threads);
  for (const auto& [w, y] : products)
    if (w->bias)
      for (int64_t t = 0; t < count; ++t)
        for (int64_t r = 0; r < w->rows; ++r) y[t * w->rows + r] += w->bias[r];
}

// Rotary positions: number i of a head turns with number i + head / 2.
void Decoder::turn(float* x, int64_t heads, int64_t count, int64_t past, const float* norm, const Isa& isa) const {
  const int64_t half = shape_.head / 2;
  for (int64_t t = 0; t < count; ++t) {
    const float* c = cosines_ + (past + t) * half;
    const float* s = sines_ + (past + t) * half;
    for (int64_t h = 0; h < heads; ++h, x += 2 * half) {
      if (norm) isa.rms_norm(x, norm, shape_.epsilon, 2 * half, x);
      for (int64_t i = 0; i < half; ++i) {
        const float a = x[i], b = x[i + half];
        x[i] = a * c[i] - b * s[i];
        x[i + half] = b * c[i] + a * s[i];
      }
    }
  }
}

void Decoder::remember(int layer, int64_t count, int64_t past) {
  const int64_t head = shape_.head;
  for (int64_t t = 0; t < count; ++t)
    for (int64_t h = 0; h < shape_.kv_heads; ++h) {
      const int64_t cache = layer * cache_of_layer() + h * room() * head, at = past + t;
      const float* k = k_.data() + (t * shape_.kv_heads + h) * head;
      float* to = keys_.data() + cache + at / 16 * 16 * head + at % 16;
      for (int64_t d = 0; d < head; ++d) to[16 * d] = k[d];
      std::copy_n(v_.data() + (t * shape_.kv_heads + h) * head, head, values_.data() + cache + at * head);
    }
}

void Decoder::attend(int layer, int64_t count, int64_t past, const Isa& isa, int threads) {
  const int64_t head = shape_.head, group = shape_.heads / shape_.kv_heads;
  mixed_.resize(count * shape_.heads * head);
  // The queries of a kv head, token after token; four of them at a time look at its keys.
  const int64_t queries = count * group, fours = (queries + kQueries - 1) / kQueries;
  const int64_t each = kQueries * ((past + count + 15) / 16 * 16);
  parallel(shape_.kv_heads * fours, 1, threads, [&](int64_t begin, int64_t end) {
    thread_local std::vector<float> weights;
    weights.resize(each);
    for (int64_t i = begin; i < end; ++i) {
      const int64_t h = i / fours, first = i % fours * kQueries;
      const int64_t cache = layer * cache_of_layer() + h * room() * head;
      Heads heads;
      heads.queries = static_cast<int>(std::min<int64_t>(kQueries, queries - first));
      heads.keys = keys_.data() + cache;
      heads.values = values_.data() + cache;
      heads.size = head;
      heads.scale = 1 / __builtin_sqrtf(static_cast<float>(head));
      for (int n = 0; n < heads.queries; ++n) {
        const int64_t token = (first + n) / group, at = token * shape_.heads + h * group + (first + n) % group;
        heads.query[n] = q_.data() + at * head;
        heads.out[n] = mixed_.data() + at * head;
        heads.seen[n] = past + token + 1;
      }
      isa.attend(heads, weights.data());
    }
  });
}
