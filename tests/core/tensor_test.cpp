#include "tensor/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "tensor/cuda/built.h"
#include "tensor/dlpack.h"

namespace pydllm {
namespace {

constexpr int64_t kHuge = std::numeric_limits<int64_t>::max();

template <class Function>
std::string message_of(Function&& function) {
  try {
    function();
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(DType, NamesRoundTrip) {
  for (const DType dtype : {DType::kF32, DType::kBF16, DType::kF16, DType::kI32, DType::kI64, DType::kU8}) {
    EXPECT_EQ(dtype_from_name(name_of(dtype)), dtype);
  }
  EXPECT_EQ(name_of(DType::kBF16), "bfloat16");
  EXPECT_EQ(size_of(DType::kF32), 4u);
  EXPECT_EQ(size_of(DType::kF16), 2u);
  EXPECT_EQ(size_of(DType::kI64), 8u);
  EXPECT_EQ(size_of(DType::kU8), 1u);
}

TEST(DType, UnknownNameIsAnInvalidRequest) {
  EXPECT_THROW(dtype_from_name("float64"), InvalidRequest);
  EXPECT_EQ(message_of([] { dtype_from_name("BF16"); }),
            "dtype: expected one of float32, bfloat16, float16, int32, int64, uint8, got \"BF16\"");
}

// The value of a float16 by its definition: sign, 5 exponent bits with bias 15, 10 fraction bits.
double half_value(uint16_t bits) {
  const int exponent = bits >> 10 & 31, fraction = bits & 1023;
  const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

bool is_half_nan(uint16_t bits) {
  return (bits & 0x7fff) > 0x7c00;
}

TEST(Float16, EveryBitPatternConvertsBothWays) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const Float16 half{static_cast<uint16_t>(bits)};
    const float value = to_float(half);
    if (is_half_nan(half.bits)) {
      EXPECT_TRUE(std::isnan(value));
      EXPECT_TRUE(is_half_nan(to_float16(value).bits));
      continue;
    }
    if ((bits & 0x7fff) == 0x7c00) {
      EXPECT_TRUE(std::isinf(value));
    } else {
      ASSERT_EQ(static_cast<double>(value), half_value(half.bits)) << bits;
    }
    ASSERT_EQ(to_float16(value).bits, bits);
  }
}

// Between neighbours a and b, values round to the nearer one and the midpoint to the even one.
TEST(Float16, RoundsToNearestEven) {
  for (uint16_t low = 0; low < 0x7bff; ++low) {
    const auto high = static_cast<uint16_t>(low + 1);
    const float middle = static_cast<float>((half_value(low) + half_value(high)) / 2);  // exact: 12 bits
    const uint16_t even = low % 2 == 0 ? low : high;
    ASSERT_EQ(to_float16(middle).bits, even);
    ASSERT_EQ(to_float16(std::nextafter(middle, 0.0f)).bits, low);
    ASSERT_EQ(to_float16(std::nextafter(middle, 1e9f)).bits, high);
    ASSERT_EQ(to_float16(-middle).bits, even | 0x8000);
  }
}

TEST(Float16, OverflowsToInfinity) {
  EXPECT_EQ(to_float16(65519.99f).bits, 0x7bff);
  EXPECT_EQ(to_float16(65520.0f).bits, 0x7c00);
  EXPECT_EQ(to_float16(-1e30f).bits, 0xfc00);
  EXPECT_EQ(to_float16(std::numeric_limits<float>::infinity()).bits, 0x7c00);
}

TEST(BFloat16, EveryBitPatternConvertsBothWays) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = to_float(BFloat16{static_cast<uint16_t>(bits)});
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(to_float(to_bfloat16(value))));
    } else {
      ASSERT_EQ(to_bfloat16(value).bits, bits);
    }
  }
}

