#!/usr/bin/env bash
# Python stubs from the .proto files.
#   proto/generate.sh           writes proto/python/pydllm_proto (committed)
#   proto/generate.sh --check   generates into a temporary folder and fails when the committed stubs differ
# Needs grpcio-tools==1.76.0 (its gencode, 6.31.1, loads on protobuf 6.31 to 7.x) and mypy-protobuf==5.1.0.
# Only Python's module names (imports, __module__ of the messages) are rewritten: descriptors keep the names pydllm/v1/*.proto.
set -euo pipefail
cd "$(dirname "$0")/.."

committed=proto/python/pydllm_proto
python=${PYTHON:-$([ -x .venv/bin/python ] && echo .venv/bin/python || echo python3)}
bin=$("$python" -c 'import sysconfig; print(sysconfig.get_path("scripts"))')
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

require() {
  local found
  found=$("$python" -c "from importlib.metadata import version; print(version('$1'))" 2>/dev/null || echo none)
  if [ "$found" != "$2" ]; then
    echo "proto/generate.sh: needs $1==$2, found $found" >&2
    exit 2
  fi
}

generate() {  # generate OUT: the package pydllm_proto in OUT
  mkdir -p "$work/raw" "$1/v1"
  "$python" -m grpc_tools.protoc -Iproto --python_out="$work/raw" --pyi_out="$work/raw" proto/pydllm/v1/*.proto
  "$python" -m grpc_tools.protoc -Iproto --grpc_python_out="$work/raw" \
    --plugin=protoc-gen-mypy_grpc="$bin/protoc-gen-mypy_grpc" --mypy_grpc_out=quiet:"$work/raw" \
    proto/pydllm/v1/*_service.proto
  for file in "$work"/raw/pydllm/v1/*; do
    sed -e 's/^from pydllm\.v1 import /from pydllm_proto.v1 import /' \
      -e "s/\(BuildTopDescriptorsAndMessages(DESCRIPTOR, '\)pydllm\./\1pydllm_proto./" "$file" >"$1/v1/${file##*/}"
  done
  echo '"""Generated from proto/pydllm/v1 by proto/generate.sh. Knows nothing of the engine."""' >"$1/__init__.py"
  : >"$1/v1/__init__.py"
  : >"$1/py.typed"
}

require grpcio-tools 1.76.0
require mypy-protobuf 5.1.0
generate "$work/out"
case "${1:-}" in
  --check)
    if ! diff -r -u -x __pycache__ "$committed" "$work/out"; then
      echo "proto/generate.sh: the committed stubs differ from the .proto files; run proto/generate.sh" >&2
      exit 1
    fi
    ;;
  "")
    rm -rf "$committed"
    mkdir -p "$(dirname "$committed")"
    cp -r "$work/out" "$committed"
    ;;
  *)
    echo "usage: proto/generate.sh [--check]" >&2
    exit 2
    ;;
esac
