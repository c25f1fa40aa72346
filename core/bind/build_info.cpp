// What `pydllm env` prints of the extension.
#include <pybind11/stl.h>

#include "base/check.h"
#include "base/thread_pool.h"
#include "bind/bind.h"
#include "ops/linear.h"
#include "tensor/cuda/info.h"

namespace pydllm::bind {
namespace {

#ifdef NDEBUG
constexpr const char* kBuildType = "release";
#else
constexpr const char* kBuildType = "debug";
#endif

#ifdef __clang__
constexpr const char* kCompiler = "clang " __VERSION__;
#else
constexpr const char* kCompiler = "gcc " __VERSION__;
#endif

py::dict cpu() {
  py::dict isa;
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16}) {
    isa[py::str(std::string(name_of(dtype)))] = std::string(ops::linear_isa(dtype));
  }
  return isa;
}

py::dict device(const CudaInfo::Device& found) {
  py::dict out;
  out["name"] = found.name;
  out["compute_capability"] = format(found.major, ".", found.minor);
  out["memory_bytes"] = found.memory_bytes;
  return out;
}

CudaInfo ask_cuda() {
  const py::gil_scoped_release release;  // the driver may take seconds to start
  return cuda_info();
}

py::dict cuda() {
  const CudaInfo info = ask_cuda();
  py::list devices;
  for (const CudaInfo::Device& found : info.devices) devices.append(device(found));
  py::dict out;
  out["built"] = info.built;
  out["runtime"] = info.runtime_version;
  out["devices"] = devices;
  out["error"] = info.error;
  return out;
}

py::dict build_info() {
  py::dict out;
  out["compiler"] = kCompiler;
  out["build_type"] = kBuildType;
  out["cpu"] = cpu();
  out["usable_cores"] = usable_cores();
  out["cuda"] = cuda();
  return out;
}

}  // namespace

void bind_build_info(py::module_& module) {
  module.def("build_info", build_info);
}

}  // namespace pydllm::bind
