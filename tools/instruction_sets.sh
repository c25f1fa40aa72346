#!/bin/sh
# Proves the CPU kernels of instruction sets that this machine does not choose by itself, and their choice at run time.
# * Processors that it is not: the C++ test binary's kernel tests run under qemu-user for one processor with AVX2 and
#   one without AVX. A kernel that is entered without its instructions ends in SIGILL, which fails the run.
# * What qemu has no processor for: the same binary's kernel tests with PYDLLM_CPU_ISA, as far as this machine goes.
#
# usage: tools/instruction_sets.sh TEST_BINARY [FILTER]
#   FILTER  a GoogleTest filter for qemu instead of the default one
# exit code: 0 when every instruction set passes, 1 when one fails, 2 when the check cannot run.

set -u

binary=${1:-}
# The emulator runs about 50 times slower: the small depths of the linear tests and the quick ones of
# the other ops'.
filter=${2:-'Linear.*:LinearIsa.*:Depth/LinearShapes.*/2:*Embedding*:*RmsNorm*:*Rope*:*Swiglu*:Attention.Matches*:Attention.Ragged*:Attention.BlockCausalRows*:StoreKv.*:RowStats.*:-Linear.ARowDependsOnlyOnItself:Cuda*'}
capped_filter='Linear*:*/LinearShapes.*:*Attention*:*Embedding*:*RmsNorm*:*Rope*:*Swiglu*:StoreKv.*:RowStats.*:*Moe*:-*Cuda*'

if [ ! -x "$binary" ]; then
  echo "instruction_sets: expected the path of the C++ test binary, got '$binary'" >&2
  exit 2
fi
if ! command -v qemu-x86_64 >/dev/null; then
  echo "instruction_sets: qemu-x86_64 not found; install qemu-user" >&2
  exit 2
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
unset PYDLLM_CPU_ISA
failures=0

# check NAME EXPECTED_CHOICE COMMAND...
check() {
  name=$1 expected=$2
  shift 2
  "$@" --gtest_brief=1 >"$log" 2>&1
  code=$?
  chosen=$(sed -n 's/.*linear_isa float32=\([a-z0-9]*\) bfloat16=\([a-z0-9]*\) float16=\([a-z0-9]*\).*/\1 \2 \3/p' "$log")
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  if [ "$code" -eq 0 ] && [ "$chosen" = "$expected" ]; then
    echo "pass $name: linear_isa $chosen, ${passed:-0} tests passed"
  else
    failures=1
    echo "fail $name: exit code $code (132 is an illegal instruction), linear_isa '$chosen', expected '$expected'"
    grep -v 'TCG doesn.t support' "$log" | tail -n 20 >&2
  fi
}

# emulated PROCESSOR ISA
emulated() {
  check "$1" "$2 $2 $2" qemu-x86_64 -cpu "$1" "$binary" --gtest_filter="$filter"
}

# capped ISA ISA_OF_BFLOAT16 PROCESSOR_FLAG
capped() {
  if grep -qw "$3" /proc/cpuinfo; then
    check "PYDLLM_CPU_ISA=$2" "$1 $2 $1" env "PYDLLM_CPU_ISA=$2" "$binary" --gtest_filter="$capped_filter"
  else
    echo "skip PYDLLM_CPU_ISA=$2: this processor has no $3"
  fi
}

emulated Haswell avx2
emulated Nehalem scalar
capped avx512 avx512 avx512dq
capped avx512 avx512bf16 avx512_bf16
exit $failures
