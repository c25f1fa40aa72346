# Optional CUDA support. Off where nvcc is absent; the extension links a static cudart, so it loads without a driver.
# EMULATED, for tests: the kernels are compiled by the host compiler and run on the CPU (core/ops/cuda/emulation.h).
file(GLOB PYDLLM_CUDA_OPS CONFIGURE_DEPENDS core/ops/cuda/*.cu)

set(PYDLLM_HAS_CUDA OFF)
if(PYDLLM_CUDA STREQUAL "EMULATED")
  set_source_files_properties(${PYDLLM_CUDA_OPS} PROPERTIES LANGUAGE CXX)
  target_sources(pydllm_core PRIVATE ${PYDLLM_CUDA_OPS} core/ops/cuda/backend.cpp core/ops/cuda/emulated_runtime.cpp)
  target_compile_definitions(pydllm_core PUBLIC PYDLLM_HAS_CUDA PYDLLM_CUDA_EMULATED)
  return()
elseif(NOT PYDLLM_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  # Without a driver nothing here could use the code, and compiling it takes minutes: only when asked for (ON).
  if(CMAKE_CUDA_COMPILER AND (PYDLLM_CUDA STREQUAL "ON" OR EXISTS /dev/nvidiactl))
    set(PYDLLM_HAS_CUDA ON)
  elseif(PYDLLM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PYDLLM_CUDA=ON, but no CUDA compiler was found (set CUDACXX or install nvcc)")
  endif()
endif()

if(NOT PYDLLM_HAS_CUDA)
  target_sources(pydllm_core PRIVATE core/tensor/cuda/info_none.cpp core/tensor/cuda/runtime_none.cpp)
  return()
endif()

# AUTO builds for the GPU that is here, ON for all that are supported.
if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES AND PYDLLM_CUDA STREQUAL "AUTO")
  set(CMAKE_CUDA_ARCHITECTURES native)
elseif(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100a-real 80-virtual)
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
set_target_properties(pydllm_core PROPERTIES CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
target_compile_definitions(pydllm_core PUBLIC PYDLLM_HAS_CUDA)
target_link_libraries(pydllm_core PUBLIC CUDA::cudart_static)
target_sources(pydllm_core PRIVATE core/ops/cuda/backend.cpp)

# What nvcc compiles, as C++20 (CMake 3.25 knows no such flag for nvcc 13), without warnings.
# --expt-relaxed-constexpr: kernels call the constexpr functions that they share with the host.
function(add_cuda_objects name)
  add_library(${name} OBJECT ${ARGN})
  set_target_properties(${name} PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
    CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED OFF)
  target_include_directories(${name} PRIVATE core)
  target_compile_definitions(${name} PRIVATE PYDLLM_HAS_CUDA)
  target_compile_options(${name} PRIVATE
    -std=c++20 --expt-relaxed-constexpr "SHELL:-Werror all-warnings" "SHELL:-Xcompiler -Wall,-Wextra")
  target_sources(pydllm_core PRIVATE $<TARGET_OBJECTS:${name}>)
endfunction()

file(GLOB PYDLLM_CUDA_RUNTIME CONFIGURE_DEPENDS core/tensor/cuda/*.cu)
add_cuda_objects(pydllm_cuda ${PYDLLM_CUDA_RUNTIME})
add_cuda_objects(pydllm_cuda_ops ${PYDLLM_CUDA_OPS})
