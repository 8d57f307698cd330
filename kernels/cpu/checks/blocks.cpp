// The encoders and decoders without Python: a line for every type of GGUF, with digests of the bytes and of the numbers
// that they make of the same weights. Every processor and compiler must print the same.
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "../encode.h"

namespace {

uint64_t digest(const void* data, size_t n) {
  uint64_t hash = 0xcbf29ce484222325;  // FNV-1a
  for (size_t i = 0; i < n; ++i) hash = (hash ^ static_cast<const uint8_t*>(data)[i]) * 0x100000001b3;
  return hash;
}

}  // namespace

int main() {
  constexpr int64_t kWide = 512, kMany = 37;
  std::mt19937 draw(1);
  // Sums of integers: the same everywhere, which a standard library's normal distribution is not.
  const auto number = [&] {
    int64_t sum = 0;
    for (int i = 0; i < 8; ++i) sum += static_cast<int64_t>(draw()) - (int64_t{1} << 31);
    return static_cast<float>(sum) * 0x1p-36f;
  };
  std::vector<float> W(kMany * kWide), importance(kWide), squares(kMany);
  for (float& w : W) w = number();
  for (int64_t i = 0; i < kWide; ++i) W[i] = 0, W[kWide + i] *= 0x1p-20f, W[2 * kWide + i] = static_cast<float>(i % 9 - 4);
  for (float& x : importance) x = number() * number() + 0x1p-10f;
  encode_scalar.row_squares(W.data(), kWide, 0, kMany, squares.data());
  for (int id = 0; id < kBlockTypes; ++id) {
    const BlockEncoder& type = encode_scalar.types[id];
    const int64_t blocks = kMany * kWide / type.weights;
    for (const bool weighted : {false, true}) {
      std::vector<uint8_t> bytes(blocks * type.bytes);
      std::vector<float> back(W.size());
      const bool by = weighted && type.importance != Importance::kIgnored;
      const EncodeJob job{W.data(), by ? importance.data() : nullptr,
                          by && type.importance == Importance::kByRow ? squares.data() : nullptr, kWide, bytes.data()};
      const bool fine = type.encode(job, 0, blocks);
      for (const BlockDecoder& decoder : block_decoders)
        if (!std::strcmp(decoder.name, type.name)) decoder.decode(bytes.data(), blocks, back.data());
      std::printf("%s %d %d %016llx %016llx\n", type.name, weighted, fine,
                  static_cast<unsigned long long>(digest(bytes.data(), bytes.size())),
                  static_cast<unsigned long long>(digest(back.data(), 4 * back.size())));
    }
  }
}
