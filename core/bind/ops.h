// The ops by themselves, pydllm._core.ops: for tests on a device and for benchmarks. The engine does not come here.
#pragma once

#include <pybind11/pybind11.h>

#include <string>

#include "bind/tensor.h"
#include "tensor/context.h"

namespace pydllm::bind {

namespace py = pybind11;

// Where ops run: a pool of threads or a stream.
class OpsWorkplace {
 public:
  OpsWorkplace(const std::string& device, int threads) : work_(threads, device_from_name(device)) {}

  // For a call on this thread.
  const Context& context() const;

 private:
  Workplace work_;
};

// The tensor of an output. Throws InvalidRequest(name) for one that its producer lets nobody write to.
Tensor& written(PyTensor& tensor, const char* name);

void bind_logit_ops(py::module_& module);

}  // namespace pydllm::bind
