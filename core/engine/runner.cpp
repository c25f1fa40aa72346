#include "engine/runner.h"

#include <algorithm>

#include "ops/row_stats.h"
#include "tensor/copy.h"

namespace pydllm::engine {
namespace {

// The part of the chunk that belongs to the request, as the model gave it: with shifted logits the scored row of a
// position is the model's row of the one before.
void keep_first_logits(const Context& context, LiveRequest& live, const ScoredRange& scored, const LogitChunk& chunk,
                       const Tensor& logits) {
  const int32_t first = scored.begin + (live.logit_shift ? 1 : 0);
  const int32_t begin = std::max(chunk.scored_begin, first);
  const int32_t end = std::min(chunk.scored_begin + chunk.scored_rows, scored.begin + scored.count);
  if (begin >= end) return;
  copy(context, logits.rows(begin - chunk.scored_begin, end - begin),
       live.first_logits.rows(begin - first, end - begin));
}

std::vector<RowStats> planned_rows(const LiveRequest& live, std::span<const RowStats> scored) {
  if (!live.scores_everything()) return {scored.begin(), scored.end()};
  std::vector<RowStats> rows;
  for (const int32_t position : live.plan.rows) {
    rows.push_back(scored[static_cast<size_t>(position - live.plan.query_begin)]);
  }
  return rows;
}

std::vector<int32_t> never_text(const EngineOptions& options) {
  std::vector<int32_t> ids = control_ids(options);
  ids.push_back(options.mask_token_id);
  return ids;
}

}  // namespace

Runner::Runner(const Context& context, Model& model, KvCache& cache, const EngineOptions& options)
    : context_(context),
      model_(model),
      cache_(cache),
      max_logit_rows_(options.max_logit_rows),
      mask_token_id_(options.mask_token_id),
      no_text_(never_text(options)),
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
  summarise(own, sampling, stats);
}

void Runner::score(const Tensor& hidden, const LogitChunk& chunk, const StepPlan& plan,
                   std::span<LiveRequest* const> batch) {
  Tensor all = logits_.rows(0, chunk.hidden_rows);
  model_.logits(context_, hidden.rows(chunk.hidden_begin, chunk.hidden_rows), all);
  Tensor logits = all.rows(0, chunk.scored_rows);
  if (chunk.guided) ops::guide(context_, logits, all.rows(chunk.scored_rows, chunk.scored_rows), chunk.guidance_scale);
  for (size_t i = 0; i < batch.size(); ++i) {
    if (batch[i]->scores_everything()) keep_first_logits(context_, *batch[i], plan.scored[i], chunk, logits);
  }
  const auto begin = static_cast<size_t>(chunk.scored_begin);
  const auto count = static_cast<size_t>(chunk.scored_rows);
  const auto sampling = std::span(plan.sampling).subspan(begin, count);
  if (std::ranges::any_of(sampling, [](const RowSampling& row) { return !row.edits.empty(); })) {
    ops::edit_logits(context_, logits, sampling);
  }
  summarise(logits, sampling, std::span(stats_).subspan(begin, count));
  for (size_t i = 0; i < batch.size(); ++i) look_again(*batch[i], plan.scored[i], chunk, plan, logits);
}

// A row takes a control token only where its algorithm reads them. Neighbours of one kind go together: all rows of a
// model without such tokens.
void Runner::summarise(const Tensor& logits, std::span<const RowSampling> sampling, std::span<RowStats> out) const {
  const auto reads = [&](size_t row) { return !sampling[row].controls.empty(); };
  for (size_t begin = 0, end = 0; begin < sampling.size(); begin = end) {
    while (end < sampling.size() && reads(end) == reads(begin)) ++end;
    const size_t count = end - begin;
    const Tensor rows = logits.rows(static_cast<int64_t>(begin), static_cast<int64_t>(count));
    const std::span<const int32_t> forbidden = reads(begin) ? std::span(&mask_token_id_, 1) : std::span(no_text_);
    ops::row_stats(context_, rows, sampling.subspan(begin, count), forbidden, out.subspan(begin, count));
  }
}

// Waits for the last step, if that has not been done, and moves the inputs of this one to the device.
void Runner::begin_step(StepInput& input) const {
  if (context_.arena == nullptr) return;
  cudart::use(context_.device);
  context_.arena->reset();
  for (Tensor* tensor : {&input.tokens, &input.positions, &input.slots, &input.hidden_rows}) {
    *tensor = to_device_for_step(context_, *tensor);
  }
}

StepResult Runner::run(std::span<LiveRequest* const> batch) {
  StepPlan plan = build_step(batch, cache_.shape().page_size, max_logit_rows_);
  begin_step(plan.input);
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
