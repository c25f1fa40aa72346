// core/ops/cuda/cublaslt_abi.h against NVIDIA's own headers, where they are installed: the toolkit, or the wheels
// nvidia-cublas and nvidia-cuda-runtime.
#include "ops/cuda/cublaslt_abi.h"

#include <gtest/gtest.h>

#include <type_traits>

#if __has_include(<cublasLt.h>)
#include <cublasLt.h>

namespace pydllm::ops::cuda {
namespace {

static_assert(kLtSuccess == CUBLAS_STATUS_SUCCESS);
static_assert(kLtFloat32 == CUDA_R_32F && kLtBfloat16 == CUDA_R_16BF && kLtComputeFloat32 == CUBLAS_COMPUTE_32F);
static_assert(kLtTransposed == CUBLAS_OP_T);
static_assert(kLtMatmulTransposeA == CUBLASLT_MATMUL_DESC_TRANSA);
static_assert(kLtMatmulEpilogue == CUBLASLT_MATMUL_DESC_EPILOGUE);
static_assert(kLtMatmulBias == CUBLASLT_MATMUL_DESC_BIAS_POINTER);
static_assert(kLtEpilogueBias == CUBLASLT_EPILOGUE_BIAS);
static_assert(kLtLayoutColumns == CUBLASLT_MATRIX_LAYOUT_COLS);
static_assert(kLtPreferWorkspaceBytes == CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES);
static_assert(kLtPreferAlignmentA == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES);
static_assert(kLtPreferAlignmentB == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES);
static_assert(kLtPreferAlignmentC == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES);
static_assert(kLtPreferAlignmentD == CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES);

static_assert(sizeof(LtAlgorithm) == sizeof(cublasLtMatmulAlgo_t));
static_assert(sizeof(LtHeuristic) == sizeof(cublasLtMatmulHeuristicResult_t));
static_assert(offsetof(LtHeuristic, workspace_bytes) == offsetof(cublasLtMatmulHeuristicResult_t, workspaceSize));
static_assert(offsetof(LtHeuristic, state) == offsetof(cublasLtMatmulHeuristicResult_t, state));

// How an argument is passed: enums as their underlying integer, pointers as pointers to anything, structs by size.
template <class T>
constexpr int passed_as() {
  if constexpr (std::is_pointer_v<T>) return -1;
  if constexpr (std::is_enum_v<T>) return static_cast<int>(sizeof(T));
  return static_cast<int>(sizeof(T));
}

template <class A, class B>
struct SameCall : std::false_type {};
template <class A, class... As, class B, class... Bs>
struct SameCall<A (*)(As...), B (*)(Bs...)> {
  static constexpr bool same_arguments() {
    if constexpr (sizeof...(As) != sizeof...(Bs)) {
      return false;
    } else {
      return ((passed_as<As>() == passed_as<Bs>()) && ...);
    }
  }
  static constexpr bool value = same_arguments() && passed_as<A>() == passed_as<B>();
};

#define EXPECT_SAME_CALL(name) static_assert(SameCall<decltype(LtFunctions::name), decltype(&::name)>::value, #name)
EXPECT_SAME_CALL(cublasLtGetVersion);
EXPECT_SAME_CALL(cublasLtGetStatusName);
EXPECT_SAME_CALL(cublasLtCreate);
EXPECT_SAME_CALL(cublasLtDestroy);
EXPECT_SAME_CALL(cublasLtMatmulDescCreate);
EXPECT_SAME_CALL(cublasLtMatmulDescDestroy);
EXPECT_SAME_CALL(cublasLtMatmulDescSetAttribute);
EXPECT_SAME_CALL(cublasLtMatrixLayoutCreate);
EXPECT_SAME_CALL(cublasLtMatrixLayoutDestroy);
EXPECT_SAME_CALL(cublasLtMatrixLayoutSetAttribute);
EXPECT_SAME_CALL(cublasLtMatmulPreferenceCreate);
EXPECT_SAME_CALL(cublasLtMatmulPreferenceDestroy);
EXPECT_SAME_CALL(cublasLtMatmulPreferenceSetAttribute);
EXPECT_SAME_CALL(cublasLtMatmulAlgoGetHeuristic);
EXPECT_SAME_CALL(cublasLtMatmul);

TEST(CublasLtAbi, IsThatOfTheInstalledHeaders) {
  SUCCEED() << "cuBLAS " << CUBLAS_VERSION << ": compared when this file was compiled";
}

}  // namespace
}  // namespace pydllm::ops::cuda

#else

TEST(CublasLtAbi, IsThatOfTheInstalledHeaders) {
  GTEST_SKIP() << "cublasLt.h is not installed here: nothing to compare with";
}

#endif
