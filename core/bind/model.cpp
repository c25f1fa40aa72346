#include "bind/model.h"

#include <pybind11/stl.h>

#include <map>
#include <utility>

#include "base/check.h"
#include "base/errors.h"
#include "bind/bind.h"
#include "bind/convert.h"
#include "bind/field_reader.h"
#include "bind/tensor.h"
#include "models/json_cursor.h"
#include "models/registry.h"

namespace pydllm::bind {
namespace {

constexpr int64_t kMostThreads = 1024;

MoeConfig to_moe(FieldReader reader) {
  MoeConfig moe;
  reader.read("num_experts", moe.num_experts);
  reader.read("experts_per_token", moe.experts_per_token);
  reader.read("expert_intermediate_size", moe.expert_intermediate_size);
  reader.read("shared_intermediate_size", moe.shared_intermediate_size);
  reader.read("dense_layers", moe.dense_layers);
  reader.read("router_score", moe.router_score);
  reader.read("router_bias", moe.router_bias);
  reader.read("router_normalize", moe.router_normalize);
  reader.read("router_scale", moe.router_scale);
  reader.read("expert_groups", moe.expert_groups);
  reader.read("expert_groups_kept", moe.expert_groups_kept);
  reader.read("expert_capacity", moe.expert_capacity);
  reader.finish();
  return moe;
}

ModelConfig to_config(py::handle values) {
  ModelConfig config;
  std::string dtype;
  FieldReader reader(values, "config", true);
  reader.read("architecture", config.architecture);
  reader.read("vocab_size", config.vocab_size);
  reader.read("hidden_size", config.hidden_size);
  reader.read("num_layers", config.num_layers);
  reader.read("num_heads", config.num_heads);
  reader.read("num_kv_heads", config.num_kv_heads);
  reader.read("head_dim", config.head_dim);
  reader.read("intermediate_size", config.intermediate_size);
  reader.read("max_positions", config.max_positions);
  reader.read("rope_theta", config.rope_theta);
  reader.read("rms_norm_eps", config.rms_norm_eps);
  reader.read("tie_word_embeddings", config.tie_word_embeddings);
  reader.read("attention_bias", config.attention_bias);
  reader.read("linear_bias", config.linear_bias);
  reader.read("logit_shift", config.logit_shift);
  reader.read("qk_norm", config.qk_norm);
  reader.read("rotary_dim", config.rotary_dim);
  reader.read("block_length", config.block_length);
  config.moe = to_moe(reader.nested("moe"));
  reader.read("dtype", dtype);
  reader.finish();
  config.dtype = dtype_from_name(dtype);
  return config;
}

// What another library holds, on the CPU or on `device`.
std::map<std::string, Tensor> to_tensors(py::handle values, Device device) {
  std::map<std::string, Tensor> tensors;
  for (const auto& [key, value] : to_dict(values, "tensors")) {
    const std::string name = to_string(key, "tensors");
    const Tensor tensor = import_dlpack(value).tensor;
    if (tensor.device() != Device{} && tensor.device() != device) {
      throw InvalidRequest("tensors", format("tensors: ", printable(name), ": expected a tensor on cpu or ",
                                             name_of(device), ", got one on ", name_of(tensor.device())));
    }
    tensors.emplace(name, tensor);
  }
  return tensors;
}

std::unique_ptr<ModelHolder> load(const py::object& config, const py::object& shards, const py::object& tensors,
                                  const py::object& device, const py::object& threads, const py::object& allow_unused,
                                  LoadProgress* progress) {
  const ModelConfig parsed = to_config(config);
  const std::vector<std::string> paths = to_strings(shards, "shards");
  const auto pool_size = static_cast<int>(to_integer(threads, "threads", 0, kMostThreads));
  const bool tolerant = to_bool(allow_unused, "allow_unused");
  const Device where = device_from_name(to_string(device, "device"));
  const bool in_memory = !tensors.is_none();
  if (in_memory && !paths.empty()) throw InvalidRequest("tensors", "tensors: expected no shards beside them");
  std::map<std::string, Tensor> given = in_memory ? to_tensors(tensors, where) : std::map<std::string, Tensor>{};
  const py::gil_scoped_release release;
  Workplace work(pool_size, where);
  Weights weights = in_memory ? Weights(std::move(given)) : Weights(paths, progress);
  auto holder = std::make_unique<ModelHolder>(load_model(work.context(), parsed, weights, tolerant));
  if (work.context().arena != nullptr) work.context().arena->reset();  // the engine has a stream of its own
  return holder;
}

// (free, total) bytes of a CUDA device.
std::pair<size_t, size_t> device_memory(const py::object& device) {
  const Device where = device_from_name(to_string(device, "device"));
  const py::gil_scoped_release release;
  const cudart::Memory memory = cudart::memory(where);
  return {memory.free, memory.total};
}

int64_t kv_bytes_per_position(const ModelInfo& info) {
  return int64_t{2} * info.kv_layers * info.kv_heads * info.head_dim * static_cast<int64_t>(size_of(info.kv_dtype));
}

void bind_info(py::module_& module) {
  py::class_<ModelInfo>(module, "ModelInfo")
      .def_readonly("architecture", &ModelInfo::architecture)
      .def_readonly("vocab_size", &ModelInfo::vocab_size)
      .def_readonly("hidden_size", &ModelInfo::hidden_size)
      .def_readonly("max_positions", &ModelInfo::max_positions)
      .def_property_readonly("attention", [](const ModelInfo& self) { return name_of(self.attention); })
      .def_readonly("block_length", &ModelInfo::block_length)
      .def_readonly("logit_shift", &ModelInfo::logit_shift)
      .def_readonly("parameter_count", &ModelInfo::parameter_count)
      .def_readonly("weight_bytes", &ModelInfo::weight_bytes)
      .def_property_readonly("device", [](const ModelInfo& self) { return name_of(self.device); })
      .def_property_readonly("weight_dtype", [](const ModelInfo& self) { return name_of(self.weight_dtype); })
      .def_property_readonly("kv_bytes_per_position", kv_bytes_per_position);
}

}  // namespace

const Model& ModelHolder::model() const {
  if (!model_) throw InvalidRequest("model", "model: an engine has already taken this model");
  return *model_;
}

std::unique_ptr<Model> ModelHolder::take() {
  model();
  return std::move(model_);
}

void bind_model(py::module_& module) {
  py::class_<LoadProgress>(module, "LoadProgress", "Bytes packed so far; read it from another thread.")
      .def(py::init<>())
      .def_property_readonly("bytes_total", [](const LoadProgress& self) { return self.bytes_total.load(); })
      .def_property_readonly("bytes_done", [](const LoadProgress& self) { return self.bytes_done.load(); });
  bind_info(module);
  module.def("device_memory", device_memory, py::arg("device"));
  py::class_<ModelHolder>(module, "Model", "Weights, packed for this machine. Consumed by the Engine that takes it.")
      .def_property_readonly("info", [](const ModelHolder& self) { return self.model().info(); });
  module.def("load_model", load, py::arg("config"), py::arg("shards") = py::tuple(), py::kw_only(),
             py::arg("tensors") = py::none(), py::arg("device") = "cpu", py::arg("threads") = 0,
             py::arg("allow_unused") = false, py::arg("progress") = py::none());
}

}  // namespace pydllm::bind
