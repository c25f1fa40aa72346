// Private to core/ops: the panel kernels of each instruction set.
#pragma once

#include "ops/cpu/isa.h"
#include "ops/cpu/linear_panel.h"
#include "tensor/dtype.h"

namespace pydllm::ops::cpu {

struct LinearKernel {
  Isa isa;      // the set it needs
  DType input;  // the type of PanelJob::x: bfloat16 or float32
  void (*run)(const PanelJob&);
  int tile_rows = 6;          // rows that it handles together; a divisor of most_rows
  int most_rows = kRowBlock;  // to a job
  // Panels to a job. One: jobs are ordered by rows, which pays where the arithmetic takes longer than reading the
  // weights. More: the kernel keeps panels in the cache itself.
  int most_panels = 1;
  bool tiles_x = false;  // PanelJob::x is tiled
};

// The best kernel for weights of this type on a machine that has `isa`. Throws InternalError on other dtypes.
LinearKernel linear_kernel(Isa isa, DType weight);

void linear_f32_scalar(const PanelJob& job);
void linear_f16_scalar(const PanelJob& job);
void linear_bf16_scalar(const PanelJob& job);
#if defined(__x86_64__)
void linear_f32_avx2(const PanelJob& job);
void linear_f16_avx2(const PanelJob& job);
void linear_bf16_avx2(const PanelJob& job);
void linear_f32_avx512(const PanelJob& job);
void linear_f16_avx512(const PanelJob& job);
void linear_bf16_avx512(const PanelJob& job);
void linear_bf16_avx512bf16(const PanelJob& job);
void linear_bf16_amxbf16(const PanelJob& job);
#endif

}  // namespace pydllm::ops::cpu
