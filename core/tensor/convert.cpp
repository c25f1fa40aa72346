#include "tensor/convert.h"

#include <algorithm>
#include <cstring>

#include "base/check.h"

namespace pydllm {
namespace {

constexpr int64_t kConvertChunk = 1 << 16;  // elements per task: large against the hand-out, small against a matrix

void round_to(float value, float& out) {
  out = value;
}
void round_to(float value, BFloat16& out) {
  out = to_bfloat16(value);
}
void round_to(float value, Float16& out) {
  out = to_float16(value);
}

template <class From, class To>
void convert_range(const void* from, void* to, int64_t begin, int64_t end) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  for (int64_t i = begin; i < end; ++i) round_to(to_float(source[i]), target[i]);
}

using Convert = void (*)(const void*, void*, int64_t, int64_t);

template <class From>
Convert converter_from(DType to) {
  switch (to) {
    case DType::kF32:
      return convert_range<From, float>;
    case DType::kBF16:
      return convert_range<From, BFloat16>;
    case DType::kF16:
      return convert_range<From, Float16>;
    default:
      throw InternalError(format("no conversion to ", name_of(to)));
  }
}

Convert converter(DType from, DType to) {
  switch (from) {
    case DType::kF32:
      return converter_from<float>(to);
    case DType::kBF16:
      return converter_from<BFloat16>(to);
    case DType::kF16:
      return converter_from<Float16>(to);
    default:
      throw InternalError(format("no conversion from ", name_of(from)));
  }
}

}  // namespace

void convert(const Tensor& from, const Tensor& to, ThreadPool* pool) {
  check(from.shape() == to.shape(), "convert: expected shape ", shape_string(from.shape()), ", got ",
        shape_string(to.shape()));
  check(from.device() == Device{} && to.device() == Device{}, "convert: expected tensors on cpu");
  const int64_t count = from.numel();
  if (count == 0) return;
  if (from.dtype() == to.dtype()) {
    std::memcpy(to.raw(), from.raw(), from.nbytes());
    return;
  }
  const Convert run = converter(from.dtype(), to.dtype());
  const auto chunk = [&](int64_t index) {
    run(from.raw(), to.raw(), index * kConvertChunk, std::min(count, (index + 1) * kConvertChunk));
  };
  const int64_t chunks = (count + kConvertChunk - 1) / kConvertChunk;
  if (pool != nullptr) return pool->run(chunks, chunk);
  for (int64_t index = 0; index < chunks; ++index) chunk(index);
}

}  // namespace pydllm
