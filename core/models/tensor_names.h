// Where a family keeps the tensors of a pre-norm decoder with gated feed-forward blocks.
#pragma once

#include <string_view>

namespace pydllm {

// Names of whole tensors, unless "prefix" (a layer's index and a dot follow) or "linear" (".weight" and ".bias"
// follow). Those after `layers` stand behind a layer's prefix.
struct TensorNames {
  std::string_view embedding = {};
  std::string_view final_norm = {};
  std::string_view head = {};    // linear
  std::string_view layers = {};  // prefix

  std::string_view attention_norm = {};
  std::string_view query = {}, key = {}, value = {};  // linear
  std::string_view packed_qkv = {};  // linear; query | key | value in one, where a family stores them so
  std::string_view query_norm = {}, key_norm = {};
  std::string_view attention_out = {};  // linear

  std::string_view ffn_norm = {};
  std::string_view gate = {}, up = {}, down = {};  // linear

  std::string_view router = {};  // linear
  std::string_view router_bias = {};
  std::string_view experts = {};  // prefix; then gate_proj, up_proj, down_proj
  std::string_view shared = {};   // prefix without an index; the same
};

}  // namespace pydllm
