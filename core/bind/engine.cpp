// The engine. Whatever may wait runs without the GIL; the engine thread never takes it.
#include "engine/engine.h"

#include <pybind11/stl.h>

#include <algorithm>

#include "bind/bind.h"
#include "bind/convert.h"
#include "bind/field_reader.h"
#include "bind/model.h"
#include "ops/matmul.h"

namespace pydllm::bind {
namespace {

using engine::Engine;
using engine::EngineOptions;
using engine::Request;
using engine::RequestId;

constexpr double kLongestSeconds = 1e9;  // further away is the same as never and fits every clock
constexpr int64_t kMostThreads = 1024;

// Joining the engine thread may take a step.
struct DeleteWithoutGil {
  void operator()(Engine* engine) const {
    const py::gil_scoped_release release;
    delete engine;
  }
};
using EnginePtr = std::unique_ptr<Engine, DeleteWithoutGil>;
using WithoutGil = py::call_guard<py::gil_scoped_release>;

EngineOptions to_options(py::handle values) {
  EngineOptions options;
  FieldReader reader(values, "options", false);
  reader.read("max_model_len", options.max_model_len);
  reader.read("max_batched_tokens", options.max_batched_tokens);
  reader.read("max_running_requests", options.max_running_requests);
  reader.read("max_waiting_requests", options.max_waiting_requests);
  reader.read("page_size", options.page_size);
  reader.read("pages", options.pages);
  reader.read("max_logit_rows", options.max_logit_rows);
  reader.read("mask_token_id", options.mask_token_id);
  reader.read("delete_token_id", options.delete_token_id);
  reader.read("split_token_id", options.split_token_id);
  reader.read("debug_checks", options.debug_checks);
  reader.finish();
  return options;
}

EnginePtr make_engine(ModelHolder& model, const py::object& options, const py::object& threads,
                      const ops::Matmul* matmul) {
  EngineOptions parsed = to_options(options);
  if (matmul) parsed.cublaslt = matmul->cublaslt;
  const auto pool_size = static_cast<int>(to_integer(threads, "threads", 0, kMostThreads));
  std::unique_ptr<Model> taken = model.take();
  const py::gil_scoped_release release;
  return EnginePtr(new Engine(std::move(taken), parsed, pool_size));
}

std::optional<engine::Clock::time_point> to_deadline(const py::object& seconds) {
  if (seconds.is_none()) return std::nullopt;
  const double given = std::clamp(to_finite(seconds, "deadline_seconds"), -kLongestSeconds, kLongestSeconds);
  return engine::Clock::now() +
         std::chrono::duration_cast<engine::Clock::duration>(std::chrono::duration<double>(given));
}

float to_float(const py::object& value, const char* field) {
  return static_cast<float>(to_finite(value, field));
}

RequestId submit(Engine& self, const py::object& prompt, const py::object& max_tokens, const py::object& algorithm,
                 const py::object& params, const py::object& temperature, const py::object& top_p,
                 const py::object& top_k, const py::object& min_p, const py::object& repetition_penalty,
                 const py::object& presence_penalty, const py::object& frequency_penalty, const py::object& logit_bias,
                 const py::object& min_tokens, const py::object& seed, const py::object& eos_token_ids,
                 const py::object& stop_token_ids, const py::object& max_repetition_run,
                 const py::object& max_forward_passes, const py::object& deadline_seconds, const py::object& snapshots,
                 const py::object& trace, const py::object& rest) {
  Request request;
  request.prompt = to_ids(prompt, "prompt_token_ids");
  request.max_tokens = to_int32(max_tokens, "sampling.max_tokens", 1);
  request.temperature = to_float(temperature, "sampling.temperature");
  request.top_p = to_float(top_p, "sampling.top_p");
  request.top_k = to_int32(top_k, "sampling.top_k", 0);
  request.min_p = to_float(min_p, "sampling.min_p");
  request.repetition_penalty = to_float(repetition_penalty, "sampling.repetition_penalty");
  request.presence_penalty = to_float(presence_penalty, "sampling.presence_penalty");
  request.frequency_penalty = to_float(frequency_penalty, "sampling.frequency_penalty");
  request.logit_bias = to_biases(logit_bias, "sampling.logit_bias");
  request.min_tokens = to_int32(min_tokens, "sampling.min_tokens", 0);
  request.seed = to_uint64(seed, "sampling.seed");
  request.eos_token_ids = to_ids(eos_token_ids, "eos_token_ids");
  request.stop_token_ids = to_ids(stop_token_ids, "sampling.stop_token_ids");
  request.max_repetition_run = to_int32(max_repetition_run, "sampling.max_repetition_run", 0);
  request.algorithm = to_string(algorithm, "diffusion.algorithm");
  request.params = to_params(params);
  request.max_forward_passes = to_int32(max_forward_passes, "diffusion.max_forward_passes", 0);
  request.snapshots = to_bool(snapshots, "snapshots");
  request.trace = to_bool(trace, "trace");
  request.deadline = to_deadline(deadline_seconds);
  request.rest = to_ids_and_holes(rest, "canvas");
  const py::gil_scoped_release release;
  return self.submit(std::move(request));
}

void cancel(Engine& self, const py::object& request_id) {
  const uint64_t id = to_uint64(request_id, "request_id");
  const py::gil_scoped_release release;
  self.cancel(id);
}

std::vector<engine::Event> drain(Engine& self) {
  const py::gil_scoped_release release;
  return self.drain();
}

bool wait(Engine& self, const py::object& timeout_seconds) {
  const double seconds = std::clamp(to_finite(timeout_seconds, "timeout_seconds"), 0.0, kLongestSeconds);
  const py::gil_scoped_release release;
  return self.wait(seconds);
}

void def_submit(py::class_<Engine, EnginePtr>& type) {
  type.def("submit", submit, py::arg("prompt"), py::kw_only(), py::arg("max_tokens"), py::arg("algorithm"),
           py::arg("params") = py::none(), py::arg("temperature") = 0.0, py::arg("top_p") = 1.0, py::arg("top_k") = 0,
           py::arg("min_p") = 0.0, py::arg("repetition_penalty") = 1.0, py::arg("presence_penalty") = 0.0,
           py::arg("frequency_penalty") = 0.0, py::arg("logit_bias") = py::dict(), py::arg("min_tokens") = 0,
           py::arg("seed") = 0, py::arg("eos_token_ids") = py::tuple(), py::arg("stop_token_ids") = py::tuple(),
           py::arg("max_repetition_run") = 0, py::arg("max_forward_passes") = 0,
           py::arg("deadline_seconds") = py::none(), py::arg("snapshots") = false, py::arg("trace") = false,
           py::arg("rest") = py::tuple());
}

}  // namespace

void bind_engine(py::module_& module) {
  py::class_<Engine, EnginePtr> type(module, "Engine", "One thread that runs all requests of a model.");
  type.def(py::init(&make_engine), py::arg("model"), py::arg("options"), py::kw_only(), py::arg("threads") = 0,
           py::arg("matmul") = nullptr);
  def_submit(type);
  type.def("cancel", cancel, py::arg("request_id"))
      .def("stop", &Engine::stop, WithoutGil())
      .def_property_readonly("event_fd", &Engine::event_fd)
      .def("drain", drain)
      .def("wait", wait, py::arg("timeout_seconds"))
      .def_property_readonly("ended", &Engine::ended)
      .def("stats", &Engine::stats, WithoutGil())
      .def_property_readonly("model_info", &Engine::model_info);
}

}  // namespace pydllm::bind
