// The emulated product of a mixture's experts against the formula in float64.
#include <algorithm>
#include <numeric>

#include "cuda_testing.h"
#include "ops/cuda/cuda_ops.h"
#include "ops/expert_ffn.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;

// gate_up [experts, 2 * width, hidden], down [experts, hidden, width]; activations of unit size.
struct Mixture {
  int64_t experts, hidden, width;
  Tensor gate_up, down;

  Mixture(int64_t count, int64_t h, int64_t f, DType dtype)
      : experts(count),
        hidden(h),
        width(f),
        gate_up(random_tensor({count, 2 * f, h}, 1, 1 / std::sqrt(static_cast<float>(h)), dtype)),
        down(random_tensor({count, h, f}, 2, 1 / std::sqrt(static_cast<float>(f)), dtype)) {}
};

struct Batch {
  int64_t kept;
  Tensor x, weights, y;
  std::vector<int32_t> choice;

  // Every token takes `chosen` experts of `experts` in a random order.
  Batch(int64_t tokens, int64_t chosen, const Mixture& mixture, DType dtype)
      : kept(chosen),
        x(random_tensor({tokens, mixture.hidden}, 3, 1, dtype)),
        weights(random_tensor({tokens, chosen}, 4)),
        y(random_tensor({tokens, mixture.hidden}, 5)) {
    std::mt19937 random(6);
    std::vector<int32_t> all(static_cast<size_t>(mixture.experts));
    std::iota(all.begin(), all.end(), 0);
    for (int64_t t = 0; t < tokens; ++t) {
      std::shuffle(all.begin(), all.end(), random);
      choice.insert(choice.end(), all.begin(), all.begin() + chosen);
    }
  }
};

template <class X, class W>
Tensor emulated(const Mixture& mixture, const Batch& batch) {
  const int64_t tokens = batch.x.size(0), pairs = tokens * batch.kept;
  const auto x = on_device<X>("x", batch.x);
  const auto choice = on_device("choice", batch.choice);
  const auto weights = on_device<float>("weights", batch.weights), y = on_device<float>("y", batch.y);
  const auto gate_up = on_device<W>("gate_up", mixture.gate_up), down = on_device<W>("down", mixture.down);
  Buffer<int32_t> lists("pairs", static_cast<size_t>(mixture.experts * tokens));
  Buffer<int32_t> counts("counts", static_cast<size_t>(mixture.experts)), tile_count("tile_count", 1);
  Buffer<ops::cuda::ExpertTile> tiles(
      "tiles", static_cast<size_t>(ops::cuda::expert_tiles_bound(tokens, batch.kept, mixture.experts)));
  Buffer<X> activated("activated", static_cast<size_t>(pairs * mixture.width));
  Buffer<float> outputs("outputs", static_cast<size_t>(pairs * mixture.hidden));
  const ops::cuda::ExpertWorkspace<X> workspace{lists.data(),      counts.data(),    tiles.data(),
                                                tile_count.data(), activated.data(), outputs.data()};
  ops::cuda::expert_ffn<X, W>(x->data(), choice->data(), weights->data(), tokens, batch.kept, gate_up->data(),
                              down->data(), mixture.experts, mixture.hidden, mixture.width, workspace, y->data(),
                              nullptr);
  return to_host(*y, {tokens, mixture.hidden});
}

double dot(const Tensor& matrix, int64_t row, const std::vector<double>& x) {
  double sum = 0;
  const auto width = static_cast<int64_t>(x.size());
  for (int64_t i = 0; i < width; ++i) sum += at(matrix, row * width + i) * x[static_cast<size_t>(i)];
  return sum;
}

// A row of y by the formula.
std::vector<double> expected_row(const Mixture& mixture, const Batch& batch, int64_t token) {
  const int64_t hidden = mixture.hidden, width = mixture.width;
  std::vector<double> x, y, inner(static_cast<size_t>(width));
  for (int64_t h = 0; h < hidden; ++h) x.push_back(at(batch.x, token * hidden + h));
  for (int64_t h = 0; h < hidden; ++h) y.push_back(at(batch.y, token * hidden + h));
  for (int64_t pair = token * batch.kept; pair < (token + 1) * batch.kept; ++pair) {
    const int64_t expert = batch.choice[static_cast<size_t>(pair)];
    for (int64_t f = 0; f < width; ++f) {
      const double gate = dot(mixture.gate_up, expert * 2 * width + f, x);
      inner[static_cast<size_t>(f)] =
          gate / (1 + std::exp(-gate)) * dot(mixture.gate_up, expert * 2 * width + width + f, x);
    }
    for (int64_t h = 0; h < hidden; ++h) {
      y[static_cast<size_t>(h)] += at(batch.weights, pair) * dot(mixture.down, expert * hidden + h, inner);
    }
  }
  return y;
}

