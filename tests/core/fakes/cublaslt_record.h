// What the made-up libcublasLt of the tests writes down, and what it is told to do.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace pydllm::testing {

struct LtAsked {  // a call of cublasLtMatmulAlgoGetHeuristic
  int64_t out_features, in_features, rows;
  uint64_t workspace_bytes;
  std::vector<uint32_t> alignments;  // of A, B, C, D
  uint32_t epilogue;
  uintptr_t bias;
};

struct LtMultiplied {  // a call of cublasLtMatmul
  int64_t out_features, in_features, rows;
  float beta;
  uint64_t algorithm;  // which heuristic's answer
  void* workspace;
  size_t workspace_bytes;
  void* stream;
};

struct LtRecord {
  std::vector<LtAsked> asked;
  std::vector<LtMultiplied> multiplied;
  int alive = 0;             // contexts, descriptors, layouts and preferences that are not destroyed
  std::string failing_call;  // this function returns `failing_status`
  int failing_status = 0;
  std::atomic<bool>* lost = nullptr;  // set when it does
  int answers = 1;                    // of a heuristic
};

// extern "C" LtRecord* fake_cublaslt_record();
using LtRecordOf = LtRecord*();

}  // namespace pydllm::testing
