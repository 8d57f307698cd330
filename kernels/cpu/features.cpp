// Which instruction sets this processor offers, asked of the processor itself.
#include "kernels.h"

#include "isa.h"

#if defined(__x86_64__)
// The builtin takes a literal, so the question is a macro.
#define ASK(name) if (__builtin_cpu_supports(name)) found[count++] = name

const char* const* cpu_features() {
  static const char* found[16];  // zero-initialised: always null-terminated
  int count = 0;
  __builtin_cpu_init();
  ASK("sse4.2");
  ASK("avx2");
  ASK("fma");
  if (supports_f16c()) found[count++] = "f16c";
  ASK("avx512f");
  ASK("avx512bw");
  ASK("avx512vl");
  ASK("avx512vnni");
  ASK("avx512vbmi");
  ASK("avx512bf16");
  return found;
}
#elif defined(__aarch64__)
const char* const* cpu_features() {
  static const char* found[] = {"neon", nullptr};  // part of the architecture
  return found;
}
#else
const char* const* cpu_features() {
  static const char* found[] = {nullptr};
  return found;
}
#endif
