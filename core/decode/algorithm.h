// A decoding algorithm: shared, const, one file each. Per request it makes a Decoding, which answers two questions:
// what should the next forward cover, and given its row statistics, what is written.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <variant>
#include <vector>

#include "base/attention_kind.h"
#include "decode/canvas.h"
#include "select/row_stats.h"

namespace pydllm::decode {

// What the next forward of a request denoises: the window [query_begin, query_end). Full attention: the whole canvas,
// or, with stale_context, a part of it. Block-causal attention: whole blocks; everything before the window is final,
// and the engine feeds along whatever of it the pages do not hold yet, so an algorithm never asks for a prompt to be
// encoded or a finished block to be committed.
struct ForwardPlan {
  int32_t query_begin = 0;
  int32_t query_end = 0;
  std::vector<int32_t> rows;  // positions of the window whose statistics are wanted, ascending; may be empty
  bool filtered = false;      // RowStats::filtered is wanted, too
  // Outside the window the K/V of this request's earlier forwards are seen as they are, although tokens have changed
  // since: an approximation. With full attention the first forward covers the canvas; with block-causal attention the
  // window is a part of one block that an earlier forward fed whole.
  bool stale_context = false;
  // Of an algorithm that asks for AttentionKind::kPromptBlockCausal, the same in every plan: the length of its blocks.
  // The window is made of whole blocks (the last one may end with the canvas), as with block-causal models. 0: the
  // model's attention.
  int32_t block_length = 0;
  // Each row has a second look: commit() gets the statistics of its logits after the edits that reconsider() makes.
  bool reconsidered = false;
  bool guided = false;       // also run the canvas with every fixed position masked ...
  float guidance_scale = 0;  // ... and combine: uncond + (scale + 1) * (cond - uncond)
};

// Where the request stands, for streaming and statistics.
struct Progress {
  int32_t block_index = 0;  // the first block that is being denoised
  int32_t block_begin = 0;  // absolute positions
  int32_t block_end = 0;
  int32_t block_step = 0;  // denoising steps already done since it is the first
  // End of the last block being denoised; all have the same length, but the canvas may end within the last. 0: there is
  // one.
  int32_t active_end = 0;
};

// Per-request state. Lives on the engine thread; holds no device memory.
class Decoding {
 public:
  virtual ~Decoding() = default;
  // Legal while !done(canvas). Fills every field of `plan`.
  virtual void plan(const Canvas& canvas, ForwardPlan& plan) = 0;
  // With ForwardPlan::reconsidered, once for each row of the forward before commit(): `stats` are of the logits of
  // plan.rows[row] under the request's own rules; appends what is edited in them besides, ascending ids. A banned id
  // stays banned.
  virtual void reconsider(size_t /*row*/, const RowStats& /*stats*/, std::vector<LogitEdit>& /*edits*/) {}
  // stats[i] belongs to plan.rows[i] of the last plan(). Commits tokens into the canvas and moves on.
  virtual void commit(std::span<const RowStats> stats, Canvas& canvas) = 0;
  // No forward is left to run. Implies that the whole answer is final.
  virtual bool done(const Canvas& canvas) const = 0;
  virtual Progress progress() const = 0;
};

// A set of attention kinds.
class AttentionKinds {
 public:
  constexpr AttentionKinds(AttentionKind kind) : bits_(bit(kind)) {}  // one kind is a set of it
  constexpr AttentionKinds(std::initializer_list<AttentionKind> kinds) {
    for (const AttentionKind kind : kinds) bits_ |= bit(kind);
  }
  constexpr bool contains(AttentionKind kind) const { return (bits_ & bit(kind)) != 0; }

 private:
  static constexpr uint32_t bit(AttentionKind kind) { return 1u << static_cast<uint32_t>(kind); }

  uint32_t bits_ = 0;
};

// --- parameters: declared once per algorithm, checked at submission ---

using ParamValue = std::variant<bool, int64_t, double, std::string>;
using ParamMap = std::vector<std::pair<std::string, ParamValue>>;

enum class ParamType : uint8_t { kBool, kInt, kFloat, kChoice };

struct ParamSpec {
  std::string_view name;   // as in DiffusionParams where a typed field exists, else as in `extra`
  std::string_view alias;  // another accepted spelling in `extra`; empty for none
  ParamType type;
  std::string_view default_value;  // in words where it depends on the request, e.g. "max_tokens"
  double minimum = 0;              // kInt, kFloat: inclusive range
  double maximum = 0;
  std::span<const std::string_view> choices = {};  // kChoice
  std::string_view help;
  // Of the models on which the algorithm has it.
  AttentionKinds attention = {AttentionKind::kFull, AttentionKind::kBlockCausal};
};

// What a Decoding is made from. `params` is already checked against the algorithm's table, aliases resolved.
struct DecodeRequest {
  int32_t prompt_length = 0;
  int32_t max_tokens = 0;    // positions of the answer, fixed ones included
  int32_t block_length = 0;  // of the block-causal model; 0 for full attention
  uint64_t seed = 0;
  std::span<const int32_t> eos_token_ids = {};  // outlives the Decoding; empty: nothing ends the answer early
  int32_t delete_token_id = -1;  // control tokens of a model that edits by them (LLaDA2.2); -1: it has none
  int32_t split_token_id = -1;
  const ParamMap* params = nullptr;
  const ParamMap* defaults = nullptr;  // of the model's family, checked likewise; elsewhere the table's apply
  // Infilling: [max_tokens], not 0 where the answer's token is given. Empty: nowhere. Only begin() reads it.
  std::span<const uint8_t> fixed = {};
};

struct Algorithm {
  std::string_view name;
  std::span<const std::string_view> aliases;
  std::span<const ParamSpec> params;
  std::string_view summary;
  std::string_view source;  // paper and original implementation
  // Of the models it runs on, whose own one begin() goes by; kPromptBlockCausal: those with kFull.
  AttentionKinds attention = AttentionKind::kFull;
  Finality finality = Finality::kWritten;  // kSettled: it edits what it has written
  // It takes a row's DELETE or SPLIT for what it says; the rows of other algorithms never get one as their token.
  bool reads_controls = false;
  // Throws InvalidRequest(field) for values that are in range but contradict each other or the request.
  std::unique_ptr<Decoding> (*begin)(const DecodeRequest& request);
};

// All algorithms (registry.cpp's constexpr table).
std::span<const Algorithm* const> algorithms();
// By name or alias; throws InvalidRequest("algorithm") listing the known names.
const Algorithm& find_algorithm(std::string_view name);
// Whether it runs on models of this attention (kFull or kBlockCausal).
bool runs_on(const Algorithm& algorithm, AttentionKind model);
// For a model of this attention: checks names, types and ranges against the table and resolves aliases. Throws
// InvalidRequest naming the parameter, what was expected and what came; Unsupported for a typed parameter that other
// algorithms have and this one does not, and for one that it has on models of another attention only.
ParamMap check_params(const Algorithm& algorithm, AttentionKind model, const ParamMap& given);

}  // namespace pydllm::decode
