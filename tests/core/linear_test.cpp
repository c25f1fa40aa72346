#include "ops/linear.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <iostream>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "ops/cpu/linear_cpu.h"

namespace pydllm::ops {
namespace {

using cpu::Isa;

constexpr DType kDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

std::vector<Isa> machine_isas() {
  std::vector<Isa> out;
  for (int isa = 0; isa <= static_cast<int>(cpu::detected_isa()); ++isa) out.push_back(static_cast<Isa>(isa));
  return out;
}

// Exactly sized memory (Tensor::empty rounds up), so that AddressSanitizer sees every access beyond it.
Tensor exact_tensor(std::vector<int64_t> shape, DType dtype) {
  size_t bytes = size_of(dtype);
  for (const int64_t extent : shape) bytes *= static_cast<size_t>(extent);
  std::shared_ptr<void> memory(std::malloc(bytes), std::free);
  void* const data = memory.get();
  return Tensor::borrow(data, std::move(shape), dtype, {}, std::move(memory));
}

Tensor to_tensor(const std::vector<float>& values, int64_t rows, DType dtype) {
  Tensor out = exact_tensor({rows, static_cast<int64_t>(values.size()) / rows}, dtype);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kF32) out.data<float>()[i] = values[i];
    if (dtype == DType::kBF16) out.data<BFloat16>()[i] = to_bfloat16(values[i]);
    if (dtype == DType::kF16) out.data<Float16>()[i] = to_float16(values[i]);
  }
  return out;
}

double element(const Tensor& tensor, int64_t i) {
  switch (tensor.dtype()) {
    case DType::kF32:
      return static_cast<double>(tensor.data<float>()[i]);
    case DType::kBF16:
      return static_cast<double>(to_float(tensor.data<BFloat16>()[i]));
    default:
      return static_cast<double>(to_float(tensor.data<Float16>()[i]));
  }
}

std::vector<double> elements(const Tensor& tensor) {
  std::vector<double> out(static_cast<size_t>(tensor.numel()));
  for (size_t i = 0; i < out.size(); ++i) out[i] = element(tensor, static_cast<int64_t>(i));
  return out;
}

std::vector<float> random_integers(size_t count, std::mt19937& random) {
  std::vector<float> out(count);
  for (float& value : out) value = static_cast<float>(static_cast<int>(random() % 17) - 8);
  return out;
}

std::vector<float> random_reals(size_t count, std::mt19937& random) {
  std::normal_distribution<float> normal;
  std::vector<float> out(count);
  for (float& value : out) value = normal(random);
  return out;
}

// x w^T in float64; with `magnitude`, of the absolute values.
std::vector<double> product(const Tensor& x, const Tensor& w, bool magnitude = false) {
  const auto [rows, depth] = shape_of<2>(x, "x");
  const int64_t columns = w.size(0);
  const std::vector<double> xs = elements(x), ws = elements(w);
  std::vector<double> transposed(ws.size()), out(static_cast<size_t>(rows * columns));
  for (int64_t n = 0; n < columns; ++n) {
    for (int64_t k = 0; k < depth; ++k) {
      transposed[static_cast<size_t>(k * columns + n)] = ws[static_cast<size_t>(n * depth + k)];
    }
  }
  for (int64_t m = 0; m < rows; ++m) {
    double* const y = out.data() + m * columns;
    for (int64_t k = 0; k < depth; ++k) {
      const double a = xs[static_cast<size_t>(m * depth + k)];
      const double* const b = transposed.data() + k * columns;
      for (int64_t n = 0; n < columns; ++n) y[n] += magnitude ? std::abs(a * b[n]) : a * b[n];
    }
  }
  return out;
}

