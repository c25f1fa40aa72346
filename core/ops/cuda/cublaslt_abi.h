// The part of cuBLASLt's C ABI that is used, declared here so that no CUDA header is needed. The same in cuBLAS 12 and
// 13 (cublasLt.h, cublas_api.h, library_types.h); tests/core/cublaslt_abi_test.cpp compares it with NVIDIA's headers
// where they are installed. Descriptors are opaque and made by the library; only the heuristic's result has a layout.
#pragma once

#include <cstddef>
#include <cstdint>

struct CUstream_st;

namespace pydllm::ops::cuda {

struct LtContext;       // *cublasLtHandle_t
struct LtMatmul;        // *cublasLtMatmulDesc_t
struct LtMatrixLayout;  // *cublasLtMatrixLayout_t
struct LtPreference;    // *cublasLtMatmulPreference_t

using LtStatus = int;  // cublasStatus_t
inline constexpr LtStatus kLtSuccess = 0;

// cudaDataType_t
inline constexpr int kLtFloat32 = 0;
inline constexpr int kLtBfloat16 = 14;
inline constexpr int kLtComputeFloat32 = 68;  // cublasComputeType_t
inline constexpr int kLtTransposed = 1;       // cublasOperation_t

// cublasLtMatmulDescAttributes_t, with the type of the value
inline constexpr int kLtMatmulTransposeA = 3;  // int32
inline constexpr int kLtMatmulEpilogue = 7;    // uint32: cublasLtEpilogue_t
inline constexpr int kLtMatmulBias = 8;        // pointer to elements of the output's type
inline constexpr uint32_t kLtEpilogueBias = 4;

// cublasLtMatrixLayoutAttribute_t
inline constexpr int kLtLayoutColumns = 3;  // uint64

// cublasLtMatmulPreferenceAttributes_t
inline constexpr int kLtPreferWorkspaceBytes = 1;  // uint64
inline constexpr int kLtPreferAlignmentA = 5;      // uint32, bytes; B, C and D follow
inline constexpr int kLtPreferAlignmentB = 6;
inline constexpr int kLtPreferAlignmentC = 7;
inline constexpr int kLtPreferAlignmentD = 8;

struct LtAlgorithm {  // cublasLtMatmulAlgo_t
  uint64_t data[8];
};
struct LtHeuristic {  // cublasLtMatmulHeuristicResult_t
  LtAlgorithm algorithm;
  size_t workspace_bytes;
  LtStatus state;
  float waves;
  int reserved[4];
};
static_assert(sizeof(void*) != 8 || (sizeof(LtHeuristic) == 96 && offsetof(LtHeuristic, state) == 72));

// The functions that are used, under their own names. Matrices are column-major.
struct LtFunctions {
  size_t (*cublasLtGetVersion)();
  const char* (*cublasLtGetStatusName)(LtStatus status);
  LtStatus (*cublasLtCreate)(LtContext** context);
  LtStatus (*cublasLtDestroy)(LtContext* context);
  LtStatus (*cublasLtMatmulDescCreate)(LtMatmul** matmul, int compute_type, int scale_type);
  LtStatus (*cublasLtMatmulDescDestroy)(LtMatmul* matmul);
  LtStatus (*cublasLtMatmulDescSetAttribute)(LtMatmul* matmul, int attribute, const void* value, size_t bytes);
  LtStatus (*cublasLtMatrixLayoutCreate)(LtMatrixLayout** layout, int type, uint64_t rows, uint64_t columns,
                                         int64_t leading_dimension);
  LtStatus (*cublasLtMatrixLayoutDestroy)(LtMatrixLayout* layout);
  LtStatus (*cublasLtMatrixLayoutSetAttribute)(LtMatrixLayout* layout, int attribute, const void* value, size_t bytes);
  LtStatus (*cublasLtMatmulPreferenceCreate)(LtPreference** preference);
  LtStatus (*cublasLtMatmulPreferenceDestroy)(LtPreference* preference);
  LtStatus (*cublasLtMatmulPreferenceSetAttribute)(LtPreference* preference, int attribute, const void* value,
                                                   size_t bytes);
  LtStatus (*cublasLtMatmulAlgoGetHeuristic)(LtContext* context, LtMatmul* matmul, LtMatrixLayout* a, LtMatrixLayout* b,
                                             LtMatrixLayout* c, LtMatrixLayout* d, LtPreference* preference, int wanted,
                                             LtHeuristic* results, int* found);
  // d = alpha * op(a) op(b) + beta * c, then the epilogue. alpha and beta point to host memory.
  LtStatus (*cublasLtMatmul)(LtContext* context, LtMatmul* matmul, const void* alpha, const void* a,
                             LtMatrixLayout* a_layout, const void* b, LtMatrixLayout* b_layout, const void* beta,
                             const void* c, LtMatrixLayout* c_layout, void* d, LtMatrixLayout* d_layout,
                             const LtAlgorithm* algorithm, void* workspace, size_t workspace_bytes,
                             CUstream_st* stream);
};

}  // namespace pydllm::ops::cuda
