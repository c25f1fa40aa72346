// pydllm._core. Its contract is pydllm/_core.pyi.
#include "bind/bind.h"

PYBIND11_MODULE(_core, module) {
  module.doc() = "The C++ core of pydllm.";
  pydllm::bind::bind_errors(module);
  pydllm::bind::bind_tensor(module);
  pydllm::bind::bind_model(module);
  pydllm::bind::bind_events(module);
  pydllm::bind::bind_stats(module);
  pydllm::bind::bind_matmul(module);
  pydllm::bind::bind_engine(module);
  pydllm::bind::bind_registry(module);
  pydllm::bind::bind_build_info(module);
  pydllm::bind::bind_ops(module);
}
