// Finding cuBLASLt and multiplying with it, against a made-up library that computes on the CPU (tests/core/fakes).
#include "ops/cuda/cublaslt.h"

#include <dlfcn.h>

#include <cstdlib>
#include <filesystem>
#include <memory>
#include <string>

#include "fakes/cublaslt_record.h"
#include "op_testing.h"

namespace pydllm {
namespace {

using namespace pydllm::testing;
using namespace pydllm::ops::cuda;
namespace fs = std::filesystem;

const fs::path kFakes = PYDLLM_FAKES;  // good/, old/, new/, lacking/, each with a libcublasLt.so.13

std::string wheel(const char* kind) {
  return (kFakes / kind).string();
}

// Nothing but what a test names can be found: true where neither this process nor the loader has a cuBLASLt.
bool machine_has_cublaslt() {
  for (const char* name : {"libcublasLt.so.13", "libcublasLt.so.12", "libcublasLt.so"}) {
    if (void* handle = dlopen(name, RTLD_NOW | RTLD_LOCAL)) {
      dlclose(handle);
      return true;
    }
  }
  return false;
}

#define NEEDS_A_MACHINE_WITHOUT_CUBLASLT \
  if (machine_has_cublaslt()) GTEST_SKIP() << "the loader of this machine finds a cuBLASLt of its own"

std::string refusal(const CublasLtSearch& search) {
  return message_of<Unsupported>([&] { CublasLtLibrary::find(search); });
}

#define EXPECT_PART(text, part) EXPECT_NE((text).find(part), std::string::npos) << (text)

TEST(CublasLtSearch, FindsTheWheel) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  const auto library = CublasLtLibrary::find({{"/nonexistent", wheel("good")}, "", ""});
  EXPECT_EQ(library->place(), "wheel");
  EXPECT_EQ(library->path(), wheel("good") + "/libcublasLt.so.13");
  EXPECT_EQ(library->version(), "13.0.2");
}

TEST(CublasLtSearch, FindsTheToolkitOfEitherVariableInLib64AndInLib) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  const fs::path home = fs::temp_directory_path() / ("pydllm-cublaslt-" + std::to_string(::getpid()));
  for (const char* folder : {"a/lib64", "b/lib"}) {
    fs::create_directories(home / folder);
    fs::copy_file(kFakes / "good/libcublasLt.so.13", home / folder / "libcublasLt.so");
  }
  const auto by_home = CublasLtLibrary::find({{}, (home / "a").string(), (home / "b").string()});
  EXPECT_EQ(by_home->place(), "CUDA_HOME");
  EXPECT_EQ(by_home->path(), (home / "a/lib64/libcublasLt.so").string());
  const auto by_path = CublasLtLibrary::find({{}, "/nonexistent", (home / "b").string()});
  EXPECT_EQ(by_path->place(), "this process") << "the one that by_home keeps loaded";
  EXPECT_EQ(by_path->path(), by_home->path());
  fs::remove_all(home);
}

TEST(CublasLtSearch, TheSecondVariableCountsWhereTheFirstHasNone) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  const fs::path home = fs::temp_directory_path() / ("pydllm-cublaslt-" + std::to_string(::getpid()));
  fs::create_directories(home / "lib");
  fs::copy_file(kFakes / "good/libcublasLt.so.13", home / "lib/libcublasLt.so.12");
  const auto library = CublasLtLibrary::find({{}, "/nonexistent", home.string()});
  EXPECT_EQ(library->place(), "CUDA_PATH");
  fs::remove_all(home);
}

TEST(CublasLtSearch, PrefersTheOneInThisProcess) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  const std::string other = (kFakes / "other/libcublasLt.so.13").string();
  void* loaded = dlopen(other.c_str(), RTLD_NOW | RTLD_LOCAL);
  ASSERT_NE(loaded, nullptr) << dlerror();
  const auto library = CublasLtLibrary::find({{wheel("good")}, "", ""});
  EXPECT_EQ(library->place(), "this process");
  EXPECT_EQ(library->path(), other);
  dlclose(loaded);
}

