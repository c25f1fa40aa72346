#include "ops/expert_ffn.h"

#include <cstring>
#include <vector>

#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"
#include "ops/swiglu.h"

namespace pydllm::ops::cpu {
namespace {

// The tokens that chose one expert, in their order.
struct Share {
  std::vector<int64_t> tokens;
  std::vector<float> weights;
};

std::vector<Share> shares_of(const Tensor& choice, const Tensor& weights, size_t experts) {
  std::vector<Share> shares(experts);
  for (int64_t i = 0; i < choice.numel(); ++i) {
    const int32_t expert = choice.data<int32_t>()[i];
    check(expert >= 0 && static_cast<size_t>(expert) < experts, "choice[", i, "]: expected 0 <= expert < ", experts,
          ", got ", expert);
    Share& share = shares[static_cast<size_t>(expert)];
    share.tokens.push_back(i / choice.size(1));
    share.weights.push_back(weights.data<float>()[i]);
  }
  return shares;
}

Tensor gathered(const Tensor& x, std::span<const int64_t> rows) {
  Tensor out = Tensor::empty({static_cast<int64_t>(rows.size()), x.size(1)}, x.dtype());
  const size_t bytes = static_cast<size_t>(x.size(1)) * size_of(x.dtype());
  for (size_t i = 0; i < rows.size(); ++i) {
    std::memcpy(static_cast<char*>(out.raw()) + i * bytes,
                static_cast<const char*>(x.raw()) + static_cast<size_t>(rows[i]) * bytes, bytes);
  }
  return out;
}

Tensor outputs_of(const Context& context, const Tensor& x, const Expert& expert) {
  Tensor gate_up = Tensor::empty({x.size(0), expert.gate_up.out_features()}, DType::kF32);
  linear(context, x, expert.gate_up, gate_up);
  Tensor activated = Tensor::empty({x.size(0), expert.down.in_features()}, x.dtype());
  swiglu(context, gate_up, activated);
  Tensor out = Tensor::empty({x.size(0), expert.down.out_features()}, DType::kF32);
  linear(context, activated, expert.down, out);
  return out;
}

void add_weighted(const Context& context, const Tensor& outputs, const Share& share, Tensor& y) {
  const int64_t width = y.size(1);
  parallel_rows(context, outputs.size(0), width, [&](int64_t begin, int64_t end) {
    for (int64_t r = begin; r < end; ++r) {
      const float weight = share.weights[static_cast<size_t>(r)];
      const float* from = outputs.data<float>() + r * width;
      float* to = y.data<float>() + share.tokens[static_cast<size_t>(r)] * width;
      for (int64_t c = 0; c < width; ++c) to[c] += weight * from[c];
    }
  });
}

}  // namespace

void expert_ffn(const Context& context, const Tensor& x, const Tensor& choice, const Tensor& weights,
                std::span<const Expert> experts, Tensor& y) {
  const std::vector<Share> shares = shares_of(choice, weights, experts.size());
  for (size_t e = 0; e < experts.size(); ++e) {
    if (shares[e].tokens.empty()) continue;
    add_weighted(context, outputs_of(context, gathered(x, shares[e].tokens), experts[e]), shares[e], y);
  }
}

}  // namespace pydllm::ops::cpu
