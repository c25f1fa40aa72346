#include "ops/cpu/isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#include "base/check.h"

namespace pydllm::ops::cpu {
namespace {

constexpr std::array<std::string_view, 4> kNames{"scalar", "avx2", "avx512", "avx512bf16"};

Isa capped_isa() {
  const char* const cap = std::getenv("PYDLLM_CPU_ISA");
  if (cap == nullptr || *cap == '\0') return detected_isa();
  return std::min(detected_isa(), isa_from_name(cap));
}

}  // namespace

std::string_view name_of(Isa isa) {
  return kNames.at(static_cast<size_t>(isa));
}

Isa isa_from_name(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    throw InvalidRequest("PYDLLM_CPU_ISA",
                         format("PYDLLM_CPU_ISA: expected scalar, avx2, avx512 or avx512bf16, got \"", name, "\""));
  }
  return static_cast<Isa>(found - kNames.begin());
}

// __builtin_cpu_supports also asks XGETBV whether the operating system saves the registers.
Isa detected_isa() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c");
  if (!avx2) return Isa::kScalar;
  const bool avx512 = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (!avx512) return Isa::kAvx2;
  return __builtin_cpu_supports("avx512bf16") ? Isa::kAvx512Bf16 : Isa::kAvx512;
#else
  return Isa::kScalar;
#endif
}

Isa active_isa() {
  static const Isa isa = capped_isa();
  return isa;
}

}  // namespace pydllm::ops::cpu