template <class X, class W>
void expect_formula(const Mixture& mixture, const Batch& batch) {
  const Tensor y = emulated<X, W>(mixture, batch);
  const double bound = std::is_same_v<X, BFloat16> ? 0.02 : 2e-6;
  for (int64_t t = 0; t < batch.x.size(0); ++t) {
    const std::vector<double> expected = expected_row(mixture, batch, t);
    for (int64_t h = 0; h < mixture.hidden; ++h) {
      const double value = expected[static_cast<size_t>(h)];
      ASSERT_NEAR(at(y, t * mixture.hidden + h), value, bound * (1 + std::abs(value)))
          << mixture.hidden << " x " << mixture.width << ", token " << t << " of " << batch.x.size(0);
    }
  }
}

struct Case {
  int64_t tokens, kept, experts, hidden, width;
};

// Widths around a tile's depth, features and columns, with and without whole 16-byte chunks.
constexpr Case kCases[] = {{1, 1, 1, 1, 1},   {3, 2, 5, 7, 5},    {11, 3, 7, 31, 32}, {9, 8, 8, 32, 33},
                           {5, 4, 9, 64, 31}, {4, 2, 3, 65, 64},  {6, 2, 4, 72, 65},  {2, 1, 130, 33, 16},
                           {7, 5, 6, 16, 40}, {3, 2, 4, 130, 100}};

template <class X, class W>
void expect_formula_for_every_size() {
  for (const Case& size : kCases) {
    const Mixture mixture(size.experts, size.hidden, size.width, DTypeOf<W>::value);
    expect_formula<X, W>(mixture, Batch(size.tokens, size.kept, mixture, DTypeOf<X>::value));
  }
}

TEST(CudaExpertFfn, MatchesTheFormulaOnTensorCores) {
  expect_formula_for_every_size<BFloat16, BFloat16>();
}

TEST(CudaExpertFfn, MatchesTheFormulaInFloat32) {
  expect_formula_for_every_size<float, float>();
}

TEST(CudaExpertFfn, WidensFloat16Weights) {
  expect_formula_for_every_size<float, Float16>();
}

// The shares of the experts, in tokens: below, at, above and a multiple of a tile's rows (64, 32, 16), and none.
template <class X, class W>
void expect_shares(const std::vector<int32_t>& shares) {
  const Mixture mixture(static_cast<int64_t>(shares.size()), 9, 5, DTypeOf<W>::value);
  Batch batch(std::accumulate(shares.begin(), shares.end(), 0), 1, mixture, DTypeOf<X>::value);
  batch.choice.clear();
  for (size_t e = 0; e < shares.size(); ++e) {
    batch.choice.insert(batch.choice.end(), static_cast<size_t>(shares[e]), static_cast<int32_t>(e));
  }
  std::shuffle(batch.choice.begin(), batch.choice.end(), std::mt19937(7));
  expect_formula<X, W>(mixture, batch);
}

TEST(CudaExpertFfn, EveryShareOfTokensIsMultiplied) {
  const std::vector<std::vector<int32_t>> cases = {{63, 0, 64, 65},      {0, 129, 1, 128},
                                                   {200, 0, 0, 0},       {31, 0, 32, 33, 1, 0, 0, 0},
                                                   {0, 65, 0, 0, 0, 63}, {15, 0, 16, 17, 1, 0, 0, 0},
                                                   {0, 0, 33, 0, 0, 0}};
  for (const std::vector<int32_t>& shares : cases) {
    expect_shares<float, float>(shares);
    expect_shares<BFloat16, BFloat16>(shares);
  }
}

