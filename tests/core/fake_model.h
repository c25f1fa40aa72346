// A model without weights for engine tests. Its logits are a hash of all that a token sees, read back from the K/V
// pages it wrote, so that a wrong slot, a stale page or a neighbour's token changes (or, for a torn page, poisons) the
// answer.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "models/model.h"

namespace pydllm::fake {

struct Behaviour {
  int32_t vocab = 61;
  int32_t max_positions = 512;
  int32_t block_length = 0;  // above 0: block-causal
  bool logit_shift = false;
  std::string architecture = "FakeModel";
  int32_t nan_token = -1;                  // a sequence that holds this id has NaN logits
  int32_t loved_token = -1;                // wins every row by far
  std::map<int32_t, int32_t> wanted = {};  // position -> token that wins there by far
  std::function<void(const StepInput&)> on_forward = {};
  std::function<void(int64_t rows)> on_logits = {};
};

inline uint64_t mix(uint64_t x) {
  x += 0x9E3779B97F4A7C15u;
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

inline uint64_t hash_step(uint64_t hash, int32_t token) {
  return mix(hash ^ static_cast<uint64_t>(token + 1));
}

// 48 bits, so that two floats hold them exactly.
inline uint64_t hash_of(const std::vector<int32_t>& sequence) {
  uint64_t hash = 0;
  for (const int32_t token : sequence) hash = hash_step(hash, token);
  return hash >> 16;
}

inline float logit(const Behaviour& behaviour, uint64_t hash, int32_t position, int32_t token) {
  if (token == behaviour.loved_token) return 90.0f;
  const auto wanted = behaviour.wanted.find(position);
  if (wanted != behaviour.wanted.end() && wanted->second == token) return 60.0f;
  const uint64_t row = mix(hash ^ (static_cast<uint64_t>(position) << 48));
  const auto favourite = static_cast<int32_t>(row % static_cast<uint64_t>(behaviour.vocab));
  const float boost = token == favourite ? static_cast<float>((row >> 32) % 12) : 0.0f;
  return boost + static_cast<float>(mix(row ^ static_cast<uint64_t>(token)) >> 40) / 16777216.0f * 4.0f;
}

class FakeModel final : public Model {
 public:
  explicit FakeModel(Behaviour behaviour) : behaviour_(std::move(behaviour)) {
    info_.architecture = behaviour_.architecture;
    info_.vocab_size = behaviour_.vocab;
    info_.hidden_size = 4;
    info_.max_positions = behaviour_.max_positions;
    info_.kv_layers = 1;
    info_.kv_heads = 1;
    info_.head_dim = 1;
    info_.attention = behaviour_.block_length > 0 ? AttentionKind::kBlockCausal : AttentionKind::kFull;
    info_.block_length = behaviour_.block_length;
    info_.logit_shift = behaviour_.logit_shift;
  }

  const ModelInfo& info() const override { return info_; }

  Tensor forward(const Context&, const StepInput& input, KvCache& cache) override {
    if (behaviour_.on_forward) behaviour_.on_forward(input);
    write_pages(input, cache);
    std::vector<float> states;  // of every token: hash high, hash low, position, marker
    for (const ops::SequenceSpan& sequence : input.sequences) append_states(input, sequence, cache, states);
    const int64_t rows = input.hidden_rows.size(0);
    Tensor hidden = Tensor::empty({rows, 4}, DType::kF32);
    for (int64_t row = 0; row < rows; ++row) {
      const auto token = static_cast<size_t>(input.hidden_rows.data<int32_t>()[row]);
      std::copy_n(states.data() + token * 4, 4, hidden.data<float>() + row * 4);
    }
    return hidden;
  }

  void logits(const Context&, const Tensor& hidden, Tensor& out) override {
    const auto [rows, width] = shape_of<2>(hidden, "hidden");
    if (behaviour_.on_logits) behaviour_.on_logits(rows);
    check(width == 4, "fake hidden states have 4 numbers");
    expect_shape(out, "logits", {rows, behaviour_.vocab});
    for (int64_t row = 0; row < rows; ++row) {
      const float* state = hidden.data<float>() + row * 4;
      const uint64_t hash = (static_cast<uint64_t>(state[0]) << 24) | static_cast<uint64_t>(state[1]);
      for (int32_t token = 0; token < behaviour_.vocab; ++token) {
        out.data<float>()[row * behaviour_.vocab + token] =
            logit(behaviour_, hash, static_cast<int32_t>(state[2]), token) + state[3];
      }
    }
  }

 private:
  // One number per position and side: the slot is the offset.
  static void write_pages(const StepInput& input, KvCache& cache) {
    for (int64_t i = 0; i < input.tokens.size(0); ++i) {
      const int64_t slot = input.slots.data<int64_t>()[i];
      cache.keys(0).data<float>()[slot] = static_cast<float>(input.tokens.data<int32_t>()[i]);
      cache.values(0).data<float>()[slot] = static_cast<float>(input.positions.data<int32_t>()[i]);
    }
  }

  // What one token sees. The marker is added to every logit: 0, or NaN when the sequence asks for it or its pages do
  // not hold it.
  struct View {
    uint64_t hash = 0;
    float marker = 0;
  };

  void add_position(KvCache& cache, int64_t slot, int32_t position, View& view) const {
    const float token = cache.keys(0).data<float>()[slot];
    if (!(cache.values(0).data<float>()[slot] == static_cast<float>(position)) || !std::isfinite(token) ||
        token == static_cast<float>(behaviour_.nan_token)) {
      view.marker = std::numeric_limits<float>::quiet_NaN();
      return;
    }
    view.hash = hash_step(view.hash, static_cast<int32_t>(token));
  }

  void append_states(const StepInput& input, const ops::SequenceSpan& sequence, KvCache& cache,
                     std::vector<float>& states) const {
    View view;
    int32_t seen = 0;
    for (int32_t i = 0; i < sequence.query_length; ++i) {
      const int32_t position = input.positions.data<int32_t>()[sequence.query_begin + i];
      const BlockGrid blocks{sequence.block_length, sequence.block_origin};
      const int32_t end = blocks.length == 0 ? sequence.kv_length : std::min(sequence.kv_length, blocks.next(position));
      for (; seen < end; ++seen) {
        add_position(cache, slot_of(sequence.pages, cache.shape().page_size, seen), seen, view);
      }
      const uint64_t hash = view.hash >> 16;
      states.insert(states.end(), {static_cast<float>(hash >> 24), static_cast<float>(hash & 0xFFFFFFu),
                                   static_cast<float>(position), view.marker});
    }
  }

  Behaviour behaviour_;
  ModelInfo info_;
};

}  // namespace pydllm::fake
