#include "ops/cpu/linear_cpu.h"

#include <algorithm>
#include <cstddef>
#include <cstring>
#include <utility>
#include <vector>

namespace pydllm::ops::cpu {
namespace {

// Multiply-adds below which the caller works alone. Waking a helper costs the caller 0.6 us when the helper spins and
// 3.2 us when it sleeps; this many float32 products take 5.5 us on one Zen 4 core, of which a helper saves half.
constexpr double kSerialBelow = 250e3;

constexpr int64_t kJobsPerThread = 4;  // so that the last jobs leave no core idle for long
constexpr int64_t kLeastRows = 24;     // fewer rows per job read the panel too often

int64_t blocks(int64_t size, int64_t block) {
  return (size + block - 1) / block;
}

// How the rows and panels of one product are cut into jobs.
struct Split {
  int64_t panels;
  int64_t panels_per_job;
  int64_t rows;
  int64_t rows_per_job;
  bool rows_first;  // jobs of the same panels follow one another

  int64_t panel_blocks() const { return blocks(panels, panels_per_job); }
  int64_t row_blocks() const { return blocks(rows, rows_per_job); }
  int64_t jobs() const { return panel_blocks() * row_blocks(); }
  int64_t first_panel(int64_t job) const {
    return (rows_first ? job / row_blocks() : job % panel_blocks()) * panels_per_job;
  }
  int64_t first_row(int64_t job) const {
    return (rows_first ? job % row_blocks() : job / panel_blocks()) * rows_per_job;
  }
};

// Blocks of rows end where the kernel's tiles end.
Split split_for(int64_t rows, int64_t out_features, int threads, const LinearKernel& kernel) {
  const int64_t panels = blocks(out_features, kPanelWidth);
  const int64_t jobs = threads == 1 ? 1 : kJobsPerThread * threads;
  const int64_t panels_per_job = std::clamp<int64_t>(panels / jobs, 1, kernel.most_panels);
  const int64_t wanted = blocks(jobs, blocks(panels, panels_per_job));
  const int64_t row_blocks = std::max(blocks(rows, kernel.most_rows), std::min(wanted, blocks(rows, kLeastRows)));
  const int64_t rows_per_job = blocks(blocks(rows, row_blocks), kernel.tile_rows) * kernel.tile_rows;
  return {panels, panels_per_job, rows, rows_per_job, kernel.most_panels > 1};
}

// Memory that a thread keeps between its calls: fresh pages cost more than a product of few columns.
Tensor kept(Tensor& memory, std::vector<int64_t> shape, DType dtype) {
  int64_t bytes = static_cast<int64_t>(size_of(dtype));
  for (const int64_t extent : shape) bytes *= extent;
  if (memory.numel() < bytes) memory = Tensor::empty({bytes}, DType::kU8);
  return Tensor::borrow(memory.raw(), std::move(shape), dtype, {}, memory.owner());
}

thread_local Tensor kept_input;  // x as a kernel wants it, on the calling thread
thread_local Tensor kept_sums;   // PanelJob::sums

Tensor widened(const Tensor& x) {
  const Tensor out = kept(kept_input, x.shape(), DType::kF32);
  const BFloat16* const from = x.data<BFloat16>();
  std::transform(from, from + x.numel(), out.data<float>(), [](BFloat16 value) { return to_float(value); });
  return out;
}

// linear_panel.h: bfloat16 [groups * kTiledRows, depth rounded up].
Tensor tiled(ThreadPool& pool, const Tensor& x) {
  const int64_t rows = x.size(0), depth = x.size(1);
  const int64_t groups = blocks(rows, kTiledRows), steps = blocks(depth, kTiledDepth);
  const Tensor out = kept(kept_input, {groups * kTiledRows, steps * kTiledDepth}, x.dtype());
  const BFloat16* const from = x.data<BFloat16>();
  BFloat16* const to = out.data<BFloat16>();
  constexpr size_t kPiece = kTiledDepth * sizeof(BFloat16);
  const auto tile = [=](int64_t group) {
    BFloat16* const first = to + group * steps * kTiledRows * kTiledDepth;
    for (int64_t r = 0; r < kTiledRows; ++r) {
      const int64_t row = group * kTiledRows + r, held = row < rows ? depth : 0;
      const BFloat16* const values = from + row * depth;
      for (int64_t step = 0; step < steps; ++step) {
        BFloat16* const place = first + (step * kTiledRows + r) * kTiledDepth;
        const int64_t k = step * kTiledDepth, count = std::clamp<int64_t>(held - k, 0, kTiledDepth);
        if (count == kTiledDepth) {
          std::memcpy(place, values + k, kPiece);
        } else {
          std::memset(place, 0, kPiece);
          std::copy_n(values + k, count, place);
        }
      }
    }
  };
  if (groups == 1) {
    tile(0);
  } else {
    pool.run(groups, tile);
  }
  return out;
}

Tensor input_of(ThreadPool& pool, const LinearKernel& kernel, const Tensor& x) {
  if (kernel.tiles_x) return tiled(pool, x);
  return kernel.input == x.dtype() ? x : widened(x);
}

}  // namespace

void linear(ThreadPool& pool, Isa isa, const Tensor& x, const PackedWeight& weight, Tensor& y, LinearMode mode) {
  const LinearKernel kernel = linear_kernel(isa, weight.dtype());
  const Tensor input = input_of(pool, kernel, x);
  const auto [rows, depth] = shape_of<2>(x, "x");
  const int64_t columns = weight.out_features();
  const Split split = split_for(rows, columns, pool.size(), kernel);
  const auto* const x_bytes = static_cast<const std::byte*>(input.raw());
  const auto* const panel_bytes = static_cast<const std::byte*>(weight.panels().raw());
  const int64_t x_stride = input.size(1);
  const auto x_row_bytes = static_cast<int64_t>(size_of(input.dtype())) * x_stride;
  const auto bytes_per_panel = static_cast<int64_t>(weight.nbytes()) / split.panels;
  const float* const bias = weight.bias().defined() ? weight.bias().data<float>() : nullptr;
  float* const out = y.data<float>();

  const auto sums = [&] {
    if (kernel.most_panels == 1) return static_cast<float*>(nullptr);
    const int64_t padded = blocks(split.rows_per_job, kTiledRows) * kTiledRows;
    return kept(kept_sums, {split.panels_per_job, padded, kPanelWidth}, DType::kF32).data<float>();
  };
  const auto job = [&, rows = rows, depth = depth](int64_t i) {
    const int64_t panel = split.first_panel(i), row = split.first_row(i), column = panel * kPanelWidth;
    const int64_t panels = std::min(split.panels_per_job, split.panels - panel);
    const int64_t next = i + pool.size();
    kernel.run({.x = x_bytes + row * x_row_bytes,
                .x_stride = x_stride,
                .panel = panel_bytes + panel * bytes_per_panel,
                .panel_stride = bytes_per_panel,
                .panels = static_cast<int>(panels),
                .upcoming = next < split.jobs() ? panel_bytes + split.first_panel(next) * bytes_per_panel : nullptr,
                .depth = depth,
                .rows = static_cast<int>(std::min(split.rows_per_job, rows - row)),
                .columns = static_cast<int>(std::min(panels * kPanelWidth, columns - column)),
                .bias = bias == nullptr ? nullptr : bias + column,
                .accumulate = mode == LinearMode::kAccumulate,
                .sums = sums(),
                .y = out + row * columns + column,
                .y_stride = columns});
  };
  if (static_cast<double>(rows) * static_cast<double>(columns) * static_cast<double>(depth) < kSerialBelow) {
    for (int64_t i = 0; i < split.jobs(); ++i) job(i);
  } else {
    pool.run(split.jobs(), job);
  }
}

}  // namespace pydllm::ops::cpu
