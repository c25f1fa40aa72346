// The peer that runs oneDNN's matmul, the weight reordered beforehand into the layout oneDNN likes best.
#include <cstring>
#include <exception>
#include <memory>
#include <oneapi/dnnl/dnnl.hpp>

#include "peer.h"

namespace {

using dnnl::memory;

// All operands are exact in bfloat16, so cutting the lower half off is exact.
void fill(const memory& target, const std::vector<float>& values, bool bf16) {
  for (size_t i = 0; i < values.size(); ++i) {
    uint32_t bits;
    std::memcpy(&bits, &values[i], sizeof(bits));
    if (bf16) {
      static_cast<uint16_t*>(target.get_data_handle())[i] = static_cast<uint16_t>(bits >> 16);
    } else {
      static_cast<uint32_t*>(target.get_data_handle())[i] = bits;
    }
  }
}

struct State {
  dnnl::engine engine{dnnl::engine::kind::cpu, 0};
  dnnl::stream stream{engine};
  dnnl::matmul matmul;
  memory x, y;
  std::vector<memory> weights;
};

memory reordered(State& state, const memory& plain, const memory::desc& wanted) {
  memory out(wanted, state.engine);
  dnnl::reorder(plain, out).execute(state.stream, const_cast<memory&>(plain), out);
  state.stream.wait();
  return out;
}

bench::Product prepare(const bench::Shape& shape) {
  const auto state = std::make_shared<State>();
  const auto type = shape.bf16 ? memory::data_type::bf16 : memory::data_type::f32;
  // y is float32 as in ops::linear.
  const memory::desc x({shape.rows, shape.depth}, type, memory::format_tag::ab);
  const memory::desc any({shape.depth, shape.outputs}, type, memory::format_tag::any);
  const memory::desc plain({shape.depth, shape.outputs}, type, memory::format_tag::ba);
  const memory::desc y({shape.rows, shape.outputs}, memory::data_type::f32, memory::format_tag::ab);
  const dnnl::matmul::primitive_desc primitive(state->engine, x, any, y);
  state->matmul = dnnl::matmul(primitive);
  state->x = memory(x, state->engine);
  state->y = memory(y, state->engine);
  fill(state->x, bench::operands(shape.rows * shape.depth, 1), shape.bf16);
  const memory weight(plain, state->engine);
  fill(weight, bench::operands(shape.outputs * shape.depth, 2), shape.bf16);
  for (int i = 0; i < shape.copies; ++i) {
    state->weights.push_back(reordered(*state, weight, primitive.weights_desc()));
  }
  const auto multiply = [state](int copy) {
    state->matmul.execute(state->stream, {{DNNL_ARG_SRC, state->x},
                                          {DNNL_ARG_WEIGHTS, state->weights[static_cast<size_t>(copy)]},
                                          {DNNL_ARG_DST, state->y}});
    state->stream.wait();
  };
  return {primitive.impl_info_str(), multiply,
          [state](int64_t i) { return static_cast<const float*>(state->y.get_data_handle())[i]; }};
}

}  // namespace

int main() try { return bench::serve(prepare); } catch (const std::exception& error) {
  std::cerr << error.what() << "\n";
  return 1;
}
