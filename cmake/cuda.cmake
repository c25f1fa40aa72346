# Optional CUDA support. Off where nvcc is absent; the extension links a static cudart, so it loads without a driver.
set(PYDLLM_HAS_CUDA OFF)
if(NOT PYDLLM_CUDA STREQUAL "OFF")
  include(CheckLanguage)
  check_language(CUDA)
  if(CMAKE_CUDA_COMPILER)
    set(PYDLLM_HAS_CUDA ON)
  elseif(PYDLLM_CUDA STREQUAL "ON")
    message(FATAL_ERROR "PYDLLM_CUDA=ON, but no CUDA compiler was found (set CUDACXX or install nvcc)")
  endif()
endif()

if(NOT PYDLLM_HAS_CUDA)
  target_sources(pydllm_core PRIVATE core/tensor/cuda/info_none.cpp)
  return()
endif()

if(NOT DEFINED CMAKE_CUDA_ARCHITECTURES)
  set(CMAKE_CUDA_ARCHITECTURES 80-real 90a-real 100a-real 80-virtual)
endif()
enable_language(CUDA)
find_package(CUDAToolkit REQUIRED)
file(GLOB PYDLLM_CUDA_SOURCES CONFIGURE_DEPENDS core/tensor/cuda/*.cu)
add_library(pydllm_cuda OBJECT ${PYDLLM_CUDA_SOURCES})
set_target_properties(pydllm_cuda PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
  CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED OFF)
target_include_directories(pydllm_cuda PRIVATE core)
# CMake 3.25 knows no C++20 flag for nvcc 13.
target_compile_options(pydllm_cuda PRIVATE $<$<COMPILE_LANGUAGE:CUDA>:-std=c++20>)
set_target_properties(pydllm_core PROPERTIES CUDA_ARCHITECTURES "${CMAKE_CUDA_ARCHITECTURES}")
target_sources(pydllm_core PRIVATE $<TARGET_OBJECTS:pydllm_cuda>)
target_link_libraries(pydllm_core PUBLIC CUDA::cudart_static)

# The kernels of the ops. No op uses them yet, so only `make cuda` builds them.
file(GLOB PYDLLM_CUDA_OPS CONFIGURE_DEPENDS core/ops/cuda/*.cu)
add_library(pydllm_cuda_ops OBJECT EXCLUDE_FROM_ALL ${PYDLLM_CUDA_OPS})
set_target_properties(pydllm_cuda_ops PROPERTIES CUDA_RUNTIME_LIBRARY Static CUDA_VISIBILITY_PRESET hidden
  CUDA_STANDARD 20 CUDA_STANDARD_REQUIRED OFF CUDA_ARCHITECTURES "80-real;90a-real;100a-real")
target_include_directories(pydllm_cuda_ops PRIVATE core)
# --expt-relaxed-constexpr: kernels call the constexpr functions that they share with the host.
target_compile_options(pydllm_cuda_ops PRIVATE
  -std=c++20 --expt-relaxed-constexpr "SHELL:-Werror all-warnings" "SHELL:-Xcompiler -Wall,-Wextra")
