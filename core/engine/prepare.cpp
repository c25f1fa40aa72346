#include "engine/prepare.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <limits>
#include <string>
#include <utility>

#include "base/check.h"
#include "base/errors.h"
#include "engine/forward_plan.h"
#include "models/registry.h"

namespace pydllm::engine {
namespace {

// A trace copies the first logits of the whole canvas; it is a tool for short sequences, not a way to fill memory.
constexpr int64_t kMaxTraceBytes = int64_t{1} << 30;

void expect_range(const char* field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return;
  throw InvalidRequest(field, format(field, " must be between ", low, " and ", high, ", got ", value));
}

void expect_at_least(const char* field, int64_t value, int64_t low) {
  if (value < low) throw InvalidRequest(field, format(field, " must be at least ", low, ", got ", value));
}

void check_ids(const char* field, const std::vector<int32_t>& ids, int32_t vocab) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    throw InvalidRequest(field, format(field, "[", i, "] must be between 0 and ", vocab - 1, ", got ", ids[i]));
  }
}

void sort_unique(std::vector<int32_t>& ids) {
  std::sort(ids.begin(), ids.end());
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
}

void check_prompt(const Request& request, int32_t vocab) {
  if (request.prompt.empty()) {
    throw InvalidRequest("prompt_token_ids", "prompt_token_ids must hold at least one id, got none");
  }
  check_ids("prompt_token_ids", request.prompt, vocab);
}

void check_rest(const Request& request, const ModelInfo& model) {
  if (request.rest.empty()) return;
  if (model.attention != AttentionKind::kFull) {
    throw Unsupported("canvas",
                      format("canvas: ", model.architecture,
                             " is block-causal and cannot see fixed text behind a hole, expected text and one "
                             "hole at the end, or a model with full attention"));
  }
  for (size_t i = 0; i < request.rest.size(); ++i) {
    if (request.rest[i] >= -1 && request.rest[i] < model.vocab_size) continue;
    throw InvalidRequest("canvas", format("canvas: position ", request.prompt.size() + i, " must be between 0 and ",
                                          model.vocab_size - 1, ", or -1 in a hole, got ", request.rest[i]));
  }
  const auto holes = std::ranges::count(request.rest, -1);
  if (request.rest.front() != -1 || holes != request.max_tokens) {
    throw InvalidRequest("canvas",
                         format("canvas: what follows the prompt must begin with a hole and have ", request.max_tokens,
                                " positions (sampling.max_tokens) in holes, got ", holes));
  }
}

void check_length(const Request& request, int32_t max_model_len) {
  expect_at_least("sampling.max_tokens", request.max_tokens, 1);
  const auto prompt = static_cast<int64_t>(request.prompt.size());
  const int64_t given = prompt + std::max<int64_t>(request.max_tokens, static_cast<int64_t>(request.rest.size()));
  if (given <= max_model_len) return;
  if (!request.rest.empty()) {
    throw InvalidRequest("canvas", format("canvas: must be at most ", max_model_len, " tokens, got ", given));
  }
  throw InvalidRequest("sampling.max_tokens",
                       format("prompt (", request.prompt.size(), ") + sampling.max_tokens (", request.max_tokens,
                              ") must be at most ", max_model_len, " tokens, got ", given));
}

// Written so that NaN fails.
void expect_number(const char* field, float value, float low, float high) {
  if (value >= low && value <= high) return;
  throw InvalidRequest(field, format(field, " must be between ", low, " and ", high, ", got ", value));
}

void check_penalties(const Request& request) {
  expect_number("sampling.min_p", request.min_p, 0, 1);
  if (!(request.repetition_penalty > 0 && request.repetition_penalty <= 100)) {
    throw InvalidRequest("sampling.repetition_penalty",
                         format("sampling.repetition_penalty must be in (0, 100], got ", request.repetition_penalty));
  }
  expect_number("sampling.presence_penalty", request.presence_penalty, -2, 2);
  expect_number("sampling.frequency_penalty", request.frequency_penalty, -2, 2);
  expect_range("sampling.min_tokens", request.min_tokens, 0, request.max_tokens);
}

