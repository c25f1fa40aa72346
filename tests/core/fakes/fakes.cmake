# Made-up libraries that tests load at run time, one folder each: NAME/FILE compiled from tests/core/fakes/SOURCE.cpp.
set(PYDLLM_FAKES ${CMAKE_CURRENT_BINARY_DIR}/fakes)
target_compile_definitions(pydllm_tests PRIVATE PYDLLM_FAKES="${PYDLLM_FAKES}")

function(pydllm_fake name source file)
  add_library(fake_${name} MODULE ${CMAKE_SOURCE_DIR}/tests/core/fakes/${source}.cpp)
  set_target_properties(fake_${name} PROPERTIES PREFIX "" SUFFIX "" OUTPUT_NAME ${file}
    LIBRARY_OUTPUT_DIRECTORY ${PYDLLM_FAKES}/${name})
  # The soname by which a loaded library is recognised; no unique symbols, which would keep it loaded for ever.
  target_link_options(fake_${name} PRIVATE -Wl,-soname,${file})
  target_compile_options(fake_${name} PRIVATE -fno-gnu-unique)
  if(ARGN)
    target_compile_definitions(fake_${name} PRIVATE ${ARGN})
  endif()
  add_dependencies(pydllm_tests fake_${name})
endfunction()

pydllm_fake(good cublaslt libcublasLt.so.13 FAKE_VERSION=130002)
pydllm_fake(other cublaslt libcublasLt.so.13 FAKE_VERSION=130002)
pydllm_fake(old cublaslt libcublasLt.so.13 FAKE_VERSION=111103)
pydllm_fake(new cublaslt libcublasLt.so.13 FAKE_VERSION=140000)
pydllm_fake(lacking cublaslt libcublasLt.so.13 FAKE_VERSION=130002 FAKE_LACKS_MATMUL)
pydllm_fake(driver cuda_driver libcuda.so.1)
file(WRITE ${PYDLLM_FAKES}/text/libcublasLt.so.13 "A text that is as long as the header of a library, so that the loader looks at it: no.")

# NVIDIA's own headers, where there are any: only tests/core/cublaslt_abi_test.cpp includes them.
find_path(PYDLLM_CUBLASLT_HEADERS cublasLt.h HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda PATH_SUFFIXES include)
find_path(PYDLLM_CUDART_HEADERS driver_types.h HINTS ENV CUDA_HOME ENV CUDA_PATH PATHS /usr/local/cuda
  /usr/local/cuda-13.0 PATH_SUFFIXES include)
if(PYDLLM_CUBLASLT_HEADERS AND PYDLLM_CUDART_HEADERS)
  set_source_files_properties(tests/core/cublaslt_abi_test.cpp PROPERTIES INCLUDE_DIRECTORIES
    "${PYDLLM_CUBLASLT_HEADERS};${PYDLLM_CUDART_HEADERS}")
endif()
