// Which instruction set the CPU kernels of this process may use.
#pragma once

#include <string_view>

namespace pydllm::ops::cpu {

// In ascending order; each contains the ones before it.
//   kAvx2        AVX2, FMA, F16C
//   kAvx512      and AVX-512 F, BW, VL, DQ
//   kAvx512Bf16  and AVX512-BF16
//   kAmxBf16     and AMX-TILE, AMX-BF16
enum class Isa : int { kScalar = 0, kAvx2 = 1, kAvx512 = 2, kAvx512Bf16 = 3, kAmxBf16 = 4 };

std::string_view name_of(Isa isa);  // "scalar", "avx2", "avx512", "avx512bf16", "amxbf16"
// Throws InvalidRequest("PYDLLM_CPU_ISA") on anything but the names above.
Isa isa_from_name(std::string_view name);

// What the processor and the operating system support. Asks Linux for the tile registers of AMX, which it grants to
// whole processes (arch_prctl, ARCH_REQ_XCOMP_PERM); a sandbox that forbids the call has no AMX.
Isa detected_isa();
// detected_isa(), capped by the environment variable PYDLLM_CPU_ISA when it is set and not empty; read at first use and
// fixed from then on. Throws InvalidRequest("PYDLLM_CPU_ISA") on an unknown name.
Isa active_isa();

}  // namespace pydllm::ops::cpu
