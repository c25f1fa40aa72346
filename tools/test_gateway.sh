#!/usr/bin/env bash
# Runs tests/gateway against the gateway's own wheel, in an environment and a folder where pydllm cannot be imported.
# Usage: tools/test_gateway.sh ENVIRONMENT (a virtual environment with requirements/clients-gateway.txt)
set -euo pipefail
root=$(cd "$(dirname "$0")/.." && pwd)
python=$(realpath -s "$1")/bin/python
folder=$root/build/gateway-alone
unset PYTHONPATH

rm -rf "$folder"
mkdir -p "$folder/tests/server" "$folder/docs"
"$python" -m pip wheel -q --disable-pip-version-check --no-deps --no-build-isolation -w "$folder/wheel" "$root/gateway"
"$python" -m pip install -q --disable-pip-version-check --no-deps --force-reinstall "$folder"/wheel/*.whl
cp -r "$root/tests/gateway" "$folder/tests"
cp -r "$root/tests/server/certs" "$folder/tests/server"
cp "$root/docs/gateway.md" "$folder/docs"
cp "$root/pyproject.toml" "$folder" # for pytest's settings

cd "$folder"
if "$python" -c 'import pydllm' 2>/dev/null; then
  echo "pydllm can be imported: this would prove nothing" >&2
  exit 1
fi
echo "$(basename wheel/*.whl), $(du -k wheel/*.whl | cut -f1) KB; pydllm cannot be imported here"
"$python" -m pytest -q -m "not clients" tests/gateway
