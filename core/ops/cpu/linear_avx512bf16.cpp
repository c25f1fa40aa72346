// Entered only after cpuid showed AVX512-BF16.
#if defined(__x86_64__)

#include <immintrin.h>

#include "ops/cpu/linear_panel.h"

namespace pydllm::ops::cpu {
namespace {

struct Bf16 {
  using Input = uint16_t;
  using Weight = uint16_t;
  using Vector = __m512;
  static constexpr int kLanes = 16, kStep = 2, kPhases = 1, kRows = 6, kVectors = 4, kVectorsOfOneRow = 4;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector load(const float* from) { return _mm512_load_ps(from); }
  static void store(float* to, Vector value) { _mm512_store_ps(to, value); }
  template <int phase>
  static Vector columns(const Weight* w) {
    return _mm512_castsi512_ps(_mm512_load_si512(w));
  }
  template <int phase>
  static Vector inputs(const Input* x) {
    int pair;
    __builtin_memcpy(&pair, x, sizeof(pair));
    return _mm512_castsi512_ps(_mm512_set1_epi32(pair));
  }
  static Vector last_input(const Input* x) { return _mm512_castsi512_ps(_mm512_set1_epi32(*x)); }
  static Vector multiply_add(Vector x, Vector w, Vector sum) {
    return _mm512_dpbf16_ps(sum, reinterpret_cast<__m512bh>(x), reinterpret_cast<__m512bh>(w));
  }
};

}  // namespace

void linear_bf16_avx512bf16(const PanelJob& job);
void linear_bf16_avx512bf16(const PanelJob& job) {
  run_panel<Bf16>(job);
}

}  // namespace pydllm::ops::cpu

#endif
