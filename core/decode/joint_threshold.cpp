// LLaDA2.1's joint decoding: masks are filled and tokens already written are corrected in the same step.
#include <algorithm>

#include "decode/algorithms.h"
#include "decode/block_causal_decoding.h"
#include "decode/param_values.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"JointThreshold"};

constexpr ParamSpec kParams[] = {
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.7",
     .minimum = 0,
     .maximum = 1,
     .help = "fill masked positions whose token has more than this probability"},
    {.name = "edit_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0.5",
     .minimum = 0,
     .maximum = 1,
     .help = "replace a written token by another one of more than this probability"},
    {.name = "allow_edits",
     .alias = "edit_enabled",
     .type = ParamType::kBool,
     .default_value = "true",
     .help = "false: written tokens stay, as in low_confidence"},
    {.name = "max_post_edit_steps",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "16",
     .minimum = 0,
     .maximum = 1e6,
     .help = "steps of a block that may edit after its last mask is filled"},
};

class JointThreshold final : public BlockCausalDecoding {
 public:
  JointThreshold(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalDecoding(request),
        fill_threshold_(static_cast<float>(values.number("confidence_threshold"))),
        edit_threshold_(static_cast<float>(values.number("edit_threshold"))),
        edits_(values.boolean("allow_edits")),
        max_post_edit_steps_(values.integer("max_post_edit_steps")) {}

 private:
  void add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const override {
    if (!edits_) return canvas.masked_positions(block_begin(), block_end(), rows);
    for (int32_t at = std::max(block_begin(), canvas.prompt_length()); at < block_end(); ++at) rows.push_back(at);
  }

  // Written tokens first: what this step fills is not edited by the same step.
  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) override {
    if (step() == 0) post_edit_steps_ = 0;
    const bool masks = canvas.masked_count(block_begin(), block_end()) > 0;
    if (!masks && ++post_edit_steps_ > max_post_edit_steps_) return canvas.settle(block_end());
    const int32_t edited = edit(rows, stats, canvas);
    if (masks) fill(rows, stats, canvas);
    const bool may_change = edits_ && (masks || edited > 0);
    if (!may_change && canvas.masked_count(block_begin(), block_end()) == 0) canvas.settle(block_end());
  }

  int32_t edit(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) const {
    int32_t edited = 0;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (canvas.masked(rows[i])) continue;
      const bool other = stats[i].token != canvas.tokens()[static_cast<size_t>(rows[i])];
      if (!other || !(stats[i].confidence > edit_threshold_)) continue;
      canvas.edit(rows[i], stats[i].token, stats[i].confidence);
      ++edited;
    }
    return edited;
  }

  void fill(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) const {
    std::vector<int32_t> masked;
    std::vector<RowStats> masked_stats;
    for (size_t i = 0; i < rows.size(); ++i) {
      if (!canvas.masked(rows[i])) continue;
      masked.push_back(rows[i]);
      masked_stats.push_back(stats[i]);
    }
    commit_confident(masked, masked_stats, fill_threshold_, 1, canvas);
  }

  float fill_threshold_;  // single precision like the confidences
  float edit_threshold_;
  bool edits_;
  int64_t max_post_edit_steps_;
  int64_t post_edit_steps_ = 0;  // of this block
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  return std::make_unique<JointThreshold>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kJointThreshold = {
    .name = "joint_threshold",
    .aliases = kAliases,
    .params = kParams,
    .summary = "fills masks above one threshold and corrects written tokens above another, block by block",
    .source = "LLaDA2.1 (arXiv 2602.08676), SGLang 0.5.23 srt/dllm/algorithm JointThreshold",
    .attention = AttentionKind::kBlockCausal,
    .finality = Finality::kSettled,
    .begin = begin,
};

}  // namespace pydllm::decode
