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

int32_t whole_blocks(int32_t positions, int32_t block_length) {
  if (block_length == 0) return positions;
  check(block_length > 0, "canvas: negative block length ", block_length);
  const int64_t length = (int64_t{positions} + block_length - 1) / block_length * block_length;
  check(length <= std::numeric_limits<int32_t>::max(), "canvas: ", length, " positions do not fit 32 bits");
  return static_cast<int32_t>(length);
}

}  // namespace

Canvas::Canvas(std::span<const int32_t> prompt, int32_t max_tokens, int32_t mask_token_id, int32_t block_length,
               Finality finality)
    : prompt_length_(checked_length(prompt.size(), max_tokens)),
      answer_end_(prompt_length_ + max_tokens),
      mask_token_id_(mask_token_id),
      finality_(finality),
      masked_count_(whole_blocks(answer_end_, block_length) - prompt_length_),
      final_end_(prompt_length_),
      first_change_(prompt_length_ + masked_count_),
      tokens_(prompt.begin(), prompt.end()),
      masked_(prompt.size(), 0),
      fixed_(prompt.size(), 1),
      fixed_end_(prompt_length_) {
  const auto length = static_cast<size_t>(prompt_length_ + masked_count_);
  tokens_.resize(length, mask_token_id);
  masked_.resize(length, 1);
  confidences_.resize(length, 0.0f);
  fixed_.resize(length, 0);
}

Canvas::Canvas(std::span<const int32_t> prompt, std::span<const int32_t> rest, int32_t mask_token_id)
    : Canvas(prompt, checked_length(rest.size(), 0), mask_token_id) {
  check(!rest.empty() && rest.front() == -1, "canvas: the answer must begin with a masked position");
  for (size_t i = 0; i < rest.size(); ++i) {
    const size_t position = prompt.size() + i;
    if (rest[i] == -1) {
      answer_end_ = static_cast<int32_t>(position) + 1;
      continue;
    }
    check(rest[i] >= 0, "canvas: ", rest[i], " at position ", position, " is no token");
    tokens_[position] = rest[i];
    masked_[position] = 0;
    fixed_[position] = 1;
    fixed_end_ = static_cast<int32_t>(position) + 1;
    --masked_count_;
  }
}

std::span<const uint8_t> Canvas::fixed_in_answer() const noexcept {
  return std::span(fixed_).subspan(static_cast<size_t>(prompt_length_),
                                   static_cast<size_t>(answer_end_ - prompt_length_));
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
  write(position, token, confidence);
  masked_[static_cast<size_t>(position)] = 0;
  --masked_count_;
  if (finality_ == Finality::kWritten) final_end_ = unmasked_end();
}

void Canvas::edit(int32_t position, int32_t token, float confidence) {
  check(final_end_ <= position && position < length() && !masked(position) && !fixed(position), "canvas: position ",
        position, " holds no token that may be edited");
  if (position < answer_end_ && token != tokens_[static_cast<size_t>(position)]) ++edited_count_;
  write(position, token, confidence);
}

void Canvas::remask(int32_t position) {
  check(finality_ == Finality::kSettled, "canvas: tokens are final when they are written");
  check(final_end_ <= position && position < length() && !masked(position), "canvas: position ", position,
        " holds no token that may be masked");
  const auto at = static_cast<size_t>(position);
  tokens_[at] = mask_token_id_;
  confidences_[at] = 0.0f;
  masked_[at] = 1;
  ++masked_count_;
  if (position < answer_end_) ++edited_count_;
  first_change_ = std::min(first_change_, position);
}

void Canvas::settle(int32_t end) {
  check(finality_ == Finality::kSettled, "canvas: tokens are final when they are written");
  check(final_end_ <= end && end <= unmasked_end(), "canvas: positions before ", end, " cannot be settled");
  final_end_ = end;
}

void Canvas::write(int32_t position, int32_t token, float confidence) {
  check(token != mask_token_id_, "canvas: the mask token cannot be committed (position ", position, ")");
  check(token >= 0, "canvas: no allowed token for position ", position);
  tokens_[static_cast<size_t>(position)] = token;
  confidences_[static_cast<size_t>(position)] = confidence;
  first_change_ = std::min(first_change_, position);
}

void Canvas::fill_after(int32_t position) {
  check(prompt_length_ <= position && position < length(), "canvas: position ", position, " of ", length());
  check(!masked(position), "canvas: position ", position, " is masked");
  const int32_t first = position + 1;
  masked_count_ -= masked_count(first, length());
  for (auto at = static_cast<size_t>(first); at < tokens_.size(); ++at) {
    if (fixed_[at] == 0) tokens_[at] = tokens_[static_cast<size_t>(position)];
  }
  std::fill(confidences_.begin() + first, confidences_.end(), 0.0f);
  std::fill(masked_.begin() + first, masked_.end(), uint8_t{0});
  first_change_ = std::min(first_change_, first);
  if (finality_ == Finality::kWritten) final_end_ = unmasked_end();
}

int32_t Canvas::unmasked_end() const {
  int32_t end = final_end_;
  while (end < length() && !masked(end)) ++end;
  return end;
}

}  // namespace pydllm::decode