class Linear : public ::testing::Test {
 protected:
  PackedWeight pack(const Tensor& w, DType dtype, Tensor bias = {}) {
    return PackedWeight::pack(context_, std::span(&w, 1), dtype, std::move(bias));
  }
  Tensor multiply(Isa isa, const Tensor& x, const PackedWeight& weight) {
    Tensor y = exact_tensor({x.size(0), weight.out_features()}, DType::kF32);
    std::fill_n(y.data<float>(), y.numel(), std::numeric_limits<float>::quiet_NaN());
    cpu::linear(pool_, isa, x, weight, y, LinearMode::kOverwrite);
    return y;
  }

  ThreadPool pool_{2};
  Context context_{{}, &pool_};
  std::mt19937 random_{1};
};

class LinearShapes : public Linear, public ::testing::WithParamInterface<int> {};

// Integers up to 8 in magnitude are exact in every dtype, and sums of up to 2049 products stay below 2^24: every
// instruction set must give the exact result, whatever the order of additions.
TEST_P(LinearShapes, IntegersAreExactForEveryRowCount) {
  const int64_t depth = GetParam(), max_rows = 129;
  for (const int64_t columns : {1, 63, 64, 65, 127, 160, 352, 644}) {
    const std::vector<float> xs = random_integers(static_cast<size_t>(max_rows * depth), random_);
    const std::vector<float> ws = random_integers(static_cast<size_t>(columns * depth), random_);
    const Tensor w = to_tensor(ws, columns, DType::kF32);
    const std::vector<double> expected = product(to_tensor(xs, max_rows, DType::kF32), w);
    for (const DType dtype : kDTypes) {
      const PackedWeight weight = pack(w, dtype);
      for (const int64_t rows : {1, 2, 5, 6, 7, 12, 31, 32, 33, 96, 97, 129}) {
        const Tensor x = to_tensor({xs.begin(), xs.begin() + rows * depth}, rows, linear_input_dtype(dtype));
        const std::vector<double> wanted(expected.begin(), expected.begin() + rows * columns);
        for (const Isa isa : machine_isas()) {
          ASSERT_EQ(elements(multiply(isa, x, weight)), wanted)
              << rows << " x " << depth << " x " << columns << " " << name_of(dtype) << " " << cpu::name_of(isa);
        }
      }
    }
  }
}

class LinearJobs : public Linear {};

// Jobs of several panels, more rows than a job has, slices of k that do not divide it.
TEST_F(LinearJobs, IntegersAreExactOnOneThreadWithManyPanelsAndRows) {
  const int64_t depth = 1034, max_rows = 327, columns = 580;
  const std::vector<float> xs = random_integers(static_cast<size_t>(max_rows * depth), random_);
  const std::vector<float> ws = random_integers(static_cast<size_t>(columns * depth), random_);
  const Tensor w = to_tensor(ws, columns, DType::kF32);
  const std::vector<double> expected = product(to_tensor(xs, max_rows, DType::kF32), w);
  const PackedWeight weight = pack(w, DType::kBF16);
  ThreadPool one{1};
  for (const int64_t rows : {1, 32, 49, 320, 327}) {
    const Tensor x = to_tensor({xs.begin(), xs.begin() + rows * depth}, rows, linear_input_dtype(DType::kBF16));
    const std::vector<double> wanted(expected.begin(), expected.begin() + rows * columns);
    Tensor y = exact_tensor({rows, columns}, DType::kF32);
    cpu::linear(one, cpu::active_isa(), x, weight, y, LinearMode::kOverwrite);
    EXPECT_TRUE(elements(y) == wanted) << rows;
  }
}

INSTANTIATE_TEST_SUITE_P(Depth, LinearShapes, ::testing::Values(1, 2, 3, 63, 64, 65, 160, 192, 1024, 1025, 2049));

// Each of the K products is rounded at most once and passes at most K additions, then those of the bias and of y; each
// rounding is at most 2^-24 of the magnitude reached so far, which the sum of magnitudes bounds (Higham, "Accuracy and
// Stability of Numerical Algorithms", 3.1). One dropped or doubled term of average size exceeds this bound up to
// K = 4096.
double tolerance(int64_t depth, double magnitude) {
  return static_cast<double>(depth + 4) * 0x1p-24 * magnitude;
}

