# Included by the build of llama-cpp-python (CMAKE_PROJECT_llama_cpp_INCLUDE): its CMakeLists.txt forces the cache entry
# on; a plain variable hides the entry. Without it a third of the build is argument parsing, chat templates and grammars.
set(LLAMA_BUILD_COMMON OFF)
