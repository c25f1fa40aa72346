// What the block-wise algorithms over a full-attention canvas share: the walk over blocks, the plan of a forward, and
// the values rows are ranked by. An algorithm adds how it ranks a row and how many it takes. Private to decode.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "decode/algorithm.h"
#include "decode/capped.h"
#include "decode/param_values.h"

namespace pydllm::decode {

// What eligible positions are ranked by: the model's certainty, or a uniform draw.
enum class Remasking : uint8_t { kLowConfidence, kRandom };

// Which positions a step feeds after its block's first one, which feeds the whole canvas (Fast-dLLM). The others keep
// the K/V of that forward: an approximation.
enum class WindowCache : uint8_t {
  kNone,    // all positions: exact
  kPrefix,  // the block and everything behind it
  kDual,    // the block
};

// Parameters with one meaning in every block-wise algorithm. A block-causal model has its block length, pages that are
// exact without a window, and no remasking in the originals.
inline constexpr ParamSpec kBlockLengthParam = {
    .name = "block_length",
    .alias = "",
    .type = ParamType::kInt,
    .default_value = "32",
    .minimum = 1,
    .maximum = 1e6,
    .help = "tokens denoised together; more than max_tokens means one block",
    .attention = AttentionKind::kFull};

inline constexpr ParamSpec kMaxStepsPerBlockParam = {
    .name = "max_steps_per_block",
    .alias = "",
    .type = ParamType::kInt,
    .default_value = "block_length",
    .minimum = 1,
    .maximum = 1e6,
    .help = "at this step of a block everything still masked in it is committed"};

inline constexpr std::string_view kRemaskingChoices[] = {"low_confidence", "random"};
inline constexpr ParamSpec kRemaskingParam = {
    .name = "remasking",
    .alias = "",
    .type = ParamType::kChoice,
    .default_value = "low_confidence",
    .choices = kRemaskingChoices,
    .help = "rank positions by what the model says, or by a uniform draw in its place",
    .attention = AttentionKind::kFull};

inline constexpr std::string_view kCacheChoices[] = {"none", "prefix", "dual"};
inline constexpr ParamSpec kCacheParam = {
    .name = "cache",
    .alias = "",
    .type = ParamType::kChoice,
    .default_value = "none",
    .choices = kCacheChoices,
    .help = "after a block's first step feed everything, the block and what follows it, or the block alone",
    .attention = AttentionKind::kFull};

// How many of the answer's positions [begin, end) hold a token that is to be generated.
int32_t tokens_to_generate(const DecodeRequest& request, int32_t begin, int32_t end);
// Of the whole answer.
int32_t tokens_to_generate(const DecodeRequest& request);

// Blocks of `block_length` positions of the answer, starting at the prompt's end; the last one is the remainder.
class BlockWalk {
 public:
  BlockWalk(const DecodeRequest& request, int64_t block_length);

  int32_t count() const noexcept { return (max_tokens_ - 1) / block_length_ + 1; }
  int32_t block_length() const noexcept { return block_length_; }
  int32_t step() const noexcept { return step_; }  // forwards done in this block
  bool last() const noexcept { return end_offset() == max_tokens_; }
  // Generated offsets, relative to the prompt's end.
  int32_t begin_offset() const noexcept { return begin_; }
  int32_t end_offset() const noexcept;
  // Absolute positions.
  int32_t begin() const noexcept { return prompt_length_ + begin_; }
  int32_t end() const noexcept { return prompt_length_ + end_offset(); }

  void count_step() noexcept { ++step_; }
  void next_block() noexcept;
  Progress progress() const noexcept { return {begin_ / block_length_, begin(), end(), step_}; }

 private:
  int32_t prompt_length_;
  int32_t max_tokens_;
  int32_t block_length_;
  int32_t begin_ = 0;
  int32_t step_ = 0;
};

// Eligible rows are the masked positions before the current block's end. commit() moves on to the next block with work;
// progress() then shows that block with block_step 0 (after the last forward: the last block).
class BlockDecoding : public Decoding {
 public:
  void plan(const Canvas& canvas, ForwardPlan& plan) final;
  void commit(std::span<const RowStats> stats, Canvas& canvas) final;
  bool done(const Canvas& canvas) const final;
  Progress progress() const override { return walk_.progress(); }

 protected:
  BlockDecoding(const DecodeRequest& request, int64_t block_length, Remasking remasking,
                WindowCache cache = WindowCache::kNone);

  const BlockWalk& walk() const noexcept { return walk_; }
  int32_t step() const noexcept { return walk_.step(); }                 // forwards done in this block
  uint32_t forward() const noexcept { return forward_; }                 // forwards committed so far
  std::span<const int32_t> positions() const noexcept { return rows_; }  // of the last plan's rows
  // A draw in (0, 1) for a row of the last plan, the same whatever else is in the batch.
  float uniform(size_t row) const;

 private:
  // What a row is ranked by unless remasking is random.
  virtual float score(const RowStats& row) const { return row.confidence; }
  // Row indexes to commit, written to `chosen` (room for all); returns how many.
  virtual int32_t choose(std::span<const float> ranks, int32_t* chosen) = 0;
  // Forwards that must have run before the block that ends at this generated offset is left.
  virtual int64_t forwards_due(int32_t /*end_offset*/) const { return 0; }
  // Masked positions before this one are eligible; at least the current block's end.
  virtual int32_t eligible_end(const Canvas& /*canvas*/) { return walk_.end(); }
  // What follows from the writes of a forward.
  virtual void settle(Canvas& /*canvas*/) {}
  // Sets what the forward feeds: query_begin, query_end, stale_context. Called once for each plan, after
  // eligible_end().
  virtual void set_window(const Canvas& canvas, ForwardPlan& plan);
  // Adds what this algorithm wants of the forward beyond the eligible rows.
  virtual void extend(ForwardPlan& /*plan*/) const {}

  bool block_finished(const Canvas& canvas) const;
  void skip_finished_blocks(const Canvas& canvas);
  void rank(std::span<const RowStats> stats);

  BlockWalk walk_;
  int32_t max_tokens_;
  uint64_t seed_;
  Remasking remasking_;
  WindowCache cache_;
  uint32_t forward_ = 0;
  std::vector<int32_t> rows_;  // of the last plan
  std::vector<float> ranks_;
  std::vector<int32_t> chosen_;
};

class CappedBlockDecoding : public Capped<BlockDecoding> {
 protected:
  // `values` needs block_length, max_steps_per_block, remasking and cache in its table.
  CappedBlockDecoding(const DecodeRequest& request, const ParamValues& values);
};

Remasking parse_remasking(std::string_view name);
WindowCache parse_cache(std::string_view name);

}  // namespace pydllm::decode
