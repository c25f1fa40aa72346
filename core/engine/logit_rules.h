// What a request asks of its own logits: penalties, logit_bias, min_tokens, no end in holes with text behind them. All
// become edits of a row (LogitEdit), which the row statistics are made from, so that they hold for every algorithm: its
// token, its confidences, its order.
//
// A logit x of token t becomes r(x) - frequency * n - presence * [n > 0] + bias, where n counts t among the written
// tokens of the answer and r divides a positive x and multiplies another one by the repetition penalty if t is in the
// prompt or n > 0 (Keskar et al., 2019, CTRL; OpenAI's two penalties; the order is vLLM's and SGLang's, the bias last).
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <vector>

#include "decode/canvas.h"
#include "engine/request.h"
#include "select/row_stats.h"

namespace pydllm::engine {

// How often a token counts.
struct TokenCount {
  int32_t id = 0;
  int32_t count = 0;
};

// The rules of one request.
class LogitRules {
 public:
  LogitRules() = default;  // none
  // The request is checked, its id lists and biases ascend.
  LogitRules(const Request& request, int32_t mask_token_id);

  // Whether rows depend on what is written.
  bool penalises() const noexcept { return repetition_ != 1 || presence_ != 0 || frequency_ != 0; }
  // What holds for the row of a position whatever is written; ascending ids.
  std::span<const LogitEdit> fixed(int32_t position) const noexcept { return fixed_[stretch_of(position)]; }
  // The same and the penalties of `counts` (ascending ids).
  std::vector<LogitEdit> edits(int32_t position, std::span<const TokenCount> counts) const;
  // The tokens that penalties count: written positions of the answer, whether final or not. Not fixed text between
  // holes, not the mask, and not what ends the answer: behind an end of sequence models write many more of them, which
  // are no part of it. Ascending ids.
  std::vector<TokenCount> count(const decode::Canvas& canvas) const;
  bool counts(int32_t token) const;
  // Positions of one stretch have the same fixed edits. Of the first `min_tokens` (kEarly) nothing may end the answer;
  // a hole with fixed text behind it (kInner) holds text, so that no end of sequence is chosen in it.
  enum Stretch : uint8_t { kEarly, kInner, kOpen };
  static constexpr size_t kStretches = 3;
  Stretch stretch_of(int32_t position) const noexcept {
    return position < early_end_ ? kEarly : position < inner_end_ ? kInner : kOpen;
  }

 private:
  float repetition_ = 1, presence_ = 0, frequency_ = 0;
  int32_t early_end_ = 0, inner_end_ = 0;
  std::vector<int32_t> uncounted_;  // ascending
  // Of each stretch: prompt and logit_bias, and bans of what may not be chosen in it.
  std::array<std::vector<LogitEdit>, kStretches> fixed_;
};

// The edits of one forward's rows, given the canvas before it. Rows with the same edits share a list.
class RowEdits {
 public:
  // `storage` gets the lists that depend on the canvas; all but it must outlive what of() returns.
  RowEdits(const LogitRules& rules, const decode::Canvas& canvas, std::vector<std::vector<LogitEdit>>& storage);

  // Empty for prompt positions, whose rows decide nothing. The token that stands at the position already does not count
  // against itself: an algorithm that edits would else replace it for being there.
  std::span<const LogitEdit> of(int32_t position);

 private:
  std::span<const LogitEdit> keep(std::vector<LogitEdit> edits);
  std::vector<TokenCount> counts_without(int32_t token) const;

  const LogitRules& rules_;
  const decode::Canvas& canvas_;
  std::vector<std::vector<LogitEdit>>& storage_;
  std::vector<TokenCount> counts_;
  std::span<const LogitEdit> masked_[LogitRules::kStretches];  // of masked rows
  bool known_[LogitRules::kStretches] = {};
};

}  // namespace pydllm::engine
