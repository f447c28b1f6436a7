// The choice of instruction set, at the first call. TORCHSRU_ISA=<name> overrides it, for tests.

#include <cstdlib>
#include <cstring>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace torchsru {

extern const Kernels kernels_baseline;
#ifdef TORCHSRU_HAVE_AVX2
extern const Kernels kernels_avx2;
#endif
#ifdef TORCHSRU_HAVE_AVX512
extern const Kernels kernels_avx512;
#endif

namespace {

// Calls each(kernels) for what was compiled and this CPU can run, widest first, until it is true.
template <class Each>
const Kernels* first(const Each& each) {
#ifdef TORCHSRU_HAVE_AVX512
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
      __builtin_cpu_supports("fma") && each(kernels_avx512)) {
    return &kernels_avx512;
  }
#endif
#ifdef TORCHSRU_HAVE_AVX2
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && each(kernels_avx2)) {
    return &kernels_avx2;
  }
#endif
  return each(kernels_baseline) ? &kernels_baseline : nullptr;
}

std::string available() {
  std::string names;
  first([&](const Kernels& k) {
    names += (names.empty() ? "" : " ") + std::string(k.name);
    return false;
  });
  return names;
}

const Kernels& choose() {
  const char* wanted = std::getenv("TORCHSRU_ISA");
  if (!wanted || !*wanted) return *first([](const Kernels&) { return true; });
  if (const Kernels* k = first([&](const Kernels& k) { return !std::strcmp(k.name, wanted); })) {
    return *k;
  }
  throw std::runtime_error("TORCHSRU_ISA must be one of \"" + available() +
                           "\" on this CPU, got \"" + wanted + "\"");
}

} // namespace

const Kernels& kernels() {
  static const Kernels& chosen = choose();
  return chosen;
}

} // namespace torchsru

extern "C" {

// Name of the instruction set in use, or the reason why there is none (good until the next call).
__attribute__((visibility("default"))) const char* torchsru_isa_used() {
  thread_local std::string reason; // not for good: TORCHSRU_ISA may be mended
  try {
    return torchsru::kernels().name;
  } catch (const std::exception& error) {
    reason = error.what();
    return reason.c_str();
  }
}

// Names of what this CPU can run, widest first, with spaces between.
__attribute__((visibility("default"))) const char* torchsru_isa_available() {
  static const std::string names = torchsru::available();
  return names.c_str();
}

} // extern "C"
