#include "bind/ops.h"

#include <pybind11/stl.h>

#include <utility>
#include <vector>

#include "bind/bind.h"
#include "ops/attention.h"
#include "ops/embedding.h"
#include "ops/expert_ffn.h"
#include "ops/linear.h"
#include "ops/moe_router.h"
#include "ops/rms_norm.h"
#include "ops/rope.h"
#include "ops/swiglu.h"
#include "tensor/copy.h"

namespace pydllm::bind {
namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;

// What may be missing.
Tensor or_undefined(const PyTensor* tensor) {
  return tensor == nullptr ? Tensor{} : tensor->tensor;
}

// --- the workplace ---

void synchronize(const OpsWorkplace& work) {
  if (work.context().arena != nullptr) work.context().arena->reset();
}

PyTensor copied_to(const OpsWorkplace& work, const Tensor& from, Device device) {
  PyTensor out{Tensor::empty(from.shape(), from.dtype(), device)};
  copy(work.context(), from, out.tensor);
  synchronize(work);
  return out;
}

uintptr_t stream(const OpsWorkplace& work) {
  const cudart::Arena* const arena = work.context().arena;
  return arena == nullptr ? 0 : reinterpret_cast<uintptr_t>(arena->stream());
}

PyTensor empty(const OpsWorkplace& work, std::vector<int64_t> shape, const std::string& dtype) {
  return {Tensor::empty(std::move(shape), dtype_from_name(dtype), work.context().device)};
}

void bind_workplace(py::module_& module) {
  py::class_<OpsWorkplace>(module, "Workplace", "A device, and the stream or the threads that ops run on.")
      .def(py::init<std::string, int>(), py::kw_only(), py::arg("device") = "cpu", py::arg("threads") = 1)
      .def_property_readonly("device", [](const OpsWorkplace& self) { return name_of(self.context().device); })
      .def_property_readonly("stream", stream)
      .def("empty", empty, py::arg("shape"), py::arg("dtype"))
      .def(
          "copy_of",
          [](const OpsWorkplace& self, const py::object& producer) {
            return copied_to(self, import_dlpack(producer).tensor, self.context().device);
          },
          py::arg("producer"))
      .def(
          "host_copy_of",
          [](const OpsWorkplace& self, const PyTensor& tensor) { return copied_to(self, tensor.tensor, Device{}); },
          py::arg("tensor"))
      .def("synchronize", synchronize, WithoutGil());
}

// --- rows ---

void embedding(const OpsWorkplace& work, const PyTensor& ids, const PyTensor& table, PyTensor& out) {
  ops::embedding(work.context(), ids.tensor, table.tensor, written(out, "out"));
}

void rms_norm(const OpsWorkplace& work, const PyTensor& x, const PyTensor& weight, float epsilon, PyTensor& out,
              const PyTensor* rows) {
  if (rows == nullptr) return ops::rms_norm(work.context(), x.tensor, weight.tensor, epsilon, written(out, "out"));
  ops::rms_norm_rows(work.context(), x.tensor, rows->tensor, weight.tensor, epsilon, written(out, "out"));
}

void rms_norm_heads(const OpsWorkplace& work, PyTensor& x, int64_t first_column, int64_t heads, const PyTensor& weight,
                    float epsilon) {
  ops::rms_norm_heads(work.context(), written(x, "x"), first_column, heads, weight.tensor, epsilon);
}

std::pair<PyTensor, PyTensor> rope_table(const OpsWorkplace& work, int64_t max_positions, int64_t rotary_dim,
                                         double theta) {
  const ops::RopeTable table = ops::make_rope_table(max_positions, rotary_dim, theta);
  const Device device = work.context().device;
  return {copied_to(work, table.cos, device), copied_to(work, table.sin, device)};
}

void rope(const OpsWorkplace& work, PyTensor& x, int64_t first_column, int64_t heads, int64_t head_dim,
          const PyTensor& positions, const PyTensor& cos, const PyTensor& sin) {
  ops::rope(work.context(), written(x, "x"), first_column, heads, head_dim, positions.tensor, {cos.tensor, sin.tensor});
}

void swiglu(const OpsWorkplace& work, const PyTensor& gate_up, PyTensor& out) {
  ops::swiglu(work.context(), gate_up.tensor, written(out, "out"));
}

void bind_row_ops(py::module_& module) {
  const auto work = py::arg("work");
  module.def("embedding", embedding, WithoutGil(), work, py::arg("ids"), py::arg("table"), py::arg("out"));
  module.def("rms_norm", rms_norm, WithoutGil(), work, py::arg("x"), py::arg("weight"), py::arg("epsilon"),
             py::arg("out"), py::kw_only(), py::arg("rows") = py::none());
  module.def("rms_norm_heads", rms_norm_heads, WithoutGil(), work, py::arg("x"), py::arg("first_column"),
             py::arg("heads"), py::arg("weight"), py::arg("epsilon"));
  module.def("rope_table", rope_table, WithoutGil(), work, py::arg("max_positions"), py::arg("rotary_dim"),
             py::arg("theta"));
  module.def("rope", rope, WithoutGil(), work, py::arg("x"), py::arg("first_column"), py::arg("heads"),
             py::arg("head_dim"), py::arg("positions"), py::arg("cos"), py::arg("sin"));
  module.def("swiglu", swiglu, WithoutGil(), work, py::arg("gate_up"), py::arg("out"));
}

// --- products ---

ops::PackedWeight packed(const OpsWorkplace& work, const std::vector<PyTensor>& parts, const std::string& dtype,
                         const PyTensor* bias) {
  std::vector<Tensor> tensors;
  for (const PyTensor& part : parts) tensors.push_back(part.tensor);
  ops::PackedWeight out = ops::PackedWeight::pack(work.context(), tensors, dtype_from_name(dtype), or_undefined(bias));
  synchronize(work);  // the parts may go
  return out;
}

void linear(const OpsWorkplace& work, const PyTensor& x, const ops::PackedWeight& weight, PyTensor& y,
            bool accumulate) {
  ops::linear(work.context(), x.tensor, weight, written(y, "y"),
              accumulate ? ops::LinearMode::kAccumulate : ops::LinearMode::kOverwrite);
}

struct Experts {
  Experts(const OpsWorkplace& work, const std::vector<std::pair<ops::PackedWeight, ops::PackedWeight>>& pairs) {
    std::vector<ops::Expert> parts;
    for (const auto& [gate_up, down] : pairs) parts.push_back({gate_up, down});
    list = ops::arranged(work.context(), std::move(parts));
    synchronize(work);
  }

