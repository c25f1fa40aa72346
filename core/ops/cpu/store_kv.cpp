#include <algorithm>
#include <functional>
#include <vector>

#include "ops/cpu/convert.h"
#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {
namespace {

// Two tokens in one slot would be written by two threads at once.
void check_slots(const Tensor& slots, int64_t limit) {
  const std::span<const int64_t> ids(slots.data<int64_t>(), static_cast<size_t>(slots.size(0)));
  for (size_t t = 0; t < ids.size(); ++t) {
    check(ids[t] >= 0 && ids[t] < limit, "slots[", t, "]: expected 0 <= slot < ", limit, ", got ", ids[t]);
  }
  if (std::adjacent_find(ids.begin(), ids.end(), std::greater_equal<>()) == ids.end()) return;  // ascending: distinct
  std::vector<int64_t> sorted(ids.begin(), ids.end());
  std::sort(sorted.begin(), sorted.end());
  const auto twice = std::adjacent_find(sorted.begin(), sorted.end());
  if (twice != sorted.end()) throw InternalError(format("slots: slot ", *twice, " is written twice"));
}

}  // namespace

void store_kv(const Context& context, const Tensor& kv, int64_t key_column, int64_t value_column, const Tensor& slots,
              KvLayer& layer) {
  const int64_t pages = layer.keys.size(0), heads = layer.keys.size(1);
  const int64_t page_size = layer.keys.size(2), dim = layer.keys.size(3);
  check_slots(slots, pages * page_size);
  const int64_t width = kv.size(1);
  const int64_t* slot = slots.data<int64_t>();
  const DType dtype = layer.keys.dtype();
  const VectorKernels& kernels = vector_kernels();
  parallel_rows(context, kv.size(0), 2 * heads * dim, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) {
      const float* row = kv.data<float>() + t * width;
      for (int64_t h = 0; h < heads; ++h) {
        const int64_t offset = ((slot[t] / page_size * heads + h) * page_size + slot[t] % page_size) * dim;
        store_floats(kernels, row + key_column + h * dim, dim, dtype, layer.keys.raw(), offset);
        store_floats(kernels, row + value_column + h * dim, dim, dtype, layer.values.raw(), offset);
      }
    }
  });
}

}  // namespace pydllm::ops::cpu
