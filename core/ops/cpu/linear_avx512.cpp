// Entered only after cpuid showed AVX-512 F, BW, VL and DQ.
#if defined(__x86_64__)

#include <immintrin.h>

#include "ops/cpu/linear_panel.h"

namespace pydllm::ops::cpu {
namespace {

// GCC 12 warns of uninitialised values inside the unmasked forms of some intrinsics; this mask costs nothing.
constexpr __mmask16 kAllLanes = 0xFFFF;

struct Base {
  using Input = float;
  using Vector = __m512;
  static constexpr int kLanes = 16, kStep = 1, kPhases = 1, kRows = 6, kVectors = 4, kVectorsOfOneRow = 4;

  static Vector zero() { return _mm512_setzero_ps(); }
  static Vector load(const float* from) { return _mm512_load_ps(from); }
  static void store(float* to, Vector value) { _mm512_store_ps(to, value); }
  template <int phase>
  static Vector inputs(const Input* x) {
    return _mm512_set1_ps(x[phase]);
  }
  static Vector last_input(const Input* x) { return _mm512_set1_ps(*x); }
  static Vector multiply_add(Vector x, Vector w, Vector sum) { return _mm512_fmadd_ps(x, w, sum); }
};

struct F32 : Base {
  using Weight = float;
  template <int phase>
  static Vector columns(const Weight* w) {
    return _mm512_load_ps(w);
  }
};

struct F16 : Base {
  using Weight = uint16_t;
  template <int phase>
  static Vector columns(const Weight* w) {
    return _mm512_maskz_cvtph_ps(kAllLanes, _mm256_load_si256(reinterpret_cast<const __m256i*>(w)));
  }
};

// A bfloat16 is the upper half of a float32; a lane holds the one of even k below that of odd k.
struct Bf16 : Base {
  using Weight = uint16_t;
  static constexpr int kStep = 2, kPhases = 2;
  template <int phase>
  static Vector columns(const Weight* w) {
    const __m512i pairs = _mm512_load_si512(w);
    if constexpr (phase == 0) return _mm512_castsi512_ps(_mm512_maskz_slli_epi32(kAllLanes, pairs, 16));
    return _mm512_castsi512_ps(_mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xFFFF0000))));
  }
};

}  // namespace

void linear_f32_avx512(const PanelJob& job);
void linear_f16_avx512(const PanelJob& job);
void linear_bf16_avx512(const PanelJob& job);
void linear_f32_avx512(const PanelJob& job) {
  run_panel<F32>(job);
}
void linear_f16_avx512(const PanelJob& job) {
  run_panel<F16>(job);
}
void linear_bf16_avx512(const PanelJob& job) {
  run_panel<Bf16>(job);
}

}  // namespace pydllm::ops::cpu

#endif