  std::vector<ops::Expert> list;
};

void expert_ffn(const OpsWorkplace& work, const PyTensor& x, const PyTensor& choice, const PyTensor& weights,
                const Experts& experts, PyTensor& y) {
  ops::expert_ffn(work.context(), x.tensor, choice.tensor, weights.tensor, experts.list, written(y, "y"));
}

void bind_products(py::module_& module) {
  const auto work = py::arg("work");
  py::class_<ops::PackedWeight>(module, "PackedWeight", "A weight in the layout of its device.")
      .def(py::init(&packed), WithoutGil(), work, py::arg("parts"), py::arg("dtype"), py::kw_only(),
           py::arg("bias") = py::none())
      .def_property_readonly("nbytes", &ops::PackedWeight::nbytes);
  module.def("linear", linear, WithoutGil(), work, py::arg("x"), py::arg("weight"), py::arg("y"), py::kw_only(),
             py::arg("accumulate") = false);
  py::class_<Experts>(module, "Experts", "The experts of one layer, as their device wants them.")
      .def(py::init<const OpsWorkplace&, const std::vector<std::pair<ops::PackedWeight, ops::PackedWeight>>&>(),
           WithoutGil(), work, py::arg("pairs"));
  module.def("expert_ffn", expert_ffn, WithoutGil(), work, py::arg("x"), py::arg("choice"), py::arg("weights"),
             py::arg("experts"), py::arg("y"));
}

// --- sequences ---

struct Sequence {
  ops::SequenceSpan span;
  std::vector<int32_t> pages;

