// LLaDA2.2's Levenshtein editing: masks are filled and written tokens corrected as in joint_threshold, and two control
// tokens remove a slot or open one. Slots are the generated positions of the open block.
#include <algorithm>
#include <iterator>
#include <optional>
#include <set>
#include <tuple>
#include <utility>

#include "base/check.h"
#include "decode/algorithms.h"
#include "decode/block_causal_decoding.h"
#include "decode/param_values.h"
#include "select/select.h"

namespace pydllm::decode {
namespace {

constexpr std::string_view kAliases[] = {"JointThresholdInDel"};
constexpr std::string_view kModes[] = {"reference", "cumulative"};
constexpr int kMostRetries = 5;

constexpr ParamSpec kParams[] = {
    {.name = "mode",
     .alias = "levenshtein_mode",
     .type = ParamType::kChoice,
     .default_value = "reference",
     .choices = kModes,
     .help = "reference: masks are filled by a schedule, at least; cumulative (SGLang): one per step, at least"},
    {.name = "confidence_threshold",
     .alias = "threshold",
     .type = ParamType::kFloat,
     .default_value = "0.5",
     .minimum = 0,
     .maximum = 1,
     .help = "fill masked positions whose token has more than this probability"},
    {.name = "edit_threshold",
     .alias = "",
     .type = ParamType::kFloat,
     .default_value = "0",
     .minimum = 0,
     .maximum = 1,
     .help = "replace a written token by another one of more than this probability"},
    {.name = "max_post_edit_steps",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "16",
     .minimum = 0,
     .maximum = 1e6,
     .help = "steps of a block after the masks it began with are filled; 0: none"},
    {.name = "steps_per_block",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "32",
     .minimum = 1,
     .maximum = 1e6,
     .help = "mode reference: the block's masks are shared out over this many steps"},
    {.name = "max_steps_per_block",
     .alias = "",
     .type = ParamType::kInt,
     .default_value = "1000",
     .minimum = 1,
     .maximum = 1e6,
     .help = "at this step of a block everything is resolved"},
};

struct Slot {
  int32_t token = -1;  // -1: masked
  float confidence = 0;
  bool original = false;  // descends from a mask that the block began with
  bool operator==(const Slot& other) const { return token == other.token; }
};

class Levenshtein final : public BlockCausalDecoding {
 public:
  Levenshtein(const DecodeRequest& request, const ParamValues& values)
      : BlockCausalDecoding(request),
        delete_id_(request.delete_token_id),
        split_id_(request.split_token_id),
        scheduled_(values.choice("mode") == "reference"),
        fill_threshold_(static_cast<float>(values.number("confidence_threshold"))),
        edit_threshold_(static_cast<float>(values.number("edit_threshold"))),
        max_post_edit_steps_(values.integer("max_post_edit_steps")),
        schedule_steps_(values.integer("steps_per_block")),
        max_steps_(values.integer("max_steps_per_block")) {
    if (!scheduled_) max_steps_ = std::min(max_steps_, block_length() + max_post_edit_steps_ + 1);
  }

 private:
  void add_rows(const Canvas& canvas, std::vector<int32_t>& rows) const override {
    for (int32_t at = std::max(block_begin(), canvas.prompt_length()); at < block_end(); ++at) rows.push_back(at);
  }

  // rows are all slots.
  void write(std::span<const int32_t> rows, std::span<const RowStats> stats, Canvas& canvas) override {
    if (step() == 0) enter(rows, canvas);
    count_post_step();
    const std::vector<Slot> before = slots_;
    const std::vector<size_t> filled = choose_fills(stats);
    const bool last = is_last_step(filled);
    std::vector<size_t> written = last ? masked() : filled;
    add_corrections(stats, written);
    replace(written, stats, last);
    if (!last) leave_loop(before, written, stats);
    seen_.insert(tokens_of(scheduled_ ? slots_ : before));
    if (!last) apply_controls(before);
    store(rows, canvas);
    if (masked().empty() && (last || slots_ == before)) canvas.settle(block_end());
  }

  void enter(std::span<const int32_t> rows, const Canvas& canvas) {
    slots_.clear();
    for (const int32_t row : rows) {
      check(canvas.masked(row), "levenshtein: position ", row, " of a new block is not masked");
      slots_.push_back({.original = true});
    }
    masks_at_entry_ = static_cast<int64_t>(slots_.size());
    post_edit_steps_ = 0;
    seen_.clear();
  }