TEST(CublasLtSearch, AsksTheLoaderLast) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  GTEST_FLAG_SET(death_test_style, "threadsafe");  // starts this program anew, so that its loader reads the variable
  ASSERT_EQ(setenv("LD_LIBRARY_PATH", wheel("good").c_str(), 1), 0);
  EXPECT_EXIT(std::exit(CublasLtLibrary::find({{}, "", ""})->place() == "the loader" ? 0 : 1),
              ::testing::ExitedWithCode(0), "");
  EXPECT_EXIT(std::exit(CublasLtLibrary::find({{wheel("other")}, "", ""})->place() == "wheel" ? 0 : 1),
              ::testing::ExitedWithCode(0), "");
  unsetenv("LD_LIBRARY_PATH");
}

TEST(CublasLtSearch, TheErrorNamesEveryPlaceAndTheCommand) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  EXPECT_EQ(refusal({{"/a", "/b"}, "/home", ""}),
            "cuBLASLt 12 or newer was not found (this process: none; wheel /a: none; wheel /b: none; CUDA_HOME "
            "/home/lib64: none; CUDA_HOME /home/lib: none; CUDA_PATH: not set; the loader: none); run: pip install "
            "nvidia-cublas");
  EXPECT_PART(refusal({}), "wheel nvidia-cublas: not installed");
}

TEST(CublasLtSearch, WhatCannotBeUsedIsNamedAndTheSearchGoesOn) {
  NEEDS_A_MACHINE_WITHOUT_CUBLASLT;
  const std::string error = refusal({{wheel("old"), wheel("new"), wheel("lacking"), wheel("text")}, "", ""});
  EXPECT_PART(error, wheel("old") + "/libcublasLt.so.13 is version 11.11.3, too old: expected 12.0.0 or newer");
  EXPECT_PART(error, wheel("new") + "/libcublasLt.so.13 is version 14.0.0, unknown to this build");
  EXPECT_PART(error, wheel("lacking") + "/libcublasLt.so.13 lacks cublasLtMatmul;");
  EXPECT_PART(error, "text/libcublasLt.so.13: invalid ELF header");
  EXPECT_EQ(error.find('\n'), std::string::npos);
  EXPECT_EQ(CublasLtLibrary::find({{wheel("old"), wheel("good")}, "", ""})->version(), "13.0.2");
}

TEST(CublasLtSearch, TheEnvironmentIsReadWhenAsked) {
  ASSERT_EQ(setenv("CUDA_HOME", "/somewhere", 1), 0);
  EXPECT_EQ(search_with_environment({"/a"}).cuda_home, "/somewhere");
  unsetenv("CUDA_HOME");
  EXPECT_EQ(search_with_environment({"/a"}).cuda_home, "");
  EXPECT_EQ(search_with_environment({"/a"}).wheel_folders, std::vector<std::string>{"/a"});
}

TEST(CublasLtRows, BucketsHoldTheirRows) {
  for (int64_t rows = 1; rows < 5000; ++rows) {
    const int64_t bucket = cublaslt_rows(rows);
    ASSERT_GE(bucket, rows);
    ASSERT_LT(bucket, rows <= 256 ? rows + 32 : 2 * rows);
    ASSERT_EQ(cublaslt_rows(bucket), bucket);
  }
  EXPECT_EQ(cublaslt_rows(257), 512);
}

class CublasLtLinear : public ::testing::Test {
 protected:
  void SetUp() override {
    // Opened by its file, so that these tests run beside a real cuBLASLt as well.
    library_ = std::make_shared<const CublasLtLibrary>(wheel("good") + "/libcublasLt.so.13", RTLD_NOW, "test");
    handle_ = dlopen(library_->path().c_str(), RTLD_NOW | RTLD_NOLOAD);
    record_ = reinterpret_cast<LtRecordOf*>(dlsym(handle_, "fake_cublaslt_record"))();
    *record_ = {};
  }
  void TearDown() override {
    EXPECT_EQ(record_->alive, 0) << "objects of cuBLASLt outlived their owner";
    library_.reset();
    dlclose(handle_);
  }

