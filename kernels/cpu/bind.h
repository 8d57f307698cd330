// What the bindings share: a look at every array before a pointer is taken from it.
#pragma once
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>
#include <stdexcept>
#include <string>
#include <type_traits>
#include <vector>

#include "isa.h"
#include "released.h"
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

// nb::type_error, naming the argument, unless `given` is an A.
template <class A>
void check_type(const char* name, nb::handle given) {
  using Wanted = std::remove_cv_t<std::remove_reference_t<A>>;
  Wanted value;
  if (nb::try_cast<Wanted>(given, value, false)) return;
  std::string is = nb::type_name(given.type()).c_str();
  for (const char* part : {"dtype", "shape", "device"})
    if (nb::hasattr(given, part)) is += ", " + nb::cast<std::string>(given.attr(part).attr("__str__")());
  std::string wanted = nb::detail::make_caster<Wanted>::Name.text;
  if (wanted.starts_with("ndarray")) wanted = "a contiguous " + wanted;
  throw nb::type_error((std::string(name) + " must be " + wanted + ": it is " + is).c_str());
}

template <class>
using Handle = nb::handle;

// m.def, and behind it an overload for arguments of other types, whose error names the first that is wrong.
template <class R, class... A, class... Arg>
void def(nb::module_& m, const char* name, R (*function)(A...), const Arg&... arg) {
  static_assert(sizeof...(A) == sizeof...(Arg));
  m.def(name, function, arg...);
  const std::array<const char*, sizeof...(A)> names{arg.name_...};
  m.def(name, [names, name](Handle<A>... given) -> R {
    size_t i = 0;
    (check_type<A>(names[i++], given), ...);
    throw nb::type_error((std::string(name) + ": an array cannot be read or written as it is given").c_str());
  }, arg...);
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
  for (int id = 0; id < kAllFormats; ++id)
    if (name == kFormatName[id]) return static_cast<FormatId>(id);
  throw std::invalid_argument("format is " + name + ": see formats() and floats() for those that have kernels");
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
Matrix matrix(const std::string& name, const Array<const uint8_t>& codes, const std::optional<Any>& scale,
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
  group = std::min(group, blocks);  // a sum of both must not overflow
  const int64_t groups = f.super ? blocks / 8 : (blocks + group - 1) / group;
  Tiles& w = found.tiles;
  w.codes = codes.data();
  if (is_float(found.format) && reinterpret_cast<uintptr_t>(w.codes) % (f.bits / 8))
    throw std::invalid_argument("codes does not lie at a multiple of " + std::to_string(f.bits / 8) + " bytes: these are floats");
  w.scale = data(scale, "scale", !is_float(found.format));
  const bool wide = scale && scale->dtype().bits == 32;
  if (scale) {
    expect_bits(*scale, "scale", kFloat, wide && !f.super ? 32 : 16);
    expect(*scale, "scale", {tiles, groups, kRows});
  }
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

}  // namespace
