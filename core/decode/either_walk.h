// A rule of both kinds of models, written once: it derives from the walk that it is given, CappedBlockDecoding or
// CappedBlockCausalDecoding, which agree in take(), positions(), extend() and settle(). Private to decode.
#pragma once

#include <memory>
#include <span>

#include "decode/block_causal_decoding.h"
#include "decode/block_decoding.h"

namespace pydllm::decode {

// Of an algorithm that runs on models with full and with block-causal attention.
inline constexpr AttentionKinds kEitherAttention = {AttentionKind::kFull, AttentionKind::kBlockCausal};

// On the walk of the request's model.
template <template <class Walk> class Rule>
std::unique_ptr<Decoding> begin_on_walk(const DecodeRequest& request, std::span<const ParamSpec> table) {
  const ParamValues values(request, table);
  if (request.block_length > 0) return std::make_unique<Rule<CappedBlockCausalDecoding>>(request, values);
  return std::make_unique<Rule<CappedBlockDecoding>>(request, values);
}

}  // namespace pydllm::decode
