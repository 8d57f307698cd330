#pragma once
#include <string>
#include <vector>

#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include "tiles.h"

#if defined(__x86_64__)
// Conversions between float16 and float32; clang's __builtin_cpu_supports knows no name for them before its version 18.
inline bool supports_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) && (c & bit_F16C);
}
#endif

// The instruction sets that this processor runs, the best first.
std::vector<const Isa*> isas();

// One of them by name; the empty name is QLAB_CPU_ISA, or else the best. Throws std::invalid_argument.
const Isa& isa_named(const std::string& name);
