#!/usr/bin/env bash
# Makes the certificates of test_tls.py: keys that protect nothing, valid for a hundred years. Needs openssl 3.
set -euo pipefail
cd "$(dirname "$0")"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1" 2>/dev/null; }

authority() { # NAME
  new_key "$work/$1.key"
  openssl req -x509 -new -key "$work/$1.key" -days 36500 -subj "/CN=pydllm test $1" -out "$1.pem"
}

signed() { # NAME AUTHORITY USAGE
  new_key "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$1" -out "$work/$1.csr"
  printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=%s\n' "$3" >"$work/$1.ext"
  openssl x509 -req -in "$work/$1.csr" -CA "$2.pem" -CAkey "$work/$2.key" -days 36500 -extfile "$work/$1.ext" \
    -out "$1.pem" 2>/dev/null
}

dated() { # NAME FROM UNTIL
  new_key "$1.key"
  openssl req -new -key "$1.key" -subj "/CN=$1" -out "$work/$1.csr"
  mkdir -p "$work/$1"
  : >"$work/$1/index.txt"
  cat >"$work/$1.conf" <<CONF
[ca]
default_ca = own
[own]
dir = $work/$1
database = $work/$1/index.txt
new_certs_dir = $work/$1
rand_serial = yes
default_md = sha256
policy = any
[any]
commonName = supplied
CONF
  openssl ca -batch -notext -config "$work/$1.conf" -selfsign -keyfile "$1.key" -in "$work/$1.csr" \
    -startdate "$2" -enddate "$3" -out "$1.pem" 2>/dev/null
}

authority authority
authority stranger
signed server authority serverAuth
signed client authority clientAuth
signed intruder stranger clientAuth
dated expired 20200101000000Z 20200102000000Z
dated future 21000101000000Z 21500101000000Z
openssl pkcs8 -topk8 -in server.key -passout pass:secret -out encrypted.key
