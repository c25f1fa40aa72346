// What a token of a sequence sees: a fact of the model that decoding has to follow, or what an algorithm asks of it.
#pragma once

#include <cstdint>
#include <string_view>

namespace pydllm {

enum class AttentionKind : uint8_t {
  kFull,         // every token of the canvas; no K/V outlives a change anywhere
  kBlockCausal,  // its block of block_length positions (blocks start at position 0) and everything before it
  // Of algorithms: the same in a full-attention network, with blocks that start at the prompt's end. The prompt is a
  // block of its own.
  kPromptBlockCausal,
};

// Where the blocks of block-causal attention lie: `length` positions each, from `origin` on; what is before `origin` is
// one block. Length 0: full attention.
struct BlockGrid {
  int32_t length = 0;
  int32_t origin = 0;

  bool operator==(const BlockGrid&) const = default;
  // The last boundary that is at most `position`, and the first one above it.
  int32_t floor(int32_t position) const { return position < origin ? 0 : position - (position - origin) % length; }
  int32_t next(int32_t position) const { return position < origin ? origin : floor(position) + length; }
};

constexpr std::string_view name_of(AttentionKind attention) {
  switch (attention) {
    case AttentionKind::kFull:
      return "full";
    case AttentionKind::kBlockCausal:
      return "block_causal";
    case AttentionKind::kPromptBlockCausal:
      return "prompt_block_causal";
  }
  return "unknown";
}

}  // namespace pydllm
