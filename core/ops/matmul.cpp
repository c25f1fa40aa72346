#include "ops/matmul.h"

#include <utility>

#include "base/check.h"
#include "ops/cuda/cublaslt.h"
#include "tensor/cuda/runtime.h"

namespace pydllm::ops {
namespace {

constexpr const char* kBuiltin = "builtin";

[[noreturn]] void refuse(const std::string& why) {
  throw Unsupported("matmul", format("matmul: ", why, "; choose builtin to do without it"));
}

// Why a library would have nothing to do, or empty.
std::string no_use(Device device, DType weights) {
  if (device.type != DeviceType::kCuda) return format("cublaslt multiplies on a CUDA device, got ", name_of(device));
  if (weights != DType::kBF16) return format("cublaslt multiplies bfloat16 weights, got ", name_of(weights));
  return "";
}

Matmul found(const cuda::CublasLtSearch& search) {
  auto library = cuda::CublasLtLibrary::find(search);
  std::string description = format("cublaslt ", library->version(), " (", library->place(), ": ", library->path(), ")");
  return {std::move(library), std::move(description)};
}

}  // namespace

Matmul choose_matmul(const std::string& wanted, Device device, DType weights, const cuda::CublasLtSearch& search) {
  const bool any = wanted == "auto", library = wanted == "cublaslt";
  if (!any && !library && wanted != kBuiltin) {
    throw InvalidRequest("matmul", format("matmul: expected auto, cublaslt or builtin, got '", wanted, "'"));
  }
  if (device.type == DeviceType::kCuda) cudart::expect_usable(device);
  if (!any && !library) return {nullptr, kBuiltin};
  if (const std::string why = no_use(device, weights); !why.empty()) {
    if (library) refuse(why);
    return {nullptr, kBuiltin};
  }
  try {
    return found(search);
  } catch (const Unsupported& missing) {
    if (library) refuse(missing.what());
    return {nullptr, format("builtin (", missing.what(), ")")};
  }
}

std::shared_ptr<cuda::CublasLt> start_matmul(std::shared_ptr<const cuda::CublasLtLibrary> library, Device device) {
  if (!library) return nullptr;
  check(device.type == DeviceType::kCuda, "matmul: expected a CUDA device for cublaslt, got ", name_of(device));
  cudart::use(device);
  const std::string path = library->path();
  try {
    return std::make_shared<cuda::CublasLt>(std::move(library),
                                            cudart::allocate(device, cuda::kCublasLtWorkspaceBytes));
  } catch (const InternalError& error) {
    refuse(format(path, ": ", error.what()));
  }
}

}  // namespace pydllm::ops