TEST_F(Linear, RealsStayWithinTheRoundingBound) {
  for (const int64_t depth : {1, 65, 1024, 2049}) {
    const int64_t rows = 33, columns = 130;
    const Tensor w32 = to_tensor(random_reals(static_cast<size_t>(columns * depth), random_), columns, DType::kF32);
    const std::vector<float> xs = random_reals(static_cast<size_t>(rows * depth), random_);
    for (const DType dtype : kDTypes) {
      const Tensor w = to_tensor({w32.data<float>(), w32.data<float>() + w32.numel()}, columns, dtype);
      const Tensor x = to_tensor(xs, rows, linear_input_dtype(dtype));
      const std::vector<double> expected = product(x, w), magnitudes = product(x, w, true);
      for (const Isa isa : machine_isas()) {
        const Tensor y = multiply(isa, x, pack(w32, dtype));  // packing rounds as to_tensor does
        for (size_t i = 0; i < expected.size(); ++i) {
          ASSERT_NEAR(static_cast<double>(y.data<float>()[i]), expected[i], tolerance(depth, magnitudes[i]))
              << name_of(dtype) << " " << cpu::name_of(isa) << " depth " << depth;
        }
      }
    }
  }
}

TEST_F(Linear, BiasAndResidualAreAdded) {
  const int64_t rows = 13, depth = 1030, columns = 70;
  const Tensor w = to_tensor(random_reals(static_cast<size_t>(columns * depth), random_), columns, DType::kF32);
  const Tensor x = to_tensor(random_reals(static_cast<size_t>(rows * depth), random_), rows, DType::kF32);
  const Tensor bias = to_tensor(random_reals(static_cast<size_t>(columns), random_), 1, DType::kF32).view({columns});
  const std::vector<float> start = random_reals(static_cast<size_t>(rows * columns), random_);
  const std::vector<double> expected = product(x, w), magnitudes = product(x, w, true);
  for (const Isa isa : machine_isas()) {
    Tensor y = to_tensor(start, rows, DType::kF32);
    cpu::linear(pool_, isa, x, pack(w, DType::kF32, bias), y, LinearMode::kAccumulate);
    const Tensor overwritten = multiply(isa, x, pack(w, DType::kF32, bias));
    for (size_t i = 0; i < expected.size(); ++i) {
      const double b = static_cast<double>(bias.data<float>()[i % columns]), y0 = static_cast<double>(start[i]);
      const double bound = tolerance(depth, magnitudes[i] + std::abs(b) + std::abs(y0));
      ASSERT_NEAR(static_cast<double>(y.data<float>()[i]), expected[i] + b + y0, bound) << cpu::name_of(isa);
      ASSERT_NEAR(static_cast<double>(overwritten.data<float>()[i]), expected[i] + b, bound) << cpu::name_of(isa);
    }
  }
}

void expect_same_bits(const float* a, const float* b, int64_t count, const std::string& what) {
  ASSERT_EQ(std::memcmp(a, b, static_cast<size_t>(count) * sizeof(float)), 0) << what;
}

