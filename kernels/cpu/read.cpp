// The roofline's ruler: read memory as fast as one core can, and keep the sum so that no compiler drops the loads.
#include "kernels.h"

// The loader picks the widest clone the processor runs. Only this function is cloned, and it calls nothing.
#if defined(__x86_64__) && defined(__linux__) && defined(__GNUC__) && !defined(__clang__)
__attribute__((target_clones("avx512f", "avx2", "default")))
#endif
uint64_t read_sum_span(const uint8_t* p, size_t n) {
  // Four streams: one alone leaves the memory system waiting for the prefetcher.
  const size_t quarter = n / 32;  // 64-bit words per stream
  uint64_t a = 0, b = 0, c = 0, d = 0;
  for (size_t i = 0; i < quarter; ++i) {
    uint64_t w[4];
    for (int s = 0; s < 4; ++s) __builtin_memcpy(&w[s], p + 8 * (i + s * quarter), 8);
    a += w[0];
    b += w[1];
    c += w[2];
    d += w[3];
  }
  uint64_t sum = a + b + c + d;
  size_t i = 32 * quarter;
  for (; i + 8 <= n; i += 8) {
    uint64_t w;
    __builtin_memcpy(&w, p + i, 8);
    sum += w;
  }
  for (; i < n; ++i) sum += p[i];
  return sum;
}