  // y of a product whose every pointer is aligned to 16 bytes, no more.
  Tensor product(CublasLt& lt, const Tensor& x, const Tensor& weight, const Tensor* bias, const Tensor* before) {
    const int64_t rows = x.size(0), out = weight.size(0);
    Tensor y = Tensor::zeros({rows, out}, DType::kF32);
    if (before) std::memcpy(y.raw(), before->raw(), y.nbytes());
    lt.linear(x.data<BFloat16>(), weight.data<BFloat16>(), bias ? bias->data<float>() : nullptr, rows, x.size(1), out,
              y.data<float>(), before != nullptr, kStream);
    return y;
  }

  static inline const auto kStream = reinterpret_cast<Stream>(0x1234);
  // The made-up library does not touch it.
  std::shared_ptr<void> workspace_{reinterpret_cast<void*>(0x100000), [](void*) {}};
  std::shared_ptr<const CublasLtLibrary> library_;
  LtRecord* record_ = nullptr;
  void* handle_ = nullptr;
};

void expect_formula(const Tensor& y, const Tensor& x, const Tensor& weight, const Tensor* bias, const Tensor* before) {
  const int64_t depth = x.size(1), width = weight.size(0);
  for (int64_t i = 0; i < y.numel(); ++i) {
    double sum = (bias ? at(*bias, i % width) : 0) + (before ? at(*before, i) : 0), size = std::abs(sum);
    for (int64_t k = 0; k < depth; ++k) {
      const double product = at(x, i / width * depth + k) * at(weight, i % width * depth + k);
      sum += product;
      size += std::abs(product);
    }
    ASSERT_NEAR(at(y, i), sum, 0x1p-23 * size) << shape_string(x.shape()) << ", element " << i;
  }
}

TEST_F(CublasLtLinear, MatchesTheFormula) {
  CublasLt lt(library_, workspace_);
  const int64_t sizes[][3] = {{1, 1, 1}, {3, 7, 5}, {31, 64, 33}, {32, 16, 8}, {33, 40, 66}, {257, 8, 3}};
  uint32_t seed = 0;
  for (const auto& [rows, depth, width] : sizes) {
    const Tensor x = random_tensor({rows, depth}, ++seed, 1, DType::kBF16);
    const Tensor weight = random_tensor({width, depth}, ++seed, 1, DType::kBF16);
    const Tensor bias = random_tensor({width}, ++seed), before = random_tensor({rows, width}, ++seed);
    for (const Tensor* with_bias : {static_cast<const Tensor*>(nullptr), &bias}) {
      for (const Tensor* onto : {static_cast<const Tensor*>(nullptr), &before}) {
        expect_formula(product(lt, x, weight, with_bias, onto), x, weight, with_bias, onto);
      }
    }
  }
  const LtMultiplied& last = record_->multiplied.back();
  EXPECT_EQ(last.stream, static_cast<void*>(kStream));
  EXPECT_EQ(last.workspace, workspace_.get());
  EXPECT_EQ(last.workspace_bytes, kCublasLtWorkspaceBytes);
}

TEST_F(CublasLtLinear, AsksTheHeuristicsOncePerShape) {
  CublasLt lt(library_, workspace_);
  const Tensor weight = random_tensor({6, 8}, 1, 1, DType::kBF16), bias = random_tensor({6}, 2);
  const auto multiply = [&](int64_t rows, bool with_bias, bool accumulate) {
    const Tensor x = random_tensor({rows, 8}, 3, 1, DType::kBF16), before = random_tensor({rows, 6}, 4);
    product(lt, x, weight, with_bias ? &bias : nullptr, accumulate ? &before : nullptr);
  };
  for (const int64_t rows : {1, 5, 32, 5, 1}) multiply(rows, false, false);
  EXPECT_EQ(record_->asked.size(), 1U);
  EXPECT_EQ(record_->asked[0].rows, 32);
  EXPECT_EQ(record_->multiplied[1].rows, 5) << "the product has its own number of rows";
  multiply(33, false, false);
  multiply(5, true, false);
  multiply(5, false, true);
  multiply(5, true, true);
  multiply(300, false, false);
  multiply(500, false, false);
  multiply(5, true, true);
  EXPECT_EQ(record_->asked.size(), 6U);
  EXPECT_EQ(lt.plans(), 6U);
  EXPECT_EQ(record_->multiplied.back().algorithm, 5U) << "each plan keeps its own kernel";
  EXPECT_EQ(record_->multiplied.back().beta, 1.0f);
}

