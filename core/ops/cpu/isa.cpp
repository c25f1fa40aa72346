#include "ops/cpu/isa.h"

#include <algorithm>
#include <array>
#include <cstdlib>

#if defined(__linux__) && defined(__x86_64__)
#include <sys/syscall.h>
#include <unistd.h>
#endif

#include "base/check.h"

namespace pydllm::ops::cpu {
namespace {

constexpr std::array<std::string_view, 5> kNames{"scalar", "avx2", "avx512", "avx512bf16", "amxbf16"};

Isa capped_isa() {
  const char* const cap = std::getenv("PYDLLM_CPU_ISA");
  if (cap == nullptr || *cap == '\0') return detected_isa();
  return std::min(detected_isa(), isa_from_name(cap));
}

#if defined(__x86_64__)
bool may_use_tiles() {
#if defined(__linux__)
  constexpr int kRequestPermission = 0x1023, kTileData = 18;  // asm/prctl.h, asm/fpu/types.h
  static const bool granted = syscall(SYS_arch_prctl, kRequestPermission, kTileData) == 0;
  return granted;
#else
  return false;
#endif
}
#endif

}  // namespace

std::string_view name_of(Isa isa) {
  return kNames.at(static_cast<size_t>(isa));
}

Isa isa_from_name(std::string_view name) {
  const auto found = std::find(kNames.begin(), kNames.end(), name);
  if (found == kNames.end()) {
    throw InvalidRequest(
        "PYDLLM_CPU_ISA",
        format("PYDLLM_CPU_ISA: expected scalar, avx2, avx512, avx512bf16 or amxbf16, got \"", name, "\""));
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
  if (!__builtin_cpu_supports("avx512bf16")) return Isa::kAvx512;
  const bool amx = __builtin_cpu_supports("amx-tile") && __builtin_cpu_supports("amx-bf16") && may_use_tiles();
  return amx ? Isa::kAmxBf16 : Isa::kAvx512Bf16;
#else
  return Isa::kScalar;
#endif
}

Isa active_isa() {
  static const Isa isa = capped_isa();
  return isa;
}

}  // namespace pydllm::ops::cpu