TEST(BFloat16, RoundsToNearestEven) {
  for (uint16_t low = 0; low < 0x7f7f; ++low) {
    const float a = to_float(BFloat16{low}), b = to_float(BFloat16{static_cast<uint16_t>(low + 1)});
    const float middle = static_cast<float>((static_cast<double>(a) + b) / 2);
    ASSERT_EQ(to_bfloat16(middle).bits, low % 2 == 0 ? low : low + 1);
    ASSERT_EQ(to_bfloat16(std::nextafter(middle, 0.0f)).bits, low);
    ASSERT_EQ(to_bfloat16(std::nextafter(middle, std::numeric_limits<float>::infinity())).bits, low + 1);
  }
}

TEST(BFloat16, NanWithALowPayloadStaysNan) {
  uint32_t bits = 0x7f800001;
  float nan;
  std::memcpy(&nan, &bits, sizeof(nan));
  EXPECT_TRUE(std::isnan(to_float(to_bfloat16(nan))));
  EXPECT_EQ(to_bfloat16(std::numeric_limits<float>::max()).bits, 0x7f80);  // rounds up to infinity
}

TEST(Device, NamesRoundTrip) {
  EXPECT_EQ(name_of(Device{}), "cpu");
  EXPECT_EQ(name_of(Device{DeviceType::kCuda, 3}), "cuda:3");
  EXPECT_EQ(device_from_name("cpu"), Device{});
  EXPECT_EQ(device_from_name("cuda"), (Device{DeviceType::kCuda, 0}));
  EXPECT_EQ(device_from_name("cuda:12"), (Device{DeviceType::kCuda, 12}));
}

TEST(Device, UnknownNamesAreInvalidRequests) {
  for (const char* name : {"", "gpu", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999999999", "CPU"}) {
    EXPECT_EQ(message_of([&] { device_from_name(name); }),
              std::string("device: expected cpu, cuda or cuda:N, got \"") + name + "\"");
  }
}

TEST(Tensor, EmptyIsAlignedAndKnowsItsShape) {
  const Tensor tensor = Tensor::empty({3, 5, 7}, DType::kBF16);
  EXPECT_TRUE(tensor.defined());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(tensor.raw()) % 64, 0u);
  EXPECT_EQ(tensor.shape(), (std::vector<int64_t>{3, 5, 7}));
  EXPECT_EQ(tensor.numel(), 105);
  EXPECT_EQ(tensor.nbytes(), 210u);
  EXPECT_EQ(tensor.device(), Device{});
}

TEST(Tensor, UndefinedHasNoElements) {
  const Tensor tensor;
  EXPECT_FALSE(tensor.defined());
  EXPECT_EQ(tensor.numel(), 0);
  EXPECT_EQ(tensor.nbytes(), 0u);
  EXPECT_THROW(tensor.view({0}), InternalError);
}

TEST(Tensor, ScalarAndZeroExtentAreTensors) {
  EXPECT_EQ(Tensor::zeros({}, DType::kF32).numel(), 1);
  const Tensor none = Tensor::zeros({4, 0, 9}, DType::kF32);
  EXPECT_TRUE(none.defined());
  EXPECT_EQ(none.numel(), 0);
  EXPECT_EQ(none.rows(1, 2).numel(), 0);
}

TEST(Tensor, ZerosAreZero) {
  const Tensor tensor = Tensor::zeros({1001}, DType::kI32);
  EXPECT_EQ(std::vector<int32_t>(tensor.data<int32_t>(), tensor.data<int32_t>() + 1001), std::vector<int32_t>(1001, 0));
}

