// A tensor as Python sees it, and its two directions of DLPack.
#pragma once

#include <pybind11/pybind11.h>

#include "tensor/tensor.h"

namespace pydllm::bind {

namespace py = pybind11;

struct PyTensor {
  Tensor tensor;
  bool read_only = false;  // the producer forbids writing; nothing in the core writes to an imported tensor
};

// A view of the producer's memory, which stays alive as long as any view of it. Throws ValueError for what is not a
// contiguous CPU tensor of a known dtype.
PyTensor import_dlpack(py::handle producer);
// A capsule "dltensor_versioned" or "dltensor". BufferError when the legacy kind is asked of a read-only tensor.
py::capsule export_dlpack(const PyTensor& tensor, bool versioned, bool is_copy);

}  // namespace pydllm::bind
