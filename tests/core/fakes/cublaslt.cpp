// A libcublasLt that multiplies on the CPU, in float64, over host memory, and writes its calls down. Written from
// NVIDIA's documentation with its own constants, so that a wrong one in core/ops/cuda/cublaslt_abi.h is refused here.
// FAKE_VERSION is what it says it is; FAKE_LACKS_MATMUL leaves a function out.
#include <cstring>
#include <map>

#include "cublaslt_record.h"

#define API extern "C" __attribute__((visibility("default")))

using pydllm::testing::LtRecord;

namespace {

constexpr int kInvalidValue = 7, kNotSupported = 15;

LtRecord& record() {
  static LtRecord made;
  return made;
}

// Attribute by attribute, as bytes.
struct Object {
  std::map<int, std::vector<unsigned char>> attributes;
  int compute_type = -1, scale_type = -1;  // of a matmul
  int type = -1;                           // of a layout
  uint64_t rows = 0, columns = 0;
  int64_t leading_dimension = 0;

  template <class T>
  T value(int attribute, T otherwise) const {
    const auto found = attributes.find(attribute);
    if (found == attributes.end()) return otherwise;
    T out;
    std::memcpy(&out, found->second.data(), sizeof(T));
    return out;
  }
};

int fails(const char* call) {
  if (record().failing_call != call) return 0;
  if (record().lost) *record().lost = true;
  return record().failing_status;
}

int make(const char* call, Object** out, const Object& object) {
  if (const int status = fails(call)) return status;
  *out = new Object(object);
  ++record().alive;
  return 0;
}

int destroy(Object* object) {
  delete object;
  --record().alive;
  return 0;
}

// Attribute -> bytes of its value.
int set(const char* call, Object* object, const std::map<int, size_t>& known, int attribute, const void* value,
        size_t bytes) {
  if (const int status = fails(call)) return status;
  const auto found = known.find(attribute);
  if (found == known.end() || found->second != bytes) return kInvalidValue;
  const auto* begin = static_cast<const unsigned char*>(value);
  object->attributes[attribute].assign(begin, begin + bytes);
  return 0;
}

constexpr int kTransA = 3, kEpilogue = 7, kBiasPointer = 8, kColumns = 3, kMaxWorkspace = 1, kMinAlignmentA = 5;

uint64_t columns_of(const Object& layout) {
  return layout.value<uint64_t>(kColumns, layout.columns);
}

float widen(uint16_t bits) {
  const uint32_t wide = uint32_t{bits} << 16;
  float out;
  std::memcpy(&out, &wide, sizeof(out));
  return out;
}

// CUDA_R_16BF is 14, CUDA_R_32F 0, CUBLAS_COMPUTE_32F 68, CUBLAS_OP_T 1. A is [k, m], B [k, n], C and D [m, n].
bool is_a_known_product(const Object& matmul, const Object& a, const Object& b, const Object& c, const Object& d) {
  return matmul.compute_type == 68 && matmul.scale_type == 0 && matmul.value<int32_t>(kTransA, 0) == 1 &&
         a.type == 14 && b.type == 14 && c.type == 0 && d.type == 0 && a.rows == b.rows && a.columns == d.rows &&
         columns_of(b) == columns_of(d) && columns_of(c) == columns_of(d) && c.rows == d.rows;
}

}  // namespace

API LtRecord* fake_cublaslt_record() {
  return &record();
}

API size_t cublasLtGetVersion() {
  return FAKE_VERSION;
}

API const char* cublasLtGetStatusName(int status) {
  switch (status) {
    case kInvalidValue:
      return "CUBLAS_STATUS_INVALID_VALUE";
    case 13:
      return "CUBLAS_STATUS_EXECUTION_FAILED";
    case kNotSupported:
      return "CUBLAS_STATUS_NOT_SUPPORTED";
    default:
      return "CUBLAS_STATUS_OTHER";
  }
}

API int cublasLtCreate(Object** context) {
  return make("cublasLtCreate", context, {});
}

API int cublasLtDestroy(Object* context) {
  return destroy(context);
}

API int cublasLtMatmulDescCreate(Object** matmul, int compute_type, int scale_type) {
  Object object;
  object.compute_type = compute_type;
  object.scale_type = scale_type;
  return make("cublasLtMatmulDescCreate", matmul, object);
}

API int cublasLtMatmulDescDestroy(Object* matmul) {
  return destroy(matmul);
}

