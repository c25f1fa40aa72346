#include <pybind11/stl.h>

#include "bind/bind.h"
#include "engine/request.h"

namespace pydllm::bind {

void bind_stats(py::module_& module) {
  using engine::EngineStats;
  py::class_<EngineStats> type(module, "EngineStats");
  type.attr("FORWARD_BATCH_BOUNDS") = py::tuple(py::cast(engine::kForwardBatchBounds));
  type.def_readonly("running", &EngineStats::running)
      .def_readonly("waiting", &EngineStats::waiting)
      .def_readonly("pages_total", &EngineStats::pages_total)
      .def_readonly("pages_used", &EngineStats::pages_used)
      .def_readonly("steps", &EngineStats::steps)
      .def_readonly("request_forwards", &EngineStats::request_forwards)
      .def_readonly("forward_tokens", &EngineStats::forward_tokens)
      .def_readonly("final_tokens", &EngineStats::final_tokens)
      .def_readonly("denoise_steps", &EngineStats::denoise_steps)
      .def_readonly("blocks_finished", &EngineStats::blocks_finished)
      .def_readonly("canvas_positions", &EngineStats::canvas_positions)
      .def_readonly("forward_batch_sizes", &EngineStats::forward_batch_sizes)
      .def_readonly("requests_finished", &EngineStats::requests_finished)
      .def_readonly("requests_failed", &EngineStats::requests_failed)
      .def_readonly("late_commands", &EngineStats::late_commands)
      .def_readonly("integrity", &EngineStats::integrity);
}

}  // namespace pydllm::bind
