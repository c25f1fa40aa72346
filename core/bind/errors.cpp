// The core's error codes as Python exception classes with a `field`.
#include "base/errors.h"

#include <array>
#include <exception>

#include "bind/bind.h"

namespace pydllm::bind {
namespace {

// Indexed by ErrorCode. Never released: exceptions may be translated until the process ends.
std::array<PyObject*, 6> error_classes;

PyObject* new_class(py::module_& module, const char* name, PyObject* base, const char* doc) {
  const std::string qualified = std::string("pydllm._core.") + name;
  PyObject* type = PyErr_NewExceptionWithDoc(qualified.c_str(), doc, base, nullptr);
  if (!type) throw py::error_already_set();
  module.add_object(name, type);
  return type;
}

// Names in checkpoints and requests may hold any bytes.
py::object text(const std::string& bytes) {
  PyObject* decoded = PyUnicode_DecodeUTF8(bytes.data(), static_cast<Py_ssize_t>(bytes.size()), "replace");
  if (!decoded) throw py::error_already_set();
  return py::reinterpret_steal<py::object>(decoded);
}

void raise(const Error& error) {
  const auto type = py::reinterpret_borrow<py::object>(error_classes.at(static_cast<size_t>(error.code())));
  py::object instance = type(text(error.what()));
  instance.attr("field") = text(error.field());
  PyErr_SetObject(type.ptr(), instance.ptr());
}

void translate(std::exception_ptr pending) {
  try {
    if (pending) std::rethrow_exception(pending);
  } catch (const Error& error) {
    raise(error);
  }
}

}  // namespace

void bind_errors(py::module_& module) {
  PyObject* base = new_class(module, "CoreError", PyExc_Exception, "Base of the core's errors.");
  py::reinterpret_borrow<py::object>(base).attr("field") = "";
  const auto add = [&](ErrorCode code, const char* name, const char* doc) {
    error_classes[static_cast<size_t>(code)] = new_class(module, name, base, doc);
  };
  add(ErrorCode::kInvalidRequest, "InvalidRequest", "A field is out of range, of the wrong type or contradictory.");
  add(ErrorCode::kUnsupported, "Unsupported", "This model, algorithm or build cannot honour the field.");
  add(ErrorCode::kResourceExhausted, "ResourceExhausted", "A queue or a pool is full; may succeed later.");
  add(ErrorCode::kInvalidCheckpoint, "InvalidCheckpoint", "Weights or their headers cannot be used.");
  add(ErrorCode::kDeviceLost, "DeviceLost", "This process cannot use the device any more; a new one may.");
  add(ErrorCode::kInternal, "InternalError", "A bug, or non-finite numbers from the model.");
  py::register_exception_translator(translate);
}

}  // namespace pydllm::bind
