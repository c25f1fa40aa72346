#include "ops/cuda/cublaslt.h"

#include <bit>
#include <initializer_list>
#include <utility>

#include "base/check.h"

namespace pydllm::ops::cuda {
namespace {

void check_aligned(const char* name, const void* pointer) {
  check(reinterpret_cast<uintptr_t>(pointer) % kCublasLtAlignment == 0, "cublaslt linear: ", name,
        ": expected an address aligned to ", kCublasLtAlignment, " bytes, got ", pointer);
}

}  // namespace

int64_t cublaslt_rows(int64_t rows) {
  if (rows <= 256) return (rows + 31) / 32 * 32;
  return static_cast<int64_t>(std::bit_ceil(static_cast<uint64_t>(rows)));
}

CublasLt::CublasLt(std::shared_ptr<const CublasLtLibrary> library, std::shared_ptr<void> workspace)
    : library_(std::move(library)),
      lt_(library_->functions()),
      workspace_(std::move(workspace)),
      context_(nullptr, lt_.cublasLtDestroy) {
  check_aligned("workspace", workspace_.get());
  LtContext* context = nullptr;
  expect("cublasLtCreate", lt_.cublasLtCreate(&context));
  context_.reset(context);
}

void CublasLt::expect(const char* call, LtStatus status, const Shape* shape) const {
  if (status == kLtSuccess) return;
  std::string where;
  if (shape) {
    where = format(" for ", shape->rows, " rows, in_features ", shape->in_features, ", out_features ",
                   shape->out_features, shape->bias ? ", bias" : "");
  }
  throw InternalError(format(call, ": ", lt_.cublasLtGetStatusName(status), where));
}

// y^T = W x^T: a row-major matrix is the column-major form of its transpose, so the weight [in, out] is read transposed
// and x [in, rows] and y [out, rows] as they are; the bias goes along the columns of y^T.
CublasLt::Owned<LtMatmul> CublasLt::make_matmul(const Shape& shape) const {
  LtMatmul* made = nullptr;
  expect("cublasLtMatmulDescCreate", lt_.cublasLtMatmulDescCreate(&made, kLtComputeFloat32, kLtFloat32));
  Owned<LtMatmul> matmul(made, lt_.cublasLtMatmulDescDestroy);
  const auto set = [&](int attribute, const auto& value) {
    expect("cublasLtMatmulDescSetAttribute",
           lt_.cublasLtMatmulDescSetAttribute(made, attribute, &value, sizeof(value)));
  };
  set(kLtMatmulTransposeA, int32_t{kLtTransposed});
  if (shape.bias) {
    set(kLtMatmulEpilogue, kLtEpilogueBias);
    // The heuristics read the alignment of the bias off its address; this one promises no more than the contract.
    set(kLtMatmulBias, reinterpret_cast<const void*>(kCublasLtAlignment));
  }
  return matmul;
}

CublasLt::Owned<LtMatrixLayout> CublasLt::make_layout(int type, int64_t rows, int64_t columns) const {
  LtMatrixLayout* made = nullptr;
  expect("cublasLtMatrixLayoutCreate", lt_.cublasLtMatrixLayoutCreate(&made, type, static_cast<uint64_t>(rows),
                                                                      static_cast<uint64_t>(columns), rows));
  return {made, lt_.cublasLtMatrixLayoutDestroy};
}

CublasLt::Owned<LtPreference> CublasLt::make_preference() const {
  LtPreference* made = nullptr;
  expect("cublasLtMatmulPreferenceCreate", lt_.cublasLtMatmulPreferenceCreate(&made));
  Owned<LtPreference> preference(made, lt_.cublasLtMatmulPreferenceDestroy);
  const auto set = [&](int attribute, const auto& value) {
    expect("cublasLtMatmulPreferenceSetAttribute",
           lt_.cublasLtMatmulPreferenceSetAttribute(made, attribute, &value, sizeof(value)));
  };
  set(kLtPreferWorkspaceBytes, uint64_t{kCublasLtWorkspaceBytes});
  // The default is 256 bytes, which rows of a larger tensor do not have.
  for (const int matrix : {kLtPreferAlignmentA, kLtPreferAlignmentB, kLtPreferAlignmentC, kLtPreferAlignmentD}) {
    set(matrix, uint32_t{kCublasLtAlignment});
  }
  return preference;
}

void CublasLt::choose_algorithm(const Shape& shape, Plan& plan) const {
  constexpr const char* kCall = "cublasLtMatmulAlgoGetHeuristic";
  const Owned<LtPreference> preference = make_preference();
  LtHeuristic best{};
  int found = 0;
  expect(kCall,
         lt_.cublasLtMatmulAlgoGetHeuristic(context_.get(), plan.matmul.get(), plan.weight.get(), plan.x.get(),
                                            plan.y.get(), plan.y.get(), preference.get(), 1, &best, &found),
         &shape);
  check(found == 1, kCall, ": no kernel for ", shape.rows, " rows, in_features ", shape.in_features, ", out_features ",
        shape.out_features);
  expect(kCall, best.state, &shape);
  plan.algorithm = best.algorithm;
}

CublasLt::Plan& CublasLt::plan_for(const Shape& shape) {
  const auto known = plans_.find(shape);
  if (known != plans_.end()) return known->second;
  Plan plan{make_matmul(shape), make_layout(kLtBfloat16, shape.in_features, shape.out_features),
            make_layout(kLtBfloat16, shape.in_features, shape.rows),
            make_layout(kLtFloat32, shape.out_features, shape.rows)};
  choose_algorithm(shape, plan);
  return plans_.emplace(shape, std::move(plan)).first->second;
}

void CublasLt::linear(const BFloat16* x, const BFloat16* weight, const float* bias, int64_t rows, int64_t in_features,
                      int64_t out_features, float* y, bool accumulate, Stream stream) {
  if (rows == 0 || out_features == 0) return;
  check(in_features >= 1, "cublaslt linear: in_features: expected at least 1, got ", in_features);
  check_aligned("x", x);
  check_aligned("weight", weight);
  check_aligned("bias", bias);
  check_aligned("y", y);
  const Shape shape{cublaslt_rows(rows), in_features, out_features, accumulate, bias != nullptr};
  const Plan& plan = plan_for(shape);
  const auto columns = static_cast<uint64_t>(rows);
  for (LtMatrixLayout* layout : {plan.x.get(), plan.y.get()}) {
    expect("cublasLtMatrixLayoutSetAttribute",
           lt_.cublasLtMatrixLayoutSetAttribute(layout, kLtLayoutColumns, &columns, sizeof(columns)));
  }
  if (bias) {
    expect("cublasLtMatmulDescSetAttribute",
           lt_.cublasLtMatmulDescSetAttribute(plan.matmul.get(), kLtMatmulBias, &bias, sizeof(bias)));
  }
  const float alpha = 1, beta = accumulate ? 1.0f : 0.0f;
  expect("cublasLtMatmul",
         lt_.cublasLtMatmul(context_.get(), plan.matmul.get(), &alpha, weight, plan.weight.get(), x, plan.x.get(),
                            &beta, y, plan.y.get(), y, plan.y.get(), &plan.algorithm, workspace_.get(),
                            kCublasLtWorkspaceBytes, stream),
         &shape);
}

}  // namespace pydllm::ops::cuda
