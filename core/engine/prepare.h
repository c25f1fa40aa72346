// Everything that can be wrong with a request is found here, on the caller's thread, before the engine sees it.
#pragma once

#include <memory>
#include <span>
#include <string_view>

#include "engine/live_request.h"
#include "engine/options.h"
#include "models/model.h"

namespace pydllm::engine {

// Throws InvalidRequest naming the option.
void check_options(const EngineOptions& options, const ModelInfo& model, int threads);

// Checks the request and makes its canvas, its decoding state and the plan of its first forward. Throws InvalidRequest
// or Unsupported with the proto's field name ("sampling.max_tokens").
std::unique_ptr<LiveRequest> prepare(Request request, const ModelInfo& model, const EngineOptions& options);

// K/V pages of a request's whole canvas, all lanes.
int64_t pages_needed(const LiveRequest& live, int32_t page_size);

// Throws Unsupported("diffusion.algorithm") listing `valid` when the algorithm is not among them.
void check_runs_on(const decode::Algorithm& algorithm, std::string_view architecture,
                   std::span<const std::string_view> valid);

}  // namespace pydllm::engine