API int cublasLtMatmulDescSetAttribute(Object* matmul, int attribute, const void* value, size_t bytes) {
  return set("cublasLtMatmulDescSetAttribute", matmul, {{kTransA, 4}, {kEpilogue, 4}, {kBiasPointer, 8}}, attribute,
             value, bytes);
}

API int cublasLtMatrixLayoutCreate(Object** layout, int type, uint64_t rows, uint64_t columns,
                                   int64_t leading_dimension) {
  Object object;
  object.type = type;
  object.rows = rows;
  object.columns = columns;
  object.leading_dimension = leading_dimension;
  return make("cublasLtMatrixLayoutCreate", layout, object);
}

API int cublasLtMatrixLayoutDestroy(Object* layout) {
  return destroy(layout);
}

API int cublasLtMatrixLayoutSetAttribute(Object* layout, int attribute, const void* value, size_t bytes) {
  return set("cublasLtMatrixLayoutSetAttribute", layout, {{kColumns, 8}}, attribute, value, bytes);
}

API int cublasLtMatmulPreferenceCreate(Object** preference) {
  return make("cublasLtMatmulPreferenceCreate", preference, {});
}

API int cublasLtMatmulPreferenceDestroy(Object* preference) {
  return destroy(preference);
}

API int cublasLtMatmulPreferenceSetAttribute(Object* preference, int attribute, const void* value, size_t bytes) {
  return set("cublasLtMatmulPreferenceSetAttribute", preference, {{kMaxWorkspace, 8}, {5, 4}, {6, 4}, {7, 4}, {8, 4}},
             attribute, value, bytes);
}

struct Heuristic {
  uint64_t algorithm[8];
  size_t workspace_bytes;
  int state;
  float waves;
  int reserved[4];
};

API int cublasLtMatmulAlgoGetHeuristic(Object*, Object* matmul, Object* a, Object* b, Object* c, Object* d,
                                       Object* preference, int, Heuristic* results, int* found) {
  if (const int status = fails("cublasLtMatmulAlgoGetHeuristic")) return status;
  if (!is_a_known_product(*matmul, *a, *b, *c, *d)) return kNotSupported;
  std::vector<uint32_t> alignments;
  for (int i = 0; i < 4; ++i) alignments.push_back(preference->value<uint32_t>(kMinAlignmentA + i, 256));
  record().asked.push_back({static_cast<int64_t>(d->rows), static_cast<int64_t>(a->rows),
                            static_cast<int64_t>(columns_of(*d)), preference->value<uint64_t>(kMaxWorkspace, 0),
                            alignments, matmul->value<uint32_t>(kEpilogue, 1),
                            matmul->value<uintptr_t>(kBiasPointer, 0)});
  *found = record().answers;
  results[0] = {{record().asked.size()}, 0, 0, 1.0f, {}};
  return 0;
}

#ifndef FAKE_LACKS_MATMUL
API int cublasLtMatmul(Object*, Object* matmul, const float* alpha, const uint16_t* a, Object* a_layout,
                       const uint16_t* b, Object* b_layout, const float* beta, const float* c, Object* c_layout,
                       float* d, Object* d_layout, const uint64_t* algorithm, void* workspace, size_t workspace_bytes,
                       void* stream) {
  if (const int status = fails("cublasLtMatmul")) return status;
  if (!is_a_known_product(*matmul, *a_layout, *b_layout, *c_layout, *d_layout)) return kNotSupported;
  const auto m = static_cast<int64_t>(d_layout->rows), n = static_cast<int64_t>(columns_of(*d_layout));
  const auto k = static_cast<int64_t>(a_layout->rows);
  const auto* bias =
      matmul->value<uint32_t>(kEpilogue, 1) == 4 ? matmul->value<const float*>(kBiasPointer, nullptr) : nullptr;
  for (int64_t column = 0; column < n; ++column) {
    for (int64_t row = 0; row < m; ++row) {
      double sum = 0;
      for (int64_t i = 0; i < k; ++i) {
        sum += static_cast<double>(widen(a[row * a_layout->leading_dimension + i])) *
               static_cast<double>(widen(b[column * b_layout->leading_dimension + i]));
      }
      sum *= static_cast<double>(*alpha);
      if (*beta != 0) sum += static_cast<double>(*beta * c[column * c_layout->leading_dimension + row]);
      if (bias) sum += static_cast<double>(bias[row]);
      d[column * d_layout->leading_dimension + row] = static_cast<float>(sum);
    }
  }
  record().multiplied.push_back({m, k, n, *beta, algorithm[0], workspace, workspace_bytes, stream});
  return 0;
}
#endif