// The mask stays in the softmax and is never chosen: a bias on it could only bend the confidences.
void check_biases(const std::vector<TokenBias>& biases, int32_t vocab, int32_t mask_token_id) {
  const char* field = "sampling.logit_bias";
  int32_t previous = -1;
  for (const auto [id, bias] : biases) {
    if (id < 0 || id >= vocab || id == mask_token_id) {
      throw InvalidRequest(field, format(field, " takes token ids between 0 and ", vocab - 1, " but the mask token ",
                                         mask_token_id, ", got ", id));
    }
    if (id == previous) throw InvalidRequest(field, format(field, " must have each token id once, got ", id, " twice"));
    if (!(bias >= -100 && bias <= 100)) {
      throw InvalidRequest(field, format(field, "[", id, "] must be between -100 and 100, got ", bias));
    }
    previous = id;
  }
}

// A row takes a control token only where its algorithm reads them: a bias would bend the confidences of others.
void check_control_biases(const Request& request, const decode::Algorithm& algorithm, const EngineOptions& options) {
  if (algorithm.reads_controls) return;
  for (const auto [id, bias] : request.logit_bias) {
    if (bias == -100 || !std::ranges::binary_search(control_ids(options), id)) continue;
    throw InvalidRequest("sampling.logit_bias",
                         format("sampling.logit_bias takes no bias but a ban (-100) of the control token ", id,
                                ", which ", algorithm.name, " never writes, got ", bias));
  }
}

// Every position must have a text token that it may take.
void check_choice(const LogitRules& rules, const Request& request, const ModelInfo& model,
                  const EngineOptions& options) {
  std::vector<int32_t> no_text = control_ids(options);
  no_text.push_back(options.mask_token_id);
  const auto choice_at = [&](int32_t position) {
    auto allowed = model.vocab_size - static_cast<int32_t>(no_text.size());
    for (const LogitEdit& edit : rules.fixed(position)) {
      allowed -= edit.bias == kBanned && std::ranges::find(no_text, edit.id) == no_text.end() ? 1 : 0;
    }
    return allowed;
  };
  if (choice_at(std::numeric_limits<int32_t>::max()) == 0) {
    throw InvalidRequest("sampling.logit_bias", "sampling.logit_bias must leave a token to choose, got a ban of all");
  }
  if (choice_at(static_cast<int32_t>(request.prompt.size())) > 0) return;
  if (request.min_tokens > 0) {
    throw InvalidRequest(
        "sampling.min_tokens",
        format("sampling.min_tokens must be 0 where every token ends the answer, got ", request.min_tokens));
  }
  throw InvalidRequest("canvas", "canvas: expected a token that may fill a hole, got end tokens only");
}

void check_sampling(const Request& request) {
  // Written so that NaN fails.
  if (!(request.temperature >= 0 && request.temperature <= 100)) {
    throw InvalidRequest("sampling.temperature",
                         format("sampling.temperature must be between 0 and 100, got ", request.temperature));
  }
  if (!(request.top_p > 0 && request.top_p <= 1)) {
    throw InvalidRequest("sampling.top_p", format("sampling.top_p must be in (0, 1], got ", request.top_p));
  }
  expect_at_least("sampling.top_k", request.top_k, 0);
  check_penalties(request);
  if (request.max_repetition_run != 0 && request.max_repetition_run < 2) {  // a run of one would end at any token
    throw InvalidRequest(
        "sampling.max_repetition_run",
        format("sampling.max_repetition_run must be 0 or at least 2, got ", request.max_repetition_run));
  }
  expect_at_least("diffusion.max_forward_passes", request.max_forward_passes, 0);
}

const Architecture* architecture_named(std::string_view name) {
  for (const Architecture& architecture : architectures()) {
    if (architecture.name == name) return &architecture;
  }
  return nullptr;
}

std::string joined(std::span<const std::string_view> names) {
  std::string list;
  for (const std::string_view name : names) list.append(list.empty() ? "" : ", ").append(name);
  return list;
}

const decode::Algorithm& known_algorithm(std::string_view name) {
  try {
    return decode::find_algorithm(name);
  } catch (const InvalidRequest& error) {
    throw InvalidRequest("diffusion.algorithm", error.what());
  }
}

