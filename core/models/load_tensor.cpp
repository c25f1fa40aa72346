#include "models/load_tensor.h"

#include <cstring>
#include <vector>

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
void convert(const void* from, void* to, int64_t begin, int64_t end) {
  const From* source = static_cast<const From*>(from);
  To* target = static_cast<To*>(to);
  for (int64_t i = begin; i < end; ++i) round_to(to_float(source[i]), target[i]);
}

using Convert = void (*)(const void*, void*, int64_t, int64_t);

template <class From>
Convert converter_from(DType to) {
  switch (to) {
    case DType::kF32:
      return convert<From, float>;
    case DType::kBF16:
      return convert<From, BFloat16>;
    case DType::kF16:
      return convert<From, Float16>;
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

void convert_into(const Tensor& source, Tensor& out) {
  if (source.dtype() == out.dtype()) {
    if (source.nbytes() > 0) std::memcpy(out.raw(), source.raw(), source.nbytes());
    return;
  }
  converter(source.dtype(), out.dtype())(source.raw(), out.raw(), 0, source.numel());
}

void convert_into(const Context& context, const Tensor& source, Tensor& out) {
  if (source.dtype() == out.dtype()) return convert_into(source, out);
  const Convert run = converter(source.dtype(), out.dtype());
  const int64_t count = source.numel();
  context.pool->run((count + kConvertChunk - 1) / kConvertChunk, [&](int64_t chunk) {
    run(source.raw(), out.raw(), chunk * kConvertChunk, std::min(count, (chunk + 1) * kConvertChunk));
  });
}

Tensor load_biases(Weights& weights, std::span<const LinearPart> parts, int64_t out_features) {
  Tensor bias = Tensor::empty({out_features}, DType::kF32);
  int64_t row = 0;
  for (const LinearPart& part : parts) {
    const Tensor values = load_vector(weights, part.name + ".bias", part.out_features);
    Tensor target = bias.rows(row, part.out_features.size);
    convert_into(values, target);
    row += part.out_features.size;
  }
  return bias;
}

}  // namespace

Tensor load_vector(Weights& weights, const std::string& name, Extent size) {
  const Tensor stored = weights.take(name, {size});
  Tensor out = Tensor::empty({size.size}, DType::kF32);
  convert_into(stored, out);
  weights.done(name);
  return out;
}

Tensor load_matrix(const Context& context, Weights& weights, const std::string& name, Extent rows, Extent columns,
                   DType dtype) {
  const Tensor stored = weights.take(name, {rows, columns});
  Tensor out = Tensor::empty({rows.size, columns.size}, dtype);
  convert_into(context, stored, out);
  weights.done(name);
  return out;
}

ops::PackedWeight load_linear(const Context& context, Weights& weights, std::span<const LinearPart> parts,
                              Extent in_features, DType dtype, bool bias) {
  std::vector<Tensor> matrices;
  int64_t out_features = 0;
  for (const LinearPart& part : parts) {
    matrices.push_back(weights.take(part.name + ".weight", {part.out_features, in_features}));
    out_features += part.out_features.size;
  }
  const Tensor biases = bias ? load_biases(weights, parts, out_features) : Tensor{};
  ops::PackedWeight packed = ops::PackedWeight::pack(context, matrices, dtype, biases);
  for (const LinearPart& part : parts) weights.done(part.name + ".weight");
  return packed;
}

}  // namespace pydllm
