// Typed errors of the core. Every failure that leaves the core is one of these; nothing aborts the process.
#pragma once

#include <stdexcept>
#include <string>
#include <utility>

namespace pydllm {

enum class ErrorCode {
  kInvalidRequest,     // a caller's field is out of range or contradictory
  kUnsupported,        // understood, but this model, algorithm or build cannot honour it
  kResourceExhausted,  // a queue or a pool is full; may succeed later
  kInvalidCheckpoint,  // weights or their headers cannot be used
  kDeviceLost,         // the device cannot be used by this process any more; a new process may
  kInternal,           // a bug, or non-finite numbers from the model
};

class Error : public std::runtime_error {
 public:
  Error(ErrorCode code, std::string field, const std::string& message)
      : std::runtime_error(message), code_(code), field_(std::move(field)) {}
  ErrorCode code() const noexcept { return code_; }
  // The request field or tensor name at fault; empty when none applies.
  const std::string& field() const noexcept { return field_; }

 private:
  ErrorCode code_;
  std::string field_;
};

struct InvalidRequest : Error {
  InvalidRequest(std::string field, const std::string& message)
      : Error(ErrorCode::kInvalidRequest, std::move(field), message) {}
};
struct Unsupported : Error {
  Unsupported(std::string field, const std::string& message)
      : Error(ErrorCode::kUnsupported, std::move(field), message) {}
};
struct ResourceExhausted : Error {
  explicit ResourceExhausted(const std::string& message) : Error(ErrorCode::kResourceExhausted, "", message) {}
};
struct InvalidCheckpoint : Error {
  InvalidCheckpoint(std::string tensor_or_file, const std::string& message)
      : Error(ErrorCode::kInvalidCheckpoint, std::move(tensor_or_file), message) {}
};
struct DeviceLost : Error {
  explicit DeviceLost(const std::string& message) : Error(ErrorCode::kDeviceLost, "", message) {}
};
struct InternalError : Error {
  explicit InternalError(const std::string& message) : Error(ErrorCode::kInternal, "", message) {}
};

}  // namespace pydllm