std::vector<std::string_view> algorithms_for(AttentionKind attention) {
  std::vector<std::string_view> names;
  for (const decode::Algorithm* algorithm : decode::algorithms()) {
    if (decode::runs_on(*algorithm, attention)) names.push_back(algorithm->name);
  }
  return names;
}

// A model outside the registry (an embedder's own) may run every algorithm made for its attention.
const decode::Algorithm& runnable_algorithm(const Request& request, const ModelInfo& model) {
  const decode::Algorithm& algorithm = known_algorithm(request.algorithm);
  if (const Architecture* architecture = architecture_named(model.architecture)) {
    check_runs_on(algorithm, architecture->name, architecture->algorithms);
  }
  check_runs_on(algorithm, model.architecture, algorithms_for(model.attention));
  return algorithm;
}

void check_sees_behind(const Request& request, const decode::Algorithm& algorithm) {
  const bool fixed = std::ranges::any_of(request.rest, [](int32_t id) { return id >= 0; });
  if (!fixed || algorithm.attention.contains(AttentionKind::kFull)) return;
  throw Unsupported("canvas", format("canvas: algorithm ", algorithm.name,
                                     " does not see fixed text behind a hole, expected text and one hole at the end, "
                                     "or an algorithm that sees the whole canvas"));
}

decode::Canvas make_canvas(const Request& request, const decode::Algorithm& algorithm, const ModelInfo& model,
                           const EngineOptions& options) {
  if (!request.rest.empty()) return {request.prompt, request.rest, options.mask_token_id};
  return {request.prompt, request.max_tokens, options.mask_token_id, model.block_length, algorithm.finality};
}

decode::ParamValue value_of(const decode::ParamSpec& spec, std::string_view text) {
  if (spec.type == decode::ParamType::kBool) return text == "true";
  if (spec.type == decode::ParamType::kChoice) return std::string(text);
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  check(error == std::errc{} && end == text.data() + text.size(), "default of ", spec.name, ": ", text);
  return number;
}

// What the model's family has instead of the algorithm's own defaults.
decode::ParamMap family_defaults(const decode::Algorithm& algorithm, const ModelInfo& model) {
  decode::ParamMap params;
  const Architecture* architecture = architecture_named(model.architecture);
  if (architecture == nullptr) return params;
  for (const AlgorithmDefault& entry : architecture->defaults) {
    if (entry.algorithm != algorithm.name) continue;
    const auto spec = std::ranges::find(algorithm.params, entry.param, &decode::ParamSpec::name);
    check(spec != algorithm.params.end(), "default of ", model.architecture, ": no parameter ", entry.param);
    params.emplace_back(entry.param, value_of(*spec, entry.value));
  }
  return decode::check_params(algorithm, model.attention, params);
}

std::unique_ptr<LiveRequest> make_live(Request request, const decode::Algorithm& algorithm, const ModelInfo& model,
                                       const EngineOptions& options) {
  decode::Canvas canvas = make_canvas(request, algorithm, model, options);
  auto live = std::make_unique<LiveRequest>(std::move(request), std::move(canvas));
  live->rules = LogitRules(live->request, options.mask_token_id);
  check_control_biases(live->request, algorithm, options);
  check_choice(live->rules, live->request, model, options);
  if (algorithm.reads_controls) live->controls = control_ids(options);
  live->blocks.length = model.block_length;
  live->logit_shift = model.logit_shift;
  const decode::ParamMap defaults = family_defaults(algorithm, model);
  live->decoding = algorithm.begin({.prompt_length = live->canvas.prompt_length(),
                                    .max_tokens = live->canvas.answer_end() - live->canvas.prompt_length(),
                                    .block_length = model.block_length,
                                    .seed = live->request.seed,
                                    .eos_token_ids = live->request.eos_token_ids,
                                    .delete_token_id = options.delete_token_id,
                                    .split_token_id = options.split_token_id,
                                    .params = &live->request.params,
                                    .defaults = &defaults,
                                    .fixed = live->canvas.fixed_in_answer()});
  return live;
}

