#include "ops/cuda/cublaslt_library.h"

#include <dlfcn.h>

#include <array>
#include <cstdlib>
#include <filesystem>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace pydllm::ops::cuda {
namespace {

using Found = std::shared_ptr<const CublasLtLibrary>;

// The newest that is known first; the name without a version is that of a toolkit.
constexpr std::array<const char*, 3> kNames = {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"};

std::string version_string(size_t version) {
  return format(version / 10000, ".", version % 10000 / 100, ".", version % 100);
}

[[noreturn]] void refuse(const std::string& why) {
  throw Unsupported("cublaslt", why);
}

template <class Function>
void resolve(void* handle, const char* name, Function*& out) {
  out = reinterpret_cast<Function*>(dlsym(handle, name));
  if (!out) refuse(format("lacks ", name));
}

LtFunctions resolve_all(void* handle) {
  LtFunctions out{};
  resolve(handle, "cublasLtGetVersion", out.cublasLtGetVersion);
  resolve(handle, "cublasLtGetStatusName", out.cublasLtGetStatusName);
  resolve(handle, "cublasLtCreate", out.cublasLtCreate);
  resolve(handle, "cublasLtDestroy", out.cublasLtDestroy);
  resolve(handle, "cublasLtMatmulDescCreate", out.cublasLtMatmulDescCreate);
  resolve(handle, "cublasLtMatmulDescDestroy", out.cublasLtMatmulDescDestroy);
  resolve(handle, "cublasLtMatmulDescSetAttribute", out.cublasLtMatmulDescSetAttribute);
  resolve(handle, "cublasLtMatrixLayoutCreate", out.cublasLtMatrixLayoutCreate);
  resolve(handle, "cublasLtMatrixLayoutDestroy", out.cublasLtMatrixLayoutDestroy);
  resolve(handle, "cublasLtMatrixLayoutSetAttribute", out.cublasLtMatrixLayoutSetAttribute);
  resolve(handle, "cublasLtMatmulPreferenceCreate", out.cublasLtMatmulPreferenceCreate);
  resolve(handle, "cublasLtMatmulPreferenceDestroy", out.cublasLtMatmulPreferenceDestroy);
  resolve(handle, "cublasLtMatmulPreferenceSetAttribute", out.cublasLtMatmulPreferenceSetAttribute);
  resolve(handle, "cublasLtMatmulAlgoGetHeuristic", out.cublasLtMatmulAlgoGetHeuristic);
  resolve(handle, "cublasLtMatmul", out.cublasLtMatmul);
  return out;
}

void check_version(size_t version) {
  if (version < kOldestCublasLt) {
    refuse(format("is version ", version_string(version), ", too old: expected ", version_string(kOldestCublasLt),
                  " or newer"));
  }
  if (version >= kUnknownCublasLt) {
    refuse(format("is version ", version_string(version), ", unknown to this build: expected one before ",
                  version_string(kUnknownCublasLt)));
  }
}

std::string file_of(const void* symbol) {
  Dl_info info;
  return dladdr(symbol, &info) != 0 && info.dli_fname ? info.dli_fname : "";
}

constexpr std::string_view kNotLoaded = "is not loaded";

// What was looked at, in words, as the search goes on.
class Search {
 public:
  // The first usable of the names as the loader finds them.
  Found by_name(const std::string& place, int flags) {
    std::string why;
    for (const char* name : kNames) {
      if (Found found = attempt(name, flags, place, why)) return found;
    }
    note(place, why);
    return nullptr;
  }

  Found in_folder(const std::string& place, const std::filesystem::path& folder) {
    std::string why;
    for (const char* name : kNames) {
      std::error_code ignored;
      if (!std::filesystem::exists(folder / name, ignored)) continue;
      if (Found found = attempt((folder / name).string(), RTLD_NOW | RTLD_LOCAL, place, why)) return found;
    }
    note(format(place, " ", folder.string()), why);
    return nullptr;
  }

  Found in_wheels(const std::vector<std::string>& folders) {
    if (folders.empty()) note("wheel nvidia-cublas", "not installed");
    for (const std::string& folder : folders) {
      if (Found found = in_folder("wheel", folder)) return found;
    }
    return nullptr;
  }

  Found in_toolkit(const std::string& variable, const std::string& home) {
    if (home.empty()) {
      note(variable, "not set");
      return nullptr;
    }
    for (const char* folder : {"lib64", "lib"}) {
      if (Found found = in_folder(variable, std::filesystem::path(home) / folder)) return found;
    }
    return nullptr;
  }

  const std::string& notes() const { return notes_; }

 private:
  // Adds to `why` unless there is simply nothing of that name.
  static Found attempt(const std::string& name, int flags, const std::string& place, std::string& why) {
    try {
      return std::make_shared<const CublasLtLibrary>(name, flags, place);
    } catch (const Unsupported& error) {
      const std::string_view said = error.what();
      if (!said.ends_with(kNotLoaded) && !said.ends_with("No such file or directory")) {
        why += format(why.empty() ? "" : ", ", said);
      }
      return nullptr;
    }
  }

  void note(const std::string& where, const std::string& why) {
    notes_ += format(notes_.empty() ? "" : "; ", where, ": ", why.empty() ? "none" : why);
  }

  std::string notes_;
};

std::string variable(const char* name) {
  const char* value = std::getenv(name);
  return value ? value : "";
}

}  // namespace

CublasLtSearch search_with_environment(std::vector<std::string> wheel_folders) {
  return {std::move(wheel_folders), variable("CUDA_HOME"), variable("CUDA_PATH")};
}

void CublasLtLibrary::Close::operator()(void* handle) const {
  dlclose(handle);
}

CublasLtLibrary::CublasLtLibrary(const std::string& name, int flags, std::string place)
    : handle_(dlopen(name.c_str(), flags)), place_(std::move(place)) {
  if (!handle_) {
    const char* error = dlerror();  // null when RTLD_NOLOAD found nothing
    refuse(error ? error : format(name, " ", kNotLoaded));
  }
  try {
    functions_ = resolve_all(handle_.get());
    check_version(functions_.cublasLtGetVersion());
  } catch (const Unsupported& error) {
    refuse(format(name, " ", error.what()));
  }
  path_ = file_of(reinterpret_cast<const void*>(functions_.cublasLtMatmul));
}

Found CublasLtLibrary::find(const CublasLtSearch& search) {
  Search run;
  if (Found found = run.by_name("this process", RTLD_NOW | RTLD_LOCAL | RTLD_NOLOAD)) return found;
  if (Found found = run.in_wheels(search.wheel_folders)) return found;
  if (Found found = run.in_toolkit("CUDA_HOME", search.cuda_home)) return found;
  if (Found found = run.in_toolkit("CUDA_PATH", search.cuda_path)) return found;
  if (Found found = run.by_name("the loader", RTLD_NOW | RTLD_LOCAL)) return found;
  refuse(format("cuBLASLt ", kOldestCublasLt / 10000, " or newer was not found (", run.notes(),
                "); run: pip install nvidia-cublas"));
}

std::string CublasLtLibrary::version() const {
  return version_string(functions_.cublasLtGetVersion());
}

}  // namespace pydllm::ops::cuda