TEST_F(CublasLtLinear, PromisesTheHeuristicsNoMoreThanItsContract) {
  CublasLt lt(library_, workspace_);
  const Tensor x = random_tensor({2, 8}, 1, 1, DType::kBF16), weight = random_tensor({6, 8}, 2, 1, DType::kBF16);
  const Tensor bias = random_tensor({6}, 3);
  product(lt, x, weight, &bias, nullptr);
  const LtAsked& asked = record_->asked.at(0);
  EXPECT_EQ(asked.workspace_bytes, uint64_t{32} << 20);
  EXPECT_EQ(asked.alignments, std::vector<uint32_t>(4, 16));
  EXPECT_EQ(asked.bias & 0xFF, 16U) << "aligned to 16 bytes and no more";
  EXPECT_EQ(asked.epilogue, 4U);
}

TEST_F(CublasLtLinear, EveryFailureNamesTheCallAndItsStatus) {
  const Tensor x = random_tensor({2, 8}, 1, 1, DType::kBF16), weight = random_tensor({6, 8}, 2, 1, DType::kBF16);
  const Tensor bias = random_tensor({6}, 3);
  for (const char* call :
       {"cublasLtCreate", "cublasLtMatmulDescCreate", "cublasLtMatmulDescSetAttribute", "cublasLtMatrixLayoutCreate",
        "cublasLtMatrixLayoutSetAttribute", "cublasLtMatmulPreferenceCreate", "cublasLtMatmulPreferenceSetAttribute",
        "cublasLtMatmulAlgoGetHeuristic", "cublasLtMatmul"}) {
    record_->failing_call = call;
    record_->failing_status = 13;
    const std::string said = message_of<InternalError>([&] {
      CublasLt lt(library_, workspace_);
      product(lt, x, weight, &bias, nullptr);
    });
    EXPECT_EQ(said.find(std::string(call) + ": CUBLAS_STATUS_EXECUTION_FAILED"), 0U) << said;
  }
  EXPECT_EQ(record_->multiplied.size(), 0U);
}

TEST_F(CublasLtLinear, NoKernelIsAnErrorThatNamesTheShape) {
  record_->answers = 0;
  CublasLt lt(library_, workspace_);
  const Tensor x = random_tensor({2, 8}, 1, 1, DType::kBF16), weight = random_tensor({6, 8}, 2, 1, DType::kBF16);
  EXPECT_INTERNAL_ERROR(product(lt, x, weight, nullptr, nullptr),
                        "cublasLtMatmulAlgoGetHeuristic: no kernel for 32 rows, in_features 8, out_features 6");
  EXPECT_EQ(lt.plans(), 0U) << "a failed plan is not kept";
}

TEST_F(CublasLtLinear, RefusesWhatItsContractExcludes) {
  CublasLt lt(library_, workspace_);
  const Tensor x = random_tensor({2, 8}, 1, 1, DType::kBF16), weight = random_tensor({6, 8}, 2, 1, DType::kBF16);
  Tensor y = Tensor::zeros({2, 6}, DType::kF32);
  const auto call = [&](const BFloat16* from, int64_t depth) {
    lt.linear(from, weight.data<BFloat16>(), nullptr, 2, depth, 6, y.data<float>(), false, kStream);
  };
  EXPECT_INTERNAL_ERROR(call(x.data<BFloat16>() + 1, 8), "x: expected an address aligned");
  EXPECT_INTERNAL_ERROR(call(x.data<BFloat16>(), 0), "in_features: expected at least 1");
  EXPECT_INTERNAL_ERROR(CublasLt(library_, std::shared_ptr<void>(workspace_, reinterpret_cast<void*>(0x100008))),
                        "workspace: expected an address aligned");
  lt.linear(nullptr, nullptr, nullptr, 0, 8, 6, nullptr, false, kStream);
  EXPECT_TRUE(record_->asked.empty());
}

}  // namespace
}  // namespace pydllm
