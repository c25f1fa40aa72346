// Which CUDA this build has. Apart from runtime.h, so that few files are compiled anew when it changes.
#pragma once

namespace pydllm {

#ifdef PYDLLM_HAS_CUDA
constexpr bool kHasCuda = true;
#else
constexpr bool kHasCuda = false;  // every function of runtime.h throws Unsupported("device")
#endif
#ifdef PYDLLM_CUDA_EMULATED
constexpr bool kCudaIsEmulated = true;
#else
constexpr bool kCudaIsEmulated = false;
#endif

}  // namespace pydllm
