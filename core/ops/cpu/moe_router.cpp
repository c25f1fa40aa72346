#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <vector>

#include "ops/cpu/cpu_ops.h"
#include "ops/cpu/parallel.h"

namespace pydllm::ops::cpu {
namespace {

constexpr float kNever = -std::numeric_limits<float>::infinity();

// The scores of one row; what is not a number stays so.
void softmax(const float* logits, int64_t count, float* scores) {
  const double max = *std::max_element(logits, logits + count);
  double sum = 0;
  for (int64_t e = 0; e < count; ++e) sum += std::exp(logits[e] - max);
  for (int64_t e = 0; e < count; ++e) scores[e] = static_cast<float>(std::exp(logits[e] - max) / sum);
}

void sigmoid(const float* logits, int64_t count, float* scores) {
  for (int64_t e = 0; e < count; ++e) {
    scores[e] = static_cast<float>(1 / (1 + std::exp(-static_cast<double>(logits[e]))));
  }
}

// The `kept` best of values[0, count) in falling order, ties in rising order of their index.
void best(const float* values, int32_t count, int32_t kept, std::vector<int32_t>& out) {
  out.resize(static_cast<size_t>(count));
  std::iota(out.begin(), out.end(), 0);
  std::partial_sort(out.begin(), out.begin() + kept, out.end(),
                    [values](int32_t a, int32_t b) { return values[a] != values[b] ? values[a] > values[b] : a < b; });
  out.resize(static_cast<size_t>(kept));
}

// The routing of consecutive rows, one after another.
class Router {
 public:
  Router(const RouterRule& rule, const float* bias, int64_t experts)
      : rule_(rule), bias_(bias), experts_(static_cast<int32_t>(experts)) {}

  // Rows that share their candidates: one, or a block.
  void route(const float* logits, int64_t rows, int32_t* experts, float* weights) {
    score(logits, rows);
    if (rule_.block_capacity > 0) keep_block_experts(rows);
    for (int64_t row = 0; row < rows; ++row) {
      float* choice = choice_.data() + row * experts_;
      if (rule_.block_capacity == 0 && rule_.groups > 1) keep_best_groups(choice);
      best(choice, experts_, rule_.experts_per_token, order_);
      write(scores_.data() + row * experts_, experts + row * rule_.experts_per_token,
            weights + row * rule_.experts_per_token);
    }
  }

 private:
  void score(const float* logits, int64_t rows) {
    scores_.resize(static_cast<size_t>(rows * experts_));
    choice_.resize(scores_.size());
    for (int64_t row = 0; row < rows; ++row) {
      const auto run = rule_.score == RouterScore::kSoftmax ? softmax : sigmoid;
      run(logits + row * experts_, experts_, scores_.data() + row * experts_);
    }
    for (size_t i = 0; i < scores_.size(); ++i) {
      const float choice = bias_ == nullptr ? scores_[i] : scores_[i] + bias_[i % static_cast<size_t>(experts_)];
      choice_[i] = std::isnan(choice) ? kNever : choice;
    }
  }

  void keep_best_groups(float* choice) {
    const int32_t size = experts_ / rule_.groups;
    group_scores_.clear();
    for (int32_t group = 0; group < rule_.groups; ++group) {
      best(choice + group * size, size, 2, order_);
      group_scores_.push_back(choice[group * size + order_[0]] + choice[group * size + order_[1]]);
    }
    best(group_scores_.data(), rule_.groups, rule_.groups, order_);
    for (size_t rank = static_cast<size_t>(rule_.groups_kept); rank < order_.size(); ++rank) {
      std::fill_n(choice + order_[rank] * size, size, kNever);
    }
  }

  void keep_block_experts(int64_t rows) {
    block_best_.assign(static_cast<size_t>(experts_), kNever);
    for (int64_t i = 0; i < rows * experts_; ++i) {
      float& so_far = block_best_[static_cast<size_t>(i % experts_)];
      so_far = std::max(so_far, choice_[static_cast<size_t>(i)]);
    }
    best(block_best_.data(), experts_, experts_, order_);
    for (size_t rank = static_cast<size_t>(rule_.block_capacity); rank < order_.size(); ++rank) {
      for (int64_t row = 0; row < rows; ++row) choice_[static_cast<size_t>(row * experts_ + order_[rank])] = kNever;
    }
  }

  void write(const float* scores, int32_t* experts, float* weights) const {
    double sum = 0;
    for (const int32_t expert : order_) sum += static_cast<double>(scores[expert]);
    const double factor = static_cast<double>(rule_.scale) / (rule_.normalize ? sum + 1e-20 : 1.0);
    for (size_t i = 0; i < order_.size(); ++i) {
      experts[i] = order_[i];
      weights[i] = static_cast<float>(static_cast<double>(scores[order_[i]]) * factor);
    }
  }

  const RouterRule& rule_;
  const float* bias_;
  int32_t experts_;
  std::vector<float> scores_, choice_;  // [rows, experts]
  std::vector<float> group_scores_, block_best_;
  std::vector<int32_t> order_;
};

}  // namespace

void route(const Context& context, const Tensor& logits, const Tensor& bias, const RouterRule& rule, Tensor& experts,
           Tensor& weights) {
  const int64_t unit = rule.block_capacity > 0 ? rule.block_length : 1;
  const int64_t count = logits.size(1), kept = rule.experts_per_token;
  parallel_rows(context, logits.size(0) / unit, unit * count, [&](int64_t begin, int64_t end) {
    Router router(rule, bias.defined() ? bias.data<float>() : nullptr, count);
    for (int64_t row = begin * unit; row < end * unit; row += unit) {
      router.route(logits.data<float>() + row * count, unit, experts.data<int32_t>() + row * kept,
                   weights.data<float>() + row * kept);
    }
  });
}

}  // namespace pydllm::ops::cpu
