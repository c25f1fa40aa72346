// What the engine knows of a model.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/attention_kind.h"
#include "cache/kv_cache.h"
#include "ops/attention.h"
#include "tensor/context.h"
#include "tensor/tensor.h"

namespace pydllm {

// One ragged forward: the tokens of several sequences, one after another.
struct StepInput {
  Tensor tokens;                             // int32 [tokens]
  Tensor positions;                          // int32 [tokens], position of each token in its sequence
  Tensor slots;                              // int64 [tokens], where its K/V goes
  std::vector<ops::SequenceSpan> sequences;  // disjoint, in order, covering all tokens
  Tensor hidden_rows;                        // int32 [rows], indices into tokens whose final hidden state is wanted
};

struct ModelInfo {
  std::string architecture;  // "LLaDAModelLM"
  Device device;             // of the weights
  int32_t vocab_size = 0;    // columns of the logits
  int32_t hidden_size = 0;
  int32_t max_positions = 0;
  int64_t parameter_count = 0;
  int64_t weight_bytes = 0;
  DType weight_dtype = DType::kF32;
  DType hidden_dtype = DType::kF32;  // what forward() returns and logits() takes
  int32_t kv_layers = 0;
  int32_t kv_heads = 0;
  int32_t head_dim = 0;
  DType kv_dtype = DType::kF32;
  AttentionKind attention = AttentionKind::kFull;
  int32_t block_length = 0;  // of block-causal attention; 0 for full attention
  // The logits of row i - 1 are about position i (models adapted from autoregressive ones: Dream, RND1). Row 0 stands
  // in for the row before the first position. Who asks for hidden rows picks them accordingly.
  bool logit_shift = false;
};

// Immutable after construction; one thread calls it at a time (work buffers are kept between calls).
class Model {
 public:
  virtual ~Model() = default;
  virtual const ModelInfo& info() const = 0;
  // Runs all layers, writes K/V of every token into `cache`, returns the normed final hidden states of
  // input.hidden_rows: hidden_dtype [rows, hidden_size], valid until the next call.
  virtual Tensor forward(const Context& context, const StepInput& input, KvCache& cache) = 0;
  // hidden: rows of what forward() returned; out float32 [rows, vocab_size].
  virtual void logits(const Context& context, const Tensor& hidden, Tensor& out) = 0;
};

}  // namespace pydllm
