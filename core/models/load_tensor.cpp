#include "models/load_tensor.h"

#include <vector>

#include "tensor/convert.h"
#include "tensor/copy.h"

namespace pydllm {
namespace {

// The tensor in host memory: itself when it is there already.
Tensor on_host(const Context& context, const Tensor& tensor) {
  if (tensor.device() == Device{}) return tensor;
  Tensor out = Tensor::empty(tensor.shape(), tensor.dtype());
  copy(context, tensor, out);
  return out;
}

// Float32 biases of the parts, one after another.
Tensor load_biases(const Context& context, Weights& weights, std::span<const LinearPart> parts, int64_t out_features) {
  Tensor bias = Tensor::empty({out_features}, DType::kF32);
  int64_t row = 0;
  for (const LinearPart& part : parts) {
    const std::string name = part.name + ".bias";
    convert(on_host(context, weights.take(name, {part.out_features})), bias.rows(row, part.out_features.size));
    weights.done(name);
    row += part.out_features.size;
  }
  return bias;
}

}  // namespace

Tensor packable(const Context& context, const Tensor& stored, DType dtype) {
  return stored.dtype() == dtype ? stored : on_host(context, stored);
}

Tensor load_vector(const Context& context, Weights& weights, const std::string& name, Extent size) {
  const Tensor stored = on_host(context, weights.take(name, {size}));
  const Tensor out = Tensor::empty({size.size}, DType::kF32);
  convert(stored, out);
  weights.done(name);
  return to_device(context, out);
}

Tensor load_matrix(const Context& context, Weights& weights, const std::string& name, Extent rows, Extent columns,
                   DType dtype) {
  const Tensor stored = packable(context, weights.take(name, {rows, columns}), dtype);
  if (stored.device() != Device{}) return stored;
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
    const Tensor stored = weights.take(part.name + ".weight", {part.out_features, in_features});
    matrices.push_back(packable(context, stored, dtype));
    out_features += part.out_features.size;
  }
  const Tensor biases = bias ? load_biases(context, weights, parts, out_features) : Tensor{};
  ops::PackedWeight packed = ops::PackedWeight::pack(context, matrices, dtype, biases);
  for (const LinearPart& part : parts) weights.done(part.name + ".weight");
  return packed;
}

}  // namespace pydllm