TEST(CudaExpertFfn, AgreesWithTheCpu) {
  CpuRunner cpu;
  const Mixture mixture(6, 40, 24, DType::kF32);
  Batch batch(30, 3, mixture, DType::kF32);
  const Tensor y = emulated<float, float>(mixture, batch);
  std::vector<ops::Expert> experts;
  for (int64_t e = 0; e < 6; ++e) {
    const Tensor both = mixture.gate_up.rows(e, 1).view({48, 40}), out = mixture.down.rows(e, 1).view({40, 24});
    experts.push_back({ops::PackedWeight::pack(cpu.context, {&both, 1}, DType::kF32),
                       ops::PackedWeight::pack(cpu.context, {&out, 1}, DType::kF32)});
  }
  ops::expert_ffn(cpu.context, batch.x, tensor_of(batch.choice).view({30, 3}), batch.weights, experts, batch.y);
  expect_near(y, batch.y, 2e-6, 2e-6);
}

template <class X, class W>
void expect_independent_rows() {
  const Mixture mixture(5, 40, 24, DTypeOf<W>::value);
  const Batch all(150, 3, mixture, DTypeOf<X>::value);
  const Tensor together = emulated<X, W>(mixture, all);
  // Tiles of 64 rows together, of 16 alone.
  for (const int64_t t : {0, 77, 149}) {
    Batch alone = all;
    alone.x = all.x.rows(t, 1);
    alone.y = all.y.rows(t, 1);
    alone.weights = all.weights.rows(t, 1);
    alone.choice.assign(all.choice.begin() + 3 * t, all.choice.begin() + 3 * t + 3);
    const Tensor row = emulated<X, W>(mixture, alone);
    EXPECT_TRUE(same_bits(row, together.rows(t, 1))) << t;
  }
}

TEST(CudaExpertFfn, ARowIsTheSameAloneAndInABatch) {
  expect_independent_rows<float, float>();
  expect_independent_rows<BFloat16, BFloat16>();
}

TEST(CudaExpertFfn, ExpertsThatNobodyChoseAreNotRead) {
  Mixture mixture(4, 24, 16, DType::kF32);
  Batch batch(20, 2, mixture, DType::kF32);
  for (size_t i = 0; i < batch.choice.size(); ++i) batch.choice[i] = i % 2 == 0 ? 3 : 1;
  for (const int64_t e : {0, 2}) {
    std::fill_n(mixture.gate_up.data<float>() + e * 2 * 16 * 24, 2 * 16 * 24, NAN);
    std::fill_n(mixture.down.data<float>() + e * 24 * 16, 24 * 16, NAN);
  }
  const Tensor y = emulated<float, float>(mixture, batch);
  for (int64_t i = 0; i < y.numel(); ++i) ASSERT_TRUE(std::isfinite(at(y, i)));
}

// silu(64) is 64 in float32, so that expert e adds down[e] exactly; the sum depends on the order.
TEST(CudaExpertFfn, AddsInRisingOrderOfTheExpertWhateverTheOrderOfTheChoice) {
  Mixture mixture(3, 1, 1, DType::kF32);
  const float outputs[] = {0x1p27f, 1, -0x1p27f};
  for (size_t e = 0; e < 3; ++e) {
    mixture.gate_up.data<float>()[2 * e] = 64;
    mixture.gate_up.data<float>()[2 * e + 1] = 1.0f / 64;
    mixture.down.data<float>()[e] = outputs[e];
  }
  Batch batch(1, 3, mixture, DType::kF32);
  batch.x.data<float>()[0] = 1;
  std::fill_n(batch.weights.data<float>(), 3, 1.0f);
  std::vector<int32_t> order = {0, 1, 2};
  do {
    batch.choice = order;
    batch.y.data<float>()[0] = 5;
    EXPECT_EQ(at(emulated<float, float>(mixture, batch), 0), 0) << "((5 + 2^27) + 1) - 2^27 in float32";
  } while (std::next_permutation(order.begin(), order.end()));
}

TEST(CudaExpertFfn, SizesBeyondAGridAreInternalErrors) {
  const auto call = [](int64_t tokens, int64_t width) {
    const float* none = nullptr;
    ops::cuda::expert_ffn<float, float>(none, nullptr, none, tokens, 8, none, none, 4, 16, width, {}, nullptr, nullptr);
  };
  EXPECT_INTERNAL_ERROR(call(int64_t{1} << 28, 16), "expert_ffn: expected at most 2^31 - 1 pairs, got 2147483648");
  EXPECT_INTERNAL_ERROR(call(1, int64_t{1} << 21), "expert_ffn: expected widths up to 2097120, got 2097152 and 16");
}

}  // namespace
}  // namespace pydllm
