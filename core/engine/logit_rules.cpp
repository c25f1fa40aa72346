#include "engine/logit_rules.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace pydllm::engine {
namespace {

constexpr float kBanBias = -100;  // of a request; OpenAI's "ban"

std::vector<int32_t> ascending(std::vector<int32_t> ids) {
  std::ranges::sort(ids);
  ids.erase(std::unique(ids.begin(), ids.end()), ids.end());
  return ids;
}

std::vector<int32_t> endings_of(const Request& request) {
  std::vector<int32_t> ids = request.eos_token_ids;
  ids.insert(ids.end(), request.stop_token_ids.begin(), request.stop_token_ids.end());
  return ascending(std::move(ids));
}

// Behind the last fixed token that follows the prompt; 0 when there is none.
int32_t end_of_fixed(const Request& request) {
  const auto open =
      std::ranges::find_if(request.rest.rbegin(), request.rest.rend(), [](int32_t id) { return id >= 0; });
  return open == request.rest.rend() ? 0 : static_cast<int32_t>(request.prompt.size() + (request.rest.rend() - open));
}

std::vector<LogitEdit> bans_of(std::span<const int32_t> ids) {
  std::vector<LogitEdit> bans;
  for (const int32_t id : ids) bans.push_back({.id = id, .bias = kBanned});
  return bans;
}

std::vector<LogitEdit> biases_of(std::span<const TokenBias> given) {
  std::vector<LogitEdit> edits;
  for (const auto [id, bias] : given) edits.push_back({.id = id, .bias = bias <= kBanBias ? kBanned : bias});
  return edits;
}

// Both ascend. Biases of an id in both add up; a repetition counts once.
std::vector<LogitEdit> merged(std::span<const LogitEdit> a, std::span<const LogitEdit> b) {
  std::vector<LogitEdit> out;
  out.reserve(a.size() + b.size());
  std::ranges::merge(a, b, std::back_inserter(out), {}, &LogitEdit::id, &LogitEdit::id);
  size_t kept = 0;
  for (size_t i = 0; i < out.size(); ++i) {
    if (kept == 0 || out[kept - 1].id != out[i].id) {
      out[kept++] = out[i];
      continue;
    }
    if (out[kept - 1].factor == 1) out[kept - 1].factor = out[i].factor;
    out[kept - 1].bias += out[i].bias;
  }
  out.resize(kept);
  return out;
}

// Behind the position of the first `count` generated tokens; fixed tokens between holes are none.
int32_t end_of_generated(const Request& request, int32_t count) {
  const auto begin = static_cast<int32_t>(request.prompt.size());
  if (request.rest.empty()) return begin + count;
  int32_t position = 0;
  for (; count > 0; ++position) {
    if (request.rest[static_cast<size_t>(position)] == -1) --count;
  }
  return begin + position;
}

}  // namespace

LogitRules::LogitRules(const Request& request, int32_t mask_token_id)
    : repetition_(request.repetition_penalty),
      presence_(request.presence_penalty),
      frequency_(request.frequency_penalty),
      early_end_(request.min_tokens == 0 ? 0 : end_of_generated(request, request.min_tokens)),
      inner_end_(end_of_fixed(request)),
      uncounted_(endings_of(request)) {
  std::vector<LogitEdit> everywhere = biases_of(request.logit_bias);
  const std::vector<LogitEdit> endings = bans_of(uncounted_);
  uncounted_.push_back(mask_token_id);
  uncounted_ = ascending(std::move(uncounted_));
  if (request.repetition_penalty != 1) {
    std::vector<LogitEdit> repeated;
    std::vector<int32_t> given = request.prompt;  // with the fixed text of a canvas
    std::ranges::copy_if(request.rest, std::back_inserter(given), [](int32_t id) { return id >= 0; });
    for (const int32_t id : ascending(std::move(given))) {
      if (id != mask_token_id) repeated.push_back({.id = id, .factor = request.repetition_penalty});
    }
    everywhere = merged(everywhere, repeated);
  }
  if (early_end_ > 0) fixed_[kEarly] = merged(everywhere, endings);
  if (inner_end_ > 0) fixed_[kInner] = merged(everywhere, bans_of(request.eos_token_ids));
  fixed_[kOpen] = std::move(everywhere);
}

bool LogitRules::counts(int32_t token) const {
  return !std::ranges::binary_search(uncounted_, token);
}

std::vector<TokenCount> LogitRules::count(const decode::Canvas& canvas) const {
  std::vector<int32_t> written;
  for (int32_t position = canvas.prompt_length(); position < canvas.answer_end(); ++position) {
    const int32_t token = canvas.tokens()[static_cast<size_t>(position)];
    if (!canvas.masked(position) && !canvas.fixed(position) && counts(token)) written.push_back(token);
  }
  std::ranges::sort(written);
  std::vector<TokenCount> out;
  for (const int32_t token : written) {
    if (out.empty() || out.back().id != token) out.push_back({token, 0});
    ++out.back().count;
  }
  return out;
}

std::vector<LogitEdit> LogitRules::edits(int32_t position, std::span<const TokenCount> counts) const {
  std::vector<LogitEdit> penalties;
  for (const auto [id, count] : counts) {
    const float bias = -frequency_ * static_cast<float>(count) - presence_;
    penalties.push_back({.id = id, .factor = repetition_, .bias = bias});
  }
  return merged(fixed(position), penalties);
}

RowEdits::RowEdits(const LogitRules& rules, const decode::Canvas& canvas, std::vector<std::vector<LogitEdit>>& storage)
    : rules_(rules), canvas_(canvas), storage_(storage) {
  if (rules_.penalises()) counts_ = rules_.count(canvas_);
}

std::span<const LogitEdit> RowEdits::of(int32_t position) {
  if (position < canvas_.prompt_length()) return {};
  if (!rules_.penalises()) return rules_.fixed(position);
  const bool written = position < canvas_.answer_end() && !canvas_.masked(position) && !canvas_.fixed(position);
  const int32_t token = written ? canvas_.tokens()[static_cast<size_t>(position)] : -1;
  if (written && rules_.counts(token)) return keep(rules_.edits(position, counts_without(token)));
  const LogitRules::Stretch stretch = rules_.stretch_of(position);
  if (!known_[stretch]) masked_[stretch] = keep(rules_.edits(position, counts_));
  known_[stretch] = true;
  return masked_[stretch];
}

std::span<const LogitEdit> RowEdits::keep(std::vector<LogitEdit> edits) {
  return storage_.emplace_back(std::move(edits));
}

std::vector<TokenCount> RowEdits::counts_without(int32_t token) const {
  std::vector<TokenCount> counts = counts_;
  const auto own = std::ranges::lower_bound(counts, token, {}, &TokenCount::id);
  if (--own->count == 0) counts.erase(own);
  return counts;
}

}  // namespace pydllm::engine
