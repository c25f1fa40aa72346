// A tensor as Python sees it, and the two directions of DLPack and of __cuda_array_interface__. Tensors on a GPU come
// and go without a copy and without torch, CuPy or a CUDA library:
//   export  the values are complete: whoever makes a tensor for Python has waited for the stream that writes it, so no
//           consumer's stream has to wait
//   import  waits until the producer's stream has finished the tensor (cuda_driver.h)
#pragma once

#include <pybind11/pybind11.h>

#include <string>
#include <vector>

#include "tensor/tensor.h"

namespace pydllm::bind {

namespace py = pybind11;

struct PyTensor {
  Tensor tensor;
  bool read_only = false;  // the producer forbids writing; only ops (bind/ops.h) write to imported tensors
};

// A view of the producer's memory, which stays alive as long as any view of it. Throws ValueError for what is not a
// contiguous CPU or CUDA tensor of a known dtype.
PyTensor import_dlpack(py::handle producer);
// A capsule "dltensor_versioned" or "dltensor". BufferError when the legacy kind is asked of a read-only tensor.
py::capsule export_dlpack(const PyTensor& tensor, bool versioned, bool is_copy);

// The same for an object with __cuda_array_interface__ (versions 2 and 3). The interface does not name the device: it
// is `device`, or, when that is None, asked of the driver. ValueError names the entry that cannot be used.
PyTensor import_cuda_array(py::handle producer, const py::object& device);
// Version 3. AttributeError, so that hasattr is false, for a CPU tensor and for bfloat16, which the interface lacks.
py::dict export_cuda_array(const PyTensor& tensor);

// ValueError "producer: ...".
[[noreturn]] void refuse_producer(const std::string& why);
// What both protocols check, as ValueError: extents below 0 and sizes that overflow; strides (one step of the last axis
// is `step`) that are not row-major; an address that is not a multiple of the element.
void check_shape(const std::vector<int64_t>& shape, DType dtype);
void check_strides(const std::vector<int64_t>& shape, const int64_t* strides, int64_t step);
void check_address(const void* data, DType dtype);

}  // namespace pydllm::bind
