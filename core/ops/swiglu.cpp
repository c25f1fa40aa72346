#include "ops/swiglu.h"

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"

namespace pydllm::ops {

void swiglu(const Context& context, const Tensor& gate_up, Tensor& out) {
  expect_runnable(context, "swiglu", {{gate_up, "gate_up"}, {out, "out"}});
  const auto [rows, both] = shape_of<2>(gate_up, "gate_up");
  check(both % 2 == 0, "gate_up: expected an even number of columns, got ", both);
  expect_dtype(gate_up, "gate_up", DType::kF32);
  expect_float_dtype(out, "out");
  expect_shape(out, "out", {rows, both / 2});
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::swiglu(context, gate_up, out);
  }
  cpu::swiglu(context, gate_up, out);
}

}  // namespace pydllm::ops
