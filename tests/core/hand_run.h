// A model run by hand on one sequence in one page: the reference of engine tests, without scheduler, batch and page
// table.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

#include "base/thread_pool.h"
#include "engine/request.h"
#include "models/model.h"
#include "ops/row_stats.h"

namespace pydllm::engine {

class HandRun {
 public:
  // `length`: positions that the page holds.
  HandRun(Model& model, int32_t length, int32_t mask_token_id)
      : model_(model),
        cache_({.layers = model.info().kv_layers,
                .kv_heads = model.info().kv_heads,
                .head_dim = model.info().head_dim,
                .page_size = length,
                .dtype = model.info().kv_dtype},
               1, Device{}),
        mask_token_id_(mask_token_id) {
    blocks.length = model.info().block_length;
  }

  // Feeds positions [begin, end) of the tokens, which see the first `visible` keys; statistics of the rows. With
  // shifted logits row i is scored by position i - 1, so only row 0 may be the first one fed.
  std::vector<RowStats> step(std::span<const int32_t> tokens, int32_t begin, int32_t end, int32_t visible,
                             const std::vector<int32_t>& rows, const Request& request, int32_t denoise_step) {
    StepInput input;
    input.tokens = Tensor::from<int32_t>(tokens.subspan(static_cast<size_t>(begin), static_cast<size_t>(end - begin)));
    std::vector<int32_t> positions(static_cast<size_t>(end - begin)), hidden_rows;
    std::iota(positions.begin(), positions.end(), begin);
    input.positions = Tensor::from<int32_t>(positions);
    input.slots = Tensor::from<int64_t>(std::vector<int64_t>(positions.begin(), positions.end()));
    input.sequences = {{0, end - begin, visible, pages_, begin, blocks.length, blocks.origin}};
    std::vector<RowSampling> sampling;
    for (const int32_t row : rows) {
      hidden_rows.push_back(model_.info().logit_shift ? std::max(row - 1, 0) - begin : row - begin);
      sampling.push_back({request.temperature, request.top_p, request.top_k, request.seed,
                          static_cast<uint32_t>(denoise_step), static_cast<uint32_t>(row)});
      sampling.back().controls = controls;
      sampling.back().filtered = filtered;
    }
    input.hidden_rows = Tensor::from<int32_t>(hidden_rows);
    const Tensor hidden = model_.forward(context_, input, cache_);
    Tensor logits = Tensor::empty({static_cast<int64_t>(rows.size()), model_.info().vocab_size}, DType::kF32);
    model_.logits(context_, hidden, logits);
    std::vector<RowStats> stats(rows.size());
    std::vector<int32_t> forbidden = never;
    forbidden.push_back(mask_token_id_);
    ops::row_stats(context_, logits, sampling, forbidden, stats);
    if (second_look != nullptr) look_again(logits, sampling, forbidden, stats);
    return stats;
  }

  std::vector<int32_t> controls;            // RowSampling::controls
  std::vector<int32_t> never;               // not chosen by any row, as the mask
  bool filtered = false;                    // RowSampling::filtered
  decode::Decoding* second_look = nullptr;  // whose rows are reconsidered
  BlockGrid blocks;                         // the model's unless set

 private:
  void look_again(Tensor& logits, std::span<const RowSampling> sampling, std::span<const int32_t> forbidden,
                  std::vector<RowStats>& stats) const {
    std::vector<std::vector<LogitEdit>> edits(stats.size());
    std::vector<RowSampling> edited(stats.size());
    for (size_t row = 0; row < stats.size(); ++row) {
      second_look->reconsider(row, stats[row], edits[row]);
      edited[row].edits = edits[row];
    }
    ops::edit_logits(context_, logits, edited);
    ops::row_stats(context_, logits, sampling, forbidden, stats);
  }

  Model& model_;
  KvCache cache_;
  int32_t mask_token_id_;
  std::vector<PageId> pages_ = {0};
  ThreadPool pool_{1};
  Context context_{.device = {}, .pool = &pool_};
};

}  // namespace pydllm::engine
