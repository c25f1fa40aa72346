// Invariant checks: a violated one throws InternalError (a bug in the core), it never aborts.
#pragma once

#include <sstream>
#include <string>

#include "base/errors.h"

namespace pydllm {

// Streams all arguments into one string: format("expected ", 3, ", got ", n).
template <class... Parts>
std::string format(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <class... Parts>
void check(bool ok, const Parts&... message) {
  if (!ok) throw InternalError(format(message...));
}

}  // namespace pydllm