// The heart of "an output is bit-identical alone and in any batch".
TEST_F(Linear, ARowDependsOnlyOnItself) {
  const int64_t depth = 1349, columns = 200, max_rows = 200;
  const Tensor w = to_tensor(random_reals(static_cast<size_t>(columns * depth), random_), columns, DType::kF32);
  const std::vector<float> xs = random_reals(static_cast<size_t>(max_rows * depth), random_);
  ThreadPool one(1), two(2), three(3);
  for (const DType dtype : kDTypes) {
    const PackedWeight weight = pack(w, dtype);
    const Tensor x = to_tensor(xs, max_rows, linear_input_dtype(dtype));
    for (const Isa isa : machine_isas()) {
      const std::string what = std::string(name_of(dtype)) + " " + std::string(cpu::name_of(isa));
      Tensor alone = Tensor::empty({max_rows, columns}, DType::kF32);
      for (int64_t r = 0; r < max_rows; ++r) {
        Tensor row = alone.rows(r, 1);
        cpu::linear(one, isa, x.rows(r, 1), weight, row, LinearMode::kOverwrite);
      }
      for (ThreadPool* pool : {&one, &two, &three}) {
        for (const int64_t rows : {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 97, 200}) {
          const int64_t first = (max_rows - rows) / 2;
          Tensor y = Tensor::empty({rows, columns}, DType::kF32);
          cpu::linear(*pool, isa, x.rows(first, rows), weight, y, LinearMode::kOverwrite);
          expect_same_bits(y.data<float>(), alone.rows(first, rows).data<float>(), y.numel(), what);
        }
      }
    }
  }
}

// NaN and infinity stay in their row, also where an odd K makes a pair reach past the row's end.
TEST_F(Linear, NonFiniteRowsDoNotTouchTheirNeighbours) {
  const int64_t rows = 14, depth = 65, columns = 66;
  const Tensor w = to_tensor(random_integers(static_cast<size_t>(columns * depth), random_), columns, DType::kF32);
  std::vector<float> clean = random_integers(static_cast<size_t>(rows * depth), random_), dirty = clean;
  for (int64_t r = 1; r < rows; r += 2) {
    const float bad = r % 4 == 1 ? std::numeric_limits<float>::infinity() : std::numeric_limits<float>::quiet_NaN();
    std::fill_n(dirty.begin() + r * depth, depth, bad);
  }
  for (const DType dtype : kDTypes) {
    const std::vector<double> expected = product(to_tensor(clean, rows, DType::kF32), w);
    for (const Isa isa : machine_isas()) {
      const Tensor y = multiply(isa, to_tensor(dirty, rows, linear_input_dtype(dtype)), pack(w, dtype));
      for (int64_t i = 0; i < y.numel(); ++i) {
        const float value = y.data<float>()[i];
        if (i / columns % 2 == 1) {
          ASSERT_FALSE(std::isfinite(value)) << i;
        } else {
          ASSERT_EQ(static_cast<double>(value), expected[static_cast<size_t>(i)]) << i << cpu::name_of(isa);
        }
      }
    }
  }
}

// 1 * w for every float16 w there is: the conversion inside the kernels, subnormals and infinities included.
TEST_F(Linear, EveryFloat16WeightConverts) {
  Tensor w = exact_tensor({0x10000, 1}, DType::kF16);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) w.data<Float16>()[bits] = {static_cast<uint16_t>(bits)};
  const PackedWeight weight = pack(w, DType::kF16);
  for (const Isa isa : machine_isas()) {
    const Tensor y = multiply(isa, to_tensor({1.0f}, 1, DType::kF32), weight);
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const float value = y.data<float>()[bits];
      const int exponent = bits >> 10 & 31, fraction = bits & 1023;
      if (exponent == 31 && fraction != 0) {
        ASSERT_TRUE(std::isnan(value)) << bits;
        continue;
      }
      const double magnitude = exponent == 31  ? std::numeric_limits<double>::infinity()
                               : exponent == 0 ? std::ldexp(fraction, -24)
                                               : std::ldexp(1024 + fraction, exponent - 25);
      ASSERT_EQ(static_cast<double>(value), bits >= 0x8000 ? -magnitude : magnitude) << bits << cpu::name_of(isa);
    }
  }
}

