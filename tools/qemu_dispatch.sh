#!/bin/sh
# Proves the run-time dispatch of the CPU kernels on processors this machine is not: runs the C++ test binary's kernel
# tests under qemu-user for one processor with AVX2 and one without AVX, and checks which instruction set was chosen.
# A kernel that is entered without its instructions ends in SIGILL, which fails the run.
#
# usage: tools/qemu_dispatch.sh TEST_BINARY [FILTER]
#   FILTER  a GoogleTest filter instead of the default one
# exit code: 0 when every processor passes, 1 when one fails, 2 when the check cannot run.

set -u

binary=${1:-}
# The emulator runs about 50 times slower: the small depths of the linear tests and the quick ones of
# the other ops'.
filter=${2:-'Linear.*:LinearIsa.*:Depth/LinearShapes.*/2:*Embedding*:*RmsNorm*:*Rope*:*Swiglu*:Attention.Matches*:Attention.Ragged*:Attention.BlockCausalRows*:StoreKv.*:RowStats.*:-Linear.ARowDependsOnlyOnItself:Cuda*'}

if [ ! -x "$binary" ]; then
  echo "qemu_dispatch: expected the path of the C++ test binary, got '$binary'" >&2
  exit 2
fi
if ! command -v qemu-x86_64 >/dev/null; then
  echo "qemu_dispatch: qemu-x86_64 not found; install qemu-user" >&2
  exit 2
fi

log=$(mktemp)
trap 'rm -f "$log"' EXIT
unset PYDLLM_CPU_ISA
failures=0

# try PROCESSOR EXPECTED_ISA
try() {
  qemu-x86_64 -cpu "$1" "$binary" --gtest_filter="$filter" --gtest_brief=1 >"$log" 2>&1
  code=$?
  chosen=$(sed -n 's/.*linear_isa float32=\([a-z0-9]*\) bfloat16=\([a-z0-9]*\) float16=\([a-z0-9]*\).*/\1 \2 \3/p' "$log")
  passed=$(sed -n 's/^\[  PASSED  \] \([0-9]*\) test.*/\1/p' "$log")
  if [ "$code" -eq 0 ] && [ "$chosen" = "$2 $2 $2" ]; then
    echo "pass $1: linear_isa $2, ${passed:-0} tests passed"
  else
    failures=1
    echo "fail $1: exit code $code (132 is an illegal instruction), linear_isa '$chosen', expected '$2 $2 $2'"
    grep -v 'TCG doesn.t support' "$log" | tail -n 20 >&2
  fi
}

try Haswell avx2
try Nehalem scalar
exit $failures
