#include "ops/embedding.h"

#include "ops/cpu/cpu_ops.h"
#include "ops/cuda/backend.h"
#include "ops/dispatch.h"

namespace pydllm::ops {

void embedding(const Context& context, const Tensor& ids, const Tensor& table, Tensor& out) {
  expect_runnable(context, "embedding", {{ids, "ids"}, {table, "table"}, {out, "out"}});
  const auto [tokens] = shape_of<1>(ids, "ids");
  const auto [vocab, dim] = shape_of<2>(table, "table");
  expect_dtype(ids, "ids", DType::kI32);
  expect_float_dtype(table, "table");
  expect_dtype(out, "out", DType::kF32);
  expect_shape(out, "out", {tokens, dim});
  if constexpr (kHasCuda) {
    if (on_cuda(context)) return cuda::embedding(context, ids, table, out);
  }
  cpu::embedding(context, ids, table, out);
}

}  // namespace pydllm::ops
