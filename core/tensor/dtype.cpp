#include "tensor/dtype.h"

#include <array>
#include <bit>
#include <string>
#include <utility>

#include "base/check.h"

namespace pydllm {
namespace {

struct DTypeInfo {
  DType dtype;
  std::string_view name;
  size_t size;
};

constexpr std::array<DTypeInfo, 6> kDTypes{{{DType::kF32, "float32", 4},
                                            {DType::kBF16, "bfloat16", 2},
                                            {DType::kF16, "float16", 2},
                                            {DType::kI32, "int32", 4},
                                            {DType::kI64, "int64", 8},
                                            {DType::kU8, "uint8", 1}}};

const DTypeInfo& info_of(DType dtype) {
  for (const DTypeInfo& info : kDTypes) {
    if (info.dtype == dtype) return info;
  }
  throw InternalError(format("unknown dtype ", static_cast<int>(dtype)));
}

// The `shift` lowest bits rounded away, ties to even.
uint32_t shift_right_rounded(uint32_t value, int shift) {
  const uint32_t half = 1u << (shift - 1);
  const uint32_t odd = (value >> shift) & 1;
  return (value + half - 1 + odd) >> shift;
}

// |value| below 2^-14: the result is a multiple of 2^-24.
uint16_t subnormal_half(uint32_t magnitude) {
  const int exponent = static_cast<int>(magnitude >> 23);
  if (exponent < 102) return 0;  // below 2^-25, half of the smallest subnormal
  const uint32_t mantissa = (magnitude & 0x7FFFFF) | 0x800000;
  return static_cast<uint16_t>(shift_right_rounded(mantissa, 126 - exponent));
}

uint16_t half_magnitude(uint32_t magnitude) {
  if (magnitude > 0x7F800000) return 0x7E00;   // NaN
  if (magnitude >= 0x477FF000) return 0x7C00;  // rounds to 65536 or more: infinity
  if (magnitude < 0x38800000) return subnormal_half(magnitude);
  return static_cast<uint16_t>(shift_right_rounded(magnitude - 0x38000000, 13));  // exponent bias 127 -> 15
}

}  // namespace

size_t size_of(DType dtype) {
  return info_of(dtype).size;
}

std::string_view name_of(DType dtype) {
  return info_of(dtype).name;
}

DType dtype_from_name(std::string_view name) {
  std::string known;
  for (const DTypeInfo& info : kDTypes) {
    if (info.name == name) return info.dtype;
    known += (known.empty() ? "" : ", ") + std::string(info.name);
  }
  throw InvalidRequest("dtype", format("dtype: expected one of ", known, ", got \"", name, "\""));
}

float to_float(BFloat16 value) {
  return std::bit_cast<float>(uint32_t{value.bits} << 16);
}

float to_float(Float16 value) {
  const uint32_t sign = (value.bits & 0x8000u) << 16;
  const uint32_t magnitude = value.bits & 0x7FFFu;
  if (magnitude >= 0x7C00) return std::bit_cast<float>(sign | 0x7F800000 | (magnitude & 0x3FF) << 13);
  if (magnitude >= 0x0400) return std::bit_cast<float>(sign | ((magnitude << 13) + 0x38000000));
  const float subnormal = static_cast<float>(magnitude) * 0x1p-24f;
  return sign != 0 ? -subnormal : subnormal;
}

BFloat16 to_bfloat16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFF) > 0x7F800000) return {static_cast<uint16_t>(bits >> 16 | 0x40)};  // keep NaN a (quiet) NaN
  return {static_cast<uint16_t>(shift_right_rounded(bits, 16))};
}

Float16 to_float16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  return {static_cast<uint16_t>(half_magnitude(bits & 0x7FFFFFFF) | (bits >> 31) << 15)};
}

}  // namespace pydllm
