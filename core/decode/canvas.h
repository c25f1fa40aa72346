// The positions of one request: prompt and the region being denoised, fixed tokens within and behind it included. A
// position is masked by position, never by id, so a literal mask token in a prompt is data.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pydllm::decode {

// When a written token becomes final.
enum class Finality : uint8_t {
  kWritten,  // as soon as nothing is masked before it
  kSettled,  // when its algorithm settles it: until then it may be edited
};

class Canvas {
 public:
  // prompt ++ max_tokens masked positions that hold mask_token_id. With block_length > 0 (block-causal models) masked
  // positions follow until the canvas is made of whole blocks: the last block is denoised whole, the answer is cut.
  Canvas(std::span<const int32_t> prompt, int32_t max_tokens, int32_t mask_token_id, int32_t block_length = 0,
         Finality finality = Finality::kWritten);
  // Infilling: prompt ++ rest, where -1 is a masked position and anything else a fixed token that is never written. The
  // answer begins with rest's first position, which must be masked, and ends with its last masked one.
  Canvas(std::span<const int32_t> prompt, std::span<const int32_t> rest, int32_t mask_token_id);

  int32_t length() const noexcept { return static_cast<int32_t>(tokens_.size()); }
  int32_t prompt_length() const noexcept { return prompt_length_; }
  // Nothing from here on belongs to the answer: prompt_length + max_tokens, or behind the last hole.
  int32_t answer_end() const noexcept { return answer_end_; }
  // Whether the token was given: in the prompt, between holes or behind them.
  bool fixed(int32_t position) const { return position < prompt_length_ || fixed_[static_cast<size_t>(position)] != 0; }
  // Behind the last fixed token: positions before it have fixed text behind them.
  int32_t fixed_end() const noexcept { return fixed_end_; }
  // Of the answer's positions: not 0 where the token is fixed.
  std::span<const uint8_t> fixed_in_answer() const noexcept;
  int32_t mask_token_id() const noexcept { return mask_token_id_; }
  std::span<const int32_t> tokens() const noexcept { return tokens_; }
  // Of every position: the probability of its token in the forward that wrote it; 0 where a fixed token or a mask is.
  std::span<const float> confidences() const noexcept { return confidences_; }
  bool masked(int32_t position) const { return masked_[static_cast<size_t>(position)] != 0; }
  int32_t masked_count() const noexcept { return masked_count_; }
  // Tokens of the answer that edit() changed or remask() took away so far.
  int32_t edited_count() const noexcept { return edited_count_; }
  int32_t masked_count(int32_t begin, int32_t end) const;
  // Masked positions of [begin, end), ascending, appended to out.
  void masked_positions(int32_t begin, int32_t end, std::vector<int32_t>& out) const;
  // End of the final prefix (absolute position, >= prompt_length): nothing before it is masked or will change. It never
  // moves back.
  int32_t final_end() const noexcept { return final_end_; }
  // The lowest position written since forget_changes(); length() when there is none.
  int32_t first_change() const noexcept { return first_change_; }
  void forget_changes() noexcept { first_change_ = length(); }

  // Writes a token into a masked position; InternalError if the position is not masked or the id is the mask.
  // `confidence` is RowStats::confidence of the row that chose it.
  void commit(int32_t position, int32_t token, float confidence);
  // Repeats the token at `position`, which is not masked, in every later position that is not fixed, whatever stands
  // there; confidence 0.
  void fill_after(int32_t position);
  // Overwrites a generated token that is not final; InternalError if the position is masked, final or fixed, or the id
  // is the mask.
  void edit(int32_t position, int32_t token, float confidence);
  // Finality::kSettled: masks a generated token again that is not final; InternalError if the position is masked, final
  // or of the prompt.
  void remask(int32_t position);
  // Finality::kSettled: makes the positions before `end` final; InternalError if one of them is masked.
  void settle(int32_t end);

 private:
  void write(int32_t position, int32_t token, float confidence);
  int32_t unmasked_end() const;

  int32_t prompt_length_;
  int32_t answer_end_;
  int32_t mask_token_id_;
  Finality finality_;
  int32_t masked_count_;
  int32_t edited_count_ = 0;
  int32_t final_end_;
  int32_t first_change_;
  std::vector<int32_t> tokens_;
  std::vector<float> confidences_;
  std::vector<uint8_t> masked_;
  std::vector<uint8_t> fixed_;
  int32_t fixed_end_;
};

}  // namespace pydllm::decode
