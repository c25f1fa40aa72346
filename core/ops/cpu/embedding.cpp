#include "ops/cpu/convert.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {

void embedding(const Context& context, const Tensor& ids, const Tensor& table, Tensor& out) {
  const int64_t vocab = table.size(0), dim = table.size(1);
  const int32_t* id = ids.data<int32_t>();
  float* rows = out.data<float>();
  for (int64_t t = 0; t < ids.size(0); ++t) {
    check(id[t] >= 0 && id[t] < vocab, "ids[", t, "]: expected 0 <= id < ", vocab, ", got ", id[t]);
  }
  parallel_rows(context, ids.size(0), dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) load_floats(table.raw(), id[t] * dim, dim, table.dtype(), rows + t * dim);
  });
}

}  // namespace pydllm::ops::cpu
