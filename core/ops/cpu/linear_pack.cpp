#include <algorithm>
#include <cstring>
#include <type_traits>

#include "ops/cpu/linear_cpu.h"

namespace pydllm::ops::cpu {
namespace {

// The part of a panel written at a time (256 k of 64 float32) fits the second-level cache, and a row is read in runs of
// at least 512 bytes.
constexpr int64_t kPackBlock = 256;

template <class To, class From>
To convert(From value) {
  if constexpr (std::is_same_v<To, From>) {
    return value;
  } else if constexpr (std::is_same_v<To, float>) {
    return to_float(value);
  } else if constexpr (std::is_same_v<To, BFloat16>) {
    return to_bfloat16(to_float(value));
  } else {
    return to_float16(to_float(value));
  }
}

int64_t step_of(DType dtype) {
  return dtype == DType::kBF16 ? 2 : 1;
}

template <class To, class From>
void pack_run(const From* row, int64_t begin, int64_t end, To* column) {
  constexpr int64_t kStep = std::is_same_v<To, BFloat16> ? 2 : 1;
  for (int64_t k = begin; k < end; ++k) {
    column[k / kStep * kStep * kPanelWidth + k % kStep] = convert<To>(row[k]);
  }
}

template <class To>
void pack_run(const Tensor& part, int64_t row, int64_t begin, int64_t end, To* column) {
  const int64_t width = part.size(1);
  switch (part.dtype()) {
    case DType::kF32:
      return pack_run(part.data<float>() + row * width, begin, end, column);
    case DType::kBF16:
      return pack_run(part.data<BFloat16>() + row * width, begin, end, column);
    case DType::kF16:
      return pack_run(part.data<Float16>() + row * width, begin, end, column);
    default:
      throw InternalError(format("weight: expected a float dtype, got ", name_of(part.dtype())));
  }
}

struct StackedRow {
  const Tensor* part;
  int64_t row;
};

StackedRow find_row(std::span<const Tensor> parts, int64_t row) {
  size_t part = 0;
  while (row >= parts[part].size(0)) row -= parts[part++].size(0);
  return {&parts[part], row};
}

template <class To>
void pack_panel(std::span<const Tensor> parts, int64_t first, int64_t columns, int64_t depth, std::span<To> panel) {
  const bool padded = columns < kPanelWidth || static_cast<int64_t>(panel.size()) > depth * kPanelWidth;
  if (padded) std::memset(panel.data(), 0, panel.size_bytes());
  for (int64_t k = 0; k < depth; k += kPackBlock) {
    for (int64_t c = 0; c < columns; ++c) {
      const auto [part, row] = find_row(parts, first + c);
      pack_run(*part, row, k, std::min(k + kPackBlock, depth), panel.data() + c * step_of(DTypeOf<To>::value));
    }
  }
}

template <class To>
void pack_all(ThreadPool& pool, std::span<const Tensor> parts, int64_t out_features, int64_t in_features, Tensor& out) {
  const auto panel_size = static_cast<size_t>(out.numel() / out.size(0));
  To* const data = out.data<To>();
  pool.run(out.size(0), [&](int64_t p) {
    const int64_t first = p * kPanelWidth;
    pack_panel<To>(parts, first, std::min<int64_t>(kPanelWidth, out_features - first), in_features,
                   {data + static_cast<size_t>(p) * panel_size, panel_size});
  });
}

}  // namespace

Tensor pack_panels(ThreadPool& pool, std::span<const Tensor> parts, int64_t out_features, int64_t in_features,
                   DType dtype) {
  const int64_t panels = (out_features + kPanelWidth - 1) / kPanelWidth;
  const int64_t step = step_of(dtype);
  Tensor out = Tensor::empty({panels, (in_features + step - 1) / step, kPanelWidth, step}, dtype);
  switch (dtype) {
    case DType::kF32:
      pack_all<float>(pool, parts, out_features, in_features, out);
      break;
    case DType::kBF16:
      pack_all<BFloat16>(pool, parts, out_features, in_features, out);
      break;
    case DType::kF16:
      pack_all<Float16>(pool, parts, out_features, in_features, out);
      break;
    default:
      throw InternalError(format("weight: expected a float dtype to store, got ", name_of(dtype)));
  }
  return out;
}

}  // namespace pydllm::ops::cpu
