// Python bindings of the matrix kernels.
#include "bind.h"

namespace {

void check_span(int64_t first, int64_t rows, int64_t all) {
  if (first < 0 || first % kRows || first > all - rows)
    throw std::invalid_argument(std::to_string(rows) + " rows from " + std::to_string(first) + " of " + std::to_string(all) + ": first must be a multiple of 16 inside the matrix");
}

void tile(const Array<const uint8_t>& codes, int bits, const Array<uint8_t>& out, int threads) {
  if (bits < 1 || bits > 8) throw std::invalid_argument("bits is " + std::to_string(bits) + ": 1 to 8 can be tiled");
  if (codes.ndim() != 2 || codes.shape(1) % kBlock)
    throw std::invalid_argument("codes must be [rows, columns] with a multiple of 32 columns");
  const int64_t rows = codes.shape(0), columns = codes.shape(1);
  expect(out, "out", {(rows + kRows - 1) / kRows, columns / kBlock, 64 * bits});
  at_least_one(threads);
  const Released released;
  tile_codes(codes.data(), rows, columns, bits, out.data(), threads);
}

void untile(const Array<const uint8_t>& tiles, int64_t first, const Array<uint8_t>& out, int threads) {
  if (tiles.ndim() != 3 || tiles.shape(2) % 64 || tiles.shape(2) > 512 || !tiles.shape(2))
    throw std::invalid_argument("tiles must be [tiles, blocks, 64 * bits]");
  const int64_t columns = tiles.shape(1) * kBlock;
  if (out.ndim() != 2) throw std::invalid_argument("out must be [rows, columns]");
  expect(out, "out", {static_cast<int64_t>(out.shape(0)), columns});
  check_span(first, out.shape(0), tiles.shape(0) * kRows);
  at_least_one(threads);
  const Released released;
  untile_codes(tiles.data(), first, out.shape(0), columns, static_cast<int>(tiles.shape(2) / 64), out.data(), threads);
}

void dequantize(const std::string& format, const Array<const uint8_t>& codes, const std::optional<Any>& scale,
                const std::optional<Any>& offset, const std::optional<Any>& sub, int64_t group, int64_t rows,
                int64_t first, const Array<float>& out, int threads) {
  const Matrix m = matrix(format, codes, scale, offset, sub, group, rows);
  if (out.ndim() != 2) throw std::invalid_argument("out must be [rows, columns]");
  expect(out, "out", {static_cast<int64_t>(out.shape(0)), m.columns});
  check_span(first, out.shape(0), rows);
  at_least_one(threads);
  const Released released;
  dequantize_tiles(m.format, m.tiles, first, out.shape(0), out.data(), threads);
}

void dequantize_some(const std::string& format, const Array<const uint8_t>& codes, const std::optional<Any>& scale,
                     const std::optional<Any>& offset, const std::optional<Any>& sub, int64_t group, int64_t rows,
                     const Array<const int64_t>& ids, const Array<float>& out, int threads) {
  const Matrix m = matrix(format, codes, scale, offset, sub, group, rows);
  if (ids.ndim() != 1) throw std::invalid_argument("ids must be one row of row numbers");
  const int64_t count = ids.shape(0);
  expect(out, "out", {count, m.columns});
  for (int64_t i = 0; i < count; ++i)
    if (ids.data()[i] < 0 || ids.data()[i] >= rows)
      throw std::out_of_range("ids holds " + std::to_string(ids.data()[i]) + ": the matrix has " + std::to_string(rows) + " rows");
  at_least_one(threads);
  const Released released;
  dequantize_rows(m.format, m.tiles, ids.data(), count, out.data(), threads);
}

void multiply(const std::string& format, const Array<const uint8_t>& codes, const std::optional<Any>& scale,
              const std::optional<Any>& offset, const std::optional<Any>& sub, int64_t group, int64_t rows,
              const Array<const float>& x, const Array<float>& y, bool half, int threads, const std::string& isa) {
  const Matrix m = matrix(format, codes, scale, offset, sub, group, rows);
  if (x.ndim() != 2) throw std::invalid_argument("x must be [tokens, columns]");
  const int64_t tokens = x.shape(0);
  expect(x, "x", {tokens, m.columns});
  expect(y, "y", {tokens, rows});
  at_least_one(threads);
  const Isa& chosen = isa_named(isa);
  const Released released;
  if (tokens) multiply_tiles(chosen, {{m.format, m.tiles, rows, y.data()}}, x.data(), tokens, half, threads);
}

nb::dict formats() {
  nb::dict all;
  for (int id = 0; id < kFormats; ++id) {
    const Format& f = kFormat[id];
    nb::dict told;
    told["bits"] = f.bits;
    told["table"] = f.table;
    told["super"] = f.super;
    told["span"] = f.span;
    told["extra"] = f.extra == Extra::none ? "none" : f.extra == Extra::zero ? "zero" : "min";
    told["nibbles"] = f.nibbles;
    all[kFormatName[id]] = told;
  }
  return all;
}

std::vector<std::string> floats() { return {kFormatName + kFormats, kFormatName + kAllFormats}; }

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa* isa : isas()) names.emplace_back(isa->name);
  return names;
}

}  // namespace

void bind_tile(nb::module_& m) {
  m.def("formats", &formats, "The formats that have kernels.");
  m.def("floats", &floats, "The formats of matrices that are not quantized.");
  m.def("isas", &isa_names, "The instruction sets that this processor runs, the best first.");
  m.def("isa", [](const std::string& name) { return std::string(isa_named(name).name); }, nb::arg("name") = "",
        "The instruction set that kernels use.");
  def(m, "tile", &tile, nb::arg("codes").noconvert(), nb::arg("bits"), nb::arg("out").noconvert(), nb::arg("threads") = 1);
  def(m, "untile", &untile, nb::arg("tiles").noconvert(), nb::arg("first"), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
  def(m, "dequantize", &dequantize, nb::arg("format"), nb::arg("codes").noconvert(), nb::arg("scale").noconvert().none(),
        nb::arg("offset").noconvert().none(), nb::arg("sub").noconvert().none(), nb::arg("group"), nb::arg("rows"),
        nb::arg("first"), nb::arg("out").noconvert(), nb::arg("threads") = 1);
  def(m, "dequantize_rows", &dequantize_some, nb::arg("format"), nb::arg("codes").noconvert(),
        nb::arg("scale").noconvert().none(), nb::arg("offset").noconvert().none(), nb::arg("sub").noconvert().none(),
        nb::arg("group"), nb::arg("rows"), nb::arg("ids").noconvert(), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
  def(m, "multiply", &multiply, nb::arg("format"), nb::arg("codes").noconvert(), nb::arg("scale").noconvert().none(),
        nb::arg("offset").noconvert().none(), nb::arg("sub").noconvert().none(), nb::arg("group"), nb::arg("rows"),
        nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("half") = false, nb::arg("threads") = 1,
        nb::arg("isa") = "");
}
