#!/usr/bin/env bash
# Runs the tests of the files with `unsafe` under AddressSanitizer: no read or write beside its memory. Without GStreamer, in
# a target directory of its own; takes some minutes the first time.
set -euo pipefail
cd "$(dirname "$0")/.."
export CARGO_TARGET_DIR="${CARGO_TARGET_DIR:-target}/sanitize"
# The sanitizer is not a stable option of the compiler yet.
export RUSTC_BOOTSTRAP=1 RUSTFLAGS="-Zsanitizer=address"
host="$(rustc -vV | sed -n 's/^host: //p')"
cargo test --locked -p touchline-compute --lib --target "$host" -- nn::fused nn::train "$@"
