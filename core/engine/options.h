// Limits and choices of one engine. Fixed at construction.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <vector>

namespace pydllm::ops::cuda {
class CublasLtLibrary;  // ops/cuda/cublaslt_library.h
}

namespace pydllm::engine {

struct EngineOptions {
  int32_t max_model_len = 0;          // prompt + max_tokens; at most the model's max_positions
  int32_t max_batched_tokens = 4096;  // tokens of one forward; a single larger request runs alone
  int32_t max_running_requests = 64;
  int32_t max_waiting_requests = 1024;
  int32_t page_size = 32;        // positions per K/V page
  int32_t pages = 0;             // K/V pages in all
  int32_t max_logit_rows = 256;  // rows of logits in memory at once
  int32_t mask_token_id = 0;
  // Control tokens of a model that edits by them (LLaDA2.2), both or none: -1. Like the mask they are never a token of
  // an answer.
  int32_t delete_token_id = -1;
  int32_t split_token_id = -1;
  bool debug_checks = false;  // integrity check after every step, freed pages are poisoned with NaN
  // What ops/matmul.h chose: multiplies bfloat16 matrices on the model's CUDA device; null: this build's kernels.
  std::shared_ptr<const ops::cuda::CublasLtLibrary> cublaslt;
};

// DELETE and SPLIT, ascending; empty where there are none.
inline std::vector<int32_t> control_ids(const EngineOptions& options) {
  if (options.delete_token_id < 0) return {};
  return {std::min(options.delete_token_id, options.split_token_id),
          std::max(options.delete_token_id, options.split_token_id)};
}

}  // namespace pydllm::engine
