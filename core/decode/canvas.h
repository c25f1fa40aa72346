// The positions of one request: prompt and the region being denoised. A position is masked by position, never by id, so
// a literal mask token in a prompt is data.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace pydllm::decode {

class Canvas {
 public:
  // prompt ++ max_tokens masked positions that hold mask_token_id.
  Canvas(std::span<const int32_t> prompt, int32_t max_tokens, int32_t mask_token_id);

  int32_t length() const noexcept { return static_cast<int32_t>(tokens_.size()); }
  int32_t prompt_length() const noexcept { return prompt_length_; }
  int32_t mask_token_id() const noexcept { return mask_token_id_; }
  std::span<const int32_t> tokens() const noexcept { return tokens_; }
  // Of every position: the probability of its token in the forward that wrote it; 0 where the prompt or a mask is.
  std::span<const float> confidences() const noexcept { return confidences_; }
  bool masked(int32_t position) const { return masked_[static_cast<size_t>(position)] != 0; }
  int32_t masked_count() const noexcept { return masked_count_; }
  int32_t masked_count(int32_t begin, int32_t end) const;
  // Masked positions of [begin, end), ascending, appended to out.
  void masked_positions(int32_t begin, int32_t end, std::vector<int32_t>& out) const;
  // End of the longest prefix of the generated region with nothing masked (absolute position, >= prompt_length).
  int32_t final_end() const noexcept { return final_end_; }

  // Writes a token into a masked position; InternalError if the position is not masked or the id is the mask.
  // `confidence` is RowStats::confidence of the row that chose it.
  void commit(int32_t position, int32_t token, float confidence);
  // Repeats the token at `position`, which is not masked, in every later position, whatever stands there; confidence 0.
  void fill_after(int32_t position);

 private:
  void extend_final();

  int32_t prompt_length_;
  int32_t mask_token_id_;
  int32_t masked_count_;
  int32_t final_end_;
  std::vector<int32_t> tokens_;
  std::vector<float> confidences_;
  std::vector<uint8_t> masked_;
};

}  // namespace pydllm::decode
