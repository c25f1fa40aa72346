// What a client submits and what it gets back. Plain data.
#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "decode/algorithm.h"
#include "tensor/tensor.h"

namespace pydllm::engine {

using RequestId = uint64_t;
using Clock = std::chrono::steady_clock;

struct TokenBias {
  int32_t id = 0;
  float bias = 0;
};

struct Request {
  std::vector<int32_t> prompt;  // token ids, at least one, each in [0, vocab)
  int32_t max_tokens = 0;       // >= 1
  // Infilling, full attention only: what follows the prompt, -1 where a token is generated (max_tokens of them, the
  // first one included), ids for fixed text. The answer ends with the last -1; what follows it is only seen. Empty:
  // max_tokens positions to generate.
  std::vector<int32_t> rest;
  float temperature = 0;  // [0, 100]
  float top_p = 1;        // (0, 1]
  int32_t top_k = 0;      // >= 0
  float min_p = 0;        // [0, 1]; of draws, so without effect at temperature 0
  uint64_t seed = 0;
  // What happens to the logits of every row before anything is read from them: engine/logit_rules.h.
  float repetition_penalty = 1;        // (0, 100]
  float presence_penalty = 0;          // [-2, 2]
  float frequency_penalty = 0;         // [-2, 2]
  std::vector<TokenBias> logit_bias;   // [-100, 100], each id once; -100 bans it
  int32_t min_tokens = 0;              // in [0, max_tokens]: no EOS or stop id among the first ones
  std::vector<int32_t> eos_token_ids;  // empty: nothing ends the request early (ignore_eos)
  std::vector<int32_t> stop_token_ids;
  std::string algorithm;
  decode::ParamMap params;
  int32_t max_repetition_run = 0;  // this many equal generated tokens in a row end the request; 0: never, else >= 2
  int32_t max_forward_passes = 0;  // 0: no limit
  // A budget of time. Passed before the first denoising forward: kDeadlineExceeded. Otherwise the request ends
  // before the step that would end later, as with max_forward_passes.
  std::optional<Clock::time_point> deadline;
  bool snapshots = false;  // an event with the current block after every step
  bool trace = false;      // events carry the canvas before each forward and the first logits
};

enum class FinishReason : uint8_t { kStop, kStopToken, kLength, kStepLimit, kRepetition };
enum class FailReason : uint8_t { kCancelled, kDeadlineExceeded, kInternal, kDeviceLost, kShutdown };
enum class EventKind : uint8_t { kStarted, kStep, kFinished, kFailed };

// A block became final as a whole. Offsets count tokens of the answer.
struct BlockDone {
  int32_t block_index = 0;
  int32_t begin = 0;
  int32_t end = 0;
  int32_t denoise_steps = 0;
};

struct Event {
  RequestId id = 0;
  EventKind kind = EventKind::kStep;
  double time = 0;  // seconds, steady clock

  // Cumulative, up to and including this event.
  int32_t forward_passes = 0;
  int32_t denoise_steps = 0;
  int32_t edited_tokens = 0;  // of the answer, written and later changed or masked again
  double queue_seconds = 0;   // submission to admission

  // kStep, kFinished: tokens of the answer that became final (a prefix: nothing masked before them), fixed ones between
  // holes included. The last one may be the EOS or stop token that ended the request.
  int32_t final_offset = 0;
  std::vector<int32_t> final_tokens;
  std::vector<BlockDone> blocks;

  // kStep with Request::snapshots: the block (or blocks) that was denoised, masked positions as -1. Confidences are the
  // probabilities that the tokens had in the forward that wrote them (RowStats::confidence), 0 for masked positions.
  int32_t snapshot_block = -1;
  int32_t snapshot_step = 0;
  int32_t snapshot_offset = 0;
  std::vector<int32_t> snapshot_tokens;
  std::vector<float> snapshot_confidences;

  // kStep with Request::trace.
  std::vector<int32_t> canvas_before;  // whole canvas, masked positions hold the mask id
  Tensor first_logits;                 // float32 [canvas, vocab], first forward only

  FinishReason finish_reason = FinishReason::kLength;  // kFinished
  int32_t stop_token_id = -1;                          // kFinished with kStop, kStopToken
  FailReason fail_reason = FailReason::kInternal;      // kFailed
  std::string message;                                 // kFailed
};

// Upper bounds of the histogram of forward batch sizes, inclusive; one bucket follows for everything above.
inline constexpr std::array<int32_t, 8> kForwardBatchBounds = {1, 2, 4, 8, 16, 32, 64, 128};

// Counters; a consistent snapshot taken between steps.
struct EngineStats {
  int32_t running = 0;
  int32_t waiting = 0;
  int32_t pages_total = 0;
  int32_t pages_used = 0;
  uint64_t steps = 0;             // forwards of the engine (one may serve many requests)
  uint64_t request_forwards = 0;  // sum over requests
  uint64_t forward_tokens = 0;    // tokens fed
  uint64_t final_tokens = 0;      // tokens that became final
  uint64_t denoise_steps = 0;     // sum over requests; a forward that failed is none
  uint64_t blocks_finished = 0;   // sum over requests, blocks cut by an end included
  // Sum over denoising steps of all requests: generated positions of the blocks that the step worked on.
  uint64_t canvas_positions = 0;
  // Forwards by the number of requests they served (not cumulative); the sum is `steps`.
  std::array<uint64_t, kForwardBatchBounds.size() + 1> forward_batch_sizes = {};
  uint64_t requests_finished = 0;
  uint64_t requests_failed = 0;  // cancelled and expired ones included
  uint64_t late_commands = 0;    // cancels for unknown or ended ids
  std::string integrity;         // "" or the first violated invariant, checked when idle
};

}  // namespace pydllm::engine