// VDPBF16PS treats subnormals as zero, so only they may differ.
TEST_F(Linear, EveryNormalBFloat16WeightConverts) {
  Tensor w = exact_tensor({0x10000, 1}, DType::kBF16);
  for (uint32_t bits = 0; bits < 0x10000; ++bits) w.data<BFloat16>()[bits] = {static_cast<uint16_t>(bits)};
  const PackedWeight weight = pack(w, DType::kBF16);
  for (const Isa isa : machine_isas()) {
    const Tensor y = multiply(isa, to_tensor({1.0f}, 1, DType::kBF16), weight);
    for (uint32_t bits = 0; bits < 0x10000; ++bits) {
      const uint32_t wide = bits << 16;
      float expected;
      std::memcpy(&expected, &wide, sizeof(expected));
      const float value = y.data<float>()[bits];
      if (std::isnan(expected)) {
        ASSERT_TRUE(std::isnan(value)) << bits;
      } else if (expected == 0 || std::isnormal(expected) || std::isinf(expected)) {
        ASSERT_EQ(value, expected) << bits << cpu::name_of(isa);
      }
    }
  }
}

TEST_F(Linear, PartsOfAnyFloatTypeAreStacked) {
  const int64_t depth = 67;
  std::vector<Tensor> parts;
  std::vector<float> all;
  int part = 0;
  for (const int64_t rows : {1, 70, 64, 3, 130}) {
    const std::vector<float> values = random_integers(static_cast<size_t>(rows * depth), random_);
    parts.push_back(to_tensor(values, rows, kDTypes[part++ % 3]));
    all.insert(all.end(), values.begin(), values.end());
  }
  const Tensor x = to_tensor(random_integers(static_cast<size_t>(3 * depth), random_), 3, DType::kF32);
  const std::vector<double> expected = product(x, to_tensor(all, 268, DType::kF32));
  for (const DType dtype : kDTypes) {
    const PackedWeight weight = PackedWeight::pack(context_, parts, dtype);
    EXPECT_EQ(weight.out_features(), 268);
    EXPECT_EQ(weight.in_features(), depth);
    EXPECT_EQ(weight.dtype(), dtype);
    EXPECT_EQ(weight.nbytes(), 5u * 64 * (dtype == DType::kBF16 ? 68 : 67) * size_of(dtype));
    const Tensor input = linear_input_dtype(dtype) == DType::kF32
                             ? x
                             : to_tensor({x.data<float>(), x.data<float>() + x.numel()}, 3, DType::kBF16);
    Tensor y = Tensor::empty({3, 268}, DType::kF32);
    linear(context_, input, weight, y);
    EXPECT_EQ(elements(y), expected) << name_of(dtype);
  }
}

TEST_F(Linear, NoRowsIsNoWork) {
  const PackedWeight weight = pack(to_tensor({1, 2}, 1, DType::kF32), DType::kF32);
  Tensor y = Tensor::empty({0, 1}, DType::kF32);
  linear(context_, Tensor::empty({0, 2}, DType::kF32), weight, y);
}

