#!/usr/bin/env bash
# Makes sure that the system has what the build and the tests need: tools/system_packages.sh serve|test|all
# Installs missing Debian/Ubuntu packages where it may (root, or sudo without a password); otherwise prints one line that
# says what to install and exits 1.
set -euo pipefail
tier=${1:?usage: system_packages.sh serve|test|all}
missing=()

need() { # need PACKAGE TEST...: the package is missing when the test fails
  local package=$1
  shift
  "$@" >/dev/null 2>&1 || missing+=("$package")
}
has_version() { # has_version COMMAND MAJOR.MINOR: the first version number it prints is at least this
  local found
  found=$("$1" --version 2>/dev/null | grep -oE '[0-9]+\.[0-9]+' | head -n 1)
  [ -n "$found" ] && [ "$(printf '%s\n%s\n' "$2" "$found" | sort -V | head -n 1)" = "$2" ]
}
has_file() { compgen -G "$1" >/dev/null; }
has_gtest() { has_file '/usr/include/gtest/gtest.h' && has_file '/usr/lib/*/libgtest.a'; }

need g++ has_version "${CXX:-g++}" 12.0
need cmake has_version cmake 3.25
need ninja-build has_version ninja 1.10
need python3-venv "${PYTHON:-python3}" -c 'import ensurepip, venv'
need python3-dev "${PYTHON:-python3}" -c \
  'import os, sysconfig; assert os.path.exists(os.path.join(sysconfig.get_path("include"), "Python.h"))'
if [ "$tier" != serve ]; then
  need libgtest-dev has_gtest
  need ccache command -v ccache
fi
if [ "$tier" = all ]; then
  need qemu-user command -v qemu-x86_64
  need nodejs has_version node 18.0
  need npm command -v npm
fi
"${PYTHON:-python3}" -c 'import sys; sys.exit(sys.version_info < (3, 11))' ||
  { echo "pydllm needs Python 3.11 or newer; set PYTHON=/path/to/python3" >&2; exit 1; }

[ ${#missing[@]} -eq 0 ] && exit 0
as_root=()
[ "$(id -u)" -eq 0 ] || as_root=(sudo -n)
if command -v apt-get >/dev/null && { [ "$(id -u)" -eq 0 ] || sudo -n true 2>/dev/null; }; then
  echo "installing system packages: ${missing[*]}"
  "${as_root[@]}" apt-get update -qq
  DEBIAN_FRONTEND=noninteractive "${as_root[@]}" apt-get install -y -qq "${missing[@]}" >/dev/null
else
  echo "please install: ${missing[*]} (Debian/Ubuntu names), then run make again" >&2
  exit 1
fi
