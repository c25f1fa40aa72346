// Taking tensors out of a checkpoint in the form the ops want. Every function marks what it took as done, so that the
// pages of the file leave memory while loading goes on; nothing returned points into the file. What is returned lives
// on the context's device; matrices that are there already, of the right dtype, are shared with whoever gave them.
#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "models/config.h"
#include "models/weights.h"
#include "ops/linear.h"
#include "tensor/context.h"

namespace pydllm {

// The tensor where PackedWeight::pack can read it: one on a device of another dtype than `dtype` in host memory.
Tensor packable(const Context& context, const Tensor& stored, DType dtype);

// [size] as float32.
Tensor load_vector(const Context& context, Weights& weights, const std::string& name, Extent size);

// [rows, columns] as `dtype`, rounding to nearest even.
Tensor load_matrix(const Context& context, Weights& weights, const std::string& name, Extent rows, Extent columns,
                   DType dtype);

struct LinearPart {
  std::string name;  // without ".weight" and ".bias"
  Extent out_features;
};
// The parts stacked into one matrix [sum of out_features, in_features], with their biases when `bias`.
ops::PackedWeight load_linear(const Context& context, Weights& weights, std::span<const LinearPart> parts,
                              Extent in_features, DType dtype, bool bias);

inline Extent hidden_of(const ModelConfig& config) {
  return {config.hidden_size, "hidden_size"};
}

}  // namespace pydllm
