// Python bindings of the encoders and decoders of GGUF's blocks: check what came in, choose the leaf, share the work.
#include "bind_encode.h"

#include <atomic>

#include "bind.h"
#include "encode.h"
#include "pool.h"

template <class T, int kDimensions>
using ArrayOf = nb::ndarray<T, nb::ndim<kDimensions>, nb::c_contig, nb::device::cpu>;

// Weights that a thread takes at once: a batch of every leaf, and little enough to share evenly.
constexpr int64_t kWeightsAtOnce = 16 * 256, kRowsAtOnce = 16;

static const EncodeLeaf& leaf_of(const std::string& isa) {
  const std::string name = isa_named(isa).name;
#if defined(__x86_64__)
  if (name == encode_avx512.isa) return encode_avx512;
  if (name == encode_avx2.isa) return encode_avx2;
#endif
  return encode_scalar;
}

static std::vector<std::string> block_types() {
  std::vector<std::string> names;
  for (const BlockDecoder& type : block_decoders) names.emplace_back(type.name);
  return names;
}

// The type of that name among encoders or decoders.
template <class Type>
static const Type& type_of(const Type (&types)[kBlockTypes], const std::string& name) {
  std::string known;
  for (const Type& type : types) {
    if (name == type.name) return type;
    known += std::string(known.empty() ? "" : ", ") + type.name;
  }
  throw std::invalid_argument("type is " + name + ": choose one of " + known);
}

static void check_threads(int threads) {
  if (threads < 1) throw std::invalid_argument("threads is " + std::to_string(threads) + ": at least 1 is needed");
}

static void check_shape(const char* name, int64_t rows, int64_t columns, int64_t wanted_rows, int64_t wanted_columns) {
  if (rows == wanted_rows && columns == wanted_columns) return;
  throw std::invalid_argument(std::string(name) + " is [" + std::to_string(rows) + ", " + std::to_string(columns) +
                              "]: [" + std::to_string(wanted_rows) + ", " + std::to_string(wanted_columns) +
                              "] is needed");
}

static bool encode(const std::string& name, ArrayOf<const float, 2> W, ArrayOf<uint8_t, 2> out,
                   std::optional<ArrayOf<const float, 1>> importance, int threads, const std::string& isa) {
  const EncodeLeaf& leaf = leaf_of(isa);
  const BlockEncoder& type = type_of(leaf.types, name);
  const int64_t rows = W.shape(0), row = W.shape(1);
  check_threads(threads);
  if (row % type.weights)
    throw std::invalid_argument("W has rows of " + std::to_string(row) + ": " + name + " needs a multiple of " +
                                std::to_string(type.weights));
  check_shape("out", out.shape(0), out.shape(1), rows, row / type.weights * type.bytes);
  if (importance && static_cast<int64_t>(importance->size()) != row)
    throw std::invalid_argument("importance has " + std::to_string(importance->size()) + " numbers: W has rows of " +
                                std::to_string(row));
  const int64_t blocks = rows * (row / type.weights);
  const bool weighted = importance && type.importance != Importance::kIgnored;
  EncodeJob job{W.data(), weighted ? importance->data() : nullptr, nullptr, row, out.data()};
  const Released released;
  std::vector<float> squares;
  if (weighted && type.importance == Importance::kByRow) {
    squares.resize(rows);
    parallel(rows, kRowsAtOnce, threads,
             [&](int64_t begin, int64_t end) { leaf.row_squares(job.W, row, begin, end, squares.data()); });
    job.squares = squares.data();
  }
  std::atomic<bool> fine{true};
  parallel(blocks, kWeightsAtOnce / type.weights, threads, [&](int64_t begin, int64_t end) {
    if (!type.encode(job, begin, end)) fine = false;
  });
  return fine;
}

static void decode(const std::string& name, ArrayOf<const uint8_t, 2> data, ArrayOf<float, 2> out, int threads) {
  const BlockDecoder& type = type_of(block_decoders, name);
  const int64_t rows = data.shape(0), row = data.shape(1);
  check_threads(threads);
  if (row % type.bytes)
    throw std::invalid_argument("data has rows of " + std::to_string(row) + " bytes: " + name +
                                " needs a multiple of " + std::to_string(type.bytes));
  check_shape("out", out.shape(0), out.shape(1), rows, row / type.bytes * type.weights);
  const uint8_t* from = data.data();
  float* to = out.data();
  const Released released;
  parallel(rows * (row / type.bytes), kWeightsAtOnce / type.weights, threads, [&](int64_t begin, int64_t end) {
    type.decode(from + begin * type.bytes, end - begin, to + begin * type.weights);
  });
}

void bind_encode(nb::module_& m) {
  m.def("block_types", &block_types, "The types of GGUF that are encoded and decoded here.");
  def(m, "encode", &encode, nb::arg("type"), nb::arg("W").noconvert(), nb::arg("out").noconvert(),
        nb::arg("importance").noconvert() = nb::none(), nb::arg("threads") = 1, nb::arg("isa") = "");
  def(m, "decode", &decode, nb::arg("type"), nb::arg("data").noconvert(), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
}
