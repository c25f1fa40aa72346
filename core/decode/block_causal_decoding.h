// What the algorithms of block-causal models share: one block after another, aligned to position 0, so that the
// prompt's tail shares its block with the first generated tokens. Private to decode.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decode/algorithm.h"

namespace pydllm::decode {

// Walks over the blocks; an algorithm says which rows of a block it wants and what it writes. commit() moves on to the
// next block with work; progress() then shows that block with block_step 0 (after the last forward: the last block).
class BlockCausalDecoding : public Decoding {
 public:
  void plan(const Canvas& canvas, ForwardPlan& plan) final;
  void commit(std::span<const RowStats> stats, Canvas& canvas) final;
  // The rest of the last block is not denoised once the answer is final.
  bool done(const Canvas& canvas) const final { return canvas.final_end() >= canvas.answer_end(); }
  Progress progress() const final;

 protected:
  explicit BlockCausalDecoding(const DecodeRequest& request);

  int32_t block_begin() const noexcept { return begin_; }
  int32_t block_end() const noexcept { return begin_ + block_length_; }
  int32_t block_length() const noexcept { return block_length_; }
  // Forwards done in this block.
  int32_t step() const noexcept { return step_; }

 private:
  // Appends the positions whose statistics decide; by default the masked ones of the block.
  virtual void add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const;
  // stats[i] belongs to rows[i]; all are finite.
  virtual void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) = 0;

  int32_t block_length_;
  int32_t first_begin_;
  int32_t begin_;
  int32_t step_ = 0;
  std::vector<int32_t> rows_;  // of the last plan
};

// An algorithm that ranks the masked positions of the block by confidence, and commits those it chooses for good.
class BlockCausalChoice : public BlockCausalDecoding {
 protected:
  using BlockCausalDecoding::BlockCausalDecoding;

 private:
  // Row indexes to commit, written to `chosen` (room for all); returns how many.
  virtual int32_t choose(std::span<const float> confidences, int32_t* chosen) = 0;
  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) final;

  std::vector<float> confidences_;
  std::vector<int32_t> chosen_;
};

}  // namespace pydllm::decode
