#include "decode/canvas.h"

#include <algorithm>
#include <limits>

#include "base/check.h"

namespace pydllm::decode {
namespace {

int32_t checked_length(size_t prompt_length, int32_t max_tokens) {
  const auto limit = static_cast<size_t>(std::numeric_limits<int32_t>::max());
  check(max_tokens >= 0, "canvas: negative max_tokens ", max_tokens);
  check(prompt_length <= limit - static_cast<size_t>(max_tokens), "canvas: ", prompt_length, " + ", max_tokens,
        " positions do not fit 32 bits");
  return static_cast<int32_t>(prompt_length);
}

}  // namespace

Canvas::Canvas(std::span<const int32_t> prompt, int32_t max_tokens, int32_t mask_token_id)
    : prompt_length_(checked_length(prompt.size(), max_tokens)),
      mask_token_id_(mask_token_id),
      masked_count_(max_tokens),
      final_end_(prompt_length_),
      tokens_(prompt.begin(), prompt.end()),
      confidences_(prompt.size() + static_cast<size_t>(max_tokens), 0.0f),
      masked_(prompt.size(), 0) {
  const size_t length = prompt.size() + static_cast<size_t>(max_tokens);
  tokens_.resize(length, mask_token_id);
  masked_.resize(length, 1);
}

int32_t Canvas::masked_count(int32_t begin, int32_t end) const {
  check(0 <= begin && begin <= end && end <= length(), "canvas: range [", begin, ", ", end, ") of ", length());
  return static_cast<int32_t>(std::count(masked_.begin() + begin, masked_.begin() + end, uint8_t{1}));
}

void Canvas::masked_positions(int32_t begin, int32_t end, std::vector<int32_t>& out) const {
  check(0 <= begin && begin <= end && end <= length(), "canvas: range [", begin, ", ", end, ") of ", length());
  for (int32_t position = begin; position < end; ++position) {
    if (masked(position)) out.push_back(position);
  }
}

void Canvas::commit(int32_t position, int32_t token, float confidence) {
  check(0 <= position && position < length(), "canvas: position ", position, " of ", length());
  check(masked(position), "canvas: position ", position, " is not masked");
  check(token != mask_token_id_, "canvas: the mask token cannot be committed (position ", position, ")");
  check(token >= 0, "canvas: no allowed token for position ", position);
  tokens_[static_cast<size_t>(position)] = token;
  confidences_[static_cast<size_t>(position)] = confidence;
  masked_[static_cast<size_t>(position)] = 0;
  --masked_count_;
  extend_final();
}

void Canvas::fill_after(int32_t position) {
  check(prompt_length_ <= position && position < length(), "canvas: position ", position, " of ", length());
  check(!masked(position), "canvas: position ", position, " is masked");
  masked_count_ -= masked_count(position, length());
  const auto first = position + 1;
  std::fill(tokens_.begin() + first, tokens_.end(), tokens_[static_cast<size_t>(position)]);
  std::fill(confidences_.begin() + first, confidences_.end(), 0.0f);
  std::fill(masked_.begin() + first, masked_.end(), uint8_t{0});
  extend_final();
}

void Canvas::extend_final() {
  while (final_end_ < length() && !masked(final_end_)) ++final_end_;
}

}  // namespace pydllm::decode