TEST(Tensor, ImpossibleShapesAreErrors) {
  EXPECT_THROW(Tensor::empty({2, -1}, DType::kF32), InternalError);
  EXPECT_THROW(Tensor::empty({kHuge, 2}, DType::kU8), InternalError);
  EXPECT_THROW(Tensor::empty({kHuge}, DType::kF32), InternalError);
  EXPECT_THROW(Tensor::empty({kHuge, 4, 0}, DType::kF32), InternalError);
  EXPECT_THROW(Tensor::empty({int64_t{1} << 40, int64_t{1} << 40}, DType::kF32), InternalError);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
TEST(Tensor, ShortMemoryIsBadAlloc) {
  EXPECT_THROW(Tensor::empty({int64_t{1} << 60}, DType::kU8), std::bad_alloc);
}
#endif

TEST(Tensor, OtherDevicesAreUnsupported) {
  if (kHasCuda) GTEST_SKIP() << "this build has a CUDA backend";
  EXPECT_THROW(Tensor::empty({1}, DType::kF32, {DeviceType::kCuda, 0}), Unsupported);
}

TEST(Tensor, ViewsShareAndKeepTheStorage) {
  Tensor tail;
  {
    const std::vector<float> values{0, 1, 2, 3, 4, 5, 6, 7};
    const Tensor tensor = Tensor::from<float>(values).view({4, 2});
    tail = tensor.rows(2, 2);
    EXPECT_EQ(tail.owner(), tensor.owner());
  }
  EXPECT_EQ(tail.shape(), (std::vector<int64_t>{2, 2}));
  EXPECT_EQ(tail.data<float>()[0], 4);
  EXPECT_EQ(tail.data<float>()[3], 7);
}

TEST(Tensor, ViewsOutsideTheTensorAreErrors) {
  const Tensor tensor = Tensor::zeros({4, 2}, DType::kF32);
  EXPECT_THROW(tensor.view({3, 3}), InternalError);
  EXPECT_THROW(tensor.rows(3, 2), InternalError);
  EXPECT_THROW(tensor.rows(-1, 1), InternalError);
  EXPECT_THROW(tensor.rows(1, -1), InternalError);
  EXPECT_THROW(tensor.rows(1, kHuge), InternalError);
  EXPECT_THROW(Tensor::zeros({}, DType::kF32).rows(0, 0), InternalError);
  EXPECT_EQ(tensor.rows(4, 0).numel(), 0);
}

TEST(Tensor, BorrowKeepsItsOwnerAlive) {
  auto owner = std::make_shared<std::vector<float>>(6, 1.5f);
  const std::weak_ptr<std::vector<float>> watch = owner;
  Tensor tensor = Tensor::borrow(owner->data(), {2, 3}, DType::kF32, {}, owner);
  owner.reset();
  EXPECT_EQ(tensor.data<float>()[5], 1.5f);
  tensor = {};
  EXPECT_TRUE(watch.expired());
  EXPECT_THROW(Tensor::borrow(nullptr, {1}, DType::kF32, {}, nullptr), InternalError);
}

TEST(Tensor, WrongTypesAndShapesAreNamed) {
  const Tensor tensor = Tensor::zeros({3, 65}, DType::kBF16);
  EXPECT_EQ(message_of([&] { tensor.data<float>(); }), "tensor holds bfloat16, asked for float32");
  EXPECT_EQ(message_of([&] { expect_dtype(tensor, "x", DType::kF32); }), "x: expected float32, got bfloat16");
  EXPECT_EQ(message_of([&] { expect_shape(tensor, "x", {3, 64}); }), "x: expected shape [3, 64], got [3, 65]");
  EXPECT_EQ(message_of([&] { shape_of<3>(tensor, "x"); }), "x: expected rank 3, got shape [3, 65]");
  EXPECT_EQ(message_of([&] { expect_dtype(Tensor(), "bias", DType::kF32); }),
            "bias: expected float32, got an undefined tensor");
  expect_shape(tensor, "x", {3, 65});
  expect_dtype(tensor, "x", DType::kBF16);
}

// Offsets of the published ABI on a 64-bit machine.
TEST(DLPack, LayoutIsThePublishedOne) {
  EXPECT_EQ(offsetof(DLTensor, device), 8u);
  EXPECT_EQ(offsetof(DLTensor, ndim), 16u);
  EXPECT_EQ(offsetof(DLTensor, dtype), 20u);
  EXPECT_EQ(offsetof(DLTensor, shape), 24u);
  EXPECT_EQ(offsetof(DLTensor, byte_offset), 40u);
  EXPECT_EQ(offsetof(DLManagedTensor, deleter), 56u);
  EXPECT_EQ(offsetof(DLManagedTensorVersioned, flags), 24u);
  EXPECT_EQ(offsetof(DLManagedTensorVersioned, dl_tensor), 32u);
}

}  // namespace
}  // namespace pydllm
