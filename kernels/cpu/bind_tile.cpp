// Python bindings of the matrix kernels: look at every array before a pointer is taken from it.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>

#include "isa.h"
#include "tile.h"

namespace nb = nanobind;
using std::int64_t;

namespace {

template <class T>
using Array = nb::ndarray<T, nb::c_contig, nb::device::cpu>;
using Any = nb::ndarray<nb::ro, nb::c_contig, nb::device::cpu>;

std::string told(const size_t* shape, size_t n) {
  std::string text = "[";
  for (size_t i = 0; i < n; ++i) text += (i ? ", " : "") + std::to_string(shape[i]);
  return text + "]";
}

// std::invalid_argument, naming the array, unless it has this shape.
template <class A>
void expect(const A& array, const char* name, std::initializer_list<int64_t> shape) {
  bool same = array.ndim() == shape.size();
  std::string wanted = "[";
  size_t i = 0;
  for (int64_t length : shape) {
    same = same && i < array.ndim() && static_cast<int64_t>(array.shape(i)) == length;
    wanted += (i++ ? ", " : "") + std::to_string(length);
  }
  if (same) return;
  std::vector<size_t> found;
  for (size_t k = 0; k < array.ndim(); ++k) found.push_back(array.shape(k));
  throw std::invalid_argument(std::string(name) + " is " + told(found.data(), found.size()) + " where " + wanted +
                              "] is expected");
}

void expect_bits(const Any& array, const char* name, int code, int bits) {
  if (array.dtype().code != static_cast<uint8_t>(code) || array.dtype().bits != bits)
    throw std::invalid_argument(std::string(name) + " has the wrong dtype: it must be " +
                                (code == static_cast<int>(nb::dlpack::dtype_code::Float) ? "float" : "uint") +
                                std::to_string(bits));
}

constexpr int kFloat = static_cast<int>(nb::dlpack::dtype_code::Float);
constexpr int kUnsigned = static_cast<int>(nb::dlpack::dtype_code::UInt);

FormatId format_named(const std::string& name) {
  for (int id = 0; id < kFormats; ++id)
    if (name == kFormatName[id]) return static_cast<FormatId>(id);
  throw std::invalid_argument("format is " + name + ": see formats() for those that have kernels");
}

int at_least_one(int threads) {
  if (threads < 1) throw std::invalid_argument("threads is " + std::to_string(threads) + ": at least 1 is needed");
  return threads;
}

const void* data(const std::optional<Any>& array, const char* name, bool wanted) {
  if (array.has_value() != wanted)
    throw std::invalid_argument(std::string(name) + (wanted ? " is missing: this format has one" : " is given, but this format has none"));
  return wanted ? array->data() : nullptr;
}

struct Matrix {
  FormatId format;
  int64_t rows, columns;
  Tiles tiles;
};

// The arrays of a matrix, looked at.
Matrix matrix(const std::string& name, const Array<const uint8_t>& codes, const Any& scale,
              const std::optional<Any>& offset, const std::optional<Any>& sub, int64_t group, int64_t rows) {
  Matrix found;
  found.format = format_named(name);
  const Format& f = kFormat[found.format];
  if (codes.ndim() != 3) throw std::invalid_argument("codes has " + std::to_string(codes.ndim()) + " axes: tiles have 3");
  const int64_t tiles = codes.shape(0), blocks = codes.shape(1);
  expect(codes, "codes", {tiles, blocks, 64 * f.bits});
  if (rows < 1 || tiles != (rows + kRows - 1) / kRows)
    throw std::invalid_argument("rows is " + std::to_string(rows) + ": codes has " + std::to_string(tiles) + " tiles of 16");
  if (blocks < 1 || (f.super && blocks % 8))
    throw std::invalid_argument("codes has " + std::to_string(blocks) + " blocks of 32 columns: this format needs a multiple of " + (f.super ? "8" : "1"));
  if (group < 1) throw std::invalid_argument("group is " + std::to_string(group) + ": it counts blocks of 32, at least 1");
  const int64_t groups = f.super ? blocks / 8 : (blocks + group - 1) / group;
  const bool wide = scale.dtype().bits == 32;
  expect_bits(scale, "scale", kFloat, wide && !f.super ? 32 : 16);
  expect(scale, "scale", {tiles, groups, kRows});
  Tiles& w = found.tiles;
  w.codes = codes.data();
  w.scale = scale.data();
  w.offset = data(offset, "offset", f.extra != Extra::none);
  w.sub = static_cast<const uint8_t*>(data(sub, "sub", f.super));
  if (offset) {
    expect(*offset, "offset", {tiles, groups, kRows});
    f.extra == Extra::zero ? expect_bits(*offset, "offset", kUnsigned, 8) : expect_bits(*offset, "offset", kFloat, 16);
  }
  if (sub) {
    expect(*sub, "sub", {tiles, groups, kSuper / f.span * (f.extra == Extra::min && !f.nibbles ? 2 : 1), kRows});
    expect_bits(*sub, "sub", kUnsigned, 8);
  }
  w.blocks = blocks;
  w.group = f.super ? 8 : group;
  w.wide = wide && !f.super;
  found.rows = rows;
  found.columns = blocks * kBlock;
  return found;
}

void check_span(int64_t first, int64_t rows, int64_t all) {
  if (first < 0 || first % kRows || first + rows > all)
    throw std::invalid_argument("rows " + std::to_string(first) + " … " + std::to_string(first + rows) +
                                " of " + std::to_string(all) + ": first must be a multiple of 16 inside the matrix");
}

void tile(const Array<const uint8_t>& codes, int bits, const Array<uint8_t>& out, int threads) {
  if (bits < 1 || bits > 8) throw std::invalid_argument("bits is " + std::to_string(bits) + ": 1 to 8 can be tiled");
  if (codes.ndim() != 2 || codes.shape(1) % kBlock)
    throw std::invalid_argument("codes must be [rows, columns] with a multiple of 32 columns");
  const int64_t rows = codes.shape(0), columns = codes.shape(1);
  expect(out, "out", {(rows + kRows - 1) / kRows, columns / kBlock, 64 * bits});
  at_least_one(threads);
  nb::gil_scoped_release release;
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
  nb::gil_scoped_release release;
  untile_codes(tiles.data(), first, out.shape(0), columns, static_cast<int>(tiles.shape(2) / 64), out.data(), threads);
}

void dequantize(const std::string& format, const Array<const uint8_t>& codes, const Any& scale,
                const std::optional<Any>& offset, const std::optional<Any>& sub, int64_t group, int64_t rows,
                int64_t first, const Array<float>& out, int threads) {
  const Matrix m = matrix(format, codes, scale, offset, sub, group, rows);
  if (out.ndim() != 2) throw std::invalid_argument("out must be [rows, columns]");
  expect(out, "out", {static_cast<int64_t>(out.shape(0)), m.columns});
  check_span(first, out.shape(0), rows);
  at_least_one(threads);
  nb::gil_scoped_release release;
  dequantize_tiles(m.format, m.tiles, first, out.shape(0), out.data(), threads);
}

void dequantize_some(const std::string& format, const Array<const uint8_t>& codes, const Any& scale,
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
  nb::gil_scoped_release release;
  dequantize_rows(m.format, m.tiles, ids.data(), count, out.data(), threads);
}

void multiply(const std::string& format, const Array<const uint8_t>& codes, const Any& scale,
              const std::optional<Any>& offset, const std::optional<Any>& sub, int64_t group, int64_t rows,
              const Array<const float>& x, const Array<float>& y, bool half, int threads, const std::string& isa) {
  const Matrix m = matrix(format, codes, scale, offset, sub, group, rows);
  if (x.ndim() != 2) throw std::invalid_argument("x must be [tokens, columns]");
  const int64_t tokens = x.shape(0);
  expect(x, "x", {tokens, m.columns});
  expect(y, "y", {tokens, rows});
  at_least_one(threads);
  const Isa& chosen = isa_named(isa);
  nb::gil_scoped_release release;
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

std::vector<std::string> isa_names() {
  std::vector<std::string> names;
  for (const Isa* isa : isas()) names.emplace_back(isa->name);
  return names;
}

}  // namespace

void bind_tile(nb::module_& m) {
  m.def("formats", &formats, "The formats that have kernels.");
  m.def("isas", &isa_names, "The instruction sets that this processor runs, the best first.");
  m.def("isa", [](const std::string& name) { return std::string(isa_named(name).name); }, nb::arg("name") = "",
        "The instruction set that kernels use.");
  m.def("tile", &tile, nb::arg("codes").noconvert(), nb::arg("bits"), nb::arg("out").noconvert(), nb::arg("threads") = 1);
  m.def("untile", &untile, nb::arg("tiles").noconvert(), nb::arg("first"), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
  m.def("dequantize", &dequantize, nb::arg("format"), nb::arg("codes").noconvert(), nb::arg("scale").noconvert(),
        nb::arg("offset").noconvert().none(), nb::arg("sub").noconvert().none(), nb::arg("group"), nb::arg("rows"),
        nb::arg("first"), nb::arg("out").noconvert(), nb::arg("threads") = 1);
  m.def("dequantize_rows", &dequantize_some, nb::arg("format"), nb::arg("codes").noconvert(),
        nb::arg("scale").noconvert(), nb::arg("offset").noconvert().none(), nb::arg("sub").noconvert().none(),
        nb::arg("group"), nb::arg("rows"), nb::arg("ids").noconvert(), nb::arg("out").noconvert(),
        nb::arg("threads") = 1);
  m.def("multiply", &multiply, nb::arg("format"), nb::arg("codes").noconvert(), nb::arg("scale").noconvert(),
        nb::arg("offset").noconvert().none(), nb::arg("sub").noconvert().none(), nb::arg("group"), nb::arg("rows"),
        nb::arg("x").noconvert(), nb::arg("y").noconvert(), nb::arg("half") = false, nb::arg("threads") = 1,
        nb::arg("isa") = "");
}