  std::vector<size_t> masked() const {
    std::vector<size_t> found;
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].token < 0) found.push_back(i);
    }
    return found;
  }

  int64_t original_masks() const {
    return std::ranges::count_if(slots_, [](const Slot& slot) { return slot.token < 0 && slot.original; });
  }

  // Masks that this step fills: all above the threshold, or as many as it must.
  std::vector<size_t> choose_fills(std::span<const RowStats> stats) const {
    const std::vector<size_t> masks = masked();
    const int64_t originals = original_masks(), introduced = static_cast<int64_t>(masks.size()) - originals;
    const int64_t share = scheduled_ ? scheduled_share() : originals > 0 ? 1 : -1;
    if (share < 0) return masks;
    std::vector<float> confidences;
    for (const size_t i : masks) confidences.push_back(stats[i].confidence);
    std::vector<int32_t> chosen(masks.size());
    const auto count = static_cast<int32_t>(masks.size());
    const auto least = static_cast<int32_t>(std::min<int64_t>(share + introduced, count));
    const int32_t taken = select::confident_or_top(confidences.data(), count, fill_threshold_, least, chosen.data());
    std::vector<size_t> fills;
    for (int32_t i = 0; i < taken; ++i) fills.push_back(masks[static_cast<size_t>(chosen[static_cast<size_t>(i)])]);
    return fills;
  }

  // Of this step; below 0: the schedule is over and every mask is filled.
  int64_t scheduled_share() const {
    return step() < schedule_steps_ ? select::scheduled_commits(masks_at_entry_, schedule_steps_, step()) : -1;
  }

  // Original masks never come back: what is put in is no original, and the mask is never written.
  void count_post_step() {
    if (original_masks() == 0) ++post_edit_steps_;
  }

  // The step that fills every mask with text and ends the block.
  bool is_last_step(const std::vector<size_t>& fills) const {
    if (step() + int64_t{1} >= max_steps_) return true;
    if (max_post_edit_steps_ > 0) return post_edit_steps_ >= max_post_edit_steps_;
    const int64_t resolved = std::ranges::count_if(fills, [this](size_t i) { return slots_[i].original; });
    return resolved == original_masks();
  }

  // Written tokens that the model now wants to be others.
  void add_corrections(std::span<const RowStats> stats, std::vector<size_t>& written) const {
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].token < 0 || slots_[i].token == stats[i].token) continue;
      if (stats[i].confidence > edit_threshold_) written.push_back(i);
    }
    std::ranges::sort(written);
  }

  bool is_control(int32_t token) const { return token == delete_id_ || token == split_id_; }

  void replace(const std::vector<size_t>& written, std::span<const RowStats> stats, bool text_only) {
    for (const size_t i : written) {
      const bool text = text_only && is_control(stats[i].token);
      slots_[i].token = text ? stats[i].text : stats[i].token;
      slots_[i].confidence = text ? stats[i].text_probability : stats[i].confidence;
      check(slots_[i].token >= 0, "levenshtein: no allowed token for slot ", i);
    }
  }

  static std::vector<int32_t> tokens_of(const std::vector<Slot>& slots) {
    std::vector<int32_t> tokens;
    for (const Slot& slot : slots) tokens.push_back(slot.token);
    return tokens;
  }

  // A state that was there before would come back for ever: the least sure change takes its second choice instead.
  void leave_loop(const std::vector<Slot>& before, const std::vector<size_t>& written,
                  std::span<const RowStats> stats) {
    std::vector<size_t> changes;
    std::ranges::copy_if(written, std::back_inserter(changes), [&](size_t i) {
      return slots_[i].token != before[i].token && second_choice(stats[i]).has_value();
    });
    std::ranges::stable_sort(changes, {}, [&](size_t i) { return slots_[i].confidence; });
    const bool returned = !scheduled_ && seen_.contains(tokens_of(before));
    for (size_t tried = 0; tried < std::min<size_t>(changes.size(), kMostRetries); ++tried) {
      if (!returned && !(scheduled_ && slots_ != before && seen_.contains(tokens_of(slots_)))) return;
      const size_t i = changes[tried];
      std::tie(slots_[i].token, slots_[i].confidence) = *second_choice(stats[i]);
      if (returned) return;
    }
  }

  static std::optional<std::pair<int32_t, float>> second_choice(const RowStats& row) {
    if (row.token != row.top1) return std::pair(row.top1, row.top1_probability);
    if (row.top2 < 0) return std::nullopt;
    return std::pair(row.top2, row.top2_probability);
  }

  // DELETE removes its slot, SPLIT puts a mask before what stood there; what is pushed out is lost, masks fill up.
  void apply_controls(const std::vector<Slot>& before) {
    std::vector<Slot> edited;
    for (size_t i = 0; i < slots_.size(); ++i) {
      if (slots_[i].token == delete_id_) continue;
      const bool split = slots_[i].token == split_id_;
      if (split) edited.push_back({});
      edited.push_back(split ? before[i] : slots_[i]);
    }
    edited.resize(slots_.size());
    slots_ = std::move(edited);
  }

  void store(std::span<const int32_t> rows, Canvas& canvas) const {
    for (size_t i = 0; i < slots_.size(); ++i) {
      const Slot& slot = slots_[i];
      const bool masked = canvas.masked(rows[i]);
      if (slot.token < 0) {
        if (!masked) canvas.remask(rows[i]);
      } else if (masked) {
        canvas.commit(rows[i], slot.token, slot.confidence);
      } else if (slot.token != canvas.tokens()[static_cast<size_t>(rows[i])]) {
        canvas.edit(rows[i], slot.token, slot.confidence);
      }
    }
  }

  int32_t delete_id_;
  int32_t split_id_;
  bool scheduled_;
  float fill_threshold_;  // single precision like the confidences
  float edit_threshold_;
  int64_t max_post_edit_steps_;
  int64_t schedule_steps_;
  int64_t max_steps_;

  // Of the open block.
  std::vector<Slot> slots_;
  std::set<std::vector<int32_t>> seen_;  // compared exactly: checksums of a block collide
  int64_t masks_at_entry_ = 0;
  int64_t post_edit_steps_ = 0;
};

std::unique_ptr<Decoding> begin(const DecodeRequest& request) {
  if (request.delete_token_id < 0 || request.split_token_id < 0) {
    throw Unsupported("diffusion.algorithm",
                      "levenshtein: expected a model with delete_token_id and split_token_id in config.json, got none");
  }
  return std::make_unique<Levenshtein>(request, ParamValues(request, kParams));
}

}  // namespace

constinit const Algorithm kLevenshtein = {
    .name = "levenshtein",
    .aliases = kAliases,
    .params = kParams,
    .summary = "fills masks, corrects written tokens, deletes and inserts slots by two control tokens, block by block",
    .source = "LLaDA2.2's _joint_decode_block, SGLang 0.5.23 JointThresholdInDel",
    .attention = AttentionKind::kBlockCausal,
    .finality = Finality::kSettled,
    .reads_controls = true,
    .begin = begin,
};

}  // namespace pydllm::decode