void check_memory(const LiveRequest& live, const ModelInfo& model, const EngineOptions& options) {
  const int64_t pages = pages_needed(live, options.page_size);
  if (pages > options.pages) {
    throw InvalidRequest("sampling.max_tokens",
                         format("prompt + sampling.max_tokens = ", live.canvas.length(), " tokens need ", pages,
                                " K/V pages, the pool has ", options.pages));
  }
  const int64_t trace_bytes = int64_t{4} * live.window_length() * model.vocab_size;
  if (live.request.trace && trace_bytes > kMaxTraceBytes) {
    throw InvalidRequest(
        "trace", format("a trace holds at most ", kMaxTraceBytes, " bytes of logits, this one needs ", trace_bytes));
  }
}

void check_control_ids(const EngineOptions& options, int32_t vocab) {
  if (options.delete_token_id == -1 && options.split_token_id == -1) return;
  expect_range("delete_token_id", options.delete_token_id, 0, vocab - 1);
  expect_range("split_token_id", options.split_token_id, 0, vocab - 1);
  if (options.delete_token_id == options.split_token_id) {
    throw InvalidRequest("split_token_id", format("split_token_id must differ from delete_token_id, got ",
                                                  options.split_token_id, " for both"));
  }
  for (const auto& [field, id] :
       {std::pair{"delete_token_id", options.delete_token_id}, std::pair{"split_token_id", options.split_token_id}}) {
    if (id != options.mask_token_id) continue;
    throw InvalidRequest(field, format(field, " must differ from mask_token_id, got ", id, " for both"));
  }
}

// Positions of a sequence that is denoised in whole blocks.
int32_t whole_blocks_of(const ModelInfo& model) {
  return model.block_length > 0 ? model.max_positions / model.block_length * model.block_length : model.max_positions;
}

}  // namespace

void check_options(const EngineOptions& options, const ModelInfo& model, int threads) {
  const auto no_text = static_cast<int32_t>(1 + control_ids(options).size());
  expect_at_least("vocab_size", model.vocab_size, no_text + 1);  // one id beside the mask and control tokens
  expect_range("max_model_len", options.max_model_len, 2, whole_blocks_of(model));
  expect_at_least("max_batched_tokens", options.max_batched_tokens, 1);
  expect_at_least("max_running_requests", options.max_running_requests, 1);
  expect_at_least("max_waiting_requests", options.max_waiting_requests, 1);
  expect_range("page_size", options.page_size, 1, 65536);
  expect_at_least("pages", options.pages, 1);
  expect_at_least("max_logit_rows", options.max_logit_rows, 2);  // a guided row needs two
  expect_range("mask_token_id", options.mask_token_id, 0, model.vocab_size - 1);
  check_control_ids(options, model.vocab_size);
  expect_range("threads", threads, 0, 1024);
}

void check_runs_on(const decode::Algorithm& algorithm, std::string_view architecture,
                   std::span<const std::string_view> valid) {
  if (std::find(valid.begin(), valid.end(), algorithm.name) != valid.end()) return;
  throw Unsupported("diffusion.algorithm", format("diffusion.algorithm '", algorithm.name, "' cannot run on ",
                                                  architecture, ", expected one of: ", joined(valid)));
}

int64_t pages_needed(const LiveRequest& live, int32_t page_size) {
  const int64_t per_lane = (static_cast<int64_t>(live.canvas.length()) + page_size - 1) / page_size;
  return per_lane * live.lanes;
}

std::unique_ptr<LiveRequest> prepare(Request request, const ModelInfo& model, const EngineOptions& options) {
  check_prompt(request, model.vocab_size);
  check_length(request, options.max_model_len);
  check_sampling(request);
  check_rest(request, model);
  check_ids("eos_token_ids", request.eos_token_ids, model.vocab_size);
  check_ids("sampling.stop_token_ids", request.stop_token_ids, model.vocab_size);
  sort_unique(request.eos_token_ids);
  sort_unique(request.stop_token_ids);
  std::ranges::sort(request.logit_bias, {}, &TokenBias::id);
  check_biases(request.logit_bias, model.vocab_size, options.mask_token_id);

  const decode::Algorithm& algorithm = runnable_algorithm(request, model);
  check_sees_behind(request, algorithm);
  request.params = decode::check_params(algorithm, model.attention, request.params);
  auto live = make_live(std::move(request), algorithm, model, options);
  plan_forward(*live, options.max_batched_tokens);
  check_memory(*live, model, options);
  return live;
}

}  // namespace pydllm::engine
