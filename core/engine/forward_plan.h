// What the next forward of a request feeds, and what its pages hold afterwards. Here the rule of the committed cache is
// kept: K/V are reused only when a forward over the final ids of their positions wrote them.
#pragma once

#include "engine/live_request.h"

namespace pydllm::engine {

// Asks the decoding state for its next forward, checks the answer (InternalError: a bug in the algorithm) and sets the
// feed. The request's first plan also fixes its lanes and, where it has one, its mask.
void plan_forward(LiveRequest& live, int32_t max_batched_tokens);

// The feed of the plan: the window and, before it, the final positions whose K/V the pages lack (with shifted logits
// also the position before the window, whose row is that of the window's first one). When all of that is more than
// max_batched_tokens, whole blocks of the latter go first, in forwards of their own.
void set_feed(LiveRequest& live, int32_t max_batched_tokens);

// After the forward and the writes that it led to: the K/V it wrote are committed as far as the ids it read are final;
// those of a window that saw stale K/V never.
void keep_committed(LiveRequest& live);

}  // namespace pydllm::engine
