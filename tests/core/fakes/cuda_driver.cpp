// A libcuda.so.1 that writes its calls down: tests load it so that it is the driver of their process. Device 7 does not
// exist, stream 0xBAD fails, addresses below 0x1000 belong to nobody and the others to device 2.
#include <cstdint>
#include <string>

#define API extern "C" __attribute__((visibility("default")))

namespace {

std::string& calls() {
  static std::string made;
  return made;
}

int note(const std::string& call, int status = 0) {
  calls() += (calls().empty() ? "" : " ") + call;
  return status;
}

}  // namespace

// The calls so far, which are forgotten.
API const char* fake_cuda_calls() {
  static std::string taken;
  taken = calls();
  calls().clear();
  return taken.c_str();
}

API int cuGetErrorName(int status, const char** name) {
  *name = status == 101 ? "CUDA_ERROR_INVALID_DEVICE" : "CUDA_ERROR_ILLEGAL_ADDRESS";
  return 0;
}

API int cuDeviceGet(int* device, int ordinal) {
  *device = 100 + ordinal;
  return ordinal == 7 ? 101 : 0;
}

API int cuDevicePrimaryCtxRetain(void** context, int device) {
  *context = reinterpret_cast<void*>(static_cast<uintptr_t>(device));
  return note("retain:" + std::to_string(device));
}

API int cuDevicePrimaryCtxRelease_v2(int device) {
  return note("release:" + std::to_string(device));
}

API int cuCtxPushCurrent_v2(void* context) {
  return note("push:" + std::to_string(reinterpret_cast<uintptr_t>(context)));
}

API int cuCtxPopCurrent_v2(void**) {
  return note("pop");
}

API int cuStreamSynchronize(uintptr_t stream) {
  return note("wait:" + std::to_string(stream), stream == 0xBAD ? 700 : 0);
}

API int cuPointerGetAttribute(void* value, int attribute, uintptr_t pointer) {
  if (attribute != 9 || pointer < 0x1000) return 1;
  *static_cast<int*>(value) = 2;
  return 0;
}
