// libcublasLt, found at run time: neither the build nor the extension depends on it.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "ops/cuda/cublaslt_abi.h"

namespace pydllm::ops::cuda {

// What cublasLtGetVersion may say: 10000 * major + 100 * minor + patch. What is outside has another ABI or an unknown
// one.
inline constexpr size_t kOldestCublasLt = 120000;
inline constexpr size_t kUnknownCublasLt = 140000;

struct CublasLtSearch {
  std::vector<std::string> wheel_folders;  // those that hold the libraries of wheels: site-packages/nvidia/*/lib
  std::string cuda_home;                   // the environment's CUDA_HOME and CUDA_PATH, empty where unset
  std::string cuda_path;
};
// With CUDA_HOME and CUDA_PATH of this process.
CublasLtSearch search_with_environment(std::vector<std::string> wheel_folders);

// The loaded library; unloaded with the last owner.
class CublasLtLibrary {
 public:
  // The first usable one of: the one already in this process (torch's), the wheels, CUDA_HOME, CUDA_PATH, the loader's
  // own search. Throws Unsupported("cublaslt") that says in one line what was searched, why each library that was found
  // cannot be used, and how to get one.
  static std::shared_ptr<const CublasLtLibrary> find(const CublasLtSearch& search);

  const LtFunctions& functions() const noexcept { return functions_; }
  const std::string& path() const noexcept { return path_; }    // of the file
  const std::string& place() const noexcept { return place_; }  // "this process", "wheel", "CUDA_HOME", ...
  std::string version() const;                                  // "13.0.2"

  // Opens `name` with these flags of dlopen. Throws Unsupported("cublaslt") that says why it cannot be used.
  CublasLtLibrary(const std::string& name, int flags, std::string place);

 private:
  struct Close {
    void operator()(void* handle) const;
  };

  std::unique_ptr<void, Close> handle_;
  LtFunctions functions_{};
  std::string path_;
  std::string place_;
};

}  // namespace pydllm::ops::cuda
