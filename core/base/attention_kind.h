// What a token of a sequence sees: a fact of the model that decoding has to follow.
#pragma once

#include <cstdint>
#include <string_view>

namespace pydllm {

enum class AttentionKind : uint8_t {
  kFull,         // every token of the canvas; no K/V outlives a change anywhere
  kBlockCausal,  // its block of block_length positions (blocks start at position 0) and everything before it
};

constexpr std::string_view name_of(AttentionKind attention) {
  return attention == AttentionKind::kFull ? "full" : "block_causal";
}

}  // namespace pydllm
