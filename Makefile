# Two commands matter: `make serve` and `make test`. Both set up everything they need in a fresh clone.
.DELETE_ON_ERROR:
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
ARGS ?=
# The builds below share what ccache has compiled for one of them: only paths inside of the tree tell them apart.
export CCACHE_BASEDIR ?= $(CURDIR)
export CCACHE_NOHASHDIR ?= 1
CPP_SOURCES := $(shell find core cmake CMakeLists.txt -type f)

.PHONY: help serve build test test-fast test-all test-cpp test-python lint format bench proto proto-check asan tsan qemu \
  clients bench-peers test-gateway accept-core accept-serving accept-demo accept-families accept-cuda gpu-check mutants cuda cuda-emulated clean

help:
	@echo "make serve [ARGS='MODEL --grpc-port 50051']  build and serve (no MODEL: the embedded demo model)"
	@echo "make test | test-fast | test-all             the suite; the part under a minute; everything incl. sanitizers"
	@echo "make lint | format | proto | bench           checks; formatting; committed gRPC stubs; benchmarks"
	@echo "make cuda-emulated                           the engine on the CUDA kernels, emulated on the CPU"
	@echo "make cuda                                    compile the CUDA kernels (nvcc) and hold them to their budgets"
	@echo "make accept-core | -serving | -demo | -families | -cuda   promises with figures"
	@echo "make gpu-check PYTHON=...                    on a GPU: tests, sanitizer, timings beside torch, one report"
	@echo "make mutants                                 patches that must turn a test red"

# --- set-up: a virtual environment in steps, each redone only when its inputs change ---

$(VENV)/.system-%:
	tools/system_packages.sh $*
	@mkdir -p $(VENV) && touch $@

$(VENV)/.created: | $(VENV)/.system-serve
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.serve: requirements/build.txt requirements/serve.txt $(VENV)/.created
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/build.txt -r requirements/serve.txt
	@touch $@

# -e without isolation: a touched source file costs seconds, not a rebuild.
$(VENV)/.built: $(VENV)/.serve pyproject.toml $(CPP_SOURCES)
	$(BIN)/pip install -q --disable-pip-version-check --no-build-isolation --no-deps -e .
	@touch $@

$(VENV)/.test: requirements/test.txt $(VENV)/.serve | $(VENV)/.system-test
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/test.txt
	@touch $@

$(VENV)/.lint: requirements/lint.txt $(VENV)/.serve
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/lint.txt
	@touch $@

# The clients that people use, each in an environment of its own: their versions collide. Fully pinned.
CLIENTS := build/clients

$(CLIENTS)/.%: requirements/clients-%.txt | $(VENV)/.system-serve
	$(PYTHON) -m venv --clear $(CLIENTS)/$*
	$(CLIENTS)/$*/bin/pip install -q --disable-pip-version-check --no-deps -r $<
	@$(CLIENTS)/$*/bin/pip check -q --disable-pip-version-check
	@touch $@

# llama.cpp without programs, images, chat templates and OpenMP: a forward pass of its library is all that is compared.
$(CLIENTS)/.llama: tools/llama_library.cmake
$(CLIENTS)/.llama: export CMAKE_ARGS = -DLLAVA_BUILD=OFF -DGGML_OPENMP=OFF \
  -DCMAKE_PROJECT_llama_cpp_INCLUDE=$(CURDIR)/tools/llama_library.cmake

clients: $(CLIENTS)/.openai3 $(CLIENTS)/.openai2 $(CLIENTS)/.lm_eval $(CLIENTS)/.llama

build: $(VENV)/.built

serve: build
	exec $(BIN)/pydllm serve $(ARGS)

# --- tests ---

test: test-cpp test-python

test-fast: $(VENV)/.built $(VENV)/.test
	$(BIN)/python -m pytest -q -m "not slow and not clients" tests/meta tests/text tests/models tests/decode tests/engine

test-cpp: $(VENV)/.test
	@mkdir -p build
	cmake -S . -B build/cpp -G Ninja -DPYDLLM_TESTS=ON -DPYDLLM_CUDA=EMULATED >build/cpp-configure.log || \
	  { cat build/cpp-configure.log; exit 1; }
	cmake --build build/cpp --target pydllm_tests
	build/cpp/pydllm_tests --gtest_brief=1

test-python: $(VENV)/.built $(VENV)/.test
	$(BIN)/python -m pytest -q -m "not slow and not clients"

test-gateway: $(CLIENTS)/.gateway
	tools/test_gateway.sh $(CLIENTS)/gateway

test-all: test test-gateway qemu asan tsan clients $(VENV)/.system-all
	$(BIN)/python -m pytest -q -m "slow or clients"

qemu: test-cpp $(VENV)/.system-all
	tools/instruction_sets.sh build/cpp/pydllm_tests

