// Which kernels this processor runs.
#include "isa.h"

#include <cstdlib>
#include <stdexcept>

#if defined(__aarch64__) && defined(__linux__)
#include <sys/auxv.h>
#endif

namespace {

bool runs(const Isa& isa) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (&isa == &kAvx512)
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512vnni");
  if (&isa == &kAvx2)
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && supports_f16c();
#elif defined(__aarch64__) && defined(__linux__)
  constexpr unsigned long kDotProduct = 1ul << 20;  // HWCAP_ASIMDDP
  if (&isa == &kNeon) return getauxval(AT_HWCAP) & kDotProduct;
#endif
  (void)isa;
  return true;
}

}  // namespace

std::vector<const Isa*> isas() {
  std::vector<const Isa*> found;
  for (const Isa* isa : {
#if defined(__x86_64__)
           &kAvx512, &kAvx2,
#elif defined(__aarch64__)
           &kNeon,
#endif
           &kScalar})
    if (runs(*isa)) found.push_back(isa);
  return found;
}

const Isa& isa_named(const std::string& name) {
  static const std::vector<const Isa*> here = isas();
  static const char* const asked = std::getenv("QLAB_CPU_ISA");
  const std::string wanted = !name.empty() ? name : asked ? asked : "";
  if (wanted.empty()) return *here.front();
  std::string known;
  for (const Isa* isa : here) {
    if (wanted == isa->name) return *isa;
    known += (known.empty() ? "" : ", ") + std::string(isa->name);
  }
  throw std::invalid_argument("isa is " + wanted + ": this processor runs " + known +
                              (name.empty() ? "; change or unset QLAB_CPU_ISA" : ""));
}