  // The same with its queries elsewhere.
  Sequence at(int32_t query_begin) const {
    Sequence out = *this;
    out.span.query_begin = query_begin;
    return out;
  }
};

std::vector<ops::SequenceSpan> spans_of(const std::vector<Sequence>& sequences) {
  std::vector<ops::SequenceSpan> spans;
  for (const Sequence& sequence : sequences) {
    spans.push_back(sequence.span);
    spans.back().pages = sequence.pages;
  }
  return spans;
}

Sequence make_sequence(int32_t query_begin, int32_t query_length, int32_t kv_length, std::vector<int32_t> pages,
                       int32_t query_position, int32_t block_length, int32_t block_origin) {
  return {{query_begin, query_length, kv_length, {}, query_position, block_length, block_origin}, std::move(pages)};
}

void store_kv(const OpsWorkplace& work, const PyTensor& kv, int64_t key_column, int64_t value_column,
              const PyTensor& slots, PyTensor& keys, PyTensor& values) {
  ops::KvLayer layer{written(keys, "keys"), written(values, "values")};
  ops::store_kv(work.context(), kv.tensor, key_column, value_column, slots.tensor, layer);
}

void attention(const OpsWorkplace& work, const PyTensor& q, int64_t query_column, int64_t query_heads,
               const PyTensor& keys, const PyTensor& values, const std::vector<Sequence>& sequences, float scale,
               PyTensor& out) {
  ops::attention(work.context(), q.tensor, query_column, query_heads, {keys.tensor, values.tensor}, spans_of(sequences),
                 scale, written(out, "out"));
}

ops::RouterScore score_of(const std::string& name) {
  if (name == "softmax") return ops::RouterScore::kSoftmax;
  if (name == "sigmoid") return ops::RouterScore::kSigmoid;
  throw InvalidRequest("score", format("score: expected softmax or sigmoid, got ", name));
}

ops::RouterRule make_rule(const std::string& score, int32_t experts_per_token, bool normalize, float scale,
                          int32_t groups, int32_t groups_kept, int32_t block_capacity, int32_t block_length) {
  return {score_of(score), experts_per_token, normalize, scale, groups, groups_kept, block_capacity, block_length};
}

void route(const OpsWorkplace& work, const PyTensor& logits, const ops::RouterRule& rule, PyTensor& experts,
           PyTensor& weights, const PyTensor* bias, const std::vector<Sequence>& sequences) {
  ops::route(work.context(), logits.tensor, or_undefined(bias), rule, spans_of(sequences), written(experts, "experts"),
             written(weights, "weights"));
}

void bind_sequence_ops(py::module_& module) {
  const auto work = py::arg("work");
  py::class_<Sequence>(module, "Sequence", "One sequence of a ragged batch (core/ops/attention.h).")
      .def(py::init(&make_sequence), py::kw_only(), py::arg("query_begin"), py::arg("query_length"),
           py::arg("kv_length"), py::arg("pages") = std::vector<int32_t>{}, py::arg("query_position") = 0,
           py::arg("block_length") = 0, py::arg("block_origin") = 0)
      .def("at", &Sequence::at, py::arg("query_begin"));
  module.def("store_kv", store_kv, WithoutGil(), work, py::arg("kv"), py::arg("key_column"), py::arg("value_column"),
             py::arg("slots"), py::arg("keys"), py::arg("values"));
  module.def("attention", attention, WithoutGil(), work, py::arg("q"), py::arg("query_column"), py::arg("query_heads"),
             py::arg("keys"), py::arg("values"), py::arg("sequences"), py::arg("scale"), py::arg("out"));
  py::class_<ops::RouterRule>(module, "RouterRule", "How experts are chosen (core/ops/moe_router.h).")
      .def(py::init(&make_rule), py::kw_only(), py::arg("score") = "softmax", py::arg("experts_per_token") = 1,
           py::arg("normalize") = false, py::arg("scale") = 1.0f, py::arg("groups") = 1, py::arg("groups_kept") = 1,
           py::arg("block_capacity") = 0, py::arg("block_length") = 0);
  module.def("route", route, WithoutGil(), work, py::arg("logits"), py::arg("rule"), py::arg("experts"),
             py::arg("weights"), py::kw_only(), py::arg("bias") = py::none(),
             py::arg("sequences") = std::vector<Sequence>{});
}

}  // namespace

const Context& OpsWorkplace::context() const {
  const Context& context = work_.context();
  if (context.arena != nullptr) cudart::use(context.device);
  return context;
}

Tensor& written(PyTensor& tensor, const char* name) {
  if (tensor.read_only) throw InvalidRequest(name, format(name, ": expected a tensor that may be written to"));
  return tensor.tensor;
}

void bind_ops(py::module_& module) {
  py::module_ ops = module.def_submodule("ops", "The ops by themselves, for tests and benchmarks.");
  bind_workplace(ops);
  bind_row_ops(ops);
  bind_products(ops);
  bind_sequence_ops(ops);
  bind_logit_ops(ops);
}

}  // namespace pydllm::bind
