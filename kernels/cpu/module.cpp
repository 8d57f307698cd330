// Python bindings: check what came in, release the GIL, share the work among threads.
#include <nanobind/nanobind.h>
#include <nanobind/ndarray.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>
#include <atomic>
#include <stdexcept>
#include <string>
#include <vector>

#include "bind_encode.h"
#include "kernels.h"
#include "pool.h"
#include "released.h"

namespace nb = nanobind;
using Bytes = nb::ndarray<const uint8_t, nb::ndim<1>, nb::c_contig, nb::device::cpu>;

// A thread has nothing to gain from less than this: starting it takes longer than reading a page.
constexpr size_t kMinSpan = 4096;

void bind_bits(nb::module_& m);
void bind_decoder(nb::module_& m);
void bind_tile(nb::module_& m);

static std::vector<std::string> features() {
  std::vector<std::string> names;
  for (const char* const* name = cpu_features(); *name; ++name) names.emplace_back(*name);
  return names;
}

static uint64_t read_sum(Bytes array, int threads) {
  const uint8_t* data = array.data();
  const size_t n = array.size();
  if (n == 0) throw std::invalid_argument("array is empty: read_sum needs at least one byte");
  if (threads < 1) throw std::invalid_argument("threads is " + std::to_string(threads) + ": read_sum needs at least 1");
  const Released released;
  // Several spans to a thread: one that another program delays leaves its rest to the others.
  const size_t count = threads == 1 ? 1 : std::min<size_t>(8 * static_cast<size_t>(threads), (n + kMinSpan - 1) / kMinSpan);
  // Every span but the last is whole words, so that the sum does not depend on the number of threads.
  const size_t span = n / count / 8 * 8;
  std::atomic<uint64_t> total{0};
  parallel(static_cast<int64_t>(count), 1, threads, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t)
      total += read_sum_span(data + t * span, t + 1 < static_cast<int64_t>(count) ? span : n - t * span);
  });
  return total;
}

NB_MODULE(_native, m) {
  bind_bits(m);
  bind_decoder(m);
  bind_tile(m);
  m.def("features", &features, "The instruction sets this processor offers, such as `avx2`.");
  m.def("read_sum", &read_sum, nb::arg("array").noconvert(), nb::arg("threads") = 1,  // a silent copy would be timed
        "Sum of the 64-bit words of a contiguous 1-D uint8 array, modulo 2**64; trailing bytes count one by one.");
  bind_encode(m);
  nb::module_::import_("atexit").attr("register")(nb::cpp_function([] { ending.store(true); }));
}