# The C++ tests under AddressSanitizer + UndefinedBehaviorSanitizer and under ThreadSanitizer, by two processes.
asan: SANITIZER = address
asan: CUDA = EMULATED
# The emulation's fibers are nothing that ThreadSanitizer can follow.
tsan: SANITIZER = thread
tsan: CUDA = OFF
asan tsan: $(VENV)/.test
	@mkdir -p build
	cmake -S . -B build/$@ -G Ninja -DPYDLLM_TESTS=ON -DPYDLLM_CUDA=$(CUDA) -DCMAKE_BUILD_TYPE=RelWithDebInfo \
	  -DPYDLLM_SANITIZE=$(SANITIZER) >build/$@-configure.log || { cat build/$@-configure.log; exit 1; }
	cmake --build build/$@ --target pydllm_tests
	@for shard in 0 1; do \
	  TSAN_OPTIONS=halt_on_error=1 ASAN_OPTIONS=detect_leaks=1 GTEST_TOTAL_SHARDS=2 GTEST_SHARD_INDEX=$$shard \
	    build/$@/pydllm_tests --gtest_brief=1 & running="$$running $$!"; \
	done; status=0; for process in $$running; do wait $$process || status=1; done; exit $$status

# An extension beside the installed one.
EXTENSION = -DPYDLLM_PYTHON=ON -DPython_EXECUTABLE=$(CURDIR)/$(BIN)/python \
  -Dpybind11_DIR=$$($(BIN)/python -m pybind11 --cmakedir)

# Compiles the CUDA kernels for every architecture, without warnings, and holds them to core/ops/cuda/budgets.json;
# the extension with them loads where there is no driver, and says why it cannot use a GPU.
$(VENV)/.cuda: requirements/cuda.txt $(VENV)/.created
	$(BIN)/pip install -q --disable-pip-version-check -r requirements/cuda.txt
	@touch $@

cuda: $(VENV)/.cuda $(VENV)/.built $(VENV)/.test
	@mkdir -p build
	cmake -S . -B build/cuda -G Ninja -DPYDLLM_CUDA=ON -DCMAKE_CUDA_ARCHITECTURES="80-real;90a-real;100a-real" \
	  $(EXTENSION) >build/cuda-configure.log || { cat build/cuda-configure.log; exit 1; }
	cmake --build build/cuda --target _core
	$(BIN)/python tools/with_core.py build/cuda/_core*.so -m pytest -q tests/engine/test_device.py
	$(BIN)/python tools/cuda_budgets.py build/cuda/CMakeFiles/pydllm_cuda_ops.dir/core/ops/cuda/*.o

# The recordings and the engine's tests on the emulated CUDA device: an extension of its own, which nobody installs.
DEVICE_TESTS := tests/ops tests/engine/test_golden.py tests/engine/test_golden_d3llm.py \
  tests/engine/test_dream_golden_runs.py tests/engine/test_threaded_engine.py tests/models/test_llada_golden.py \
  tests/models/test_dream_golden.py tests/models/test_llada2_golden.py tests/models/test_error_of_bfloat16.py \
  tests/models/test_tensors_in_memory.py

cuda-emulated: $(VENV)/.built $(VENV)/.test
	@mkdir -p build
	cmake -S . -B build/emulated -G Ninja -DPYDLLM_CUDA=EMULATED $(EXTENSION) >build/emulated-configure.log || \
	  { cat build/emulated-configure.log; exit 1; }
	cmake --build build/emulated --target _core
	PYDLLM_TEST_DEVICE=cuda $(BIN)/python tools/with_core.py build/emulated/_core*.so -m pytest -q $(DEVICE_TESTS) $(ARGS)

# --- checks ---

CPP_STYLE := $(shell find core tests/core bench -name '*.h' -o -name '*.cpp' -o -name '*.inc' -o -name '*.cu')

lint: $(VENV)/.built $(VENV)/.lint $(VENV)/.test proto-check
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BIN)/clang-format --dry-run -Werror $(CPP_STYLE)
	$(BIN)/mypy

format: $(VENV)/.lint
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	@$(BIN)/clang-format -i $(CPP_STYLE)

proto: $(VENV)/.lint
	PYTHON=$(BIN)/python proto/generate.sh

proto-check: $(VENV)/.lint
	PYTHON=$(BIN)/python proto/generate.sh --check

bench: $(VENV)/.built $(VENV)/.test
	$(BIN)/python bench/linear.py
	$(BIN)/python bench/step.py
	$(BIN)/python bench/serve.py

# Apart from the others: it takes 20 minutes and builds llama.cpp first.
bench-peers: $(VENV)/.built $(VENV)/.test $(CLIENTS)/.llama
	$(BIN)/python bench/peers.py $(ARGS)

# --- proof ---

accept-core: $(VENV)/.built $(VENV)/.test $(VENV)/.system-all
	$(BIN)/python tests/accept/core.py $(ARGS)

accept-serving: $(VENV)/.built $(VENV)/.test $(VENV)/.system-all
	$(BIN)/python tests/accept/serving.py $(ARGS)

accept-demo: $(VENV)/.built $(VENV)/.test
	$(BIN)/python tests/accept/demo.py $(ARGS)

accept-families: $(VENV)/.built $(VENV)/.test $(CLIENTS)/.llama
	$(BIN)/python tests/accept/families.py $(ARGS)

accept-cuda: $(VENV)/.built $(VENV)/.test
	$(BIN)/python tests/accept/cuda.py $(ARGS)

# Everything that a GPU has to show, in less than ten minutes. Nothing is installed: PYTHON must have what
# tools/gpu_check.py names.
gpu-check:
	$(PYTHON) tools/gpu_check.py $(ARGS)

mutants: $(VENV)/.built $(VENV)/.test
	$(BIN)/python tests/mutants/run.py $(ARGS)

clean:
	rm -rf build $(VENV)
