// The tensor cores' product D[16, 8] += A[16, 16] B[16, 8] (mma.sync m16n8k16, float32 sums) and its fragments.
//
// In each lane, with quad = lane / 4 and pair = lane % 4 * 2 (PTX ISA, "Matrix Fragments for mma.m16n8k16"):
//   A  {[quad][pair], [quad + 8][pair], [quad][pair + 8], [quad + 8][pair + 8]}, each of columns c and c + 1
//   B  {[pair][quad], [pair + 8][quad]}, each of rows r and r + 1
//   D  [quad][pair], [quad][pair + 1], [quad + 8][pair], [quad + 8][pair + 1]
#pragma once

#include "ops/cuda/device.h"

namespace pydllm::ops::cuda {

// N registers of two bfloat16 each, the lower index in the lower half.
template <int N>
struct Pairs {
  uint32_t v[N];
};

__device__ inline uint32_t pack(float low, float high) {
  return narrow<BFloat16>(low).bits | static_cast<uint32_t>(narrow<BFloat16>(high).bits) << 16;
}

// Operands from shared memory, by all lanes of a warp; rows are `stride` elements apart, `p` and the rows aligned to 16
// bytes. ldmatrix: lane l gives the address of row l % 8 of the 8 x 8 matrix l / 8, which becomes register l / 8.
#ifdef __CUDACC__

__device__ inline uint32_t shared_address(const void* p) {
  return static_cast<uint32_t>(__cvta_generic_to_shared(p));
}

// A from row-major memory [16, 16].
__device__ inline Pairs<4> load_a(const BFloat16* p, int stride, int quad, int pair) {
  const int lane = 4 * quad + pair / 2;
  Pairs<4> out;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(out.v[0]), "=r"(out.v[1]), "=r"(out.v[2]), "=r"(out.v[3])
               : "r"(shared_address(p + lane % 16 * stride + lane / 16 * 8))
               : "memory");
  return out;
}

// B from column-major memory: its 8 columns are rows of 16 elements.
__device__ inline Pairs<2> load_b(const BFloat16* p, int stride, int quad, int pair) {
  const int lane = 4 * quad + pair / 2;
  Pairs<2> out;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(out.v[0]), "=r"(out.v[1])
               : "r"(shared_address(p + lane % 8 * stride + lane / 8 % 2 * 8))
               : "memory");
  return out;
}

// B from row-major memory [16, 8].
__device__ inline Pairs<2> load_b_rows(const BFloat16* p, int stride, int quad, int pair) {
  const int lane = 4 * quad + pair / 2;
  Pairs<2> out;
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(out.v[0]), "=r"(out.v[1])
               : "r"(shared_address(p + lane % 16 * stride))
               : "memory");
  return out;
}

#else

inline uint32_t load_pair(const BFloat16* p, int apart = 1) {
  return p[0].bits | static_cast<uint32_t>(p[apart].bits) << 16;
}

inline void expect_aligned_rows(const BFloat16* p, int stride) {
  emulation::machine().expect_aligned(p);
  emulation::machine().expect_aligned(p + stride);
}

inline Pairs<4> load_a(const BFloat16* p, int stride, int quad, int pair) {
  expect_aligned_rows(p, stride);
  const BFloat16 *low = p + quad * stride + pair, *high = low + 8 * stride;
  return {{load_pair(low), load_pair(high), load_pair(low + 8), load_pair(high + 8)}};
}

inline Pairs<2> load_b(const BFloat16* p, int stride, int quad, int pair) {
  expect_aligned_rows(p, stride);
  const BFloat16* column = p + quad * stride + pair;
  return {{load_pair(column), load_pair(column + 8)}};
}

inline Pairs<2> load_b_rows(const BFloat16* p, int stride, int quad, int pair) {
  expect_aligned_rows(p, stride);
  const BFloat16* row = p + pair * stride + quad;
  return {{load_pair(row, stride), load_pair(row + 8 * stride, stride)}};
}

#endif

#ifdef __CUDACC__

__device__ inline void mma(float (&d)[4], const Pairs<4>& a, const Pairs<2>& b) {
  asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a.v[0]), "r"(a.v[1]), "r"(a.v[2]), "r"(a.v[3]), "r"(b.v[0]), "r"(b.v[1]));
}

#else

// Products are exact and summed in float64, then rounded once. The hardware's own order and rounding are not
// documented.
inline void mma(float (&d)[4], const Pairs<4>& a, const Pairs<2>& b,
                emulation::Where where = std::source_location::current()) {
  struct Lane {
    Pairs<4> a;
    Pairs<2> b;
  };
  const auto& slots = emulation::machine().exchange(Lane{a, b}, where);
  const auto half = [](uint32_t pair, int which) {
    return static_cast<double>(to_float(BFloat16{static_cast<uint16_t>(pair >> (16 * which))}));
  };
  const unsigned lane = threadIdx.x % 32, quad = lane / 4, pair = lane % 4 * 2;
  double sum[4] = {d[0], d[1], d[2], d[3]};
  for (unsigned k = 0; k < 16; ++k) {
    const unsigned source = k % 8 / 2;
    const auto row = emulation::lane_value<Lane>(slots, quad * 4 + source).a;
    for (unsigned column = 0; column < 2; ++column) {
      const auto b_lane = emulation::lane_value<Lane>(slots, (pair + column) * 4 + source).b;
      const double right = half(b_lane.v[k / 8], k % 2);
      sum[column] += half(row.v[k / 8 * 2], k % 2) * right;
      sum[2 + column] += half(row.v[k / 8 * 2 + 1], k % 2) * right;
    }
  }
  for (int e = 0; e < 4; ++e) d[e] = static_cast<float>(sum[e]);
}

#endif

}  // namespace pydllm::ops::cuda
