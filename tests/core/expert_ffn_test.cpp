#include "ops/expert_ffn.h"

#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using ops::Expert;

constexpr int64_t kHidden = 19, kWidth = 13;
constexpr int32_t kExperts = 7, kChosen = 3;

// The matrices of every expert and what the op takes of them.
struct Mixture {
  std::vector<Tensor> gate, up, down;
  std::vector<Expert> experts;

  explicit Mixture(DType dtype) {
    CpuRunner cpu;
    for (uint32_t e = 0; e < kExperts; ++e) {
      gate.push_back(random_tensor({kWidth, kHidden}, 10 * e, 0.3f, dtype));
      up.push_back(random_tensor({kWidth, kHidden}, 10 * e + 1, 0.3f, dtype));
      down.push_back(random_tensor({kHidden, kWidth}, 10 * e + 2, 0.3f, dtype));
      const Tensor both[] = {gate.back(), up.back()};
      experts.push_back({ops::PackedWeight::pack(cpu.context, both, dtype),
                         ops::PackedWeight::pack(cpu.context, {&down.back(), 1}, dtype)});
    }
  }

  double dot(const Tensor& matrix, int64_t row, const std::vector<double>& x) const {
    double sum = 0;
    for (size_t i = 0; i < x.size(); ++i) sum += at(matrix, row * matrix.size(1) + static_cast<int64_t>(i)) * x[i];
    return sum;
  }

  void add_to(std::vector<double>& y, const std::vector<double>& x, size_t e, double weight) const {
    std::vector<double> inner;
    for (int64_t f = 0; f < kWidth; ++f) {
      const double g = dot(gate[e], f, x);
      inner.push_back(g / (1 + std::exp(-g)) * dot(up[e], f, x));
    }
    for (int64_t h = 0; h < kHidden; ++h) y[static_cast<size_t>(h)] += weight * dot(down[e], h, inner);
  }
};

struct Call {
  Tensor x, choice, weights, y;

  explicit Call(DType dtype, int64_t tokens = 11)
      : x(random_tensor({tokens, kHidden}, 1, 1, dtype == DType::kBF16 ? DType::kBF16 : DType::kF32)),
        choice(Tensor::empty({tokens, kChosen}, DType::kI32)),
        weights(random_tensor({tokens, kChosen}, 2)),
        y(random_tensor({tokens, kHidden}, 3)) {
    // Expert 5 is chosen by nobody.
    for (int32_t i = 0; i < static_cast<int32_t>(choice.numel()); ++i) {
      choice.data<int32_t>()[i] = i % kChosen == 2 ? 6 : (i / static_cast<int32_t>(kChosen) + i % kChosen) % 5;
    }
  }

  void run(const Mixture& mixture, int threads = 1) {
    CpuRunner cpu(threads);
    ops::expert_ffn(cpu.context, x, choice, weights, mixture.experts, y);
  }
};

TEST(ExpertFfn, AddsTheWeightedOutputsOfTheChosenExperts) {
  for (const DType dtype : {DType::kF32, DType::kF16, DType::kBF16}) {
    const Mixture mixture(dtype);
    Call call(dtype);
    std::vector<std::vector<double>> expected;
    for (int64_t t = 0; t < 11; ++t) {
      std::vector<double> x, y;
      for (int64_t h = 0; h < kHidden; ++h) x.push_back(at(call.x, t * kHidden + h));
      for (int64_t h = 0; h < kHidden; ++h) y.push_back(at(call.y, t * kHidden + h));
      for (int64_t i = t * kChosen; i < (t + 1) * kChosen; ++i) {
        mixture.add_to(y, x, static_cast<size_t>(call.choice.data<int32_t>()[i]), at(call.weights, i));
      }
      expected.push_back(y);
    }
    call.run(mixture);
    for (int64_t i = 0; i < call.y.numel(); ++i) {
      const double value = expected[static_cast<size_t>(i / kHidden)][static_cast<size_t>(i % kHidden)];
      ASSERT_NEAR(at(call.y, i), value, dtype == DType::kBF16 ? 0.05 : 1e-5);
    }
  }
}

TEST(ExpertFfn, ARowIsTheSameAloneAndInABatchOnAnyNumberOfThreads) {
  const Mixture mixture(DType::kBF16);
  Call all(DType::kBF16, 40);
  const Call before(DType::kBF16, 40);
  all.run(mixture, 3);
  for (const int64_t t : {0, 17, 39}) {
    CpuRunner cpu;
    Tensor y = Tensor::empty({1, kHidden}, DType::kF32);
    std::copy_n(before.y.data<float>() + t * kHidden, kHidden, y.data<float>());
    ops::expert_ffn(cpu.context, before.x.rows(t, 1), before.choice.rows(t, 1), before.weights.rows(t, 1),
                    mixture.experts, y);
    EXPECT_TRUE(same_bits(y, all.y.rows(t, 1)));
  }
}

TEST(ExpertFfn, ExpertsThatNobodyChoseAreNotRead) {
  Mixture mixture(DType::kF32);
  std::fill_n(mixture.experts[5].down.panels().data<float>(), mixture.experts[5].down.panels().numel(), NAN);
  Call call(DType::kF32);
  call.run(mixture);
  for (int64_t i = 0; i < call.y.numel(); ++i) ASSERT_TRUE(std::isfinite(at(call.y, i)));
}

TEST(ExpertFfn, BadOperandsAreInternalErrors) {
  const Mixture mixture(DType::kF32);
  Call call(DType::kF32);
  call.choice.data<int32_t>()[4] = kExperts;
  EXPECT_INTERNAL_ERROR(call.run(mixture), "choice[4]: expected 0 <= expert < 7, got 7");
  Call narrow(DType::kBF16);
  EXPECT_INTERNAL_ERROR(narrow.run(mixture), "x");
}

}  // namespace
}  // namespace pydllm
