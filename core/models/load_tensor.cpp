#include "models/load_tensor.h"

#include <vector>

#include "tensor/convert.h"
#include "tensor/copy.h"

namespace pydllm {
namespace {

// Float32 biases of the parts, one after another.
Tensor load_biases(Weights& weights, std::span<const LinearPart> parts, int64_t out_features) {
  Tensor bias = Tensor::empty({out_features}, DType::kF32);
  int64_t row = 0;
  for (const LinearPart& part : parts) {
    const std::string name = part.name + ".bias";
    convert(weights.take(name, {part.out_features}), bias.rows(row, part.out_features.size));
    weights.done(name);
    row += part.out_features.size;
  }
  return bias;
}

}  // namespace

Tensor load_vector(const Context& context, Weights& weights, const std::string& name, Extent size) {
  const Tensor stored = weights.take(name, {size});
  const Tensor out = Tensor::empty({size.size}, DType::kF32);
  convert(stored, out);
  weights.done(name);
  return to_device(context, out);
}

Tensor load_matrix(const Context& context, Weights& weights, const std::string& name, Extent rows, Extent columns,
                   DType dtype) {
  const Tensor stored = weights.take(name, {rows, columns});
  const Tensor out = Tensor::empty({rows.size, columns.size}, dtype);
  convert(stored, out, context.pool);
  weights.done(name);
  return to_device(context, out);
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
