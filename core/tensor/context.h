// What an op needs beside its tensors: where and with what to run. Passed, never ambient.
#pragma once

#include "base/thread_pool.h"
#include "tensor/device.h"

namespace pydllm {

struct Context {
  Device device;
  ThreadPool* pool = nullptr;  // not owned; required on the CPU
};

}  // namespace pydllm
