// Who multiplies bfloat16 matrices on a CUDA device: cuBLASLt where it is found, or this build's own kernel.
#pragma once

#include <memory>
#include <string>

#include "tensor/device.h"
#include "tensor/dtype.h"

namespace pydllm::ops {

namespace cuda {
class CublasLt;
class CublasLtLibrary;
struct CublasLtSearch;
}  // namespace cuda

struct Matmul {
  std::shared_ptr<const cuda::CublasLtLibrary> cublaslt;  // null: this build's kernels
  std::string description;  // in a line: "cublaslt 13.0.2 (wheel: PATH)", or "builtin" and why when that was not wanted
};

// `wanted` for a model with weights of this dtype:
//   "builtin"   this build's kernels
//   "cublaslt"  the first usable library of the search; Unsupported("matmul") when there is none, saying what was
//               searched, or when there is nothing for it to do (the CPU, float32 and float16 weights)
//   "auto"      the same where it can be had, else this build's kernels
// Anything else is InvalidRequest("matmul"); a CUDA device that cannot be used is Unsupported("device").
Matmul choose_matmul(const std::string& wanted, Device device, DType weights, const cuda::CublasLtSearch& search);

// The library made ready for the products of one stream of this CUDA device, with a workspace; null for null.
// Unsupported("matmul") when it cannot start.
std::shared_ptr<cuda::CublasLt> start_matmul(std::shared_ptr<const cuda::CublasLtLibrary> library, Device device);

}  // namespace pydllm::ops
