// The path of machines without a kernel of their own: vectors of four floats as the compiler's portable extension,
// which every target can lower (SSE2, NEON or plain scalars). No fused multiply-add: the baseline has none.
#include "ops/cpu/linear_kernels.h"

namespace pydllm::ops::cpu {
namespace {

using Floats = float __attribute__((vector_size(16)));
using Words = uint32_t __attribute__((vector_size(16)));

struct Base {
  using Input = float;
  using Vector = Floats;
  static constexpr int kLanes = 4, kStep = 1, kPhases = 1, kRows = 4, kVectors = 2, kVectorsOfOneRow = 4;

  static Vector zero() { return Floats{}; }
  static Vector load(const float* from) { return *reinterpret_cast<const Floats*>(from); }
  static void store(float* to, Vector value) { *reinterpret_cast<Floats*>(to) = value; }
  template <int phase>
  static Vector inputs(const Input* x) {
    return Floats{x[phase], x[phase], x[phase], x[phase]};
  }
  static Vector last_input(const Input* x) { return inputs<0>(x); }
  static Vector multiply_add(Vector x, Vector w, Vector sum) { return x * w + sum; }
};

struct F32 : Base {
  using Weight = float;
  template <int phase>
  static Vector columns(const Weight* w) {
    return load(w);
  }
};

struct F16 : Base {
  using Weight = uint16_t;
  // The fraction and exponent bits moved to a float32's place are the value times 2^-112, subnormals included; infinity
  // and NaN get the largest exponent.
  template <int phase>
  static Vector columns(const Weight* w) {
    const Words bits{w[0], w[1], w[2], w[3]};
    const Words magnitude = bits & 0x7FFF;
    const Floats finite = reinterpret_cast<Floats>(magnitude << 13) * 0x1p112f;
    const Words special = reinterpret_cast<Words>(magnitude >= 0x7C00) & 0x7F800000;
    return reinterpret_cast<Floats>(reinterpret_cast<Words>(finite) | special | (bits & 0x8000) << 16);
  }
};

// A bfloat16 is the upper half of a float32.
struct Bf16 : Base {
  using Weight = uint16_t;
  static constexpr int kStep = 2, kPhases = 2;
  template <int phase>
  static Vector columns(const Weight* w) {
    const Words bits{w[phase], w[2 + phase], w[4 + phase], w[6 + phase]};
    return reinterpret_cast<Floats>(bits << 16);
  }
};

}  // namespace

void linear_f32_scalar(const PanelJob& job) {
  run_panel<F32>(job);
}
void linear_f16_scalar(const PanelJob& job) {
  run_panel<F16>(job);
}
void linear_bf16_scalar(const PanelJob& job) {
  run_panel<Bf16>(job);
}

}  // namespace pydllm::ops::cpu