std::string message_of(const std::function<void()>& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_F(Linear, MisshapenOperandsAreNamed) {
  const PackedWeight weight = pack(Tensor::zeros({5, 7}, DType::kF32), DType::kBF16);
  Tensor y = Tensor::zeros({2, 5}, DType::kF32);
  const auto multiply_by = [&](const Tensor& x, Tensor out) {
    return message_of([&] { linear(context_, x, weight, out); });
  };
  const Tensor x = Tensor::zeros({2, 7}, DType::kBF16);
  EXPECT_EQ(multiply_by(x, y), "no error");
  EXPECT_EQ(multiply_by(Tensor::zeros({2, 7}, DType::kF32), y), "x: expected bfloat16, got float32");
  EXPECT_EQ(multiply_by(Tensor::zeros({2, 8}, DType::kBF16), y), "x: expected shape [2, 7], got [2, 8]");
  EXPECT_EQ(multiply_by(Tensor::zeros({14}, DType::kBF16), y), "x: expected rank 2, got shape [14]");
  EXPECT_EQ(multiply_by(x, Tensor::zeros({3, 5}, DType::kF32)), "y: expected shape [2, 5], got [3, 5]");
  EXPECT_EQ(multiply_by(x, Tensor::zeros({2, 5}, DType::kBF16)), "y: expected float32, got bfloat16");
  EXPECT_EQ(message_of([&] { linear(context_, x, PackedWeight(), y); }), "linear: the weight was not packed");
  EXPECT_EQ(message_of([&] { linear(Context{}, x, weight, y); }), "linear: the context has no thread pool");
}

TEST_F(Linear, UnusableWeightsAreNamed) {
  const Tensor good = Tensor::zeros({5, 7}, DType::kF32);
  const auto pack_parts = [&](std::vector<Tensor> parts, DType dtype, Tensor bias = {}) {
    return message_of([&] { PackedWeight::pack(context_, parts, dtype, bias); });
  };
  EXPECT_EQ(pack_parts({}, DType::kF32), "weight: expected at least one part");
  EXPECT_EQ(pack_parts({good}, DType::kI32), "weight: expected a float dtype to store, got int32");
  EXPECT_EQ(pack_parts({Tensor::zeros({5, 7}, DType::kU8)}, DType::kF32), "weight: expected a float tensor, got uint8");
  EXPECT_EQ(pack_parts({good, Tensor::zeros({5, 8}, DType::kF32)}, DType::kF32),
            "weight: expected parts of one input width 7, got 8");
  EXPECT_EQ(pack_parts({good, Tensor()}, DType::kF32), "weight: expected a float tensor, got an undefined one");
  EXPECT_EQ(pack_parts({Tensor::zeros({5, 0}, DType::kF32)}, DType::kF32),
            "weight: expected a non-empty matrix, got shape [5, 0]");
  EXPECT_EQ(pack_parts({Tensor::zeros({35}, DType::kF32)}, DType::kF32), "weight: expected rank 2, got shape [35]");
  EXPECT_EQ(pack_parts({good}, DType::kF32, Tensor::zeros({4}, DType::kF32)), "bias: expected shape [5], got [4]");
  EXPECT_EQ(pack_parts({good}, DType::kF32, Tensor::zeros({5}, DType::kBF16)), "bias: expected float32, got bfloat16");
}

TEST(LinearIsa, IsTheMachinesBestBelowTheCap) {
  const char* const cap = std::getenv("PYDLLM_CPU_ISA");
  Isa expected = cpu::detected_isa();
  if (cap != nullptr && *cap != '\0') expected = std::min(expected, cpu::isa_from_name(cap));
  EXPECT_EQ(linear_isa(DType::kBF16), cpu::name_of(expected));
  EXPECT_EQ(linear_isa(DType::kF32), cpu::name_of(std::min(expected, Isa::kAvx512)));
  EXPECT_EQ(linear_isa(DType::kF16), cpu::name_of(std::min(expected, Isa::kAvx512)));
  std::cout << "linear_isa float32=" << linear_isa(DType::kF32) << " bfloat16=" << linear_isa(DType::kBF16)
            << " float16=" << linear_isa(DType::kF16) << "\n";
}

TEST(LinearIsa, UnknownCapIsAnInvalidRequest) {
  EXPECT_EQ(message_of([] { cpu::isa_from_name("sse9"); }),
            "PYDLLM_CPU_ISA: expected scalar, avx2, avx512, avx512bf16 or amxbf16, got \"sse9\"");
  for (const Isa isa : {Isa::kScalar, Isa::kAvx2, Isa::kAvx512, Isa::kAvx512Bf16, Isa::kAmxBf16}) {
    EXPECT_EQ(cpu::isa_from_name(cpu::name_of(isa)), isa);
  }
}

TEST(LinearIsa, InputTypeFollowsTheWeight) {
  EXPECT_EQ(linear_input_dtype(DType::kF32), DType::kF32);
  EXPECT_EQ(linear_input_dtype(DType::kF16), DType::kF32);
  EXPECT_EQ(linear_input_dtype(DType::kBF16), DType::kBF16);
  EXPECT_THROW(linear_input_dtype(DType::kI64), InternalError);
}

}  // namespace
}  // namespace pydllm::ops
