// Entered only after cpuid showed AVX2, FMA and F16C.
#if defined(__x86_64__)

#include <immintrin.h>

#include "ops/cpu/linear_panel.h"

namespace pydllm::ops::cpu {
namespace {

struct Base {
  using Input = float;
  using Vector = __m256;
  static constexpr int kLanes = 8, kStep = 1, kPhases = 1, kRows = 6, kVectors = 2, kVectorsOfOneRow = 8;

  static Vector zero() { return _mm256_setzero_ps(); }
  static Vector load(const float* from) { return _mm256_load_ps(from); }
  static void store(float* to, Vector value) { _mm256_store_ps(to, value); }
  template <int phase>
  static Vector inputs(const Input* x) {
    return _mm256_broadcast_ss(x + phase);
  }
  static Vector last_input(const Input* x) { return _mm256_broadcast_ss(x); }
  static Vector multiply_add(Vector x, Vector w, Vector sum) { return _mm256_fmadd_ps(x, w, sum); }
};

struct F32 : Base {
  using Weight = float;
  template <int phase>
  static Vector columns(const Weight* w) {
    return _mm256_load_ps(w);
  }
};

struct F16 : Base {
  using Weight = uint16_t;
  template <int phase>
  static Vector columns(const Weight* w) {
    return _mm256_cvtph_ps(_mm_load_si128(reinterpret_cast<const __m128i*>(w)));
  }
};

// A bfloat16 is the upper half of a float32; a lane holds the one of even k below that of odd k.
struct Bf16 : Base {
  using Weight = uint16_t;
  static constexpr int kStep = 2, kPhases = 2;
  template <int phase>
  static Vector columns(const Weight* w) {
    const __m256i pairs = _mm256_load_si256(reinterpret_cast<const __m256i*>(w));
    if constexpr (phase == 0) return _mm256_castsi256_ps(_mm256_slli_epi32(pairs, 16));
    return _mm256_castsi256_ps(_mm256_and_si256(pairs, _mm256_set1_epi32(static_cast<int>(0xFFFF0000))));
  }
};

}  // namespace

void linear_f32_avx2(const PanelJob& job);
void linear_f16_avx2(const PanelJob& job);
void linear_bf16_avx2(const PanelJob& job);
void linear_f32_avx2(const PanelJob& job) {
  run_panel<F32>(job);
}
void linear_f16_avx2(const PanelJob& job) {
  run_panel<F16>(job);
}
void linear_bf16_avx2(const PanelJob& job) {
  run_panel<Bf16>(job);
}

}  // namespace pydllm::ops::cpu

#endif
