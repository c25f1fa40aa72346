// What an op needs beside its tensors: where and with what to run. Passed, never ambient.
#pragma once

#include <memory>
#include <optional>

#include "base/thread_pool.h"
#include "tensor/cuda/arena.h"
#include "tensor/device.h"

namespace pydllm {

namespace ops::cuda {
class CublasLt;  // ops/cuda/cublaslt.h
}

struct Context {
  Device device;
  ThreadPool* pool = nullptr;      // not owned; required on the CPU and to load weights
  cudart::Arena* arena = nullptr;  // not owned; required on a CUDA device, with the stream that everything runs on
  ops::cuda::CublasLt* cublaslt = nullptr;  // not owned; null: `linear` multiplies with this build's kernels
};

// What a Context points to.
class Workplace {
 public:
  // threads as in ThreadPool. Throws Unsupported("device") when this process cannot compute there.
  explicit Workplace(int threads, Device device = {});
  Workplace(const Workplace&) = delete;
  Workplace& operator=(const Workplace&) = delete;

  const Context& context() const { return context_; }

 private:
  ThreadPool pool_;
  std::shared_ptr<CUstream_st> stream_;
  std::optional<cudart::Arena> arena_;
  Context context_;
};

}  // namespace pydllm
