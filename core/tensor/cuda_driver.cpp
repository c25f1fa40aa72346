#include "tensor/cuda_driver.h"

#include <dlfcn.h>

#include <memory>
#include <string>

#include "base/check.h"

namespace pydllm {
namespace {

// The part of the driver API (cuda.h) that is used; names with _v2 fix their ABI.
struct DriverContext;
constexpr int kSuccess = 0;
constexpr int kDeviceOrdinal = 9;  // CU_POINTER_ATTRIBUTE_DEVICE_ORDINAL

struct Close {
  void operator()(void* handle) const { dlclose(handle); }
};

class Driver {
 public:
  // Null when the process has none.
  static std::unique_ptr<const Driver> loaded() {
    std::unique_ptr<void, Close> handle(dlopen("libcuda.so.1", RTLD_NOW | RTLD_NOLOAD));
    return handle ? std::make_unique<const Driver>(std::move(handle)) : nullptr;
  }

  explicit Driver(std::unique_ptr<void, Close> handle) : handle_(std::move(handle)) {
    resolve("cuGetErrorName", error_name);
    resolve("cuDeviceGet", get_device);
    resolve("cuDevicePrimaryCtxRetain", retain);
    resolve("cuDevicePrimaryCtxRelease_v2", release);
    resolve("cuCtxPushCurrent_v2", push);
    resolve("cuCtxPopCurrent_v2", pop);
    resolve("cuStreamSynchronize", synchronize);
    resolve("cuPointerGetAttribute", attribute);
  }

  void expect(const char* call, int status) const {
    const char* name = nullptr;
    if (status != kSuccess && error_name(status, &name) != kSuccess) name = "an unknown error";
    check(status == kSuccess, call, ": ", name);
  }

  int (*error_name)(int status, const char** name) = nullptr;
  int (*get_device)(int* device, int ordinal) = nullptr;
  int (*retain)(DriverContext** context, int device) = nullptr;
  int (*release)(int device) = nullptr;
  int (*push)(DriverContext* context) = nullptr;
  int (*pop)(DriverContext** context) = nullptr;
  int (*synchronize)(uintptr_t stream) = nullptr;
  int (*attribute)(void* value, int attribute, uintptr_t pointer) = nullptr;

 private:
  template <class Function>
  void resolve(const char* name, Function*& out) {
    out = reinterpret_cast<Function*>(dlsym(handle_.get(), name));
    check(out != nullptr, "the CUDA driver of this process lacks ", name);
  }

  std::unique_ptr<void, Close> handle_;
};

// The primary context of a device is the current one while this lives.
class CurrentContext {
 public:
  CurrentContext(const Driver& driver, int ordinal) : driver_(driver) {
    driver.expect("cuDeviceGet", driver.get_device(&device_, ordinal));
    DriverContext* context = nullptr;
    driver.expect("cuDevicePrimaryCtxRetain", driver.retain(&context, device_));
    const int pushed = driver.push(context);
    if (pushed != kSuccess) driver.release(device_);
    driver.expect("cuCtxPushCurrent", pushed);
  }
  ~CurrentContext() {
    DriverContext* popped = nullptr;
    driver_.pop(&popped);
    driver_.release(device_);
  }
  CurrentContext(const CurrentContext&) = delete;
  CurrentContext& operator=(const CurrentContext&) = delete;

 private:
  const Driver& driver_;
  int device_ = 0;
};

}  // namespace

void wait_for_cuda_stream(int device, uintptr_t stream) {
  const auto driver = Driver::loaded();
  if (!driver) return;
  const CurrentContext current(*driver, device);
  driver->expect("cuStreamSynchronize", driver->synchronize(stream));
}

std::optional<int> cuda_device_of(const void* pointer) {
  const auto driver = Driver::loaded();
  int ordinal = 0;
  if (!driver || driver->attribute(&ordinal, kDeviceOrdinal, reinterpret_cast<uintptr_t>(pointer)) != kSuccess) {
    return std::nullopt;
  }
  return ordinal;
}

}  // namespace pydllm
