// The emulated kernels that change logits before they are read: the bits of the CPU ops.
#include <algorithm>
#include <limits>

#include "cuda_testing.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/row_stats.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

TEST(CudaGuide, HasTheBitsOfTheCpu) {
  CpuRunner cpu;
  for (const int64_t vocab : {1, 255, 256, 257, 5000}) {
    for (const float scale : {-1.0f, 0.0f, 0.3f, 1.5f}) {
      Tensor conditional = random_tensor({3, vocab}, 1, 5);
      const Tensor unconditional = random_tensor({3, vocab}, 2, 5);
      const auto device = on_device<float>("conditional", conditional);
      const auto base = on_device<float>("unconditional", unconditional);
      ops::guide(cpu.context, conditional, unconditional, scale);
      ops::cuda::guide(device->data(), base->data(), 3, vocab, scale, nullptr);
      ASSERT_TRUE(same_bits(to_host(*device, {3, vocab}), conditional)) << vocab << ", scale " << scale;
    }
  }
}

TEST(CudaGuide, IsTheFormulaInFloat64) {
  const Tensor conditional = random_tensor({2, 700}, 1), unconditional = random_tensor({2, 700}, 2);
  const auto device = on_device<float>("conditional", conditional);
  const auto base = on_device<float>("unconditional", unconditional);
  ops::cuda::guide(device->data(), base->data(), 2, 700, 1.5f, nullptr);
  for (int64_t i = 0; i < 1400; ++i) {
    const double expected = at(unconditional, i) + 2.5 * (at(conditional, i) - at(unconditional, i));
    ASSERT_NEAR(static_cast<double>((*device)[static_cast<size_t>(i)]), expected, 2e-6);
  }
}

using Edits = std::vector<std::vector<LogitEdit>>;  // by row

Tensor edited_on_cpu(const Tensor& logits, const Edits& edits) {
  CpuRunner cpu;
  Tensor out = Tensor::empty({logits.size(0), logits.size(1)}, DType::kF32);
  std::copy_n(logits.data<float>(), logits.numel(), out.data<float>());
  std::vector<RowSampling> sampling(edits.size());
  for (size_t row = 0; row < edits.size(); ++row) sampling[row].edits = edits[row];
  ops::edit_logits(cpu.context, out, sampling);
  return out;
}

Tensor edited(const Tensor& logits, const Edits& edits) {
  std::vector<int64_t> row_begin = {0};
  std::vector<LogitEdit> all;
  for (const std::vector<LogitEdit>& row : edits) {
    all.insert(all.end(), row.begin(), row.end());
    row_begin.push_back(static_cast<int64_t>(all.size()));
  }
  const auto x = on_device<float>("logits", logits);
  const auto begin = on_device("row_begin", row_begin);
  const auto list = on_device("edits", all);
  ops::cuda::edit_logits(x->data(), logits.size(0), logits.size(1), begin->data(), list->data(),
                         static_cast<int64_t>(all.size()), nullptr);
  return to_host(*x, {logits.size(0), logits.size(1)});
}

// Every `step`-th id from `first` on: a penalty, a bias or a ban by turns.
std::vector<LogitEdit> edits_of(int32_t first, int32_t step, int32_t vocab) {
  std::vector<LogitEdit> out;
  for (int32_t id = first; id < vocab; id += step) {
    const float size = 0.7f + 0.01f * static_cast<float>(id % 90);
    const LogitEdit kinds[] = {{id, size, 0}, {id, 1, size - 1}, {id, 1, kBanned}, {id, size, -size}};
    out.push_back(kinds[id % 4]);
  }
  return out;
}

TEST(CudaEditLogits, HasTheBitsOfTheCpuInEveryRow) {
  const std::vector<Edits> cases = {
      {edits_of(0, 1, 300)},
      {{}, edits_of(3, 7, 300), {}},
      {edits_of(299, 1, 300), {}, {}, edits_of(0, 300, 300), edits_of(1, 2, 300)},
      {edits_of(0, 1, 127), edits_of(0, 1, 1), edits_of(0, 1, 128), edits_of(0, 1, 129), {}},
      {{}, {}},
  };
  for (const Edits& edits : cases) {
    const Tensor logits = random_tensor({static_cast<int64_t>(edits.size()), 300}, 3, 4);
    ASSERT_TRUE(same_bits(edited(logits, edits), edited_on_cpu(logits, edits)));
  }
}

TEST(CudaEditLogits, StaysFiniteAndHidesNoBrokenNumber) {
  const float largest = std::numeric_limits<float>::max();
  const Tensor logits = tensor_of<float>({largest, -largest, INFINITY, -INFINITY, 2, 0}).view({1, 6});
  const Edits edits = {{{0, 0.5f, 10}, {1, 3, -10}, {2, 1, -5}, {3, 2, kBanned}, {4, 1, kBanned}, {5, 2, 1}}};
  const Tensor out = edited(logits, edits);
  EXPECT_TRUE(same_bits(out, tensor_of<float>({largest, -largest, INFINITY, -INFINITY, -largest, 1}).view({1, 6})));
  EXPECT_TRUE(std::isnan(at(edited(tensor_of<float>({NAN}).view({1, 1}), {{{0, 1, kBanned}}}), 0)));
}

}  // namespace
}  // namespace pydllm
