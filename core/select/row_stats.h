// What a decoding algorithm sees of one row of logits. A few numbers per scored position replace the whole vocabulary.
#pragma once

#include <cstdint>
#include <limits>
#include <span>

namespace pydllm {

// What a request's own rules make of one logit x before anything is read from its row: x / factor where x > 0, else
// x * factor, plus bias.
struct LogitEdit {
  int32_t id = 0;
  float factor = 1;  // above 0
  float bias = 0;    // kBanned: the id has probability 0 and is never chosen
};
inline constexpr float kBanned = -std::numeric_limits<float>::infinity();

// Of the distribution that a token is drawn from: temperature, then top-k, top-p and min-p, renormalised; temperature 0
// counts as 1 and has no min-p. Forbidden ids take part, banned ones do not. Dream ranks positions by these.
struct FilteredStats {
  float confidence = 0;  // probability of the row's `token`; 0 when the filters leave it out
  float margin = 0;      // largest minus second largest probability
  float entropy = 0;     // nats
};

// All probabilities are of the plain softmax of the row's edited logits: unscaled by temperature, unfiltered, forbidden
// ids included in the normaliser. Natural logarithms, entropy in nats.
struct RowStats {
  int32_t token =
      -1;  // the id to commit: sampled when temperature > 0, else the arg-max; never a forbidden or banned id
  float confidence = 0;  // probability of `token`
  int32_t top1 = -1;     // most probable allowed id (lowest id on ties)
  float top1_probability = 0;
  int32_t top2 = -1;  // next allowed id; -1 when the vocabulary allows only one
  float top2_probability = 0;
  int32_t text = -1;  // most probable allowed id that RowSampling::controls does not hold; -1 when there is none
  float text_probability = 0;
  float log_sum_exp = 0;
  float entropy = 0;       // ln z - s/z with z = sum e^(x-m), s = sum (x-m) e^(x-m)
  bool finite = false;     // every logit of the row is finite; the other fields mean nothing otherwise
  FilteredStats filtered;  // where RowSampling::filtered asks for them
};

// How the token of one row is chosen. The seed, step and position make the draw independent of the batch.
struct RowSampling {
  float temperature = 0;  // 0 is greedy
  float top_p = 1;        // nucleus mass in (0, 1]; 1 disables
  int32_t top_k = 0;      // 0 disables
  uint64_t seed = 0;
  uint32_t step = 0;      // forward pass of the request, 0-based
  uint32_t position = 0;  // absolute position in the canvas
  bool filtered = false;  // whether RowStats::filtered is wanted
  float min_p = 0;        // ids below this share of the largest probability cannot be drawn; in [0, 1], 0 disables
  std::span<const LogitEdit> edits = {};  // one per id, ascending; outlives the call
  // Ids that are allowed and yet no text, ascending (LLaDA2.2: DELETE and SPLIT); outlives the call.
  std::span<const int32_t> controls = {};
};

}  // namespace pydllm
