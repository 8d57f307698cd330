// A llama-family decoder on packed weights: the transformer block in one place, the cache of keys and values beside it.
#pragma once
#include <cstdint>
#include <initializer_list>
#include <utility>
#include <vector>

#include "tile.h"

struct Linear {
  FormatId format;
  Tiles tiles;
  int64_t rows, columns;
  const float* bias;     // [rows] or null
  const int64_t* order;  // the column of x that stands at each place, or null
};

struct Layer {
  Linear q, k, v, o, gate, up, down;
  const float *attention_norm, *mlp_norm;  // [hidden]
  const float *q_norm, *k_norm;            // [head] or null (qwen3)
};

struct Shape {
  int64_t hidden, heads, kv_heads, head, intermediate, capacity;
  float epsilon;
  bool half;  // inputs of blocks of 32 with float16 scales
};

class Decoder {
 public:
  // rope: cosines and sines [capacity][head / 2] of the halves of a head that turn together.
  Decoder(const Shape& shape, std::vector<Layer> layers, const Linear& embedding, const float* norm, const Linear& head,
          const float* cosines, const float* sines);

  // Reads `count` tokens that follow the `past` ones in the cache; logits [vocabulary] of the last.
  void read(const int64_t* ids, int64_t count, int64_t past, float* logits, const Isa& isa, int threads);

  const Shape& shape() const { return shape_; }
  int64_t vocabulary() const { return head_.rows; }
  int64_t cache_bytes() const { return 2 * static_cast<int64_t>(layers_.size()) * cache_of_layer() * 4; }

 private:
  int64_t cache_of_layer() const { return shape_.kv_heads * room() * shape_.head; }
  int64_t room() const { return (shape_.capacity + 15) / 16 * 16; }

  void block(int layer, int64_t count, int64_t past, const Isa& isa, int threads);
  void multiply(std::initializer_list<std::pair<const Linear*, float*>> products, const float* x, int64_t count,
                const Isa& isa, int threads);
  void turn(float* x, int64_t heads, int64_t count, int64_t past, const float* norm, const Isa& isa) const;
  void remember(int layer, int64_t count, int64_t past);
  void attend(int layer, int64_t count, int64_t past, const Isa& isa, int threads);

  Shape shape_;
  std::vector<Layer> layers_;
  Linear embedding_, head_;
  const float *norm_, *cosines_, *sines_;
  std::vector<float> keys_, values_;  // [layers][kv_heads][room / 16][head][16] and [layers][kv_heads][room][head]
  std::vector<float> x_, normed_, q_, k_, v_, mixed_, gate_, up_, sorted_;  // of one batch of tokens
};
