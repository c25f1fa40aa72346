// What `pydllm env` prints of the extension.
#include <pybind11/stl.h>

#include "base/check.h"
#include "base/thread_pool.h"
#include "bind/bind.h"
#include "ops/cuda/cublaslt_library.h"
#include "ops/linear.h"
#include "tensor/cuda/info.h"
#include "tensor/cuda_problems.h"

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
  out["free_bytes"] = found.free_bytes;
  return out;
}

CudaInfo ask_cuda() {
  const py::gil_scoped_release release;  // the driver may take seconds to start
  return cuda_info();
}

// Where the library is, or why there is none.
py::dict cublaslt(const std::vector<std::string>& wheel_folders) {
  std::string place, path, version, error;
  try {
    const py::gil_scoped_release release;  // half a gigabyte is mapped
    const auto library = ops::cuda::CublasLtLibrary::find(ops::cuda::search_with_environment(wheel_folders));
    place = library->place();
    path = library->path();
    version = library->version();
  } catch (const Unsupported& missing) {
    error = missing.what();
  }
  py::dict out;
  out["version"] = version;
  out["place"] = place;
  out["path"] = path;
  out["error"] = error;
  return out;
}

py::dict cuda(const std::vector<std::string>& wheel_folders) {
  const CudaInfo info = ask_cuda();
  py::list devices;
  for (const CudaInfo::Device& found : info.devices) devices.append(device(found));
  py::dict out;
  out["built"] = info.built;
  out["runtime"] = info.runtime_version;
  out["driver"] = info.driver_version;
  out["devices"] = devices;
  out["error"] = info.error;
  out["problems"] = cuda_problems(info);
  out["cublaslt"] = cublaslt(wheel_folders);
  return out;
}

py::dict build_info(const std::vector<std::string>& wheel_folders) {
  py::dict out;
  out["compiler"] = kCompiler;
  out["build_type"] = kBuildType;
  out["cpu"] = cpu();
  out["usable_cores"] = usable_cores();
  out["cuda"] = cuda(wheel_folders);
  return out;
}

}  // namespace

void bind_build_info(py::module_& module) {
  module.def("build_info", build_info, py::kw_only(), py::arg("wheel_folders") = std::vector<std::string>());
}

}  // namespace pydllm::bind
