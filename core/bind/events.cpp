// Events as Python reads them; enumerations become strings here and nowhere else.
#include <pybind11/stl.h>

#include "base/check.h"
#include "bind/bind.h"
#include "bind/tensor.h"
#include "engine/request.h"

namespace pydllm::bind {
namespace {

using engine::BlockDone;
using engine::Event;
using engine::EventKind;
using engine::FailReason;
using engine::FinishReason;

const char* name(EventKind kind) {
  switch (kind) {
    case EventKind::kStarted:
      return "started";
    case EventKind::kStep:
      return "step";
    case EventKind::kFinished:
      return "finished";
    case EventKind::kFailed:
      return "failed";
  }
  throw InternalError("unknown event kind");
}

const char* name(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return "stop";
    case FinishReason::kStopToken:
      return "stop_token";
    case FinishReason::kLength:
      return "length";
    case FinishReason::kStepLimit:
      return "step_limit";
    case FinishReason::kRepetition:
      return "repetition";
  }
  throw InternalError("unknown finish reason");
}

const char* name(FailReason reason) {
  switch (reason) {
    case FailReason::kCancelled:
      return "cancelled";
    case FailReason::kDeadlineExceeded:
      return "deadline_exceeded";
    case FailReason::kInternal:
      return "internal";
    case FailReason::kDeviceLost:
      return "device_lost";
    case FailReason::kShutdown:
      return "shutdown";
  }
  throw InternalError("unknown fail reason");
}

std::optional<PyTensor> first_logits(const Event& event) {
  if (!event.first_logits.defined()) return std::nullopt;
  return PyTensor{event.first_logits};
}

void bind_block_done(py::module_& module) {
  py::class_<BlockDone>(module, "BlockDone")
      .def_readonly("block_index", &BlockDone::block_index)
      .def_readonly("begin", &BlockDone::begin)
      .def_readonly("end", &BlockDone::end)
      .def_readonly("denoise_steps", &BlockDone::denoise_steps);
}

}  // namespace

void bind_events(py::module_& module) {
  bind_block_done(module);
  py::class_<Event>(module, "Event")
      .def_readonly("id", &Event::id)
      .def_property_readonly("kind", [](const Event& self) { return name(self.kind); })
      .def_readonly("time", &Event::time)
      .def_readonly("forward_passes", &Event::forward_passes)
      .def_readonly("denoise_steps", &Event::denoise_steps)
      .def_readonly("edited_tokens", &Event::edited_tokens)
      .def_readonly("queue_seconds", &Event::queue_seconds)
      .def_readonly("final_offset", &Event::final_offset)
      .def_readonly("final_tokens", &Event::final_tokens)
      .def_readonly("blocks", &Event::blocks)
      .def_readonly("snapshot_block", &Event::snapshot_block)
      .def_readonly("snapshot_step", &Event::snapshot_step)
      .def_readonly("snapshot_offset", &Event::snapshot_offset)
      .def_readonly("snapshot_tokens", &Event::snapshot_tokens)
      .def_readonly("snapshot_confidences", &Event::snapshot_confidences)
      .def_readonly("canvas_before", &Event::canvas_before)
      .def_property_readonly("first_logits", first_logits)
      .def_property_readonly("finish_reason", [](const Event& self) { return name(self.finish_reason); })
      .def_readonly("stop_token_id", &Event::stop_token_id)
      .def_property_readonly("fail_reason", [](const Event& self) { return name(self.fail_reason); })
      .def_readonly("message", &Event::message);
}

}  // namespace pydllm::bind
