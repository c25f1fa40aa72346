#include "engine/runner.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <utility>

#include "ops/row_stats.h"

namespace pydllm::engine {
namespace {

// The part of the chunk that belongs to the request, as the model gave it: with shifted logits the scored row of a
// position is the model's row of the one before.
void keep_first_logits(LiveRequest& live, const ScoredRange& scored, const LogitChunk& chunk, const Tensor& logits) {
  const int32_t first = scored.begin + (live.logit_shift ? 1 : 0);
  const int32_t begin = std::max(chunk.scored_begin, first);
  const int32_t end = std::min(chunk.scored_begin + chunk.scored_rows, scored.begin + scored.count);
  if (begin >= end) return;
  const Tensor from = logits.rows(begin - chunk.scored_begin, end - begin);
  const Tensor to = live.first_logits.rows(begin - first, end - begin);
  std::memcpy(to.raw(), from.raw(), from.nbytes());
}

// A hole with fixed text behind it holds text, so no token that would end the request is chosen there. Such ids get the
// lowest finite logit, probability 0, in every row that can fill it. What is not finite stays, to be reported.
void ban_ends(const LiveRequest& live, const ScoredRange& scored, const LogitChunk& chunk, const StepPlan& plan,
              Tensor& logits) {
  if (live.request.rest.empty()) return;
  const int32_t begin = std::max(chunk.scored_begin, scored.begin);
  const int32_t end = std::min(chunk.scored_begin + chunk.scored_rows, scored.begin + scored.count);
  for (int32_t row = begin; row < end; ++row) {
    if (std::cmp_greater_equal(plan.sampling[static_cast<size_t>(row)].position, live.canvas.fixed_end())) continue;
    float* x = logits.data<float>() + (row - chunk.scored_begin) * logits.size(1);
    for (const int32_t id : live.request.eos_token_ids) {
      if (std::isfinite(x[id])) x[id] = std::numeric_limits<float>::lowest();
    }
  }
}

std::vector<RowStats> planned_rows(const LiveRequest& live, std::span<const RowStats> scored) {
  if (!live.scores_everything()) return {scored.begin(), scored.end()};
  std::vector<RowStats> rows;
  for (const int32_t position : live.plan.rows) {
    rows.push_back(scored[static_cast<size_t>(position - live.plan.query_begin)]);
  }
  return rows;
}

std::vector<int32_t> control_ids(const EngineOptions& options) {
  if (options.delete_token_id < 0) return {};
  return {std::min(options.delete_token_id, options.split_token_id),
          std::max(options.delete_token_id, options.split_token_id)};
}

}  // namespace

Runner::Runner(const Context& context, Model& model, KvCache& cache, const EngineOptions& options)
    : context_(context),
      model_(model),
      cache_(cache),
      max_logit_rows_(options.max_logit_rows),
      mask_token_id_(options.mask_token_id),
      controls_(control_ids(options)),
      logits_(Tensor::empty({options.max_logit_rows, model.info().vocab_size}, DType::kF32, context.device)) {}

// Rows whose algorithm edits their logits once it has seen the statistics: these are made anew.
void Runner::look_again(LiveRequest& live, const ScoredRange& scored, const LogitChunk& chunk, const StepPlan& plan,
                        const Tensor& logits) {
  const int32_t begin = std::max(chunk.scored_begin, scored.begin);
  const int32_t end = std::min(chunk.scored_begin + chunk.scored_rows, scored.begin + scored.count);
  if (!live.plan.reconsidered || begin >= end) return;
  const auto first = static_cast<size_t>(begin), count = static_cast<size_t>(end - begin);
  const auto sampling = std::span(plan.sampling).subspan(first, count);
  const auto stats = std::span(stats_).subspan(first, count);
  std::vector<std::vector<LogitEdit>> edits(count);
  std::vector<RowSampling> edited(count);
  for (size_t i = 0; i < count; ++i) {
    const std::vector<int32_t>& rows = live.plan.rows;
    const auto row = std::ranges::lower_bound(rows, static_cast<int32_t>(sampling[i].position));
    const bool planned = row != rows.end() && std::cmp_equal(*row, sampling[i].position);
    if (!planned || !stats[i].finite) continue;
    live.decoding->reconsider(static_cast<size_t>(row - rows.begin()), stats[i], edits[i]);
    edited[i].edits = edits[i];
  }
  Tensor own = logits.rows(begin - chunk.scored_begin, end - begin);
  ops::edit_logits(context_, own, edited);
  ops::row_stats(context_, own, sampling, {&mask_token_id_, 1}, stats);
}

void Runner::score(const Tensor& hidden, const LogitChunk& chunk, const StepPlan& plan,
                   std::span<LiveRequest* const> batch) {
  Tensor all = logits_.rows(0, chunk.hidden_rows);
  model_.logits(context_, hidden.rows(chunk.hidden_begin, chunk.hidden_rows), all);
  Tensor logits = all.rows(0, chunk.scored_rows);
  if (chunk.guided) ops::guide(context_, logits, all.rows(chunk.scored_rows, chunk.scored_rows), chunk.guidance_scale);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i]->scores_everything()) keep_first_logits(*batch[i], plan.scored[i], chunk, logits);
    ban_ends(*batch[i], plan.scored[i], chunk, plan, logits);
  }
  const auto begin = static_cast<size_t>(chunk.scored_begin);
  const auto count = static_cast<size_t>(chunk.scored_rows);
  const auto sampling = std::span(plan.sampling).subspan(begin, count);
  if (std::ranges::any_of(sampling, [](const RowSampling& row) { return !row.edits.empty(); })) {
    ops::edit_logits(context_, logits, sampling);
  }
  ops::row_stats(context_, logits, sampling, {&mask_token_id_, 1}, std::span(stats_).subspan(begin, count));
  for (size_t i = 0; i < batch.size(); ++i) look_again(*batch[i], plan.scored[i], chunk, plan, logits);
}

StepResult Runner::run(std::span<LiveRequest* const> batch) {
  StepPlan plan = build_step(batch, cache_.shape().page_size, max_logit_rows_);
  for (RowSampling& row : plan.sampling) row.controls = controls_;
  const Tensor hidden = model_.forward(context_, plan.input, cache_);
  stats_.assign(plan.sampling.size(), {});
  for (const LogitChunk& chunk : plan.chunks) score(hidden, chunk, plan, batch);

  StepResult result{.stats = {}, .tokens = plan.input.tokens.size(0)};
  for (size_t i = 0; i < batch.size(); ++i) {
    const auto [begin, count] = plan.scored[i];
    result.stats.push_back(
        planned_rows(*batch[i], std::span(stats_).subspan(static_cast<size_t>(begin), static_cast<size_t>(count))));
  }
  return result;
}

}  // namespace pydllm::engine
