// Python bindings of packing.
#include "bind.h"
#include "bits.h"

namespace {

// Three axes, of which the middle one is packed.
void check(const Array<const uint8_t>& codes, const Array<const int32_t>& words, int bits, int threads) {
  if (bits < 1 || bits > 8) throw std::invalid_argument("bits is " + std::to_string(bits) + ": 1 to 8 can be packed");
  if (codes.ndim() != 3) throw std::invalid_argument("codes must be [outer, codes of a line, inner]");
  const auto length = [&](int axis) { return static_cast<int64_t>(codes.shape(axis)); };
  expect(words, "words", {length(0), words_of(length(1), bits), length(2)});
  at_least_one(threads);
}

bool pack(const Array<const uint8_t>& codes, int bits, const Array<int32_t>& words, int threads) {
  check(codes, Array<const int32_t>(words), bits, threads);
  const Released released;
  return pack_bits(codes.data(), codes.shape(0), codes.shape(1), codes.shape(2), bits,
                   reinterpret_cast<uint32_t*>(words.data()), threads);
}

void unpack(const Array<const int32_t>& words, int bits, const Array<uint8_t>& codes, int threads) {
  check(Array<const uint8_t>(codes), words, bits, threads);
  const Released released;
  unpack_bits(reinterpret_cast<const uint32_t*>(words.data()), codes.shape(0), codes.shape(1), codes.shape(2), bits,
              codes.data(), threads);
}

}  // namespace

void bind_bits(nb::module_& m) {
  def(m, "pack_bits", &pack, nb::arg("codes").noconvert(), nb::arg("bits"), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
  def(m, "unpack_bits", &unpack, nb::arg("words").noconvert(), nb::arg("bits"), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
}
