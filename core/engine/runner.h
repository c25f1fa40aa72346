// One step of the model: forward, output head in bounded chunks, row statistics.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "cache/kv_cache.h"
#include "engine/live_request.h"
#include "engine/options.h"
#include "engine/step_input.h"
#include "models/model.h"
#include "tensor/context.h"

namespace pydllm::engine {

struct StepResult {
  std::vector<std::vector<RowStats>> stats;  // of each request, one per row of its plan; none when it only encodes
  int64_t tokens = 0;                        // fed to the model
};

class Runner {
 public:
  // Takes max_logit_rows x vocabulary floats for good. Keeps references to all but the options.
  Runner(const Context& context, Model& model, KvCache& cache, const EngineOptions& options);

  // Runs the planned forward of every request; fills the first_logits of those that ask for them.
  StepResult run(std::span<LiveRequest* const> batch);

 private:
  void begin_step(StepInput& input) const;
  void look_again(LiveRequest& live, const ScoredRange& scored, const LogitChunk& chunk, const StepPlan& plan,
                  const Tensor& logits);
  void score(const Tensor& hidden, const LogitChunk& chunk, const StepPlan& plan, std::span<LiveRequest* const> batch);
  void summarise(const Tensor& logits, std::span<const RowSampling> sampling, std::span<RowStats> out) const;

  Context context_;
  Model& model_;
  KvCache& cache_;
  int32_t max_logit_rows_;
  int32_t mask_token_id_;
  std::vector<int32_t> no_text_;  // the mask and control tokens
  Tensor logits_;                 // float32 [max_logit_rows, vocab]
  std::vector<RowStats> stats_;   // of the step's scored rows
};

}  // namespace pydllm::engine
