// What the algorithms of block-causal models share: one block after another, aligned to position 0, so that the
// prompt's tail shares its block with the first generated tokens. Private to decode.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "decode/algorithm.h"
#include "decode/capped.h"
#include "decode/param_values.h"
#include "select/select.h"

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
  // End of the window of the last plan.
  int32_t window_end() const noexcept { return window_end_; }
  // Forwards done in this block.
  int32_t step() const noexcept { return step_; }
  std::span<const int32_t> positions() const noexcept { return rows_; }  // of the last plan's rows

 private:
  // Where the next window ends: whole blocks, at least the current one. Called once for each plan.
  virtual int32_t next_window_end(const Canvas& /*canvas*/) { return block_end(); }
  // Appends the positions whose statistics decide; by default the masked ones of the window.
  virtual void add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const;
  // The positions that are fed, [first, second): the window, or a part of one block that an earlier forward fed whole.
  // Called once for each plan, after add_rows().
  virtual std::pair<int32_t, int32_t> fed(const Canvas& /*canvas*/, std::span<const int32_t> /*rows*/) {
    return {block_begin(), window_end_};
  }
  // stats[i] belongs to rows[i]; all are finite.
  virtual void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) = 0;
  // What follows from the writes of a forward.
  virtual void settle(Canvas& /*canvas*/) {}
  // Adds what this algorithm wants of the forward beyond its rows.
  virtual void extend(ForwardPlan& /*plan*/) const {}

  int32_t block_length_;
  int32_t first_begin_;
  int32_t begin_;
  int32_t step_ = 0;
  int32_t window_end_ = 0;
  std::vector<int32_t> rows_;  // of the last plan
};

// Commits the rows that choose(confidences, chosen) takes: it writes row indexes to `chosen` (room for all) and returns
// how many.
template <class Choose>
void commit_chosen(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas, Choose choose) {
  std::vector<float> confidences;
  for (const RowStats& row : stats) confidences.push_back(row.confidence);
  std::vector<int32_t> chosen(rows.size());
  const int32_t count = choose(std::span<const float>(confidences), chosen.data());
  for (int32_t i = 0; i < count; ++i) {
    const auto row = static_cast<size_t>(chosen[static_cast<size_t>(i)]);
    canvas.commit(rows[row], stats[row].token, stats[row].confidence);
  }
}

// Commits the rows above the threshold if there are at least `least`, else the `least` most confident ones.
inline void commit_confident(std::span<const int32_t> rows, std::span<const RowStats> stats, float threshold,
                             int32_t least, Canvas& canvas) {
  commit_chosen(rows, stats, canvas, [=](std::span<const float> confidences, int32_t* chosen) {
    const auto count = static_cast<int32_t>(confidences.size());
    return select::confident_or_top(confidences.data(), count, threshold, least, chosen);
  });
}

// An algorithm that ranks the masked positions of the block by confidence, and commits those it chooses for good.
class BlockCausalChoice : public BlockCausalDecoding {
 protected:
  using BlockCausalDecoding::BlockCausalDecoding;

 private:
  // Row indexes to commit, written to `chosen` (room for all); returns how many.
  virtual int32_t choose(std::span<const float> confidences, int32_t* chosen) = 0;
  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) final {
    commit_chosen(rows, stats, canvas,
                  [this](auto confidences, int32_t* chosen) { return choose(confidences, chosen); });
  }
};

class CappedBlockCausalDecoding : public Capped<BlockCausalChoice> {
 protected:
  // `values` needs max_steps_per_block in its table.
  CappedBlockCausalDecoding(const DecodeRequest& request, const ParamValues& values);
};

}  // namespace pydllm::decode
