// The peer that runs this project's ops::linear.
#include <exception>
#include <memory>

#include "ops/linear.h"
#include "peer.h"

namespace {

using namespace pydllm;

Tensor tensor_of(const std::vector<float>& values, int64_t rows, DType dtype) {
  Tensor out = Tensor::empty({rows, static_cast<int64_t>(values.size()) / rows}, dtype);
  for (size_t i = 0; i < values.size(); ++i) {
    if (dtype == DType::kBF16) {
      out.data<BFloat16>()[i] = to_bfloat16(values[i]);
    } else {
      out.data<float>()[i] = values[i];
    }
  }
  return out;
}

struct State {
  ThreadPool pool{1};
  Context context{{}, &pool};
  Tensor x, y;
  std::vector<ops::PackedWeight> weights;
};

bench::Product prepare(const bench::Shape& shape) {
  const DType dtype = shape.bf16 ? DType::kBF16 : DType::kF32;
  const auto state = std::make_shared<State>();
  state->x = tensor_of(bench::operands(shape.rows * shape.depth, 1), shape.rows, dtype);
  state->y = Tensor::zeros({shape.rows, shape.outputs}, DType::kF32);
  const Tensor w = tensor_of(bench::operands(shape.outputs * shape.depth, 2), shape.outputs, dtype);
  for (int i = 0; i < shape.copies; ++i) {
    state->weights.push_back(ops::PackedWeight::pack(state->context, std::span(&w, 1), dtype));
  }
  return {
      std::string(ops::linear_isa(dtype)),
      [state](int copy) { ops::linear(state->context, state->x, state->weights[static_cast<size_t>(copy)], state->y); },
      [state](int64_t i) { return state->y.data<float>()[i]; }};
}

}  // namespace

int main() try { return bench::serve(prepare); } catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
