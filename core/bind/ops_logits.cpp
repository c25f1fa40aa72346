// The ops that read the vocabulary axis.
#include <pybind11/stl.h>

#include <tuple>
#include <utility>
#include <vector>

#include "bind/ops.h"
#include "ops/row_stats.h"

namespace pydllm::bind {
namespace {

using WithoutGil = py::call_guard<py::gil_scoped_release>;
using Edit = std::tuple<int32_t, float, float>;  // id, factor, bias

// A row's wishes with the lists that they point into.
struct Sampling {
  RowSampling row;
  std::vector<LogitEdit> edits;
  std::vector<int32_t> controls;
};

Sampling make_sampling(float temperature, float top_p, int32_t top_k, float min_p, uint64_t seed, uint32_t step,
                       uint32_t position, bool filtered, const std::vector<Edit>& edits,
                       std::vector<int32_t> controls) {
  Sampling out;
  out.row.temperature = temperature;
  out.row.top_p = top_p;
  out.row.top_k = top_k;
  out.row.min_p = min_p;
  out.row.seed = seed;
  out.row.step = step;
  out.row.position = position;
  out.row.filtered = filtered;
  for (const auto& [id, factor, bias] : edits) out.edits.push_back({id, factor, bias});
  out.controls = std::move(controls);
  return out;
}

std::vector<RowSampling> rows_of(const std::vector<Sampling>& sampling) {
  std::vector<RowSampling> rows;
  for (const Sampling& one : sampling) {
    rows.push_back(one.row);
    rows.back().edits = one.edits;
    rows.back().controls = one.controls;
  }
  return rows;
}

std::vector<RowStats> row_stats(const OpsWorkplace& work, const PyTensor& logits, const std::vector<Sampling>& sampling,
                                const std::vector<int32_t>& forbidden) {
  std::vector<RowStats> out(sampling.size());
  ops::row_stats(work.context(), logits.tensor, rows_of(sampling), forbidden, out);
  return out;
}

void edit_logits(const OpsWorkplace& work, PyTensor& logits, const std::vector<Sampling>& sampling) {
  ops::edit_logits(work.context(), written(logits, "logits"), rows_of(sampling));
}

void guide(const OpsWorkplace& work, PyTensor& conditional, const PyTensor& unconditional, float scale) {
  ops::guide(work.context(), written(conditional, "conditional"), unconditional.tensor, scale);
}

void bind_rows(py::module_& module) {
  py::class_<Sampling>(module, "RowSampling", "How the token of one row is chosen (core/select/row_stats.h).")
      .def(py::init(&make_sampling), py::kw_only(), py::arg("temperature") = 0.0f, py::arg("top_p") = 1.0f,
           py::arg("top_k") = 0, py::arg("min_p") = 0.0f, py::arg("seed") = 0, py::arg("step") = 0,
           py::arg("position") = 0, py::arg("filtered") = false, py::arg("edits") = std::vector<Edit>{},
           py::arg("controls") = std::vector<int32_t>{});
  py::class_<FilteredStats>(module, "FilteredStats", "Of the distribution that a token is drawn from.")
      .def_readonly("confidence", &FilteredStats::confidence)
      .def_readonly("margin", &FilteredStats::margin)
      .def_readonly("entropy", &FilteredStats::entropy);
  py::class_<RowStats>(module, "RowStats", "What remains of a row of logits (core/select/row_stats.h).")
      .def_readonly("token", &RowStats::token)
      .def_readonly("confidence", &RowStats::confidence)
      .def_readonly("top1", &RowStats::top1)
      .def_readonly("top1_probability", &RowStats::top1_probability)
      .def_readonly("top2", &RowStats::top2)
      .def_readonly("top2_probability", &RowStats::top2_probability)
      .def_readonly("text", &RowStats::text)
      .def_readonly("text_probability", &RowStats::text_probability)
      .def_readonly("log_sum_exp", &RowStats::log_sum_exp)
      .def_readonly("entropy", &RowStats::entropy)
      .def_readonly("finite", &RowStats::finite)
      .def_readonly("filtered", &RowStats::filtered);
}

}  // namespace

void bind_logit_ops(py::module_& module) {
  const auto work = py::arg("work");
  bind_rows(module);
  module.def("row_stats", row_stats, WithoutGil(), work, py::arg("logits"), py::arg("sampling"), py::kw_only(),
             py::arg("forbidden") = std::vector<int32_t>{});
  module.def("edit_logits", edit_logits, WithoutGil(), work, py::arg("logits"), py::arg("sampling"));
  module.def("guide", guide, WithoutGil(), work, py::arg("conditional"), py::arg("unconditional"), py::arg("scale"));
}

}  // namespace pydllm::bind
