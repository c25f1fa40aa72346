// Element types and their scalar conversions.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

namespace pydllm {

enum class DType : uint8_t { kF32, kBF16, kF16, kI32, kI64, kU8 };

size_t size_of(DType dtype);            // bytes per element
std::string_view name_of(DType dtype);  // "float32", "bfloat16", "float16", "int32", "int64", "uint8"
// Accepts the names above; throws InvalidRequest("dtype") otherwise.
DType dtype_from_name(std::string_view name);

// Storage types: the bits only; arithmetic happens in float.
struct BFloat16 {
  uint16_t bits;
};
struct Float16 {
  uint16_t bits;
};

float to_float(BFloat16 value);
float to_float(Float16 value);
inline float to_float(float value) {
  return value;
}
BFloat16 to_bfloat16(float value);  // round to nearest even, NaN stays NaN
Float16 to_float16(float value);    // round to nearest even, overflow to infinity

template <class T>
struct DTypeOf;
template <>
struct DTypeOf<float> {
  static constexpr DType value = DType::kF32;
};
template <>
struct DTypeOf<BFloat16> {
  static constexpr DType value = DType::kBF16;
};
template <>
struct DTypeOf<Float16> {
  static constexpr DType value = DType::kF16;
};
template <>
struct DTypeOf<int32_t> {
  static constexpr DType value = DType::kI32;
};
template <>
struct DTypeOf<int64_t> {
  static constexpr DType value = DType::kI64;
};
template <>
struct DTypeOf<uint8_t> {
  static constexpr DType value = DType::kU8;
};

}  // namespace pydllm
